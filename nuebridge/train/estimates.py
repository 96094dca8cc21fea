"""What a training will take: memory, disk and time, by formulas whose assumptions are said with them.

Only shapes are looked at: the parts may be outlines on torch's meta device. What is exact says so; what is a guess is
named one. Units: bytes, seconds, operations (a multiplication and an addition are two).
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn

from nuebridge.contracts import Part
from nuebridge.model import Integration
from nuebridge.train.recompute import layer_lists

KEPT_PER_OUTPUT = 1.5
"""Numbers kept for the backward pass for each number that a linear, convolution or norm layer gives. A transformer
layer with a feed-forward layer of four times its width keeps 17 times its width a position (Korthikanti et al.,
arXiv 2205.05198, section 4.1), and its layers give 11 times."""

LOGIT_COPIES = 3
"""Logits, their log-softmax and its gradient, in float32."""

EFFICIENCY = 0.4
"""Share of the speed of a large product of matrices that training is taken to reach."""

FIRST_STEPS = 50
"""Steps that tell the time of a run better than any formula."""


@dataclass(frozen=True)
class Batch:
    """The shapes of one batch on one device."""

    utterances: int
    samples: int
    """Of the longest, and so of each, padding included; likewise below."""
    frames: int
    positions: int
    """Of the decoder: prompt, audio and text."""
    audio_positions: int
    text_tokens: int


@dataclass(frozen=True)
class Estimate:
    """A figure with what it is made of and what it takes for granted."""

    total: float | None
    """None where it is not known."""
    of: Mapping[str, float] = field(default_factory=dict)
    """What it is the sum of."""
    assumption: str = ""


@dataclass(frozen=True)
class Role:
    """What training does to a part."""

    trained: int
    """Parameters that are trained, adapters included."""
    parameters: int
    needs_backward: bool
    """True where gradients pass through it."""


def roles(integration: Integration, text_loss: bool) -> dict[str, Role]:
    """By part, from the ``requires_grad`` of its parameters."""
    counts = {
        name: (sum(p.numel() for p in part.parameters() if p.requires_grad), sum(p.numel() for p in part.parameters()))
        for name, part in integration.parts.items()
    }
    encoder = counts["encoder"][0] > 0
    bridge = encoder or counts["bridge"][0] > 0
    head = encoder or counts.get("ctc_head", (0, 0))[0] > 0
    backward = {"encoder": encoder, "ctc_head": head, "bridge": bridge and text_loss, "decoder": text_loss}
    return {name: Role(trained, total, backward[name]) for name, (trained, total) in counts.items()}


def memory(
    integration: Integration, batch: Batch, *, half: bool, text_loss: bool, checkpointing: bool, shards: int = 1
) -> Estimate:
    """Bytes that a device needs for a step on its share of the largest batch.

    Weights, gradients and optimiser are exact; ``shards`` is the number of devices they are divided among.
    """
    by_part = roles(integration, text_loss)
    trained, total = sum(r.trained for r in by_part.values()), sum(r.parameters for r in by_part.values())
    size = 2 if half else 4
    kept = transient = 0.0
    for name, part in integration.parts.items():
        if name in ("bridge", "decoder") and not text_loss:
            continue
        outputs = [layer.outputs for layer in _layers(part, name, batch)]
        if not outputs:
            continue
        blocks = sum(map(len, layer_lists(part))) if checkpointing else 0
        if by_part[name].needs_backward and blocks:
            # Of each layer what goes into it is kept, and one layer is computed again at a time.
            kept += sum(outputs) * KEPT_PER_OUTPUT / blocks + min(outputs) * blocks
        elif by_part[name].needs_backward:
            kept += sum(outputs) * KEPT_PER_OUTPUT
        else:
            transient = max(transient, 3 * max(outputs))
    logits = batch.text_tokens * integration.decoder.vocab_size * LOGIT_COPIES * 4 if text_loss else 0
    of = {
        "weights": total * 4 / shards + (total * 2 if half else 0),
        "gradients": trained * 4 / shards,
        "optimizer": trained * 8 / shards,
        "activations": (kept + transient) * size,
        "logits": float(logits),
    }
    assumption = (
        "weights, gradients and AdamW's two means are float32"
        + (", with a bfloat16 copy of the weights" if half else "")
        + f"; activations: {KEPT_PER_OUTPUT:g} numbers kept for each that a linear, convolution or norm layer gives in "
        "the largest batch, attention without its matrix; a framework's own memory comes on top"
    )
    return Estimate(sum(of.values()), of, assumption)


def disk(
    integration: Integration, *, trained: int, keep: int, best: bool, only_trained: bool, cache_bytes: int = 0
) -> Estimate:
    """Bytes that a run writes into its folder, the one checkpoint more that is there while it is written included."""
    parameters = 0
    for name, part in integration.parts.items():
        info = integration.part_info.get(name)
        touched = any(p.requires_grad for p in part.parameters())
        if touched or not only_trained or info is None or info.source is None:
            parameters += sum(p.numel() for p in part.parameters())
    weights = parameters * 4
    of = {
        "checkpoints": float((keep + 1) * (weights + trained * 8)),
        "best": float(weights * best),
        "final": float(weights),
        "cache": float(cache_bytes),
    }
    assumption = f"weights in float32; {keep} checkpoints and one being written, each with the optimiser's state"
    return Estimate(sum(of.values()), of, assumption)


def measured_time(metrics: Path, audio_seconds: float) -> Estimate | None:
    """Seconds for so much audio at the speed that a run's metrics show; None where they show none."""
    if not metrics.is_file():
        return None
    rates: list[float] = []
    for line in metrics.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            told = json.loads(line)
        except ValueError:  # cut short by a crash
            continue
        rate = told.get("audio_seconds_per_second") if isinstance(told, dict) else None
        if isinstance(rate, int | float) and rate > 0:
            rates.append(float(rate))
    if not rates:
        return None
    recent = sorted(rates[-10:])
    rate = recent[len(recent) // 2]
    said = f"measured: {rate:.4g} audio seconds a second in the last reports of {metrics}"
    return Estimate(audio_seconds / rate, {"audio seconds a second": rate}, said)


def guessed_time(
    integration: Integration, batch: Batch, batches: float, device: torch.device, *, half: bool, text_loss: bool
) -> Estimate:
    """Seconds for so many batches like ``batch``, from arithmetic alone: a guess, and named one."""
    by_part = roles(integration, text_loss)
    operations = 0.0
    for name, part in integration.parts.items():
        if name in ("bridge", "decoder") and not text_loss:
            continue
        role = by_part[name]
        # Forward; backward to what goes in, where gradients pass; and to the weights, where they are trained.
        passes = 1 + role.needs_backward + role.trained / max(1, role.parameters)
        operations += passes * sum(layer.operations for layer in _layers(part, name, batch))
    speed = _speed(device, half)
    said = (
        f"a guess: {operations:.2g} operations a batch at {EFFICIENCY:.0%} of this device's {speed:.2g} a second; "
        f"small models take longer. The first {FIRST_STEPS} steps will measure it"
    )
    return Estimate(batches * operations / (speed * EFFICIENCY), {"operations a batch": operations}, said)


@dataclass(frozen=True)
class _Layer:
    outputs: float
    operations: float


def _layers(part: Part, name: str, batch: Batch) -> Iterator[_Layer]:
    """The layers of a part that compute with matrices, and its norms, each for the whole batch."""
    ends = {
        "encoder": batch.frames,
        "ctc_head": batch.frames,
        "bridge": batch.audio_positions,
        "decoder": batch.positions,
    }
    at = batch.samples if name == "encoder" else batch.frames
    # Convolutions that take strides shorten what comes in until it has the part's own rate.
    shortened = False
    for module in part.modules():
        if isinstance(module, nn.Conv1d):
            stride = module.stride[0]
            if stride > 1:
                at, shortened = math.ceil(at / stride), True
            places = at if shortened and stride > 1 else ends[name]
            taps = module.kernel_size[0] * module.in_channels // module.groups
            yield _layer(batch.utterances * places, module.out_channels, taps)
        elif isinstance(module, nn.Linear):
            rows = batch.utterances * ends[name]
            if name == "decoder" and module.out_features >= 0.9 * _vocabulary(part):
                continue  # its output is counted with the logits
            yield _layer(rows, module.out_features, module.in_features)
        elif isinstance(getattr(module, "weight", None), Tensor) and not list(module.children()):
            weight = module.weight
            assert isinstance(weight, Tensor)
            if weight.dim() == 1:  # a norm
                places = at if shortened and at > ends[name] else ends[name]
                yield _Layer(float(batch.utterances * places * weight.shape[0]), 0.0)


def _layer(rows: int, outputs: int, inputs: int) -> _Layer:
    return _Layer(float(rows) * outputs, 2.0 * rows * outputs * inputs)


def _vocabulary(part: Part) -> int:
    return int(getattr(part, "vocab_size", 0) or 1 << 62)


def _speed(device: torch.device, half: bool) -> float:
    """Operations a second in a product of matrices on a device, measured for a moment."""
    size = 512 if device.type == "cpu" else 4096
    matrix = torch.ones(size, size, device=device, dtype=torch.bfloat16 if half else torch.float32)
    best = 0.0
    for _ in range(4):
        started = time.perf_counter()
        float((matrix @ matrix)[0, 0])  # asking for a number waits for the device
        best = max(best, 2.0 * size**3 / (time.perf_counter() - started))
    return best

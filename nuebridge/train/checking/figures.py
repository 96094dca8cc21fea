"""The figures of a check: memory, disk and time of a run, beside what there is."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from pathlib import Path

import torch

from nuebridge.model import Integration
from nuebridge.train.checking.data import Planned
from nuebridge.train.checking.report import Level, Report, in_bytes, in_time, sum_in_words
from nuebridge.train.config import Stage, TrainConfig
from nuebridge.train.estimates import FIRST_STEPS, disk, guessed_time, measured_time, memory, roles
from nuebridge.train.record import METRICS_FILE

Marked = tuple[Stage, Integration, Planned]
"""A stage, the outline with what it trains marked, and its data."""


def estimate(
    report: Report,
    config: TrainConfig,
    stages: Sequence[Marked],
    device: torch.device | None,
) -> None:
    """Memory, disk and time, each for the stage that takes most, or for all together."""
    half = config.precision == "bfloat16"
    ranks = int(os.environ.get("WORLD_SIZE", "1"))
    shards = ranks if config.parallel.strategy == "shard" else 1
    memories = [
        memory(
            integration,
            planned.largest,
            half=half,
            text_loss=stage.config.losses.text > 0,
            checkpointing=config.gradient_checkpointing,
            shards=shards,
        )
        for stage, integration, planned in stages
    ]
    most = max(memories, key=lambda estimate: estimate.total or 0.0)
    report.estimates["memory"] = most
    assert most.total is not None
    there = _memory_there(device)
    said = f"about {in_bytes(most.total)} ({sum_in_words(most.of)})"
    exact = most.total - most.of["activations"] - most.of["logits"]
    if there is None:
        report.add("ok", "memory", f"{said}\n{most.assumption}")
    elif exact > there:
        report.add(
            "error",
            "memory",
            f"{said}, but {config.device} has {in_bytes(there)}; train fewer parts, use LoRA, or divide them among "
            "devices (parallel.strategy: shard)",
        )
    else:
        level: Level = "warning" if most.total > there else "ok"
        advice = "; smaller data.device_batch_seconds or gradient_checkpointing helps" if level == "warning" else ""
        report.add(level, "memory", f"{said}; {in_bytes(there)} are free on {config.device}{advice}\n{most.assumption}")
    if not any(finding.topic == "output" for finding in report.errors):
        _estimate_disk(report, config, stages)
    _estimate_time(report, config, stages, device, half)


def _estimate_disk(report: Report, config: TrainConfig, stages: Sequence[Marked]) -> None:
    cache = max(_cache_bytes(integration, planned) for _, integration, planned in stages) if config.cache_frozen else 0
    estimates = [
        disk(
            integration,
            trained=sum(role.trained for role in roles(integration, True).values()),
            keep=config.checkpoints.keep,
            best=config.checkpoints.best is not None and config.data.validation is not None,
            only_trained=config.checkpoints.weights == "trained",
            cache_bytes=cache,
        )
        for _, integration, _ in stages
    ]
    most = max(estimates, key=lambda estimate: estimate.total or 0.0)
    report.estimates["disk"] = most
    assert most.total is not None
    existing = next(path for path in (config.output, *config.output.absolute().parents) if path.exists())
    free = shutil.disk_usage(existing).free
    said = f"about {in_bytes(most.total)} ({sum_in_words(most.of)}); {in_bytes(free)} are free"
    if most.total > free:
        report.add("error", "disk", f"{said}; make room, choose another output, or lower checkpoints.keep")
    else:
        report.add("ok", "disk", f"{said}\n{most.assumption}")
    if cache > config.cache.max_gigabytes * 1e9:
        report.add(
            "error",
            "disk",
            f"cache_frozen: the frames would take {in_bytes(cache)}, and cache.max_gigabytes is "
            f"{config.cache.max_gigabytes:g}; raise it, or set cache_frozen to false",
        )


def _estimate_time(
    report: Report,
    config: TrainConfig,
    stages: Sequence[Marked],
    device: torch.device | None,
    half: bool,
) -> None:
    audio = sum(p.audio_seconds / p.batches * stage.schedule.steps for stage, _, p in stages)
    estimate = measured_time(config.output / METRICS_FILE, audio)
    if estimate is None and device is not None:
        guesses = [
            guessed_time(
                integration, p.mean, stage.schedule.steps, device, half=half, text_loss=stage.config.losses.text > 0
            )
            for stage, integration, p in stages
        ]
        estimate = max(guesses, key=lambda guess: guess.total or 0.0)
    said = f"{config.steps} steps on {audio / 3600:.3g} h of audio"
    if estimate is None or estimate.total is None:
        report.add("ok", "time", f"{said}: not known; the first {FIRST_STEPS} steps will measure it")
        return
    report.estimates["time"] = estimate
    report.add("ok", "time", f"{said}: about {in_time(estimate.total)}\n{estimate.assumption}")


def _memory_there(device: torch.device | None) -> float | None:
    """Bytes that are free on a device; None where that cannot be told."""
    if device is None:
        return None
    if device.type == "cuda":
        return float(torch.cuda.mem_get_info(device)[0])
    information = Path("/proc/meminfo")
    if device.type == "cpu" and information.is_file():
        for line in information.read_text(encoding="utf-8").splitlines():
            if line.startswith("MemAvailable:"):
                return float(line.split()[1]) * 1024
    return None


def _cache_bytes(integration: Integration, planned: Planned) -> int:
    """What the frames of all utterances take, in float32."""
    samples = [round((u.duration or 0.0) * integration.sample_rate) for u in planned.selection.utterances]
    frames = integration.encoder.output_lengths(torch.tensor(samples, dtype=torch.int64)).clamp(min=0)
    return int(frames.sum()) * integration.encoder.hidden_size * 4

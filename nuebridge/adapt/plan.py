"""The training configuration of an adaptation."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import Any

from nuebridge.adapt.data import AdaptData
from nuebridge.adapt.settings import AdaptSettings
from nuebridge.config import parse_yaml
from nuebridge.errors import ConfigError
from nuebridge.model import Integration
from nuebridge.train.config import TrainConfig

LEAST_STEPS, LEAST_EPOCHS = 400, 3.0
"""How long is trained where nobody says: whichever is more."""
KL_WITHOUT_REPLAY = 0.2
BRIDGE_RATE = 1 / 3
"""Of the learning rate of LoRA: the bridge's weights are where they should be already."""
CTC_WEIGHT = 0.3
"""Of the CTC loss, where the CTC head is adapted."""
BATCH_SECONDS = 40.0
LONGEST_SECONDS = 20.0
"""Longest clips that are trained on, where the base does not say what it takes."""

OURS = {
    "model": "--model",
    "output": "--output",
    "data.train": "--data and --replay",
    "data.validation": "--validation",
    "stages": "`nuebridge train`",
}
"""Training keys that are not to be set by their names, and what sets them."""


@dataclass(frozen=True)
class Plan:
    """How an adaptation trains."""

    config: TrainConfig
    replay_weight: float | None
    """How often an epoch takes each utterance of the replay; None where there is none."""


def plan(settings: AdaptSettings, data: AdaptData, base: Integration) -> Plan:
    """The configuration that settings and data come to; ``base`` may be an outline. Raises ConfigError."""
    for key in settings.set_values:
        for ours, option in OURS.items():
            if key == ours or key.startswith(f"{ours}."):
                raise ConfigError(f"--set {key}: an adaptation sets this itself; use {option}")
    _check_parts(settings, base)
    sources: list[dict[str, Any]] = [{"path": str(data.train)}]
    weight = None
    if data.replay_utterances:
        weight = settings.replay_share / (1 - settings.replay_share) * data.seconds / data.replay_seconds
        sources.append({"path": data.replay, "weight": weight})
    limits = {"batch_seconds": BATCH_SECONDS, "max_audio_seconds": base.max_audio_seconds or LONGEST_SECONDS}
    limits |= {key: settings.set_values[f"data.{key}"] for key in limits if f"data.{key}" in settings.set_values}
    steps = _steps(settings, data, float(limits["batch_seconds"]))
    kl = settings.kl
    if kl is None:
        kl = 0.0 if data.replay_utterances else KL_WITHOUT_REPLAY
    every = max(1, math.ceil(steps / 8))
    values = {
        "model": settings.model,
        "output": str(settings.run),
        "data": {
            "train": sources,
            "validation": str(data.validation),
            "text_normalizer": _text_normalizer(base),
            **limits,
        },
        "schedule": {"steps": steps, "warmup_steps": min(100, math.ceil(steps / 10))},
        "parts": {part: _part(part, settings) for part in base.parts},
        "losses": {"kl": kl, "ctc": CTC_WEIGHT if "ctc_head" in settings.parts else 0.0},
        "validation": {"every_steps": every},
        "checkpoints": {"every_steps": max(1, every // 2), "weights": "trained"},
        "log_every_steps": min(50, every),
        "precision": settings.precision,
        "device": settings.device,
        "seed": settings.seed,
    }
    config = parse_yaml(json.dumps(values), TrainConfig, "the adaptation", set_values=settings.set_values)
    for part in ("encoder", "decoder"):
        if getattr(config.parts, part).train:
            raise ConfigError(
                f"parts.{part}.train: an adapter holds LoRA of the {part}, not its own weights; to train those use "
                "`nuebridge train`"
            )
    return Plan(config, weight)


def _check_parts(settings: AdaptSettings, base: Integration) -> None:
    if base.ctc_head is None and "ctc_head" in settings.parts:
        raise ConfigError(f"{settings.model} has no CTC head; leave ctc_head out of --parts")
    if not base.decoder.eos_token_ids:
        raise ConfigError(
            f"the decoder of {settings.model} has no end token, so that it cannot learn where a text ends; name one in "
            "its tokenizer's files (eos_token)"
        )


def _part(part: str, settings: AdaptSettings) -> dict[str, Any]:
    if part not in settings.parts:
        return {"train": False}
    if part in ("encoder", "decoder"):
        lora = settings.lora.model_dump(mode="json")
        return {"train": False, "lora": lora, "learning_rate": settings.learning_rate}
    rate = settings.bridge_learning_rate
    return {"train": True, "learning_rate": settings.learning_rate * BRIDGE_RATE if rate is None else rate}


def _steps(settings: AdaptSettings, data: AdaptData, batch_seconds: float) -> int:
    """Steps of so many epochs; an epoch takes the new data once, and of the replay what its share asks for."""
    if settings.steps is not None:
        return settings.steps
    seconds = data.seconds / (1 - settings.replay_share if data.replay_utterances else 1.0)
    epoch = max(1.0, seconds / batch_seconds)
    if settings.epochs is not None:
        return max(1, _up(settings.epochs * epoch))
    return max(LEAST_STEPS, _up(LEAST_EPOCHS * epoch))


def _up(steps: float) -> int:
    """To whole steps; what is one but for rounding is one."""
    return math.ceil(round(steps, 6))


def _text_normalizer(base: Integration) -> str:
    """What was done to the texts that the base was trained on last."""
    for entry in reversed(base.training_history):
        name = entry.get("configuration", {}).get("data", {}).get("text_normalizer")
        if name is not None:
            return str(name)
    return "none"

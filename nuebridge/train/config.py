"""The training configuration: one YAML file, every key with its unit and default. No torch here."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, model_validator

from nuebridge.settings import Settings

Fraction = Annotated[float, Field(ge=0, lt=1)]


class DataConfig(Settings):
    """What is trained and validated on."""

    train: tuple[Path, ...] = Field(min_length=1)
    """Manifests to train on."""
    validation: Path | None = None
    """Manifest to validate on."""
    min_audio_seconds: float = Field(default=0.1, ge=0)
    """Shorter utterances are left out, counted and reported."""
    max_audio_seconds: float = Field(default=20.0, gt=0)
    """Longer utterances are left out, counted and reported."""
    batch_seconds: float = Field(default=40.0, gt=0)
    """Audio seconds of a batch, padding included; a longer utterance is a batch of its own."""
    workers: int = Field(default=1, ge=1)
    """Threads that read audio ahead of the training step."""


class PartConfig(Settings):
    """How one part is trained."""

    train: bool | tuple[str, ...] = True
    """True: all of it; false: frozen; a list: the parameter groups whose names match a pattern (``layers.*``)."""
    learning_rate: float = Field(default=1e-4, gt=0)
    """Peak learning rate."""


class PartsConfig(Settings):
    """Per part: what is trained and how fast."""

    encoder: PartConfig = PartConfig(train=False)
    ctc_head: PartConfig = PartConfig()
    bridge: PartConfig = PartConfig()
    decoder: PartConfig = PartConfig(train=False)


class LossConfig(Settings):
    """What is minimised: weights of losses, each a mean over its own tokens (nats)."""

    text: float = Field(default=1.0, ge=0)
    """Weight of the next-token loss; 0 leaves bridge and decoder unused."""
    ctc: float = Field(default=0.0, ge=0)
    """Weight of the CTC loss; needs a CTC head. At 0 the head is left as it is."""
    label_smoothing: Fraction = 0.0
    token_replacement: Fraction = 0.0
    """Share of the tokens the decoder reads (not of those it learns) that are replaced by random ones."""

    @model_validator(mode="after")
    def _some(self) -> LossConfig:
        if self.text == 0 and self.ctc == 0:
            raise ValueError("both loss weights are 0: nothing would be learned")
        return self


class OptimizerConfig(Settings):
    """AdamW (Loshchilov and Hutter, arXiv 1711.05101)."""

    betas: tuple[Fraction, Fraction] = (0.9, 0.98)
    weight_decay: float = Field(default=0.01, ge=0)
    """Not applied to biases and norms."""
    epsilon: float = Field(default=1e-8, gt=0)
    max_gradient_norm: float = Field(default=1.0, gt=0)


class ScheduleConfig(Settings):
    """Learning rates rise linearly, then fall."""

    steps: int = Field(ge=1)
    """Optimiser steps of the whole run."""
    warmup_steps: int = Field(default=0, ge=0)
    shape: Literal["cosine", "linear", "constant"] = "cosine"
    final_factor: float = Field(default=0.05, ge=0, le=1)
    """What is left of the peak rate at the last step."""

    def factor(self, step: int) -> float:
        """Share of the peak rate at a step, counted from 0."""
        if step < self.warmup_steps:
            return (step + 1) / self.warmup_steps
        progress = min(1.0, (step - self.warmup_steps) / max(1, self.steps - self.warmup_steps))
        if self.shape == "constant":
            return 1.0
        left = (1 + math.cos(math.pi * progress)) / 2 if self.shape == "cosine" else 1 - progress
        return self.final_factor + (1 - self.final_factor) * left


class ValidationConfig(Settings):
    """How the run is watched."""

    every_steps: int = Field(default=1000, ge=1)
    max_utterances: int | None = Field(default=200, ge=1)
    """The first so many of the manifest; null: all."""
    batch_size: int = Field(default=8, ge=1)
    samples: int = Field(default=3, ge=0)
    """Hypotheses printed beside their references."""


class CheckpointConfig(Settings):
    """What is kept of a run."""

    every_steps: int = Field(default=500, ge=1)
    keep: int = Field(default=2, ge=1)
    """The last so many training checkpoints."""


class TrainConfig(Settings):
    """A training run."""

    model: str
    """The integration to start from: a registry name, a folder or a hub id."""
    output: Path
    """Folder of the run: checkpoints, metrics, and the trained integration in ``final``."""
    data: DataConfig
    schedule: ScheduleConfig
    parts: PartsConfig = PartsConfig()
    losses: LossConfig = LossConfig()
    optimizer: OptimizerConfig = OptimizerConfig()
    validation: ValidationConfig = ValidationConfig()
    checkpoints: CheckpointConfig = CheckpointConfig()
    precision: Literal["float32", "bfloat16"] = "float32"
    """bfloat16 computes under autocast; weights and optimiser stay float32."""
    device: str = "cpu"
    seed: int = Field(default=0, ge=0)
    log_every_steps: int = Field(default=50, ge=1)
    stop_after_minutes: float | None = Field(default=None, gt=0)
    """Saves and leaves with exit status 75 after so long; the same command with --resume goes on."""

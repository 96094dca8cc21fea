"""The work that every row of ``nuebridge bench train`` does: the same integration, utterances, losses and optimiser."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from nuebridge.bench.meter import Meter
from nuebridge.data import Utterance
from nuebridge.data.augmentation import AugmentationSettings
from nuebridge.data.sources import open_sources
from nuebridge.errors import ConfigError
from nuebridge.model import Integration
from nuebridge.train.config import ParallelConfig, PartsConfig, Stage, TrainConfig
from nuebridge.train.masking import SpecAugmentSettings
from nuebridge.train.selection import select

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class TrainingWork:
    """A training to be measured.

    Whoever does it trains ``warmup_steps`` batches first, calls ``meter.begin()``, takes every utterance ``passes``
    times, calls ``meter.count`` for each batch, and ends with ``meter.end()``. The parts, parameter groups and learning
    rates are those of ``stage.config`` (see :func:`nuebridge.train.trainable.trainable_groups`).
    """

    integration: Integration
    """On the device, with float32 weights."""
    stage: Stage
    """The configuration; text loss, CTC loss and auxiliary ones, nothing drawn at random but dropout."""
    utterances: tuple[Utterance, ...]
    batch_size: int
    """Utterances a batch, for those who take a fixed number: with it batches hold as much audio on average."""
    passes: int
    warmup_steps: int
    device: torch.device
    meter: Meter


def as_measured(config: TrainConfig) -> tuple[TrainConfig, list[str]]:
    """The configuration with what is not compared left out, and what that was, in words.

    Raises ConfigError where nothing is left that could be compared.
    """
    stage = list(config.unrolled())[-1]
    said = [f"all stages but {stage.name}"] if config.stages else []
    whole, data, losses = stage.config, stage.config.data, stage.config.losses
    if losses.text == 0:
        raise ConfigError("losses.text is 0: what is compared is training with a text loss")
    if data.augmentation.is_on:
        said.append("data.augmentation")
    if whole.spec_augment != SpecAugmentSettings():
        said.append("spec_augment")
    for name in ("token_replacement", "kl", "ctc_final"):
        if getattr(losses, name):
            said.append(f"losses.{name}")
    for name, part in whole.parts:
        if part.is_trained and part.from_step:
            said.append(f"parts.{name}.from_step")
    if whole.gradient_checkpointing:
        said.append("gradient_checkpointing")
    if whole.parallel != ParallelConfig():
        said.append("parallel")
    limits: dict[str, Any] = {}
    if data.device_batch_seconds is not None and data.device_batch_seconds < data.batch_seconds:
        said.append("gradient accumulation (batches of data.device_batch_seconds are trained on)")
        limits["batch_seconds"] = data.device_batch_seconds
    parts = {name: part.model_copy(update={"from_step": 0}) for name, part in whole.parts}
    measured = whole.model_copy(
        update={
            "stages": (),
            "schedule": stage.schedule.model_copy(update={"warmup_steps": 0, "shape": "constant"}),
            "parts": PartsConfig(**parts),
            "data": data.model_copy(
                update={
                    "augmentation": AugmentationSettings(),
                    "validation": None,
                    "device_batch_seconds": None,
                    "max_unreadable": 0,
                    **limits,
                }
            ),
            "losses": losses.model_copy(update={"token_replacement": 0.0, "kl": 0.0, "ctc_final": None}),
            "spec_augment": SpecAugmentSettings(),
            "gradient_checkpointing": False,
            "parallel": ParallelConfig(),
            "cache_frozen": False,
        }
    )
    return measured, said


def utterances_of(config: TrainConfig, integration: Integration, most: int | None = None) -> tuple[Utterance, ...]:
    """The utterances that a configuration trains on; with ``most``, so many that are spread evenly over them.

    Raises DataError where there are none, and ConfigError for data that is only known as it streams.
    """
    if any(source.streaming for source in config.data.train):
        raise ConfigError("data.train.streaming: what is measured must be known beforehand; set streaming to false")
    selection = select(open_sources(config.data.train), config.data, integration.min_audio_seconds)
    for line in selection.report:
        log.warning("%s", line)
    return spread(selection.utterances, most)


def spread(utterances: Sequence[Utterance], most: int | None) -> tuple[Utterance, ...]:
    """At most so many, of all lengths as they occur: every so-maniest in order of length."""
    if most is None or len(utterances) <= most:
        return tuple(utterances)
    order = sorted(utterances, key=lambda u: (u.duration or 0.0, u.id))
    chosen = {order[int((place + 0.5) * len(order) / most)].id for place in range(most)}
    return tuple(utterance for utterance in utterances if utterance.id in chosen)

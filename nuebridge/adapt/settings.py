"""What may be asked of an adaptation. No torch here."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from nuebridge.config import suggestion
from nuebridge.settings import LoraSettings, NameOrPath, Settings, UserPath

PARTS = ("encoder", "ctc_head", "bridge", "decoder")
"""What an adapter can change: encoder and decoder by LoRA, the others whole."""

SHARED_KINDS = ("overlap-text", "overlap-audio", "overlap-recording")
"""What test data and training data may not share, unless it is only to be warned of."""


class AdaptSettings(Settings):
    """One adaptation."""

    model: NameOrPath = Field(min_length=1)
    """The base: a registry name, a folder or a hub id."""
    data: UserPath
    """Manifest of the new domain."""
    output: UserPath
    """Folder of the adapter; the training run is kept in ``run`` within it."""
    name: str | None = Field(default=None, pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]{0,63}$")
    """What the adapter is called; None: as its folder."""
    validation: UserPath | None = None
    """Manifest to choose the best checkpoint by; None: a tenth of ``data``, which is then not trained on."""
    test: UserPath | None = None
    """Manifest to measure the new domain on; None: another tenth of ``data``."""
    original_test: UserPath | None = None
    """Manifest to measure the old domain on."""
    replay: NameOrPath | None = None
    """Data of the old domain that is trained on as well: a manifest, tar shards or a data set."""
    replay_share: float = Field(default=0.3, gt=0, lt=1)
    """Share of the audio trained on that is replay."""
    group_by: tuple[str, ...] = ("speaker", "recording")
    """Fields whose values the held-out parts of ``data`` do not share with the rest."""
    only_warn: tuple[str, ...] = ()
    """Kinds of overlap with the test data that are no errors here, in the words of ``nuebridge data check``."""
    parts: tuple[str, ...] = Field(default=("bridge", "decoder"), min_length=1)
    """What is changed."""
    lora: LoraSettings = LoraSettings()
    """Of the LoRA in encoder and decoder."""
    steps: int | None = Field(default=None, ge=1)
    """Optimiser steps; None: as ``epochs`` says."""
    epochs: float | None = Field(default=None, gt=0)
    """How often the new data is gone through; None: 3 times, or oftener until there are 400 steps."""
    learning_rate: float = Field(default=1e-3, gt=0)
    """Peak learning rate of LoRA."""
    bridge_learning_rate: float | None = Field(default=None, gt=0)
    """Peak learning rate of bridge and CTC head; None: a third of that of LoRA."""
    kl: float | None = Field(default=None, ge=0)
    """Weight of the divergence from the base on what is trained on; None: 0.2 without replay, 0 with."""
    fillers: tuple[str, ...] = ()
    """Words and phrases to be counted where they are written and were not said, beside those that are found."""
    seed: int = Field(default=0, ge=0, le=2**32 - 1)
    """Of the held-out parts, the order of the data, and all that is drawn."""
    device: str = "cpu"
    """What computes."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """As in a training file."""
    set_values: dict[str, Any] = Field(default_factory=dict)
    """Keys of the training file by their dotted names, over what is set here."""
    keep_run: bool = False
    """Keeps the run's checkpoints once the adapter is written."""

    @field_validator("parts")
    @classmethod
    def _known_parts(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for part in value:
            if part not in PARTS:
                raise ValueError(f"there is no part {part!r}{suggestion(part, PARTS)}; parts: {', '.join(PARTS)}")
        return tuple(part for part in PARTS if part in value)

    @field_validator("only_warn")
    @classmethod
    def _known_kinds(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for kind in value:
            if kind not in SHARED_KINDS:
                raise ValueError(
                    f"there is no overlap {kind!r}{suggestion(kind, SHARED_KINDS)}; kinds: {', '.join(SHARED_KINDS)}"
                )
        return value

    @model_validator(mode="after")
    def _one_length(self) -> Self:
        if self.steps is not None and self.epochs is not None:
            raise ValueError(f"steps ({self.steps}) and epochs ({self.epochs:g}) are both given; give one of them")
        return self

    @property
    def run(self) -> Path:
        """Folder of the training run."""
        return self.output / "run"

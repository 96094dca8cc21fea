"""What config.json says of an integration, and how older schemas become today's."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import Field, model_validator

from nuebridge.errors import CheckpointError, ConfigError
from nuebridge.model import PartInfo
from nuebridge.settings import GenerationSettings, PromptTemplate, Settings

MODEL_TYPE = "nuebridge"
SCHEMA_VERSION = 2
CONFIG_FILE = "config.json"
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


class SavedPart(Settings):
    """What config.json says of a part."""

    info: PartInfo
    options: dict[str, Any]
    weights: Literal["here", "source"]
    hash: str

    @model_validator(mode="after")
    def _named(self) -> SavedPart:
        if self.weights == "source" and (self.info.source is None or self.info.source_hash is None):
            raise ValueError("the weights are left out, but their source is not named")
        return self


class SavedParts(Settings):
    """What config.json says of all parts."""

    encoder: SavedPart
    ctc_head: SavedPart | None = None
    bridge: SavedPart
    decoder: SavedPart


class SavedAdapterEntry(Settings):
    """What config.json says of an adapter; the rest is in the ``adapter.json`` of its folder ``adapters/NAME``."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]{0,63}$")
    weight: float = Field(allow_inf_nan=False)
    parts: list[str]


class Saved(Settings):
    """config.json in today's schema."""

    model_type: Literal["nuebridge"]
    schema_version: int
    nuebridge_version: str
    dtype: Literal["float32", "bfloat16", "float16"]
    parts: SavedParts
    prompt: PromptTemplate
    generation: GenerationSettings
    max_audio_seconds: float | None
    language: str | None
    training: list[dict[str, Any]]
    adapters: list[SavedAdapterEntry]


def migrate(config: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """The configuration in today's schema. Raises CheckpointError for a newer or unknown one."""
    found = config.get("schema_version")
    if type(found) is not int or not 1 <= found <= SCHEMA_VERSION:
        raise CheckpointError(
            f"{folder / CONFIG_FILE} has schema_version {found!r}; this nuebridge reads 1 to {SCHEMA_VERSION}: "
            "install the release that wrote it, or a newer one"
        )
    migrated = dict(config)
    if found < 2:  # 2 brought adapters
        migrated["adapters"] = []
    return {**migrated, "schema_version": SCHEMA_VERSION}


@contextmanager
def faults_of(file: Path) -> Iterator[None]:
    """Makes one line of what a configuration file misstates."""
    try:
        yield
    except ConfigError as error:
        faults = "; ".join(line.strip() for line in str(error).splitlines())
        raise CheckpointError(
            f"{file} does not say what it should ({faults}): it is damaged, was edited, or comes from another "
            "release of the plugin; copy it again or install that release"
        ) from error


def parse_dtype(dtype: str | torch.dtype | None) -> torch.dtype | None:
    """A dtype by its name. Raises CheckpointError for one that checkpoints do not have."""
    if dtype is None or isinstance(dtype, torch.dtype):
        return dtype
    if dtype not in DTYPES:
        raise CheckpointError(f"unknown dtype {dtype!r}; allowed: {', '.join(DTYPES)}")
    return DTYPES[dtype]

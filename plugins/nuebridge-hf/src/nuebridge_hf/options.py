"""The options that a registry entry may set for the parts of this plugin. Nothing heavy is imported here."""

from __future__ import annotations

from pydantic import Field

from nuebridge.settings import Settings


class LoadOptions(Settings):
    """How a checkpoint is read."""

    allow_pickle: bool = False
    """Read weights from pickle files (``*.bin``) where there are no safetensors.

    Reading somebody's pickle can run code, so this is off unless it is asked for.
    """


class EncoderOptions(LoadOptions):
    """Options of the HuBERT and wav2vec 2.0 encoders."""

    normalize: bool | None = Field(default=None)
    """Scale every clip to zero mean and unit variance; None does what the checkpoint's preprocessor says."""


class DecoderOptions(LoadOptions):
    """Options of the causal language models."""

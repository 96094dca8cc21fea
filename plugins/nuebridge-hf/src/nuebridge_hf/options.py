"""The options that a registry entry may set for the parts of this plugin. Nothing heavy is imported here."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, StrictInt

from nuebridge.settings import Settings


class LoadOptions(Settings):
    """How a checkpoint is read."""

    allow_pickle: bool = False
    """Read weights from pickle files (``*.bin``) where there are no safetensors.

    Reading somebody's pickle can run code, so this is off unless it is asked for.
    """


class LayerOptions(LoadOptions):
    """Which layer of an encoder its frames are taken from."""

    layer: StrictInt | Literal["weighted"] | None = None
    """The layer: 0 is what the first one reads, 1 what it gives, -1 what the last one gives.

    ``weighted`` is a weighted sum of all of them with trainable weights; null is what the model itself gives.
    """


class EncoderOptions(LayerOptions):
    """Options of the encoders that read raw audio: HuBERT, wav2vec 2.0, WavLM and data2vec."""

    normalize: bool | None = Field(default=None)
    """Scale every clip to zero mean and unit variance; None does what the checkpoint's preprocessor says."""


class Wav2Vec2Options(EncoderOptions):
    """Options of the wav2vec 2.0 encoders."""

    language: str | None = Field(default=None, pattern=r"^[\w-]+$")
    """Which language's attention adapters to use, where a checkpoint has some (MMS), for instance ``fra``; null: those
    in its main file."""


class W2vBertOptions(LayerOptions):
    """Options of the w2v-BERT 2.0 encoders."""


class WhisperOptions(LayerOptions):
    """Options of Whisper's encoder."""

    window: Literal["exact", "short"] = "exact"
    """``exact``: the 30-second window that it was trained with, the clip's frames cut out of it. ``short``: the clip
    alone, in a fraction of the time, whose frames are others: for an encoder that is trained along."""


class Quantization(Settings):
    """Weights of the layers held in fewer bits, by a library that transformers works with; made while loading."""

    method: Literal["bitsandbytes", "torchao"]
    """The library that does it, to be installed beside nuebridge-hf."""
    bits: Literal[4, 8] = 8
    """Bits a weight of the linear layers takes; embeddings and output head keep theirs."""


class DecoderOptions(LoadOptions):
    """Options of the causal language models."""

    end_tokens: tuple[str, ...] = ()
    """Tokens that end a text, before those that the checkpoint names; the first is the one that training teaches."""
    quantization: Quantization | None = None
    """None: weights as they are. A quantized decoder is read from its source each time and cannot itself be trained;
    LoRA beside it can."""

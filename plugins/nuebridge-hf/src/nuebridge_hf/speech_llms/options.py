"""Options of the parts of published speech-language models; no torch here."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from nuebridge.settings import Settings
from nuebridge_hf.options import DecoderOptions, LayerOptions


class TowerOptions(LayerOptions):
    """Options of the encoder of a speech-language model."""


class MlpProjectorOptions(Settings):
    """Options of the bridge of Qwen3-ASR and Voxtral."""

    frames: int = Field(default=1, ge=1)
    """Neighbouring frames that are laid side by side to make one position."""
    hidden_size: int | Literal["input", "output"] = "output"
    """Width between the two layers; ``input``: the encoder's, ``output``: the decoder's."""
    bias: bool = True
    """Whether the layers have a bias."""
    activation: str = "gelu"
    """transformers' name of the function between the layers."""


class GraniteProjectorOptions(Settings):
    """Options of the bridge of Granite Speech, a Q-Former over windows."""

    window_size: int = Field(default=15, ge=1)
    """Encoder frames a window."""
    downsample_rate: int = Field(default=5, ge=1)
    """Frames a position; a window gives ``window_size // downsample_rate``."""
    hidden_size: int | None = None
    """Width of the Q-Former; null: the encoder's."""
    num_hidden_layers: int = Field(default=2, ge=1)
    num_attention_heads: int = Field(default=16, ge=1)
    intermediate_size: int = Field(default=4096, ge=1)
    cross_attention_frequency: int = Field(default=1, ge=1)
    """Every so many layers one reads the encoder's frames."""
    hidden_act: str = "gelu"
    hidden_dropout_prob: float = Field(default=0.1, ge=0, lt=1)
    attention_probs_dropout_prob: float = Field(default=0.1, ge=0, lt=1)
    layer_norm_eps: float = 1e-12


class MarkedDecoderOptions(DecoderOptions):
    """Options of a language model that writes something before the transcript."""

    text_after: str = "<asr_text>"
    """The token that the transcript comes after; without it, all that was written is the transcript."""

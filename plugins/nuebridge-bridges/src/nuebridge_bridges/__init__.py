"""The bridges that come with nuebridge, as a plugin like any other. Nothing heavy is imported here."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from nuebridge.hookspecs import BridgeComponent, hookimpl
from nuebridge.settings import Settings

Positive = Annotated[int, Field(ge=1)]
Fraction = Annotated[float, Field(ge=0, lt=1)]


class ConvOptions(Settings):
    """Options of ``bridges.conv``."""

    kernel_sizes: tuple[Positive, ...] = (4, 4)
    """Encoder frames that each convolution reads."""
    strides: tuple[Positive, ...] = (2, 2)
    """Frames that each convolution moves on; their product is the downsampling factor."""

    @model_validator(mode="after")
    def _pairs(self) -> ConvOptions:
        _check_pairs(self.kernel_sizes, self.strides)
        return self


class StackingOptions(Settings):
    """Options of ``bridges.stacking``."""

    frames: Positive = 5
    """Encoder frames that become one position: the downsampling factor."""
    hidden_size: Positive | None = 2048
    """Width between two linear layers; null: one linear layer alone."""


class MeanPoolingOptions(Settings):
    """Options of ``bridges.mean-pooling``."""

    frames: Positive = 4
    """Encoder frames that become one position: the downsampling factor."""
    projection: bool = True
    """A linear layer to the decoder's width; without it encoder and decoder must have one width."""


class CtcOptions(Settings):
    """Options of ``bridges.ctc``."""

    runs: Literal["keep", "average", "weighted"] = "average"
    """What neighbouring frames with the same best symbol become: each is kept, their mean, or their sum weighted by
    the posterior of that symbol."""
    drop_blanks: bool = False
    """Leaves frames out whose best symbol is the blank."""
    projection: bool = True
    """A linear layer to the decoder's width; without it encoder and decoder must have one width."""

    @model_validator(mode="after")
    def _compresses(self) -> CtcOptions:
        if self.runs == "keep" and not self.drop_blanks:
            raise ValueError("runs are kept and blanks too: nothing would be compressed; set drop_blanks: true")
        return self


class CifOptions(Settings):
    """Options of ``bridges.cif``."""

    kernel_size: Positive = 3
    """Encoder frames that the weight of a frame is told from; odd, so that it stands in their middle."""
    projection: bool = True
    """A linear layer to the decoder's width; without it encoder and decoder must have one width."""

    @model_validator(mode="after")
    def _odd(self) -> CifOptions:
        if self.kernel_size % 2 == 0:
            raise ValueError(f"kernel_size must be odd, not {self.kernel_size}")
        return self


class ConvTransformerOptions(Settings):
    """Options of ``bridges.conv-transformer``."""

    kernel_sizes: tuple[Positive, ...] = Field(default=(4, 4), min_length=1)
    """Encoder frames that each convolution reads."""
    strides: tuple[Positive, ...] = (2, 2)
    """Frames that each convolution moves on; their product is the downsampling factor."""
    hidden_size: Positive = 768
    """Width of convolutions and transformer layers."""
    layers: Positive = 2
    """Transformer layers."""
    heads: Positive = 12
    """Attention heads of each layer; they divide hidden_size."""
    intermediate_size: Positive = 3072
    """Width between the two linear layers of a transformer layer."""
    dropout: Fraction = 0.1
    """Share of attention and of what each layer adds that is dropped in training."""
    projection: bool = True
    """A linear layer to the decoder's width; without it hidden_size must be that width."""

    @model_validator(mode="after")
    def _fit(self) -> ConvTransformerOptions:
        _check_pairs(self.kernel_sizes, self.strides)
        _check_heads(self.hidden_size, self.heads)
        return self


class QFormerOptions(Settings):
    """Options of ``bridges.q-former``."""

    window: Positive = 17
    """Encoder frames of a window: 0.34 s at 50 frames a second."""
    queries: Positive = 1
    """Positions that each window becomes."""
    hidden_size: Positive = 768
    """Width of queries and layers."""
    layers: Positive = 2
    """Layers of self-attention, cross-attention to the window's frames and two linear layers."""
    heads: Positive = 12
    """Attention heads of each layer; they divide hidden_size."""
    intermediate_size: Positive = 3072
    """Width between the two linear layers of a layer."""
    dropout: Fraction = 0.1
    """Share of attention and of what each layer adds that is dropped in training."""
    normalize_input: bool = True
    """A layer norm over the encoder's frames before they are read (SALMONN; Granite has none)."""
    projection: bool = True
    """A linear layer to the decoder's width; without it hidden_size must be that width."""

    @model_validator(mode="after")
    def _fit(self) -> QFormerOptions:
        _check_heads(self.hidden_size, self.heads)
        return self


def _check_pairs(kernel_sizes: tuple[int, ...], strides: tuple[int, ...]) -> None:
    if len(kernel_sizes) != len(strides):
        raise ValueError(f"{len(kernel_sizes)} kernel sizes but {len(strides)} strides; give one each")


def _check_heads(hidden_size: int, heads: int) -> None:
    if hidden_size % heads:
        raise ValueError(f"hidden_size {hidden_size} cannot be divided among {heads} heads; choose a multiple")


def _conv() -> type:
    from nuebridge_bridges.conv import ConvBridge

    return ConvBridge


def _stacking() -> type:
    from nuebridge_bridges.stacking import StackingBridge

    return StackingBridge


def _mean_pooling() -> type:
    from nuebridge_bridges.pooling import MeanPoolingBridge

    return MeanPoolingBridge


def _ctc() -> type:
    from nuebridge_bridges.compression import CtcBridge

    return CtcBridge


def _cif() -> type:
    from nuebridge_bridges.cif import CifBridge

    return CifBridge


def _conv_transformer() -> type:
    from nuebridge_bridges.conv_transformer import ConvTransformerBridge

    return ConvTransformerBridge


def _q_former() -> type:
    from nuebridge_bridges.q_former import QFormerBridge

    return QFormerBridge


def _examples(name: str) -> Mapping[str, Mapping[str, Any]]:
    from nuebridge_bridges.examples import EXAMPLES

    return EXAMPLES[name]


@hookimpl
def nuebridge_bridges() -> list[BridgeComponent]:
    """The bridges of this distribution."""
    return [
        BridgeComponent(
            name="conv",
            summary="Strided convolutions and a linear layer (Nue-ASR, arXiv 2312.03668).",
            load=_conv,
            options=ConvOptions,
            examples=partial(_examples, "conv"),
        ),
        BridgeComponent(
            name="stacking",
            summary="Neighbouring frames side by side and one or two linear layers (SLAM-ASR, arXiv 2402.08846).",
            load=_stacking,
            options=StackingOptions,
            examples=partial(_examples, "stacking"),
        ),
        BridgeComponent(
            name="mean-pooling",
            summary="The mean of neighbouring frames and a linear layer, a baseline (Qwen2-Audio, arXiv 2407.10759).",
            load=_mean_pooling,
            options=MeanPoolingOptions,
            examples=partial(_examples, "mean-pooling"),
        ),
        BridgeComponent(
            name="ctc",
            summary="CTC compression: blanks dropped, runs of one symbol averaged or weighted (arXiv 2102.01578).",
            load=_ctc,
            options=CtcOptions,
            examples=partial(_examples, "ctc"),
        ),
        BridgeComponent(
            name="cif",
            summary="Continuous integrate-and-fire: a position whenever weights add up to one (arXiv 1905.11235).",
            load=_cif,
            options=CifOptions,
            examples=partial(_examples, "cif"),
        ),
        BridgeComponent(
            name="conv-transformer",
            summary="Strided convolutions, transformer layers and a linear layer (arXiv 2409.17044).",
            load=_conv_transformer,
            options=ConvTransformerOptions,
            examples=partial(_examples, "conv-transformer"),
        ),
        BridgeComponent(
            name="q-former",
            summary="Learned queries that attend to windows of frames (SALMONN, arXiv 2310.13289; Granite Speech).",
            load=_q_former,
            options=QFormerOptions,
            examples=partial(_examples, "q-former"),
        ),
    ]

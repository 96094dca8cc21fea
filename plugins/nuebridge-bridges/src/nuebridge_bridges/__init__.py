"""The bridges that come with nuebridge, as a plugin like any other. Nothing heavy is imported here."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, model_validator

from nuebridge.hookspecs import BridgeComponent, hookimpl
from nuebridge.settings import Settings

Positive = Annotated[int, Field(ge=1)]


class ConvOptions(Settings):
    """Options of ``bridges.conv``."""

    kernel_sizes: tuple[Positive, ...] = (4, 4)
    """Encoder frames that each convolution reads."""
    strides: tuple[Positive, ...] = (2, 2)
    """Frames that each convolution moves on; their product is the downsampling factor."""

    @model_validator(mode="after")
    def _pairs(self) -> ConvOptions:
        if len(self.kernel_sizes) != len(self.strides):
            raise ValueError(f"{len(self.kernel_sizes)} kernel sizes but {len(self.strides)} strides; give one each")
        return self


class StackingOptions(Settings):
    """Options of ``bridges.stacking``."""

    frames: Positive = 5
    """Encoder frames that become one position: the downsampling factor."""
    hidden_size: Positive | None = 2048
    """Width between two linear layers; null: one linear layer alone."""


def _conv() -> type:
    from nuebridge_bridges.conv import ConvBridge

    return ConvBridge


def _stacking() -> type:
    from nuebridge_bridges.stacking import StackingBridge

    return StackingBridge


@hookimpl
def nuebridge_bridges() -> list[BridgeComponent]:
    """The bridges of this distribution."""
    return [
        BridgeComponent(
            name="conv",
            summary="Strided convolutions and a linear layer (Nue-ASR, arXiv 2312.03668).",
            load=_conv,
            options=ConvOptions,
        ),
        BridgeComponent(
            name="stacking",
            summary="Neighbouring frames side by side and one or two linear layers (SLAM-ASR, arXiv 2402.08846).",
            load=_stacking,
            options=StackingOptions,
        ),
    ]

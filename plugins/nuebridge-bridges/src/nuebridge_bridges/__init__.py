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


def _conv() -> type:
    from nuebridge_bridges.conv import ConvBridge

    return ConvBridge


@hookimpl
def nuebridge_bridges() -> list[BridgeComponent]:
    """The bridges of this distribution."""
    return [
        BridgeComponent(
            name="conv",
            summary="Strided convolutions and a linear layer (Nue-ASR, arXiv 2312.03668).",
            load=_conv,
            options=ConvOptions,
        )
    ]

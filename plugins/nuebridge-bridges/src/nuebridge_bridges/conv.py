"""The convolution bridge of Nue-ASR (arXiv 2312.03668, section 2.2)."""

from __future__ import annotations

import math
from typing import Any, cast

import torch.nn.functional as F
from torch import Tensor, nn

from nuebridge.contracts import Frames, ParameterGroup, check_not_empty
from nuebridge_bridges import ConvOptions
from nuebridge_bridges.base import OptionsBridge, groups_of


def output_lengths(convs: nn.ModuleList, lengths: Tensor) -> Tensor:
    """What one-dimensional convolutions without padding make of ``lengths [B]``."""
    for conv in cast("list[nn.Conv1d]", list(convs)):
        lengths = (lengths - conv.kernel_size[0]).div(conv.stride[0], rounding_mode="floor") + 1
        lengths = lengths.clamp(min=0)
    return lengths


def receptive_field(convs: nn.ModuleList) -> int:
    """What one output of such convolutions, one after the other, reads."""
    field = 1
    for conv in cast("list[nn.Conv1d]", list(reversed(convs))):
        field = (field - 1) * conv.stride[0] + conv.kernel_size[0]
    return field


class ConvBridge(OptionsBridge):
    """Convolutions of the encoder's width, each followed by GELU, then one linear layer.

    The convolutions read no padding, so what a clip gives does not depend on its batch, and a
    clip must be at least ``receptive_field`` frames long.
    """

    options: ConvOptions

    def __init__(self, input_size: int, output_size: int, options: Any) -> None:
        super().__init__(input_size, output_size, options)
        self.downsampling_factor = float(math.prod(options.strides))
        self.convs = nn.ModuleList(
            nn.Conv1d(input_size, input_size, kernel_size, stride)
            for kernel_size, stride in zip(options.kernel_sizes, options.strides, strict=True)
        )
        self.proj = nn.Linear(input_size, output_size)

    @property
    def receptive_field(self) -> int:
        """Encoder frames that one position reads."""
        return receptive_field(self.convs)

    def forward(self, frames: Frames, target_lengths: Tensor | None = None) -> Frames:
        lengths = self.output_lengths(frames.lengths)
        check_not_empty(frames.lengths, lengths, self.receptive_field, "encoder frames", "the convolution bridge")
        hidden = frames.features.transpose(1, 2)  # [B, E, F]
        for conv in self.convs:
            hidden = F.gelu(conv(hidden))
        features = self.proj(hidden.transpose(1, 2))  # [B, A, D]
        return Frames(features, lengths, losses=frames.losses).zero_padding()

    def output_lengths(self, lengths: Tensor) -> Tensor:
        return output_lengths(self.convs, lengths)

    def parameter_groups(self) -> list[ParameterGroup]:
        return groups_of(layers=self.convs, head=self.proj)

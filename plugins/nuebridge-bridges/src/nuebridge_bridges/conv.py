"""The convolution bridge of Nue-ASR (arXiv 2312.03668, section 2.2)."""

from __future__ import annotations

from pathlib import Path
from typing import Self

import torch.nn.functional as F
from torch import Tensor, nn

from nuebridge.contracts import Bridge, Frames, ParameterGroup, check_not_empty
from nuebridge.tensors import load_weights, save_weights
from nuebridge_bridges import ConvOptions


class ConvBridge(Bridge):
    """Convolutions of the encoder's width, each followed by GELU, then one linear layer.

    The convolutions read no padding, so what a clip gives does not depend on its batch, and a
    clip must be at least ``receptive_field`` frames long.
    """

    def __init__(self, input_size: int, output_size: int, options: ConvOptions) -> None:
        super().__init__()
        self.input_size, self.output_size, self.options = input_size, output_size, options
        self.convs = nn.ModuleList(
            nn.Conv1d(input_size, input_size, kernel_size, stride)
            for kernel_size, stride in zip(options.kernel_sizes, options.strides, strict=True)
        )
        self.proj = nn.Linear(input_size, output_size)

    @classmethod
    def build(cls, input_size: int, output_size: int, options: ConvOptions) -> Self:  # type: ignore[override]
        return cls(input_size, output_size, options)

    @classmethod
    def load(cls, folder: Path, input_size: int, output_size: int, options: ConvOptions) -> Self:  # type: ignore[override]
        bridge = cls(input_size, output_size, options)
        load_weights(bridge, folder)
        return bridge

    def save(self, folder: Path) -> None:
        save_weights(self, folder)

    @property
    def receptive_field(self) -> int:
        """Encoder frames that one position reads."""
        field = 1
        for conv in reversed(self.convs):
            field = (field - 1) * conv.stride[0] + conv.kernel_size[0]
        return field

    def forward(self, frames: Frames, target_lengths: Tensor | None = None) -> Frames:
        lengths = self.output_lengths(frames.lengths)
        check_not_empty(frames.lengths, lengths, self.receptive_field, "encoder frames", "the convolution bridge")
        hidden = frames.features.transpose(1, 2)  # [B, E, F]
        for conv in self.convs:
            hidden = F.gelu(conv(hidden))
        features = self.proj(hidden.transpose(1, 2))  # [B, A, D]
        return Frames(features, lengths, losses=frames.losses).zero_padding()

    def output_lengths(self, lengths: Tensor) -> Tensor:
        for conv in self.convs:
            lengths = (lengths - conv.kernel_size[0]).div(conv.stride[0], rounding_mode="floor") + 1
            lengths = lengths.clamp(min=0)
        return lengths

    def parameter_groups(self) -> list[ParameterGroup]:
        groups = [ParameterGroup(f"layers.{i}", tuple(conv.parameters())) for i, conv in enumerate(self.convs)]
        return [*groups, ParameterGroup("head", tuple(self.proj.parameters()))]

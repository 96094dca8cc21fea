"""Strided convolutions, then transformer layers: the convolutional kind of adapter compared in arXiv 2409.17044."""

from __future__ import annotations

import math
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from nuebridge.contracts import Frames, ParameterGroup, check_not_empty
from nuebridge_bridges import ConvTransformerOptions
from nuebridge_bridges.attention import Attention, FeedForward
from nuebridge_bridges.base import OptionsBridge, groups_of, projection
from nuebridge_bridges.conv import output_lengths, receptive_field


class TransformerLayer(nn.Module):
    """Self-attention over the whole clip and a feed-forward layer, each after a layer norm and added to its input."""

    def __init__(self, options: ConvTransformerOptions) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(options.hidden_size)
        self.attention = Attention(options.hidden_size, options.heads, options.dropout)
        self.feed_forward_norm = nn.LayerNorm(options.hidden_size)
        self.feed_forward = FeedForward(options.hidden_size, options.intermediate_size)
        self.dropout = nn.Dropout(options.dropout)

    def forward(self, hidden: Tensor, mask: Tensor) -> Tensor:
        """``hidden [B, A, H]``, ``mask [B, A]`` bool, true at real positions."""
        normed = self.attention_norm(hidden)
        hidden = hidden + self.dropout(self.attention(normed, normed, mask))
        out: Tensor = hidden + self.dropout(self.feed_forward(self.feed_forward_norm(hidden)))
        return out


class ConvTransformerBridge(OptionsBridge):
    """Convolutions, each followed by GELU, transformer layers, a layer norm and a linear layer.

    The convolutions read no padding, so a clip must be at least ``receptive_field`` frames long. Positions are not
    numbered anew: the encoder's frames and the convolutions tell their order.
    """

    options: ConvTransformerOptions

    def __init__(self, input_size: int, output_size: int, options: Any) -> None:
        super().__init__(input_size, output_size, options)
        self.downsampling_factor = float(math.prod(options.strides))
        width = options.hidden_size
        self.convs = nn.ModuleList(
            nn.Conv1d(width if i else input_size, width, kernel_size, stride)
            for i, (kernel_size, stride) in enumerate(zip(options.kernel_sizes, options.strides, strict=True))
        )
        self.layers = nn.ModuleList(TransformerLayer(options) for _ in range(options.layers))
        self.norm = nn.LayerNorm(width)
        self.proj = projection(options.projection, width, output_size, "the convolution and transformer bridge")

    @property
    def receptive_field(self) -> int:
        """Encoder frames that the convolutions read for one position."""
        return receptive_field(self.convs)

    def forward(self, frames: Frames, target_lengths: Tensor | None = None) -> Frames:
        lengths = self.output_lengths(frames.lengths)
        what = "the convolution and transformer bridge"
        check_not_empty(frames.lengths, lengths, self.receptive_field, "encoder frames", what)
        hidden = frames.features.transpose(1, 2)  # [B, E, F]
        for conv in self.convs:
            hidden = F.gelu(conv(hidden))
        heard = Frames(hidden.transpose(1, 2), lengths)
        features, mask = heard.features, heard.mask  # [B, A, H]
        for layer in self.layers:
            features = layer(features, mask)
        return Frames(self.proj(self.norm(features)), lengths, losses=frames.losses).zero_padding()

    def output_lengths(self, lengths: Tensor) -> Tensor:
        return output_lengths(self.convs, lengths)

    def parameter_groups(self) -> list[ParameterGroup]:
        head = nn.ModuleDict({"norm": self.norm, "proj": self.proj})
        return groups_of(front_end=nn.ModuleDict({"convs": self.convs}), layers=self.layers, head=head)

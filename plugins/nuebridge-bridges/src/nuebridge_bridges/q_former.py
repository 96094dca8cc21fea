"""The window-level Q-Former of SALMONN (arXiv 2310.13289, section 3.1), and that of Granite Speech.

SALMONN has one query for every 17 frames and a layer norm before it. Granite Speech (model card
ibm-granite/granite-speech-3.3-8b) has three queries for every 15 and no norm.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nuebridge.contracts import Frames, ParameterGroup, check_not_empty
from nuebridge_bridges import QFormerOptions
from nuebridge_bridges.attention import Attention, FeedForward
from nuebridge_bridges.base import OptionsBridge, groups_of, projection

EPSILON = 1e-12
"""Of the layer norms, as in BERT, whose layers a Q-Former has (BLIP-2, arXiv 2301.12597)."""


class QFormerLayer(nn.Module):
    """Queries attend to each other, then to a window's frames; each result is added to its input and normed."""

    def __init__(self, input_size: int, options: QFormerOptions) -> None:
        super().__init__()
        width, heads, dropout = options.hidden_size, options.heads, options.dropout
        self.self_attention = Attention(width, heads, dropout)
        self.self_attention_norm = nn.LayerNorm(width, EPSILON)
        self.cross_attention = Attention(width, heads, dropout, input_size)
        self.cross_attention_norm = nn.LayerNorm(width, EPSILON)
        self.feed_forward = FeedForward(width, options.intermediate_size)
        self.feed_forward_norm = nn.LayerNorm(width, EPSILON)
        self.dropout = nn.Dropout(dropout)

    def forward(self, queries: Tensor, frames: Tensor, mask: Tensor) -> Tensor:
        """``queries [N, Q, H]``; the frames of N windows, ``[N, W, E]``, and which are real, bool ``[N, W]``."""
        queries = self.self_attention_norm(queries + self.dropout(self.self_attention(queries, queries)))
        read = self.cross_attention(queries, frames, mask)
        queries = self.cross_attention_norm(queries + self.dropout(read))
        out: Tensor = self.feed_forward_norm(queries + self.dropout(self.feed_forward(queries)))
        return out


class QFormerBridge(OptionsBridge):
    """Each window of frames is read by the same learned queries, and each query becomes a position.

    A last window that is not full is read as far as it goes (SALMONN drops it, Granite fills it with zeros), so that
    a clip of one frame gives the positions of one window.
    """

    options: QFormerOptions

    def __init__(self, input_size: int, output_size: int, options: Any) -> None:
        super().__init__(input_size, output_size, options)
        self.downsampling_factor = options.window / options.queries
        self.input_norm = nn.LayerNorm(input_size) if options.normalize_input else None
        self.queries = nn.Parameter(torch.empty(options.queries, options.hidden_size))
        nn.init.normal_(self.queries)
        self.query_norm = nn.LayerNorm(options.hidden_size, EPSILON)
        self.dropout = nn.Dropout(options.dropout)
        self.layers = nn.ModuleList(QFormerLayer(input_size, options) for _ in range(options.layers))
        self.proj = projection(options.projection, options.hidden_size, output_size, "the Q-Former bridge")

    def forward(self, frames: Frames, target_lengths: Tensor | None = None) -> Frames:
        lengths, size = self.output_lengths(frames.lengths), self.options.window
        check_not_empty(frames.lengths, lengths, 1, "encoder frames", "the Q-Former bridge")
        batch, count, width = frames.features.shape
        windows = F.pad(frames.features, (0, 0, 0, -count % size)).reshape(batch, -1, size, width)
        mask = F.pad(frames.mask, (0, -count % size)).reshape(batch, -1, size)
        real = mask[..., 0]  # [B, n]: windows past a clip's end have nothing to read and are left out
        heard = windows[real] if self.input_norm is None else self.input_norm(windows[real])  # [N, W, E]
        queries = self.dropout(self.query_norm(self.queries)).expand(len(heard), -1, -1)
        for layer in self.layers:
            queries = layer(queries, heard, mask[real])
        found = self.proj(queries)  # [N, Q, D]
        positions = found.new_zeros(*real.shape, *found.shape[1:])
        positions[real] = found
        return Frames(positions.flatten(1, 2)[:, : int(lengths.max())], lengths, losses=frames.losses)

    def output_lengths(self, lengths: Tensor) -> Tensor:
        size = self.options.window
        return (lengths + size - 1).div(size, rounding_mode="floor").clamp(min=0) * self.options.queries

    def parameter_groups(self) -> list[ParameterGroup]:
        norms = [norm for norm in (self.input_norm, self.query_norm) if norm is not None]
        front = (self.queries, *(parameter for norm in norms for parameter in norm.parameters()))
        return [ParameterGroup("front_end", front), *groups_of(layers=self.layers, head=self.proj)]

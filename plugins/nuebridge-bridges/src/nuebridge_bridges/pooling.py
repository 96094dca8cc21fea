"""Mean pooling, as in Qwen2-Audio (arXiv 2407.10759, section 2): the baseline that a learned bridge should beat."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from nuebridge.contracts import Frames, ParameterGroup, check_not_empty
from nuebridge_bridges import MeanPoolingOptions
from nuebridge_bridges.base import OptionsBridge, accurate, groups_of, projection


class MeanPoolingBridge(OptionsBridge):
    """The mean of so many neighbouring frames, then a linear layer.

    A last group that is not full is the mean of the frames it has, so that a clip of one frame gives one position.
    """

    options: MeanPoolingOptions

    def __init__(self, input_size: int, output_size: int, options: Any) -> None:
        super().__init__(input_size, output_size, options)
        self.downsampling_factor = float(options.frames)
        self.proj = projection(options.projection, input_size, output_size, "the mean pooling bridge")

    def forward(self, frames: Frames, target_lengths: Tensor | None = None) -> Frames:
        lengths, size = self.output_lengths(frames.lengths), self.options.frames
        check_not_empty(frames.lengths, lengths, 1, "encoder frames", "the mean pooling bridge")
        features = frames.zero_padding().features  # what lies past a length gets no gradient either
        batch, count, width = features.shape
        groups = F.pad(features, (0, 0, 0, -count % size)).reshape(batch, -1, size, width)
        sums = groups.sum(2, dtype=accurate(features.dtype))  # [B, A, E]
        begins = torch.arange(sums.shape[1], device=sums.device) * size
        counts = (frames.lengths[:, None] - begins).clamp(1, size)  # [B, A]
        means = (sums / counts[..., None]).to(features.dtype)
        return Frames(self.proj(means[:, : int(lengths.max())]), lengths, losses=frames.losses).zero_padding()

    def output_lengths(self, lengths: Tensor) -> Tensor:
        size = self.options.frames
        return (lengths + size - 1).div(size, rounding_mode="floor").clamp(min=0)

    def parameter_groups(self) -> list[ParameterGroup]:
        return groups_of(head=self.proj)

"""Frame stacking, the bridge of SLAM-ASR (arXiv 2402.08846, section 2.1)."""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from nuebridge.contracts import Frames, ParameterGroup, check_not_empty
from nuebridge_bridges import StackingOptions
from nuebridge_bridges.base import OptionsBridge


class StackingBridge(OptionsBridge):
    """Neighbouring frames side by side, then one linear layer, or two with a ReLU between them.

    A last group that is not full is filled with zeros, where the paper's program drops it: no
    speech is lost, and a clip of one frame gives one position.
    """

    options: StackingOptions

    def __init__(self, input_size: int, output_size: int, options: Any) -> None:
        super().__init__(input_size, output_size, options)
        self.downsampling_factor = float(options.frames)
        width = options.frames * input_size
        if options.hidden_size is None:
            self.layers = nn.ModuleList([nn.Linear(width, output_size)])
        else:
            self.layers = nn.ModuleList(
                [nn.Linear(width, options.hidden_size), nn.Linear(options.hidden_size, output_size)]
            )

    def forward(self, frames: Frames, target_lengths: Tensor | None = None) -> Frames:
        lengths = self.output_lengths(frames.lengths)
        check_not_empty(frames.lengths, lengths, 1, "encoder frames", "the stacking bridge")
        batch, count, width = frames.features.shape
        missing = -count % self.options.frames
        # What lies past a length is zero, as is what fills the last group of every row, and gets no gradient.
        hidden = F.pad(frames.zero_padding().features, (0, 0, 0, missing)).reshape(
            batch, -1, self.options.frames * width
        )
        hidden = self.layers[0](hidden)
        for layer in self.layers[1:]:
            hidden = layer(F.relu(hidden))
        return Frames(hidden[:, : int(lengths.max())], lengths, losses=frames.losses).zero_padding()

    def output_lengths(self, lengths: Tensor) -> Tensor:
        return (lengths + self.options.frames - 1).div(self.options.frames, rounding_mode="floor").clamp(min=0)

    def parameter_groups(self) -> list[ParameterGroup]:
        *before, last = self.layers
        groups = [ParameterGroup(f"layers.{i}", tuple(layer.parameters())) for i, layer in enumerate(before)]
        return [*groups, ParameterGroup("head", tuple(last.parameters()))]

"""Frame stacking, the bridge of SLAM-ASR (arXiv 2402.08846, section 2.1)."""

from __future__ import annotations

from pathlib import Path
from typing import Self

import torch.nn.functional as F
from torch import Tensor, nn

from nuebridge.contracts import Bridge, Frames, ParameterGroup, check_not_empty
from nuebridge.tensors import load_weights, save_weights
from nuebridge_bridges import StackingOptions


class StackingBridge(Bridge):
    """Neighbouring frames side by side, then one linear layer, or two with a ReLU between them.

    A last group that is not full is filled with zeros, where the paper's program drops it: no
    speech is lost, and a clip of one frame gives one position.
    """

    def __init__(self, input_size: int, output_size: int, options: StackingOptions) -> None:
        super().__init__()
        self.input_size, self.output_size, self.options = input_size, output_size, options
        width = options.frames * input_size
        if options.hidden_size is None:
            self.layers = nn.ModuleList([nn.Linear(width, output_size)])
        else:
            self.layers = nn.ModuleList(
                [nn.Linear(width, options.hidden_size), nn.Linear(options.hidden_size, output_size)]
            )

    @classmethod
    def build(cls, input_size: int, output_size: int, options: StackingOptions) -> Self:  # type: ignore[override]
        return cls(input_size, output_size, options)

    @classmethod
    def load(cls, folder: Path, input_size: int, output_size: int, options: StackingOptions) -> Self:  # type: ignore[override]
        bridge = cls(input_size, output_size, options)
        load_weights(bridge, folder)
        return bridge

    def save(self, folder: Path) -> None:
        save_weights(self, folder)

    def forward(self, frames: Frames, target_lengths: Tensor | None = None) -> Frames:
        lengths = self.output_lengths(frames.lengths)
        check_not_empty(frames.lengths, lengths, 1, "encoder frames", "the stacking bridge")
        batch, count, width = frames.features.shape
        missing = -count % self.options.frames
        # What lies past a length is zero already, and so is what fills the last group of every row.
        hidden = F.pad(frames.features, (0, 0, 0, missing)).reshape(batch, -1, self.options.frames * width)
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

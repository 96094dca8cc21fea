"""Continuous integrate-and-fire (Dong and Xu, arXiv 1905.11235): a position whenever frames' weights add up to one."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nuebridge.contracts import Frames, ParameterGroup, check_not_empty
from nuebridge_bridges import CifOptions
from nuebridge_bridges.base import OptionsBridge, accurate, groups_of, projection

QUANTITY_LOSS = "quantity"
"""Name of the auxiliary loss, for ``losses.auxiliary``: how far the weights of a clip are from adding up to the
number of its tokens. The paper weighs it 1."""

TAIL = 0.5
"""What is left after the last whole position becomes one more where it is more than this (section 3.2)."""


class CifBridge(OptionsBridge):
    """A weight between 0 and 1 for every frame; frames are summed by weight, and each whole unit is a position.

    The weight comes from a convolution and a linear layer to one number, with a ReLU between them as in Paraformer
    (arXiv 2206.08317). In training, weights are scaled to add up to the number of target tokens, end token included,
    though never to more than there are frames. Otherwise what is left at the end is rounded: more than half a
    unit becomes a position, its weights scaled up to one, and a clip gives one position at least.
    """

    options: CifOptions
    lengths_are_exact = False

    def __init__(self, input_size: int, output_size: int, options: Any) -> None:
        super().__init__(input_size, output_size, options)
        self.conv = nn.Conv1d(input_size, input_size, options.kernel_size, padding=options.kernel_size // 2)
        self.weight_proj = nn.Linear(input_size, 1)
        self.proj = projection(options.projection, input_size, output_size, "the integrate-and-fire bridge")

    def forward(self, frames: Frames, target_lengths: Tensor | None = None) -> Frames:
        check_not_empty(frames.lengths, frames.lengths, 1, "encoder frames", "the integrate-and-fire bridge")
        frames = frames.zero_padding()  # what lies past a length gets no gradient either
        weights = self.weights(frames)
        totals = weights.sum(1)
        losses = dict(frames.losses)
        if target_lengths is not None:
            targets = target_lengths.to(frames.lengths.device).clamp(min=1).minimum(frames.lengths)
            losses[QUANTITY_LOSS] = (totals - targets).abs().sum()
        if target_lengths is not None and self.training:
            weights = weights * (targets / totals.clamp(min=torch.finfo(totals.dtype).tiny))[:, None]
            lengths = targets
            shares = integrate(weights, int(lengths.max()))
        else:
            lengths = (totals - TAIL).ceil().long().clamp(min=1).minimum(frames.lengths)
            shares = integrate(weights, int(lengths.max()))
            # Whole positions add up to one already.
            shares = shares / shares.sum(2, keepdim=True).clamp(min=torch.finfo(shares.dtype).tiny)
        positions = shares.to(frames.features.dtype) @ frames.features  # [B, A, E]
        return Frames(self.proj(positions), lengths, losses=losses).zero_padding()

    def weights(self, frames: Frames) -> Tensor:
        """The weight of every frame, ``[B, F]``, at least float32; zero past a clip's length."""
        # What lies past a length is zero, as is what the convolution pads with.
        hidden = F.relu(self.conv(frames.features.transpose(1, 2))).transpose(1, 2)
        logits = self.weight_proj(hidden)[..., 0]
        weights: Tensor = logits.to(accurate(logits.dtype)).sigmoid()
        return weights.masked_fill(~frames.mask, 0.0)

    def output_lengths(self, lengths: Tensor) -> Tensor:
        return lengths.clamp(min=0)

    def parameter_groups(self) -> list[ParameterGroup]:
        front_end = nn.ModuleDict({"conv": self.conv, "weight_proj": self.weight_proj})
        return groups_of(front_end=front_end, head=self.proj)


def integrate(weights: Tensor, size: int) -> Tensor:
    """What each frame gives to each of the first ``size`` positions: ``[B, F]`` to ``[B, size, F]``.

    On a line on which the frames lie end to end, each as long as its weight, position i is what lies between i and
    i + 1; a frame gives it as much as lies there.
    """
    ends = weights.cumsum(1)
    begins = F.pad(ends[:, :-1], (1, 0))
    places = torch.arange(size, device=weights.device, dtype=weights.dtype)[:, None]
    return (ends[:, None].minimum(places + 1) - begins[:, None].maximum(places)).clamp(min=0)

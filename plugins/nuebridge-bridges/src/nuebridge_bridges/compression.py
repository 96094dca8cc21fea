"""CTC compression, the second kind of bridge of Nue-ASR (arXiv 2312.03668): the CTC head tells what belongs together.

Frames whose best symbol is the blank can be left out (arXiv 2307.03917); neighbours with one best symbol are kept, or
become one position: their mean, or their mean weighted by the symbol's posterior (arXiv 2102.01578, section 3).
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from nuebridge.contracts import Frames, ParameterGroup, check_not_empty
from nuebridge.ctc import BLANK
from nuebridge.errors import SizeMismatchError
from nuebridge_bridges import CtcOptions
from nuebridge_bridges.base import OptionsBridge, accurate, groups_of, projection


class CtcBridge(OptionsBridge):
    """Runs of frames with one best symbol become positions, then a linear layer.

    Which frames belong together is a choice, and no gradient passes through it. With ``runs: weighted`` the text
    loss trains the CTC head through the weights; with the others only a CTC loss does. A clip in which every frame
    would be left out gives one position: the frame at which the blank is least probable, the first of equals.
    """

    options: CtcOptions
    lengths_are_exact = False
    needs_ctc = True

    def __init__(self, input_size: int, output_size: int, options: Any) -> None:
        super().__init__(input_size, output_size, options)
        self.proj = projection(options.projection, input_size, output_size, "the CTC bridge")

    def forward(self, frames: Frames, target_lengths: Tensor | None = None) -> Frames:
        if frames.ctc_logits is None:
            raise SizeMismatchError("the CTC bridge needs frames with CTC logits; compose with a CTC head")
        check_not_empty(frames.lengths, frames.lengths, 1, "encoder frames", "the CTC bridge")
        best = frames.ctc_logits.argmax(-1)  # [B, F]
        kept = self._kept(frames.ctc_logits, best, frames.mask)
        starts = kept if self.options.runs == "keep" else _starts(best, kept)
        weights = None
        if self.options.runs == "weighted":
            posteriors = frames.ctc_logits.softmax(-1, dtype=accurate(frames.ctc_logits.dtype))
            weights = posteriors.gather(-1, best[..., None])[..., 0]  # [B, F]
        means, lengths = run_means(frames.features, kept, starts, weights)
        return Frames(self.proj(means), lengths, losses=frames.losses).zero_padding()

    def output_lengths(self, lengths: Tensor) -> Tensor:
        return lengths.clamp(min=0)

    def parameter_groups(self) -> list[ParameterGroup]:
        return groups_of(head=self.proj)

    def _kept(self, logits: Tensor, best: Tensor, mask: Tensor) -> Tensor:
        """Bool ``[B, F]``: the frames that go into a position; at least one of every clip."""
        if not self.options.drop_blanks:
            return mask
        kept = mask & (best != BLANK)
        blank = logits.detach().log_softmax(-1, dtype=accurate(logits.dtype))[..., BLANK].masked_fill(~mask, torch.inf)
        spare = F.one_hot(blank.argmin(1), mask.shape[1]).bool()
        return torch.where(kept.any(1, keepdim=True), kept, spare)


def _starts(best: Tensor, kept: Tensor) -> Tensor:
    """Bool ``[B, F]``: the frames with which a run of one symbol begins."""
    changes = best != best.roll(1, 1)
    after_gap = ~kept.roll(1, 1)
    changes[:, 0] = True
    return kept & (changes | after_gap)


def run_means(features: Tensor, kept: Tensor, starts: Tensor, weights: Tensor | None) -> tuple[Tensor, Tensor]:
    """The mean of each run of frames, weighted where there are weights ``[B, F]``: ``[B, A, E]`` and its lengths.

    A run goes from a frame at which ``starts`` (bool ``[B, F]``) to the next; only ``kept`` frames count.
    """
    lengths = starts.sum(1)
    size, width = int(lengths.max()), features.shape[2]
    rows = torch.arange(len(lengths), device=lengths.device)[:, None] * size
    places = (rows + starts.cumsum(1) - 1)[kept]  # the run of each of N frames, counted over the batch
    frames = features[kept].to(accurate(features.dtype))  # [N, E]
    share = torch.ones_like(frames[:, 0]) if weights is None else weights[kept].to(frames.dtype)
    sums = frames.new_zeros(len(lengths) * size, width).index_add(0, places, frames * share[:, None])
    totals = share.new_zeros(len(lengths) * size).index_add(0, places, share)
    totals = totals.masked_fill(totals == 0, 1)  # where a clip has fewer runs than another
    return (sums / totals[:, None]).to(features.dtype).view(-1, size, width), lengths

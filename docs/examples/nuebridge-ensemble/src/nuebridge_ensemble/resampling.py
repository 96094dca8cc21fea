"""Frames of one length to frames of another, by the share of time that they have in common.

Shapes: B batch, F frames that are there, N frames that are wanted, E width.
"""

from __future__ import annotations

import torch
from torch import Tensor


def overlaps(lengths: Tensor, wanted: Tensor) -> Tensor:
    """How much of wanted frame n lies in frame f, for clips of ``lengths [B]`` and ``wanted [B]``: ``[B, N, F]``.

    Both divide a clip evenly. A row of a real frame sums to one; rows and columns of padding are zero. Computed in
    whole numbers, so that no rounding depends on what else is in the batch.
    """
    there = torch.arange(int(lengths.max()), device=lengths.device)[None, None, :]  # f
    asked = torch.arange(int(wanted.max()), device=lengths.device)[None, :, None]  # n
    has, wants = lengths[:, None, None], wanted[:, None, None]
    # In units of 1 / (F N) of the clip: frame f covers [f N, (f + 1) N), wanted frame n covers [n F, (n + 1) F).
    begin = torch.maximum(there * wants, asked * has)
    end = torch.minimum((there + 1) * wants, (asked + 1) * has)
    real = (there < has) & (asked < wants)
    return torch.where(real, (end - begin).clamp(min=0), 0) / has.clamp(min=1)


def resample(features: Tensor, lengths: Tensor, wanted: Tensor) -> Tensor:
    """``[B, F, E]`` with ``lengths [B]`` to ``[B, N, E]`` with ``wanted [B]``, zeros past them."""
    if torch.equal(lengths, wanted):
        return features[:, : int(wanted.max())]
    weights = overlaps(lengths, wanted).to(features.dtype)
    return weights @ features[:, : int(lengths.max())]

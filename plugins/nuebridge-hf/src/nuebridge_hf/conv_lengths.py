"""What convolutions make of lengths, exactly."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor


class Convolution(NamedTuple):
    """One convolution over time; ``padding`` counts the zeros on either side."""

    kernel: int
    stride: int
    padding: int = 0


def lengths_after(convolutions: Sequence[Convolution], lengths: Tensor) -> Tensor:
    """The lengths ``[B]`` that convolutions one after the other make of lengths ``[B]``; 0 where one is too short."""
    for kernel, stride, padding in convolutions:
        after = torch.div(lengths + 2 * padding - kernel, stride, rounding_mode="floor") + 1
        lengths = torch.where(lengths > 0, after.clamp(min=0), 0)
    return lengths


def fewest_inputs(convolutions: Sequence[Convolution]) -> int:
    """The shortest length of which they make at least one."""
    length = 1
    for kernel, stride, padding in reversed(convolutions):
        length = max(1, (length - 1) * stride + kernel - 2 * padding)
    return length

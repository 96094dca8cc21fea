"""G.711, the code of telephone networks: mu-law and A-law by the tables of ITU-T Recommendation G.711.

A sample becomes one of 256 codes: a sign, one of eight segments and one of sixteen steps within it.
Magnitudes are those of the Recommendation: full scale is 8192 for mu-law and 4096 for A-law.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from nuebridge.audio import Waveform

Law = Literal["mu", "a"]

Codes = NDArray[np.uint8]

SAMPLE_RATE = 8000
"""Hz of the audio that G.711 codes."""


@dataclass(frozen=True)
class _Table:
    full_scale: int
    """The magnitude of a sample of 1.0."""
    decisions: NDArray[np.float32]
    """``[127]``: the magnitude from which on a sample belongs to the next step."""
    outputs: NDArray[np.float32]
    """``[128]``: the magnitude that stands for a step."""
    positive: int
    """What the step of a sample of 0 or above is combined with (exclusive or) to give its code."""
    negative: int
    """The same for a sample below 0."""


def _mu_law() -> _Table:
    # Sixteen steps a segment, each segment's steps twice as wide as those of the one before; all moved by 33.
    steps = [(segment, 16 + step) for segment in range(8) for step in range(16)]
    return _Table(
        8192,
        np.array([(step << (segment + 1)) - 33 for segment, step in steps[1:]], np.float32),
        np.array([((2 * step + 1) << segment) - 33 for segment, step in steps], np.float32),
        positive=0xFF,
        negative=0x7F,
    )


def _a_law() -> _Table:
    # The first segment's steps are as wide as the second's, and begin at 0.
    steps = [(0, step) for step in range(16)] + [
        (segment - 1, 16 + step) for segment in range(1, 8) for step in range(16)
    ]
    return _Table(
        4096,
        np.array([step << (shift + 1) for shift, step in steps[1:]], np.float32),
        np.array([(2 * step + 1) << shift for shift, step in steps], np.float32),
        positive=0xD5,
        negative=0x55,
    )


_TABLES: dict[Law, _Table] = {"mu": _mu_law(), "a": _a_law()}


def encode(waveform: Waveform, law: Law) -> Codes:
    """Codes ``[S]`` of a waveform ``[S]``; samples beyond the largest step get its code.

    A sample on a decision value, of which the Recommendation says nothing, belongs to the step further from 0.
    """
    table = _TABLES[law]
    step = np.searchsorted(table.decisions, np.abs(waveform) * np.float32(table.full_scale), side="right")
    codes: Codes = (step ^ np.where(waveform < 0, table.negative, table.positive)).astype(np.uint8)
    return codes


def decode(codes: Codes, law: Law) -> Waveform:
    """The waveform ``[S]`` that codes ``[S]`` stand for, within [-1, 1]."""
    table = _TABLES[law]
    is_positive = (codes & 0x80) != 0
    magnitude = table.outputs[codes ^ np.where(is_positive, table.positive, table.negative)]
    waveform: Waveform = np.where(is_positive, magnitude, -magnitude) / np.float32(table.full_scale)
    return waveform

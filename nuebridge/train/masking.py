"""SpecAugment (Park et al., arXiv 1904.08779) on encoder frames: stretches of time and of features are set to zero.

torch is imported where masks are drawn, so that a configuration can be read without it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from pydantic import Field

from nuebridge.settings import Settings

if TYPE_CHECKING:
    import torch

    from nuebridge.contracts import Frames


class SpecAugmentSettings(Settings):
    """Masks on encoder frames, drawn anew for every utterance in every epoch; off unless there are masks."""

    time_masks: int = Field(default=0, ge=0, le=100)
    """Stretches of frames set to zero in each utterance, 0 to 100; 0: none."""
    max_time_frames: int = Field(default=10, ge=1)
    """Longest stretch, in encoder frames (at 50 a second, 10 are 0.2 s); lengths are drawn evenly from 0 to this."""
    max_time_share: float = Field(default=0.2, gt=0, le=0.9)
    """Most of an utterance's frames that all its stretches together may take, up to 0.9."""
    feature_masks: int = Field(default=0, ge=0, le=100)
    """Bands of neighbouring features set to zero in each utterance, 0 to 100; 0: none."""
    max_feature_share: float = Field(default=0.1, gt=0, le=0.9)
    """Most of the features that all bands together may take, up to 0.9; widths are drawn evenly."""


def mask_frames(frames: Frames, settings: SpecAugmentSettings, generators: Sequence[torch.Generator]) -> Frames:
    """Frames ``[B, F, E]`` with masked ones zero; lengths and everything else stay.

    What is drawn for an utterance comes from its own generator (on the CPU) and depends on its length and on
    E, not on the rest of the batch. An utterance never loses all its frames.
    """
    import torch

    if not settings.time_masks and not settings.feature_masks:
        return frames
    batch, longest, width = frames.features.shape
    in_time = torch.zeros(batch, longest, 1, dtype=torch.bool)
    in_features = torch.zeros(batch, 1, width, dtype=torch.bool)
    for row, (length, generator) in enumerate(zip(frames.lengths.tolist(), generators, strict=True)):
        most = int(settings.max_time_share * length)
        for start, end in _spans(settings.time_masks, length, settings.max_time_frames, most, generator):
            in_time[row, start:end] = True
        most = int(settings.max_feature_share * width)
        for start, end in _spans(settings.feature_masks, width, most, most, generator):
            in_features[row, :, start:end] = True
    masked = (in_time | in_features).to(frames.features.device)
    return replace(frames, features=frames.features.masked_fill(masked, 0.0))


def _spans(count: int, size: int, longest: int, most: int, generator: torch.Generator) -> list[tuple[int, int]]:
    """``count`` spans ``(start, end)`` within ``size``, each of up to ``longest`` and together of at most ``most``."""
    import torch

    spans = []
    for _ in range(count):
        width = int(torch.randint(min(longest, most) + 1, (), generator=generator))
        start = int(torch.randint(size - width + 1, (), generator=generator))
        spans.append((start, start + width))
        most -= width
    return spans

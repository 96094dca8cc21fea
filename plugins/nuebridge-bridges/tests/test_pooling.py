from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from nuebridge.contracts import Bridge, Frames


@pytest.mark.parametrize("size", [1, 2, 5, 40])
def test_it_is_the_mean_of_each_group(
    size: int, build: Callable[..., Bridge], frames_of: Callable[..., Frames]
) -> None:
    bridge = build("mean-pooling", frames=size)
    frames = frames_of(17, 1, 5, 20)
    found = bridge(frames)
    for row, length in enumerate(frames.lengths.tolist()):
        means = [frames.features[row, i : min(i + size, length)].mean(0) for i in range(0, length, size)]
        expected = torch.stack(means) @ bridge.proj.weight.T + bridge.proj.bias
        assert int(found.lengths[row]) == len(means)
        assert torch.allclose(found.features[row, : len(means)], expected, atol=1e-6)


def test_many_frames_in_bfloat16(build: Callable[..., Bridge]) -> None:
    """Added up in bfloat16, a sum of ones would stop at 256."""
    bridge = build("mean-pooling", 1, 1, frames=4000, projection=False).bfloat16()
    found = bridge(Frames(torch.ones(1, 4000, 1, dtype=torch.bfloat16), torch.tensor([4000])))
    assert found.features.tolist() == [[[1.0]]]

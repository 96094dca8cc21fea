from __future__ import annotations

from pathlib import Path

import pytest
import torch

from nuebridge.contracts import Frames
from nuebridge.errors import AudioTooShortError
from nuebridge_bridges import StackingOptions
from nuebridge_bridges.stacking import StackingBridge

OPTIONS = [StackingOptions(frames=1, hidden_size=None), StackingOptions(frames=3, hidden_size=None), StackingOptions()]


def build(options: StackingOptions) -> StackingBridge:
    torch.manual_seed(0)
    return StackingBridge.build(6, 4, options)


def frames_of(*lengths: int) -> Frames:
    torch.manual_seed(1)
    return Frames(torch.randn(len(lengths), max(lengths), 6), torch.tensor(lengths)).zero_padding()


def by_hand(bridge: StackingBridge, features: torch.Tensor) -> torch.Tensor:
    """``[F, E]`` to ``[A, D]``, a group at a time."""
    size, rows = bridge.options.frames, []
    for start in range(0, len(features), size):
        group = torch.zeros(size, features.shape[1])
        group[: len(features[start : start + size])] = features[start : start + size]
        hidden = group.flatten() @ bridge.layers[0].weight.T + bridge.layers[0].bias
        for layer in bridge.layers[1:]:
            hidden = hidden.clamp(min=0) @ layer.weight.T + layer.bias
        rows.append(hidden)
    return torch.stack(rows)


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_it_stacks_and_projects_and_a_clip_is_what_it_is_alone(options: StackingOptions) -> None:
    bridge = build(options)
    frames = frames_of(17, 1, 5, 12)
    found = bridge(frames)
    assert found.lengths.tolist() == [-(-length // options.frames) for length in (17, 1, 5, 12)]
    for row, length in enumerate(frames.lengths.tolist()):
        positions = int(found.lengths[row])
        expected = by_hand(bridge, frames.features[row, :length])
        assert torch.allclose(found.features[row, :positions], expected, atol=1e-5)
        assert not found.features[row, positions:].any()


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_lengths_are_exact(options: StackingOptions) -> None:
    bridge = build(options)
    for length in range(1, 40):
        found = bridge(frames_of(length))
        assert found.lengths.tolist() == bridge.output_lengths(torch.tensor([length])).tolist()
        assert found.features.shape[1] == int(found.lengths[0]) >= 1
    assert bridge.output_lengths(torch.tensor([0])).tolist() == [0]


def test_no_frames_are_an_error() -> None:
    with pytest.raises(AudioTooShortError, match="clip 1 of the batch has 0 encoder frames"):
        build(OPTIONS[2])(Frames(torch.zeros(2, 3, 6), torch.tensor([3, 0])))


def test_saved_bridge_is_the_same(tmp_path: Path) -> None:
    bridge = build(OPTIONS[2])
    bridge.save(tmp_path)
    loaded = StackingBridge.load(tmp_path, 6, 4, OPTIONS[2])
    assert torch.equal(loaded(frames_of(20)).features, bridge(frames_of(20)).features)


def test_every_parameter_is_in_one_group() -> None:
    bridge = build(OPTIONS[2])
    groups = bridge.parameter_groups()
    assert [group.name for group in groups] == ["layers.0", "head"]
    assert sum(len(group.parameters) for group in groups) == len(list(bridge.parameters()))

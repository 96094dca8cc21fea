from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from pydantic import ValidationError

from nuebridge.contracts import Frames
from nuebridge.errors import AudioTooShortError, CheckpointError
from nuebridge.hookspecs import BridgeComponent
from nuebridge.plugins import PluginManager
from nuebridge_bridges import ConvOptions
from nuebridge_bridges.conv import ConvBridge

SHAPES = [
    ((4, 4), (2, 2)),
    ((3,), (1,)),
    ((5, 3, 4), (3, 1, 2)),
    ((1,), (1,)),
    ((), ()),  # the linear layer alone
    ((2, 2), (3, 3)),  # leaves frames out between two windows
]


def build(kernel_sizes: tuple[int, ...] = (4, 4), strides: tuple[int, ...] = (2, 2)) -> ConvBridge:
    torch.manual_seed(0)
    return ConvBridge.build(6, 5, ConvOptions(kernel_sizes=kernel_sizes, strides=strides))


def frames_of(*lengths: int) -> Frames:
    torch.manual_seed(1)
    return Frames(torch.randn(len(lengths), max(lengths), 6), torch.tensor(lengths)).zero_padding()


def by_hand(bridge: ConvBridge, features: torch.Tensor) -> torch.Tensor:
    """``[F, E]`` to ``[A, D]``, a window at a time."""
    for conv in bridge.convs:
        size, stride = conv.kernel_size[0], conv.stride[0]
        windows = [features[start : start + size] for start in range(0, len(features) - size + 1, stride)]
        features = torch.stack(
            [F.gelu(torch.einsum("oik,ki->o", conv.weight, window) + conv.bias) for window in windows]
        )
    return features @ bridge.proj.weight.T + bridge.proj.bias


@pytest.mark.parametrize(("kernel_sizes", "strides"), SHAPES)
def test_it_is_convolutions_gelu_and_a_linear_layer(kernel_sizes: tuple[int, ...], strides: tuple[int, ...]) -> None:
    bridge = build(kernel_sizes, strides)
    frames = frames_of(40)
    found = bridge(frames)
    assert torch.allclose(found.features[0], by_hand(bridge, frames.features[0]), atol=1e-5)
    assert found.features.shape[-1] == 5


@pytest.mark.parametrize(("kernel_sizes", "strides"), SHAPES)
def test_lengths_are_exact(kernel_sizes: tuple[int, ...], strides: tuple[int, ...]) -> None:
    bridge = build(kernel_sizes, strides)
    assert bridge.lengths_are_exact
    for length in range(bridge.receptive_field, 60):
        found = bridge(frames_of(length))
        assert found.lengths.tolist() == bridge.output_lengths(torch.tensor([length])).tolist()
        assert found.features.shape[1] == int(found.lengths[0]) >= 1


@pytest.mark.parametrize(("kernel_sizes", "strides"), SHAPES)
def test_the_shortest_input(kernel_sizes: tuple[int, ...], strides: tuple[int, ...]) -> None:
    bridge = build(kernel_sizes, strides)
    field = bridge.receptive_field
    lengths = torch.arange(0, field + 1)
    assert bridge.output_lengths(lengths).tolist() == [0] * field + [1]
    if field > 1:
        said = f"clip 1 of the batch has {field - 1} encoder frames, and the convolution bridge needs at least {field}"
        with pytest.raises(AudioTooShortError, match=said):
            bridge(frames_of(field, field - 1))


def test_the_receptive_field_is_what_one_position_reads() -> None:
    bridge = build((5, 3, 4), (3, 1, 2))
    frames = frames_of(80)
    changed = frames.features.clone()
    changed[0, bridge.receptive_field :] += 1
    first = bridge(Frames(changed, frames.lengths)).features[0, 0]
    assert torch.equal(first, bridge(frames).features[0, 0])
    changed[0, bridge.receptive_field - 1] += 1
    assert not torch.equal(bridge(Frames(changed, frames.lengths)).features[0, 0], first)


def test_a_clip_is_what_it_is_alone() -> None:
    bridge = build()
    frames = frames_of(33, 12, 10, 27)
    batch = bridge(frames)
    for row, length in enumerate(frames.lengths.tolist()):
        alone = bridge(Frames(frames.features[row : row + 1, :length], torch.tensor([length])))
        positions = int(batch.lengths[row])
        assert torch.allclose(batch.features[row, :positions], alone.features[0], atol=1e-6)
        assert not batch.features[row, positions:].any()


def test_auxiliary_losses_pass_through() -> None:
    frames = Frames(torch.randn(1, 20, 6), torch.tensor([20]), losses={"other": torch.tensor(2.0)})
    assert build()(frames).losses == {"other": torch.tensor(2.0)}


def test_saved_bridge_is_the_same(tmp_path: Path) -> None:
    bridge = build()
    bridge.save(tmp_path)
    first = (tmp_path / "model.safetensors").read_bytes()
    loaded = ConvBridge.load(tmp_path, 6, 5, ConvOptions())
    assert torch.equal(loaded(frames_of(20)).features, bridge(frames_of(20)).features)
    loaded.save(tmp_path)
    assert (tmp_path / "model.safetensors").read_bytes() == first
    with pytest.raises(CheckpointError, match=r"proj\.weight has shape \[5, 6\], expected \[7, 6\]"):
        ConvBridge.load(tmp_path, 6, 7, ConvOptions())
    with pytest.raises(CheckpointError, match=r"convs\.1\.weight is not expected"):
        ConvBridge.load(tmp_path, 6, 5, ConvOptions(kernel_sizes=(4,), strides=(2,)))


def test_every_parameter_is_in_one_group() -> None:
    bridge = build((5, 3, 4), (3, 1, 2))
    groups = bridge.parameter_groups()
    assert [group.name for group in groups] == ["layers.0", "layers.1", "layers.2", "head"]
    grouped = [id(parameter) for group in groups for parameter in group.parameters]
    assert sorted(grouped) == sorted(id(parameter) for parameter in bridge.parameters())


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"kernel_sizes": [4, 4, 4]}, "3 kernel sizes but 2 strides; give one each"),
        ({"kernel_sizes": [0, 4]}, "greater than or equal to 1"),
        ({"strides": [2, 0]}, "greater than or equal to 1"),
        ({"kernels": [4]}, "Extra inputs are not permitted"),
    ],
)
def test_options_that_cannot_be(options: dict[str, object], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        ConvOptions.model_validate(options)


def test_it_is_found_through_its_entry_point() -> None:
    ref = PluginManager.discover({}).find(BridgeComponent, "bridges.conv")
    assert ref.distribution == "nuebridge-bridges" and ref.load() is ConvBridge
    bridge = ref.load().build(6, 5, ref.parse_options({"kernel_sizes": [3], "strides": [2]}))
    assert bridge.receptive_field == 3 and bridge.options == ConvOptions(kernel_sizes=(3,), strides=(2,))

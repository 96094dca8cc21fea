"""Continuous integrate-and-fire, against the loop of the paper."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from torch import Tensor

from nuebridge.contracts import Frames
from nuebridge_bridges import CifOptions
from nuebridge_bridges.cif import CifBridge, integrate

FramesOf = Callable[..., Frames]


def integrated_by_hand(features: Tensor, weights: list[float], training: bool) -> list[Tensor]:
    """A clip, ``[F, E]``: a frame at a time, its weight spent on one position after the other."""
    fired, state, held = [], torch.zeros_like(features[0]), 0.0
    for frame, weight in zip(features, weights, strict=True):
        while held + weight >= 1:
            spent = 1 - held
            fired.append(state + spent * frame)
            state, held, weight = torch.zeros_like(frame), 0.0, weight - spent
        state, held = state + weight * frame, held + weight
    if not training and (held > 0.5 or not fired):
        fired.append(state / held)
    return fired


def weights_by_hand(bridge: CifBridge, features: Tensor) -> list[float]:
    """The weights of a clip, ``[F, E]``, a frame and its neighbours at a time."""
    size = bridge.options.kernel_size
    padded = F.pad(features, (0, 0, size // 2, size // 2))
    found = []
    for place in range(len(features)):
        hidden = torch.einsum("oik,ki->o", bridge.conv.weight, padded[place : place + size]) + bridge.conv.bias
        logit = bridge.weight_proj.weight[0] @ hidden.clamp(min=0) + bridge.weight_proj.bias[0]
        found.append(float((1 / (1 + torch.exp(-logit))).detach()))
    return found


@pytest.fixture
def bridge() -> CifBridge:
    torch.manual_seed(0)
    return CifBridge.build(12, 10, CifOptions()).eval()


def expected_positions(bridge: CifBridge, frames: Frames, row: int) -> Tensor:
    length = int(frames.lengths[row])
    features = frames.features[row, :length]
    positions = integrated_by_hand(features, weights_by_hand(bridge, features), training=False)
    return torch.stack(positions) @ bridge.proj.weight.T + bridge.proj.bias


@pytest.mark.parametrize("bias", [-6.0, -2.0, 0.0, 3.0])
def test_without_targets_it_is_the_loop(bridge: CifBridge, frames_of: FramesOf, bias: float) -> None:
    """Few positions, many, and less than one."""
    bridge.weight_proj.bias.data.fill_(bias)
    frames = frames_of(31, 1, 9, 24)
    for found in (bridge(frames), bridge.train()(frames), bridge.eval()(frames, torch.tensor([3, 3, 3, 3]))):
        for row in range(4):
            expected = expected_positions(bridge, frames, row)
            assert int(found.lengths[row]) == len(expected)
            assert torch.allclose(found.features[row, : len(expected)], expected, atol=1e-5)
            assert not found.features[row, len(expected) :].any()


def test_in_training_there_are_as_many_positions_as_tokens(bridge: CifBridge, frames_of: FramesOf) -> None:
    bridge.train()
    frames = frames_of(31, 5, 9, 24)
    targets = torch.tensor([12, 5, 1, 40])  # as many as frames, one, and more than frames
    found = bridge(frames, targets)
    assert found.lengths.tolist() == [12, 5, 1, 24]
    assert (found.lengths <= bridge.output_lengths(frames.lengths)).all()
    for row, count in enumerate(found.lengths.tolist()):
        features = frames.features[row, : int(frames.lengths[row])]
        weights = weights_by_hand(bridge, features)
        scaled = [weight * count / sum(weights) for weight in weights]
        # What rounding leaves of the last position is fired with it.
        positions = integrated_by_hand(features, [*scaled[:-1], scaled[-1] + 1e-5], training=True)
        assert len(positions) == count
        expected = torch.stack(positions) @ bridge.proj.weight.T + bridge.proj.bias
        assert torch.allclose(found.features[row, :count], expected, atol=1e-4)


def test_quantity_loss(bridge: CifBridge, frames_of: FramesOf) -> None:
    """The sum over clips of how far the weights are from the number of tokens."""
    frames = frames_of(31, 5, 9)
    targets = [4, 9, 6]
    sums = [sum(weights_by_hand(bridge, frames.features[row, :length])) for row, length in enumerate((31, 5, 9))]
    expected = abs(sums[0] - 4) + abs(sums[1] - 5) + abs(sums[2] - 6)  # never more than there are frames
    for mode in (True, False):
        losses = bridge.train(mode)(frames, torch.tensor(targets)).losses
        assert losses["quantity"].item() == pytest.approx(expected, rel=1e-5)
    assert not bridge(frames).losses
    both = bridge(replace(frames, losses={"other": torch.tensor(1.0)}), torch.tensor(targets)).losses
    assert set(both) == {"other", "quantity"}


def test_the_quantity_loss_teaches_how_many(bridge: CifBridge, frames_of: FramesOf) -> None:
    frames, targets = frames_of(31, 24), torch.tensor([4, 8])
    optimizer = torch.optim.Adam(bridge.parameters(), lr=0.03)
    bridge.train()
    for _ in range(100):
        optimizer.zero_grad()
        bridge(frames, targets).losses["quantity"].backward()
        optimizer.step()
    assert bridge.eval()(frames).lengths.tolist() == [4, 8]


@settings(max_examples=40, deadline=None)
@given(
    weights=st.lists(st.floats(0, 1, width=32), min_size=1, max_size=20),
    scale=st.sampled_from([1.0, 0.25, 3.7]),
)
def test_integration_spends_every_weight_in_order(weights: list[float], scale: float) -> None:
    given = torch.tensor([weights], dtype=torch.float64) * scale
    size = int(given.sum()) + 1
    shares = integrate(given, size)[0]  # [A, F]
    assert torch.allclose(shares.sum(0), given[0], atol=1e-9) and (shares >= 0).all()
    filled = shares.sum(1)
    assert torch.allclose(filled[:-1], torch.ones(size - 1, dtype=torch.float64), atol=1e-9)
    order = [int(frame.nonzero()[0]) for frame in shares if frame.any()]
    assert order == sorted(order)


@pytest.mark.parametrize(("left", "positions"), [(0.49, 3), (0.51, 4), (0.99, 4)])
def test_the_tail_is_rounded_and_made_whole(left: float, positions: int) -> None:
    """Weights that add up to three and something."""
    bridge = CifBridge.build(1, 1, CifOptions(kernel_size=1, projection=False)).eval()
    total = 3 + left
    with torch.no_grad():
        bridge.weight_proj.weight.fill_(0)
        bridge.weight_proj.bias.fill_(torch.logit(torch.tensor(total / 10)))
    found = bridge(Frames(torch.ones(1, 10, 1), torch.tensor([10])))
    assert found.lengths.tolist() == [positions]
    assert torch.allclose(found.features, torch.ones(1, positions, 1), atol=1e-5)


def test_a_weight_of_nothing_is_still_one_position(bridge: CifBridge, frames_of: FramesOf) -> None:
    with torch.no_grad():
        bridge.weight_proj.bias.fill_(-1e4)
    frames = frames_of(9, 4)
    assert bridge(frames).lengths.tolist() == [1, 1]
    found = bridge.train()(frames, torch.tensor([3, 2]))
    assert found.lengths.tolist() == [3, 2] and torch.isfinite(found.features).all()


@pytest.mark.parametrize("training", [True, False])
def test_gradients_are_those_of_finite_differences(training: bool) -> None:
    torch.manual_seed(1)
    bridge = CifBridge.build(3, 2, CifOptions()).double().train(training)
    features = torch.randn(2, 7, 3, dtype=torch.float64, requires_grad=True)
    lengths, targets = torch.tensor([7, 4]), torch.tensor([3, 2])

    def positions(features: Tensor) -> tuple[Tensor, Tensor]:
        found = bridge(Frames(features, lengths).zero_padding(), targets)
        return found.features, found.losses["quantity"]

    assert torch.autograd.gradcheck(positions, (features,))


def test_the_kernel_must_be_odd() -> None:
    with pytest.raises(ValidationError, match="kernel_size must be odd, not 4"):
        CifOptions(kernel_size=4)

"""A group of one process divides a model as many do: what is tested here takes no second process."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch.distributed.tensor import DTensor

from nuebridge.errors import ConfigError, TrainingError
from nuebridge.model import Integration
from nuebridge.train.ranks import Ranks, joined
from nuebridge.train.step import Stepper
from tests.train.layered import layered, stepper, steps, weights
from tests.train.test_step import close

SHARD = {"parallel__strategy": "shard"}


@pytest.fixture(scope="module")
def group() -> Iterator[Ranks]:
    with joined(as_group=True) as ranks:
        yield ranks


def moments(made: Stepper) -> dict[str, torch.Tensor]:
    state = made.engine.optimizer_state()["state"]
    return {f"{name}.{key}": tensor for name, kept in state.items() for key, tensor in kept.items()}


def whole(made: Stepper) -> dict[str, torch.Tensor]:
    with made.engine.whole() as integration:
        return weights(integration)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"parallel__cpu_offload": True},
        {"data__device_batch_seconds": 4.0},
        {"gradient_checkpointing": True},
        {"parts__encoder": {"train": False}, "parts__decoder": {"train": False}},
        {"parts__decoder": {"from_step": 2, "learning_rate": 0.01}},
    ],
    ids=["plain", "offload", "pieces", "again", "frozen", "later"],
)
def test_a_divided_model_learns_the_same(group: Ranks, changes: dict[str, Any]) -> None:
    alone = stepper(layered(), **{name: value for name, value in changes.items() if "offload" not in name})
    divided = stepper(layered(), group, **SHARD, **changes)
    assert all(isinstance(parameter, DTensor) for parameter in divided.integration.parameters())
    for ours, theirs in zip(steps(divided, 4), steps(alone, 4), strict=True):
        assert ours == pytest.approx(theirs, abs=1e-5)
    close(whole(divided), weights(alone.integration), 1e-5)
    close(moments(divided), moments(alone), 1e-5)


def test_layers_are_divided_one_by_one(group: Ranks) -> None:
    """So that only one of them is whole at a time."""
    integration = layered()
    made = stepper(integration, group, **SHARD)
    seen: list[list[bool]] = []

    def note(module: torch.nn.Module, inputs: object) -> None:
        seen.append([isinstance(layer.proj.weight, DTensor) for layer in integration.decoder.layers])

    for layer in integration.decoder.layers:
        layer.proj.register_forward_pre_hook(note)
    steps(made, 1)
    assert seen == [[False, True], [True, False]]


def test_half_precision_of_a_divided_model(group: Ranks) -> None:
    alone, divided = (
        steps(stepper(layered(), ranks, precision="bfloat16", **changes), 2)
        for ranks, changes in ((None, {}), (group, SHARD))
    )
    assert [figures["loss"] for figures in divided] == pytest.approx([f["loss"] for f in alone], rel=0.01)


@pytest.mark.parametrize("directions", [(SHARD, {}), ({}, SHARD), (SHARD, SHARD)], ids=["joined", "divided", "both"])
def test_a_run_goes_on_under_another_strategy(group: Ranks, directions: tuple[dict[str, Any], dict[str, Any]]) -> None:
    first, second = directions
    unbroken = layered()
    expected = steps(stepper(unbroken), 6)
    before = stepper(layered(), group if first else None, **first)
    steps(before, 3)
    with before.engine.whole() as integration:
        resumed = layered(seed=1)
        resumed.load_state_dict(integration.state_dict())
    state = before.engine.optimizer_state()
    assert all(type(tensor) is torch.Tensor for kept in state["state"].values() for tensor in kept.values())
    after = stepper(resumed, group if second else None, **second)
    after.engine.load_optimizer_state(state, "x")
    for ours, theirs in zip(steps(after, 3, first=3), expected[3:], strict=True):
        assert ours == pytest.approx(theirs, abs=1e-5)
    close(whole(after), weights(unbroken), 1e-5)


def test_the_next_stage_begins_with_the_weights_of_the_last(group: Ranks) -> None:
    integration = layered()
    integration.training_history.append({"steps": 1})
    made = stepper(integration, group, **SHARD)
    steps(made, 2)
    expected = whole(made)
    closed = made.engine.close()
    assert type(closed) is Integration and closed.training_history == [{"steps": 1}]
    close(weights(closed), expected, 0)
    again = stepper(closed, group, **SHARD)
    figures, alone = steps(again, 1), layered()
    alone.load_state_dict(expected)
    assert figures[0] == pytest.approx(steps(stepper(alone), 1)[0], abs=1e-5)


def test_whole_weights_are_for_the_block_only(group: Ranks) -> None:
    made = stepper(layered(), group, **SHARD)
    with made.engine.whole() as integration:
        assert integration.transcribe(torch.zeros(1000).numpy())[0].duration == 1
    assert sum(parameter.numel() for parameter in integration.parameters()) == 0
    plain = stepper(layered())
    with plain.engine.whole() as integration:
        assert integration is plain.integration


def test_weights_that_are_shared_stay_shared(group: Ranks) -> None:
    integration = layered()
    integration.decoder.head.weight = integration.decoder.embedding.weight
    made = stepper(integration, group, **SHARD)
    steps(made, 2)
    with made.engine.whole() as found:
        assert found.decoder.head.weight is found.decoder.embedding.weight
    alone = layered()
    alone.decoder.head.weight = alone.decoder.embedding.weight
    steps(stepper(alone), 2)
    close(whole(made), weights(alone), 1e-5)


def test_a_layer_that_shares_its_weights_is_not_divided_alone(group: Ranks) -> None:
    def made(ranks: Ranks | None, **changes: Any) -> Stepper:
        integration = layered()
        integration.decoder.layers[1].proj.weight = integration.decoder.layers[0].proj.weight
        return stepper(integration, ranks, **changes)

    divided, alone = made(group, **SHARD), made(None)
    assert steps(divided, 3)[2] == pytest.approx(steps(alone, 3)[2], abs=1e-5)


def test_a_model_that_reaches_into_its_layers(group: Ranks) -> None:
    class Reaching(type(layered().decoder)):  # type: ignore[misc]
        def forward(self, inputs_embeds: torch.Tensor, *arguments: Any) -> torch.Tensor:
            weight = self.layers[0].proj.weight
            return super().forward(inputs_embeds @ weight, *arguments)

    integration = layered()
    integration.decoder.__class__ = Reaching
    with pytest.raises(TrainingError, match="shard does not suit this model, which reaches into a layer"):
        steps(stepper(integration, group, **SHARD), 1)


def test_a_single_number_cannot_be_divided(group: Ranks) -> None:
    integration = layered()
    integration.bridge.scale = torch.nn.Parameter(torch.tensor(1.0))
    with pytest.raises(TrainingError, match=r"cannot divide integration\.bridge\.scale, a single number; use strategy"):
        stepper(integration, group, **SHARD)


def test_an_optimiser_of_other_parameters() -> None:
    state = stepper(layered(), parts__encoder={"train": False}).engine.optimizer_state()
    with pytest.raises(
        TrainingError,
        match=r"^here was written while other parameters were trained \(only now: encoder\.proj\.weight, ",
    ):
        stepper(layered()).engine.load_optimizer_state(state, "here")
    with pytest.raises(TrainingError, match="it does not say which"):
        stepper(layered()).engine.load_optimizer_state({"param_groups": []}, "here")


def test_rates_stay_as_configured() -> None:
    before = stepper(layered())
    steps(before, 1)
    after = stepper(layered(), parts__bridge__learning_rate=0.5, optimizer__weight_decay=0.125)
    after.engine.load_optimizer_state(before.engine.optimizer_state(), "here")
    bridge = [group for group in after.engine.optimizer.param_groups if group["part"] == "bridge"]
    assert [(group["peak_learning_rate"], group["weight_decay"]) for group in bridge] == [(0.5, 0.125), (0.5, 0.0)]


def test_devices() -> None:
    assert Ranks().device("cpu") == Ranks(1, 2, 1).device("cpu") == torch.device("cpu")
    with pytest.raises(ConfigError, match="cannot compute on 'nonsense'"):
        Ranks().device("nonsense")

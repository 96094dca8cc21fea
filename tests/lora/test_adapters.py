from __future__ import annotations

import copy
import math
from collections.abc import Callable

import pytest
import torch
from torch import nn
from toy.parts import ToyDecoder

from nuebridge.errors import ConfigError, NumericalError
from nuebridge.lora import (
    add_lora,
    base_weights,
    lora_parameters,
    merge,
    remove_adapter,
    retrain,
    set_adapters,
    to_dtype,
    without_lora,
)
from nuebridge.model import Integration
from nuebridge.settings import LoraSettings
from nuebridge.tensors import weight_hash

SMALL = LoraSettings(r=2, lora_alpha=4, lora_dropout=0.0)
Outputs = Callable[[Integration], torch.Tensor]
Adapt = Callable[..., None]


# --- adding ----------------------------------------------------------------------------------------


def test_fresh_lora_changes_nothing_and_is_trainable(toy_integration: Integration, outputs: Outputs) -> None:
    toy_integration.freeze("decoder")
    before = outputs(toy_integration)
    flags = {name: p.requires_grad for name, p in toy_integration.named_parameters()}
    new = add_lora(toy_integration, "decoder", SMALL, name="numbers")
    assert torch.equal(outputs(toy_integration), before)
    assert [tuple(p.shape) for p in new] == [(2, 16), (258, 2)]  # beside the one linear layer
    assert all(p.requires_grad and p.dtype == torch.float32 for p in new)
    assert [id(p) for p in new] == [id(p) for p in lora_parameters(toy_integration.decoder, "numbers")]
    assert lora_parameters(toy_integration.decoder, "other") == [] == lora_parameters(toy_integration.encoder)
    with without_lora(toy_integration.decoder):
        assert {name: p.requires_grad for name, p in toy_integration.named_parameters()} == flags


def test_lora_is_drawn_from_its_seed_and_leaves_the_random_state_alone(toy_integration: Integration) -> None:
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    drawn = [
        add_lora(toy_integration, "encoder", SMALL, name=name, seed=seed)[0].detach().clone()
        for name, seed in (("a", 1), ("b", 1), ("c", 2))
    ]
    assert torch.equal(torch.rand(1), expected)
    assert torch.equal(drawn[0], drawn[1]) and not torch.equal(drawn[0], drawn[2])


def test_the_settings_are_used(toy_integration: Integration) -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Linear(16, 16), nn.Linear(16, 258)

        def forward(self, hidden: torch.Tensor) -> torch.Tensor:
            return self.second(self.first(hidden))

    toy_integration.decoder.head = Two()
    settings = LoraSettings(r=3, lora_alpha=6, lora_dropout=0.5, target_modules=("second",))
    add_lora(toy_integration, "decoder", settings, name="x")
    layer = toy_integration.decoder.head.second
    assert isinstance(toy_integration.decoder.head.first, nn.Linear)
    assert list(layer.scaling.values()) == [2.0] and layer.lora_dropout["nue_x"].p == 0.5
    add_lora(toy_integration, "decoder", SMALL, name="all")
    assert toy_integration.adapters["all"].lora["decoder"].target_modules == ("head.first", "head.second")
    assert toy_integration.adapters["x"].lora["decoder"].target_modules == ("second",)


@pytest.mark.parametrize("targets", [("no_such_layer",), ("gru",), ("embedding", "gru")])
def test_layers_that_take_no_lora(toy_integration: Integration, outputs: Outputs, targets: tuple[str, ...]) -> None:
    before, modules = outputs(toy_integration), [id(m) for m in toy_integration.modules()]
    with pytest.raises(ConfigError, match=r"^ToyDecoder takes no LoRA this way \([^\n]*\); choose its layers[^\n]*$"):
        add_lora(toy_integration, "decoder", LoraSettings(target_modules=targets))
    assert [id(m) for m in toy_integration.modules()] == modules
    assert toy_integration.adapters == {} and not hasattr(toy_integration.decoder, "peft_config")
    assert torch.equal(outputs(toy_integration), before)


@pytest.mark.parametrize("targets", [None, ("attention",), ("out_proj",)])
def test_fused_attention_is_not_adapted_in_vain(toy_integration: Integration, targets: tuple[str, ...] | None) -> None:
    """torch's own attention reads the weights of its linear layer and never calls it."""
    toy_integration.encoder.attention = nn.MultiheadAttention(12, 2)
    if targets is None:
        add_lora(toy_integration, "encoder", SMALL)
        assert toy_integration.adapters["lora"].lora["encoder"].target_modules == ("proj",)
        return
    with pytest.raises(ConfigError, match="fused attention, which reads weights past LoRA"):
        add_lora(toy_integration, "encoder", LoraSettings(target_modules=targets))
    assert lora_parameters(toy_integration.encoder) == []


def test_what_cannot_be_added(toy_integration: Integration) -> None:
    with pytest.raises(ConfigError, match="bridge takes no LoRA; encoder and decoder do"):
        add_lora(toy_integration, "bridge", SMALL)
    for name in ("", "a.b", "a/b", "-a", "ä", "x" * 65):
        with pytest.raises(ConfigError, match="cannot name an adapter; use up to 64 letters"):
            add_lora(toy_integration, "decoder", SMALL, name=name)
    add_lora(toy_integration, "decoder", SMALL, name="a")
    with pytest.raises(ConfigError, match="the decoder has LoRA of the adapter 'a' already"):
        add_lora(toy_integration, "decoder", SMALL, name="a")
    with pytest.raises(ConfigError, match="cannot hold the decoder whole; of this integration it can hold ctc_head"):
        retrain(toy_integration, "decoder", name="a")


def test_without_peft_it_says_what_to_install(toy_integration: Integration, monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(ConfigError, match=r'LoRA needs the library peft \(.*\): run `pip install "nuebridge\[lora\]"`'):
        add_lora(toy_integration, "decoder", SMALL)


# --- seeing the base -------------------------------------------------------------------------------


def test_without_lora_the_part_is_its_own_again(toy_integration: Integration, adapt: Adapt, outputs: Outputs) -> None:
    decoder = toy_integration.decoder
    before = dict(decoder.named_parameters())
    digest = weight_hash({"part": decoder})
    adapt(toy_integration, "a")
    adapted = outputs(toy_integration)
    with without_lora(toy_integration.encoder, decoder):
        assert {name: id(p) for name, p in decoder.named_parameters()} == {name: id(p) for name, p in before.items()}
        assert weight_hash({"part": decoder}) == digest
        assert not torch.equal(outputs(toy_integration), adapted)
    assert len(list(decoder.parameters())) == len(before) + 2
    assert torch.equal(outputs(toy_integration), adapted)
    with pytest.raises(RuntimeError, match="stop"), without_lora(decoder):
        raise RuntimeError("stop")
    assert torch.equal(outputs(toy_integration), adapted)


def test_base_weights_are_those_of_the_base(toy_integration: Integration, adapt: Adapt, outputs: Outputs) -> None:
    before, digest = outputs(toy_integration), weight_hash(toy_integration.parts)
    adapt(toy_integration, "a")
    adapted = outputs(toy_integration)
    bridge = toy_integration.bridge.conv.weight
    with base_weights(toy_integration):
        assert torch.equal(outputs(toy_integration), before) and weight_hash(toy_integration.parts) == digest
        assert toy_integration.bridge.conv.weight is bridge  # an optimiser's parameters stay the same objects
    assert torch.equal(outputs(toy_integration), adapted)


# --- active, stacked, scaled -----------------------------------------------------------------------


def test_switching_is_exact(toy_integration: Integration, adapt: Adapt, outputs: Outputs) -> None:
    base = outputs(toy_integration)
    adapt(toy_integration, "a", 1)
    first = outputs(toy_integration)
    adapt(toy_integration, "b", 2)
    second = outputs(toy_integration)
    assert not torch.equal(base, first) and not torch.equal(first, second)
    for _ in range(2):
        set_adapters(toy_integration, {})
        assert torch.equal(outputs(toy_integration), base)
        set_adapters(toy_integration, {"a": 1.0, "b": 0.0})
        assert torch.equal(outputs(toy_integration), first)
        set_adapters(toy_integration, {"b": 1.0})
        assert torch.equal(outputs(toy_integration), second)
        set_adapters(toy_integration, {"a": 0.3, "b": 2.0})
    assert {name: adapter.weight for name, adapter in toy_integration.adapters.items()} == {"a": 0.3, "b": 2.0}


def test_stacked_adapters_are_the_sum_of_what_each_changes(toy_integration: Integration, adapt: Adapt) -> None:
    """Shown on the weights themselves, with both merged."""

    def weights(integration: Integration) -> dict[str, torch.Tensor]:
        return {name: p.detach().clone() for name, p in integration.named_parameters()}

    base = weights(toy_integration)
    adapt(toy_integration, "a", 1)
    adapt(toy_integration, "b", 2)
    changes = {}
    for name in ("a", "b"):
        one = copy.deepcopy(toy_integration)
        set_adapters(one, {name: 1.0})
        merge(one)
        changes[name] = {key: tensor - base[key] for key, tensor in weights(one).items()}
    assert set(changes["a"]) == set(base)
    set_adapters(toy_integration, {"b": -0.5, "a": 2.0})
    assert merge(toy_integration) == ["a", "b"]
    moved = 0
    for key, tensor in weights(toy_integration).items():
        expected = base[key] + 2.0 * changes["a"][key] - 0.5 * changes["b"][key]
        torch.testing.assert_close(tensor, expected, atol=1e-5, rtol=1e-5)
        moved += not torch.equal(tensor, base[key])
    assert moved == 4  # the encoder's and the decoder's one layer, the bridge's weight and bias


def test_an_adapter_may_leave_parts_alone(toy_integration: Integration, adapt: Adapt, outputs: Outputs) -> None:
    adapt(toy_integration, "a", 1)
    add_lora(toy_integration, "decoder", SMALL, name="b")
    assert [adapter.parts for adapter in toy_integration.adapters.values()] == [
        ["encoder", "bridge", "decoder"],
        ["decoder"],
    ]
    bridge = toy_integration.bridge.conv.weight.detach().clone()
    set_adapters(toy_integration, {"b": 1.0})
    assert not torch.equal(toy_integration.bridge.conv.weight, bridge)  # b knows only the base's
    set_adapters(toy_integration, {"a": 1.0, "b": 1.0})
    assert torch.equal(toy_integration.bridge.conv.weight, bridge)
    remove_adapter(toy_integration, "b")
    assert torch.equal(toy_integration.bridge.conv.weight, bridge) and list(toy_integration.adapters) == ["a"]


def test_what_is_trainable_stays_so(toy_integration: Integration, adapt: Adapt) -> None:
    adapt(toy_integration, "a")
    toy_integration.freeze("encoder")
    kept = {id(p): p.requires_grad for p in toy_integration.parameters()}
    assert len(set(kept.values())) == 2
    for weights in ({}, {"a": 0.5}, {"a": 1.0}):
        set_adapters(toy_integration, weights)
        assert {id(p): p.requires_grad for p in toy_integration.parameters()} == kept


def test_unknown_adapters_and_weights(toy_integration: Integration, adapt: Adapt) -> None:
    with pytest.raises(ConfigError, match="there is no adapter 'a'; this integration has: none"):
        set_adapters(toy_integration, {"a": 1.0})
    adapt(toy_integration, "a")
    with pytest.raises(ConfigError, match="there is no adapter 'b'; this integration has: a"):
        remove_adapter(toy_integration, "b")
    for weight in (math.nan, math.inf):
        with pytest.raises(ConfigError, match=r"the weight of the adapter 'a' is (nan|inf); give a number"):
            set_adapters(toy_integration, {"a": weight})
    assert toy_integration.adapters["a"].weight == 1.0


def test_removing_the_last_gives_the_base_back(toy_integration: Integration, adapt: Adapt, outputs: Outputs) -> None:
    before, modules = outputs(toy_integration), [id(m) for m in toy_integration.modules()]
    adapt(toy_integration, "a", 1)
    adapt(toy_integration, "b", 2)
    second = outputs(toy_integration)
    remove_adapter(toy_integration, "a")
    assert torch.equal(outputs(toy_integration), second)
    remove_adapter(toy_integration, "b")
    assert torch.equal(outputs(toy_integration), before)
    assert [id(m) for m in toy_integration.modules()] == modules
    assert toy_integration.base_states == {} and not hasattr(toy_integration.decoder, "peft_config")


# --- training --------------------------------------------------------------------------------------


def test_a_bridge_that_is_trained_is_the_adapters(toy_integration: Integration, outputs: Outputs) -> None:
    base = outputs(toy_integration)
    retrain(toy_integration, "bridge", name="a")
    retrain(toy_integration, "ctc_head", name="a")
    optimizer = torch.optim.SGD(toy_integration.bridge.parameters(), lr=0.1)
    for _ in range(2):
        toy_integration(torch.randn(1, 900), torch.tensor([900]), ["ab"]).text.backward()
        optimizer.step()
    trained = outputs(toy_integration)
    assert not torch.equal(trained, base)
    set_adapters(toy_integration, {})
    assert torch.equal(outputs(toy_integration), base)
    with torch.no_grad():
        toy_integration.bridge.conv.bias += 1  # with no adapter active, the base's own
    changed = outputs(toy_integration)
    set_adapters(toy_integration, {"a": 1.0})
    assert torch.equal(outputs(toy_integration), trained)
    set_adapters(toy_integration, {})
    assert torch.equal(outputs(toy_integration), changed)


def test_a_sum_of_adapters_is_not_trained(toy_integration: Integration, adapt: Adapt) -> None:
    adapt(toy_integration, "a", 1)
    adapt(toy_integration, "b", 2)
    for weights in ({"a": 1.0, "b": 1.0}, {"a": 0.5}):
        set_adapters(toy_integration, weights)
        with pytest.raises(ConfigError, match="the bridge cannot be trained for the adapter"):
            retrain(toy_integration, "bridge", name="c" if len(weights) > 1 else "a")
        kept = toy_integration.bridge.conv.bias.detach().clone()
        with torch.no_grad():
            toy_integration.bridge.conv.bias += 1
        with pytest.raises(ConfigError, match=r"bridge were changed while they are a sum of adapters \(a "):
            set_adapters(toy_integration, {})
        with torch.no_grad():
            toy_integration.bridge.conv.bias.copy_(kept)
    set_adapters(toy_integration, {})


def test_dropout_works_in_train_mode_only(toy_integration: Integration, outputs: Outputs) -> None:
    add_lora(toy_integration, "decoder", LoraSettings(r=2, lora_dropout=0.5))
    with torch.no_grad():
        lora_parameters(toy_integration.decoder)[1].fill_(0.1)
    assert torch.equal(outputs(toy_integration), outputs(toy_integration))
    toy_integration.decoder.train()
    assert not torch.equal(outputs(toy_integration), outputs(toy_integration))


def test_lora_learns_while_the_base_rests(toy_integration: Integration) -> None:
    toy_integration.freeze("encoder", "ctc_head", "bridge", "decoder")
    new = [p for part in ("encoder", "decoder") for p in add_lora(toy_integration, part, SMALL)]
    assert [p for p in toy_integration.parameters() if p.requires_grad] == new
    digest = weight_hash({"bridge": toy_integration.bridge})
    optimizer = torch.optim.Adam(new, lr=0.03)
    losses = []
    for _ in range(30):
        loss = toy_integration(torch.ones(1, 900), torch.tensor([900]), ["ab"]).text
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]
    assert weight_hash({"bridge": toy_integration.bridge}) == digest


# --- precision -------------------------------------------------------------------------------------


def test_half_precision_base_and_float32_lora(toy_integration: Integration, adapt: Adapt, outputs: Outputs) -> None:
    half = copy.deepcopy(toy_integration).to(torch.bfloat16)
    base = outputs(half)
    adapt(toy_integration, "a")
    full = outputs(toy_integration)
    to_dtype(toy_integration, torch.bfloat16)
    assert {p.dtype for p in lora_parameters(toy_integration.decoder)} == {torch.float32}
    assert toy_integration.decoder.dtype == toy_integration.bridge.dtype == torch.bfloat16
    rounded = outputs(toy_integration)
    torch.testing.assert_close(rounded, full, atol=0.1, rtol=0.1)
    set_adapters(toy_integration, {})
    assert torch.equal(outputs(toy_integration), base)
    set_adapters(toy_integration, {"a": 1.0})
    assert torch.equal(outputs(toy_integration), rounded)
    fresh = add_lora(toy_integration, "decoder", SMALL, name="b")
    assert {p.dtype for p in fresh} == {torch.float32}
    toy_integration.train()
    toy_integration(torch.randn(1, 900), torch.tensor([900]), ["ab"]).text.backward()
    assert all(p.grad is not None and p.grad.dtype == torch.float32 for p in fresh)


# --- merging ---------------------------------------------------------------------------------------


def test_merging_keeps_what_is_heard(toy_integration: Integration, adapt: Adapt, outputs: Outputs) -> None:
    toy_integration.training_history = [{"steps": 1}]
    adapt(toy_integration, "a", 1)
    toy_integration.adapters["a"].training.append({"steps": 7})
    adapt(toy_integration, "off", 2)
    set_adapters(toy_integration, {"a": 0.5})
    before, digest = outputs(toy_integration), toy_integration.weight_hash()
    names = list(toy_integration.state_dict())
    assert merge(toy_integration) == ["a"]
    torch.testing.assert_close(outputs(toy_integration), before, atol=1e-5, rtol=1e-5)
    assert toy_integration.adapters == {} and lora_parameters(toy_integration.decoder) == []
    assert len(list(toy_integration.state_dict())) < len(names)
    assert toy_integration.weight_hash() != digest
    assert toy_integration.training_history == [
        {"steps": 1},
        {"adapter": "a", "weight": 0.5, "parts": ["encoder", "bridge", "decoder"]},
        {"steps": 7},
    ]


def test_merging_nothing_gives_the_base(toy_integration: Integration, adapt: Adapt, outputs: Outputs) -> None:
    before, digest = outputs(toy_integration), toy_integration.weight_hash()
    adapt(toy_integration, "a")
    set_adapters(toy_integration, {})
    assert merge(toy_integration) == []
    assert torch.equal(outputs(toy_integration), before) and toy_integration.weight_hash() == digest


def test_tied_weights_are_not_merged(bare: Integration, train: Callable[..., None], outputs: Outputs) -> None:
    assert isinstance(bare.decoder, ToyDecoder)
    bare.decoder.head.weight = bare.decoder.embedding.weight
    add_lora(bare, "encoder", SMALL, name="a")
    add_lora(bare, "decoder", LoraSettings(r=2, target_modules=("head",)), name="a")
    embedded = bare.decoder.embed(torch.tensor([65]))
    train(bare, "a")
    assert torch.equal(bare.decoder.embed(torch.tensor([65])), embedded)  # beside the head, not beside the embedding
    before = outputs(bare)
    with pytest.raises(ConfigError, match=r"shares its weights with embedding\.weight of ToyDecoder, which has none"):
        merge(bare)
    assert torch.equal(outputs(bare), before) and list(bare.adapters) == ["a"]


def test_weights_that_are_not_finite_are_not_merged(toy_integration: Integration, adapt: Adapt) -> None:
    adapt(toy_integration, "a")
    with torch.no_grad():
        lora_parameters(toy_integration.decoder)[0][0, 0] = math.nan
    encoder = weight_hash({"encoder": toy_integration.encoder})
    with pytest.raises(NumericalError, match="ToyDecoder and its LoRA are not all finite"):
        merge(toy_integration)
    assert weight_hash({"encoder": toy_integration.encoder}) == encoder and list(toy_integration.adapters) == ["a"]


# --- hashes ----------------------------------------------------------------------------------------


def test_the_hash_tells_active_adapters_and_weights_apart(toy_integration: Integration, adapt: Adapt) -> None:
    base = toy_integration.weight_hash()
    adapt(toy_integration, "a", 1)
    first = toy_integration.weight_hash()
    adapt(toy_integration, "b", 2)
    seen = {base, first, toy_integration.weight_hash()}
    for weights in ({"a": 1.0, "b": 1.0}, {"a": 0.5}, {"b": 0.5}):
        set_adapters(toy_integration, weights)
        seen.add(toy_integration.weight_hash())
    assert len(seen) == 6
    set_adapters(toy_integration, {"a": 1.0})
    assert toy_integration.weight_hash() == first
    set_adapters(toy_integration, {})
    assert toy_integration.weight_hash() == base


def test_the_hash_does_not_know_the_name(toy_integration: Integration, adapt: Adapt) -> None:
    other = copy.deepcopy(toy_integration)
    adapt(toy_integration, "a", 1)
    adapt(other, "b", 1)
    assert toy_integration.weight_hash() == other.weight_hash()

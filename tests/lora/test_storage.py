from __future__ import annotations

import copy
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from nuebridge.checkpoint import load, save
from nuebridge.compose import Workshop
from nuebridge.errors import CheckpointError, ConfigError
from nuebridge.lora import (
    add_lora,
    load_adapter,
    lora_parameters,
    merge,
    read_adapter,
    retrain,
    save_adapter,
    set_adapters,
    to_dtype,
)
from nuebridge.model import Integration
from nuebridge.settings import LoraSettings

Outputs = Callable[[Integration], torch.Tensor]
Adapt = Callable[..., None]


def tree(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in sorted(folder.rglob("*")) if file.is_file()}


@pytest.fixture
def opened(toy_workshop: Workshop) -> Callable[..., Integration]:
    """``load`` with the toy plugin and registry."""

    def opened(source: str | Path, **options: Any) -> Integration:
        return load(source, manager=toy_workshop.manager, registry=toy_workshop.registry, **options)

    return opened


@pytest.fixture
def adapted(toy_integration: Integration, adapt: Adapt) -> Integration:
    """An integration with a trained adapter ``numbers``."""
    adapt(toy_integration, "numbers", 1)
    toy_integration.adapters["numbers"].training.append({"steps": 7, "configuration": {"seed": 1}})
    toy_integration.adapters["numbers"].error_rates = {"new": {"before": 0.5, "after": 0.1}}
    return toy_integration


# --- a folder of its own ---------------------------------------------------------------------------


def test_an_adapter_goes_from_one_copy_to_another(
    adapted: Integration, opened: Callable[..., Integration], outputs: Outputs, tmp_path: Path
) -> None:
    save_adapter(adapted, "numbers", tmp_path / "numbers", base_model="toys")
    assert sorted(tree(tmp_path / "numbers")) == [
        "adapter.json",
        "bridge/model.safetensors",
        "decoder/adapter_config.json",
        "decoder/adapter_model.safetensors",
        "encoder/adapter_config.json",
        "encoder/adapter_model.safetensors",
    ]
    other = opened("toys")
    base = outputs(other)
    assert load_adapter(other, tmp_path / "numbers") == "numbers"
    assert torch.equal(outputs(other), outputs(adapted)) and other.weight_hash() == adapted.weight_hash()
    assert not any(p.requires_grad for p in lora_parameters(other.decoder))
    assert other.adapters["numbers"].training == [{"steps": 7, "configuration": {"seed": 1}}]
    save_adapter(other, "numbers", tmp_path / "again", base_model="toys")
    assert tree(tmp_path / "again") == tree(tmp_path / "numbers")
    set_adapters(other, {})
    assert torch.equal(outputs(other), base)


def test_the_folder_says_what_it_holds(adapted: Integration, tmp_path: Path) -> None:
    save_adapter(adapted, "numbers", tmp_path / "numbers", base_model="toys")
    set_adapters(adapted, {})
    saved = read_adapter(tmp_path / "numbers")
    assert (saved.name, saved.base.model, saved.base.weight_hash) == ("numbers", "toys", adapted.weight_hash())
    assert list(saved.base.parts) == ["encoder", "ctc_head", "bridge", "decoder"]
    assert list(saved.parts) == ["encoder", "bridge", "decoder"] and saved.parts["bridge"] is None
    assert saved.parts["decoder"] == LoraSettings(r=2, lora_alpha=4, lora_dropout=0.0, target_modules=("head",))
    assert saved.error_rates == {"new": {"before": 0.5, "after": 0.1}}
    assert saved.training == [{"steps": 7, "configuration": {"seed": 1}}]
    config = json.loads((tmp_path / "numbers/decoder/adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == adapted.part_info["decoder"].source
    assert (config["peft_type"], config["r"], config["target_modules"]) == ("LORA", 2, ["head"])
    assert set(load_file(tmp_path / "numbers/decoder/adapter_model.safetensors")) == {
        "base_model.model.head.lora_A.weight",
        "base_model.model.head.lora_B.weight",
    }


def test_by_another_name_and_beside_others(
    adapted: Integration, adapt: Adapt, opened: Callable[..., Integration], outputs: Outputs, tmp_path: Path
) -> None:
    adapt(adapted, "names", 2)
    for name in ("numbers", "names"):
        save_adapter(adapted, name, tmp_path / name)
    other = opened("toys")
    assert other.load_adapter(tmp_path / "names", "b", weight=0.5) == "b"
    assert other.load_adapter(tmp_path / "numbers") == "numbers"
    set_adapters(adapted, {"numbers": 1.0, "names": 0.5})
    torch.testing.assert_close(outputs(other), outputs(adapted), atol=1e-5, rtol=1e-5)
    with pytest.raises(ConfigError, match="has an adapter 'numbers' already; give this one another name"):
        load_adapter(other, tmp_path / "numbers")
    with pytest.raises(ConfigError, match="'x/y' cannot name an adapter"):
        load_adapter(other, tmp_path / "numbers", "x/y")
    with pytest.raises(ConfigError, match="the weight of the adapter 'c' is nan; give a number"):
        load_adapter(other, tmp_path / "numbers", "c", weight=float("nan"))
    assert list(other.adapters) == ["b", "numbers"]


@pytest.mark.parametrize("part", ["encoder", "ctc_head", "bridge", "decoder"])
def test_another_base_is_refused(
    adapted: Integration, opened: Callable[..., Integration], outputs: Outputs, tmp_path: Path, part: str
) -> None:
    save_adapter(adapted, "numbers", tmp_path / "numbers", base_model="toys")
    other = opened("toys")
    with torch.no_grad():
        next(other.parts[part].parameters()).add_(1e-3)
    before = outputs(other)
    with pytest.raises(
        CheckpointError, match=rf"^the adapter in .*/numbers was trained on another base \(toys\): there the {part} has"
    ):
        load_adapter(other, tmp_path / "numbers")
    assert other.adapters == {} and torch.equal(outputs(other), before)


def test_a_base_of_other_parts_is_refused(adapted: Integration, bare: Integration, tmp_path: Path) -> None:
    save_adapter(adapted, "numbers", tmp_path / "numbers")
    with pytest.raises(CheckpointError, match="another base, made of encoder, ctc_head, bridge, decoder; this integr"):
        load_adapter(bare, tmp_path / "numbers")


def test_the_base_may_be_held_in_half_precision(
    adapted: Integration, opened: Callable[..., Integration], outputs: Outputs, tmp_path: Path
) -> None:
    save_adapter(adapted, "numbers", tmp_path / "numbers")
    half = opened("toys", dtype="bfloat16")
    load_adapter(half, tmp_path / "numbers")
    to_dtype(adapted, torch.bfloat16)
    assert torch.equal(outputs(half), outputs(adapted))
    # One that was trained beside a base in half precision fits the same base in full precision, and no other.
    save_adapter(adapted, "numbers", tmp_path / "half")
    full = opened("toys")
    load_adapter(full, tmp_path / "half")
    assert {p.dtype for p in full.parameters()} == {torch.float32}
    other = opened("toys")
    with torch.no_grad():
        other.decoder.head.bias += 0.1
    with pytest.raises(CheckpointError, match="trained on another base: there the decoder has the weight hash"):
        load_adapter(other, tmp_path / "half")


@pytest.mark.parametrize(
    "file",
    [
        "bridge/model.safetensors",
        "decoder/adapter_model.safetensors",
        "encoder/adapter_model.safetensors",
    ],
)
def test_damaged_and_edited_weights(
    adapted: Integration, opened: Callable[..., Integration], outputs: Outputs, tmp_path: Path, file: str
) -> None:
    save_adapter(adapted, "numbers", tmp_path / "numbers")
    other = opened("toys")
    before, modules = outputs(other), [id(m) for m in other.modules()]
    path = tmp_path / "numbers" / file
    whole = path.read_bytes()
    tensors = {key: tensor.clone() for key, tensor in load_file(path).items()}
    first = next(iter(tensors))

    def refused(said: str) -> None:
        with pytest.raises(CheckpointError, match=rf"^[^\n]*{said}[^\n]*$"):
            load_adapter(other, tmp_path / "numbers")
        assert [id(m) for m in other.modules()] == modules and torch.equal(outputs(other), before)

    path.write_bytes(whole[:-9])
    refused(f"{file} is damaged")
    save_file({**tensors, first: tensors[first] + 0.001}, path)
    refused("are not those that adapter.json describes")
    save_file({key: value for key, value in tensors.items() if key != first}, path)
    refused(f"{first} is missing")
    save_file({**tensors, first: tensors[first][:1].clone()}, path)
    refused(f"{first} has shape")
    save_file({**tensors, "extra": torch.zeros(1)}, path)
    refused("extra is not expected")
    path.unlink()
    refused(f"{file} is missing")
    path.write_bytes(whole)
    load_adapter(other, tmp_path / "numbers")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"schema_version": 9}, "has schema_version 9; this nuebridge reads 1"),
        ({"colour": "red"}, "colour: unknown key"),
        ({"parts": {"ears": None}}, "ears"),
        ({"parts": {"decoder": {"r": 0}}}, "r: should be"),
        ({"hash": 3}, "hash: should be a valid string"),
    ],
)
def test_an_edited_manifest(adapted: Integration, tmp_path: Path, changes: dict[str, Any], said: str) -> None:
    save_adapter(adapted, "numbers", tmp_path / "numbers")
    file = tmp_path / "numbers/adapter.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))
    with pytest.raises(CheckpointError, match=rf"^[^\n]*adapter\.json[^\n]*{said}[^\n]*$"):
        read_adapter(tmp_path / "numbers")


def test_what_is_no_adapter(adapted: Integration, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"nowhere holds no adapter: it has no adapter\.json"):
        load_adapter(adapted, tmp_path / "nowhere")
    with pytest.raises(ConfigError, match="there is no adapter 'x'; this integration has: numbers"):
        save_adapter(adapted, "x", tmp_path / "x")
    (tmp_path / "papers").mkdir()
    (tmp_path / "papers/notes.txt").write_text("mine")
    with pytest.raises(CheckpointError, match="papers exists and is not empty"):
        save_adapter(adapted, "numbers", tmp_path / "papers")
    with pytest.raises(CheckpointError, match="papers holds something else than an adapter"):
        save_adapter(adapted, "numbers", tmp_path / "papers", overwrite=True)
    with pytest.raises(CheckpointError, match="is a file"):
        save_adapter(adapted, "numbers", tmp_path / "papers/notes.txt")
    assert tree(tmp_path / "papers") == {"notes.txt": b"mine"}


@pytest.mark.parametrize("before", [False, True])
def test_an_adapter_is_saved_whole_or_not_at_all(
    adapted: Integration, adapt: Adapt, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, before: bool
) -> None:
    if before:
        save_adapter(adapted, "numbers", tmp_path / "numbers")
    found = tree(tmp_path)
    adapted.adapters["numbers"].training.append({"steps": 8})
    replace = Path.replace

    def full(path: Path, target: Path) -> Path:
        if target.name == "adapter.json":
            raise OSError("No space left on device")
        return replace(path, target)

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(CheckpointError, match=r"cannot save to .*/numbers: No space left on device; what was there"):
        save_adapter(adapted, "numbers", tmp_path / "numbers", overwrite=True)
    assert tree(tmp_path) == found and len(list(tmp_path.iterdir())) == before
    monkeypatch.undo()
    save_adapter(adapted, "numbers", tmp_path / "numbers", overwrite=True)
    assert read_adapter(tmp_path / "numbers").training[-1] == {"steps": 8}


# --- in the folder of its integration --------------------------------------------------------------


def test_an_integration_keeps_its_adapters(
    adapted: Integration, adapt: Adapt, opened: Callable[..., Integration], outputs: Outputs, tmp_path: Path
) -> None:
    adapt(adapted, "names", 2)
    set_adapters(adapted, {"numbers": 0.25, "names": 0.0})
    heard = outputs(adapted)
    save(adapted, tmp_path / "first")
    assert torch.equal(outputs(adapted), heard)
    config = json.loads((tmp_path / "first/config.json").read_text())
    assert config["adapters"] == [
        {"name": "numbers", "weight": 0.25, "parts": ["encoder", "bridge", "decoder"]},
        {"name": "names", "weight": 0.0, "parts": ["encoder", "bridge", "decoder"]},
    ]
    loaded = opened(tmp_path / "first")
    assert torch.equal(outputs(loaded), heard) and loaded.weight_hash() == adapted.weight_hash()
    assert loaded.adapters["numbers"].training == adapted.adapters["numbers"].training
    assert not any(module.training for module in loaded.modules())
    save(loaded, tmp_path / "second")
    save(opened(tmp_path / "second"), tmp_path / "third")
    assert tree(tmp_path / "first") == tree(tmp_path / "second") == tree(tmp_path / "third")
    set_adapters(loaded, {"names": 1.0})
    set_adapters(adapted, {"names": 1.0})
    assert torch.equal(outputs(loaded), outputs(adapted))
    # Its base is what an integration without adapters would have been saved as.
    plain = opened("toys")
    save(plain, tmp_path / "plain")
    files = tree(tmp_path / "first")
    assert {name: data for name, data in tree(tmp_path / "plain").items() if name != "config.json"} == {
        name: data for name, data in files.items() if not name.startswith(("adapters/", "config.json"))
    }
    set_adapters(loaded, {})
    assert torch.equal(outputs(loaded), outputs(plain))


def test_an_adapters_folder_within_an_integration_is_an_adapter(
    adapted: Integration, opened: Callable[..., Integration], outputs: Outputs, tmp_path: Path
) -> None:
    save(adapted, tmp_path / "whole")
    shutil.copytree(tmp_path / "whole/adapters/numbers", tmp_path / "alone")
    other = opened("toys")
    load_adapter(other, tmp_path / "alone")
    assert torch.equal(outputs(other), outputs(adapted))
    half = opened("toys", dtype="bfloat16")
    with pytest.raises(CheckpointError, match="or load it in float32, since the adapter does not say"):
        load_adapter(half, tmp_path / "alone")


def test_adapters_are_stored_in_full_precision(
    adapted: Integration, opened: Callable[..., Integration], outputs: Outputs, tmp_path: Path
) -> None:
    save(adapted, tmp_path / "half", dtype="bfloat16")
    for file in ("decoder/adapter_model.safetensors", "bridge/model.safetensors"):
        stored = load_file(tmp_path / "half/adapters/numbers" / file)
        assert {tensor.dtype for tensor in stored.values()} == {torch.float32}
    stored = load_file(tmp_path / "half/decoder/model.safetensors")
    assert {tensor.dtype for tensor in stored.values()} == {torch.bfloat16}
    assert {p.dtype for p in lora_parameters(adapted.decoder)} == {torch.float32}
    loaded = opened(tmp_path / "half", dtype="bfloat16")
    assert {p.dtype for p in lora_parameters(loaded.decoder)} == {torch.float32}
    assert loaded.bridge.dtype == torch.bfloat16
    torch.testing.assert_close(outputs(loaded), outputs(adapted), atol=0.1, rtol=0.1)
    save(loaded, tmp_path / "again")
    assert tree(tmp_path / "again") == tree(tmp_path / "half")


def test_trained_weights_only(
    adapted: Integration, opened: Callable[..., Integration], outputs: Outputs, tmp_path: Path
) -> None:
    save(adapted, tmp_path / "small", weights="trained")
    assert sorted(path.name for path in (tmp_path / "small").iterdir()) == [
        "adapters",
        "bridge",
        "config.json",
        "ctc_head",
    ]
    assert torch.equal(outputs(opened(tmp_path / "small")), outputs(adapted))


def test_merged_it_is_an_ordinary_integration(
    adapted: Integration, opened: Callable[..., Integration], outputs: Outputs, tmp_path: Path
) -> None:
    merge(adapted)
    save(adapted, tmp_path / "merged", weights="trained")
    assert sorted(path.name for path in (tmp_path / "merged").iterdir()) == [
        "bridge",
        "config.json",
        "ctc_head",
        "decoder",
        "encoder",
    ]
    assert torch.equal(outputs(opened(tmp_path / "merged")), outputs(adapted))


def test_training_goes_on_where_it_was_saved(
    toy_integration: Integration, opened: Callable[..., Integration], tmp_path: Path
) -> None:
    """What is trainable holds the same numbers after loading, and learns the same."""

    def step(integration: Integration) -> list[torch.Tensor]:
        trained = [*lora_parameters(integration.decoder, "a"), *integration.bridge.parameters()]
        for parameter in integration.parameters():
            parameter.requires_grad_(False)
        for parameter in trained:
            parameter.requires_grad_(True)
        optimizer = torch.optim.SGD(trained, lr=0.1)
        waveforms = torch.randn(1, 900, generator=torch.Generator().manual_seed(1))
        integration(waveforms, torch.tensor([900]), ["ab"]).text.backward()
        optimizer.step()
        return [parameter.detach().clone() for parameter in trained]

    add_lora(toy_integration, "decoder", LoraSettings(r=2, lora_dropout=0.0), name="a", seed=3)
    retrain(toy_integration, "bridge", name="a")
    step(toy_integration)
    save(toy_integration, tmp_path / "saved")
    unbroken, resumed = copy.deepcopy(toy_integration), opened(tmp_path / "saved")
    for parameter in unbroken.parameters():
        parameter.grad = None
    assert all(torch.equal(a, b) for a, b in zip(step(unbroken), step(resumed), strict=True))


def test_folders_of_another_checkpoint(
    adapted: Integration, opened: Callable[..., Integration], tmp_path: Path
) -> None:
    save(adapted, tmp_path / "one")
    set_adapters(adapted, {})
    with torch.no_grad():
        adapted.decoder.gru.bias_hh_l0 += 1
    save(adapted, tmp_path / "two")
    shutil.rmtree(tmp_path / "two/adapters/numbers")
    with pytest.raises(CheckpointError, match="numbers holds no adapter"):
        opened(tmp_path / "two")
    shutil.copytree(tmp_path / "one/adapters/numbers", tmp_path / "two/adapters/numbers")
    with pytest.raises(CheckpointError, match="numbers holds an adapter of another checkpoint"):
        opened(tmp_path / "two")


def test_without_peft_an_adapter_says_what_to_install(
    adapted: Integration, opened: Callable[..., Integration], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import sys

    save(adapted, tmp_path / "saved")
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(ConfigError, match=r'run `pip install "nuebridge\[lora\]"`'):
        opened(tmp_path / "saved")
    assert opened("toys").adapters == {}  # which needs none

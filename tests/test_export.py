"""Exporting single parts, of toys; the plugins' tests read theirs with the parts' own libraries."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from nuebridge.checkpoint import save
from nuebridge.cli import main
from nuebridge.errors import CheckpointError, ConfigError
from nuebridge.export import export_part
from nuebridge.lora import add_lora, merge, retrain, save_adapter
from nuebridge.model import Integration
from nuebridge.settings import LoraSettings

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(
    toy_site: Path,
    toy_registry_file: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Run:
    monkeypatch.syspath_prepend(str(toy_site))
    monkeypatch.chdir(tmp_path)

    def run(*words: str) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as end:
            main([*words, "--registry", str(toy_registry_file)])
        printed = capsys.readouterr()
        return int(end.value.code or 0), printed.out, printed.err

    return run


@pytest.mark.parametrize("part", ["encoder", "decoder"])
def test_a_sourced_part_is_a_source_again(toy_integration: Integration, tmp_path: Path, part: str) -> None:
    export_part(toy_integration, part, tmp_path / "out")
    assert sorted(file.name for file in (tmp_path / "out").iterdir()) == ["config.json", "model.safetensors"]
    module = toy_integration.parts[part]
    again = type(module).load(str(tmp_path / "out"), module.options)  # type: ignore[attr-defined]
    for name, tensor in module.state_dict().items():
        assert torch.equal(again.state_dict()[name], tensor)


def test_a_bridge_says_what_it_fits(toy_integration: Integration, tmp_path: Path) -> None:
    export_part(toy_integration, "bridge", tmp_path / "out")
    told = json.loads((tmp_path / "out/bridge.json").read_text())
    assert (told["component"], told["input_size"], told["output_size"]) == ("toy.bridge", 12, 16)
    assert told["prompt"] == {"prefix": "<s>", "suffix": ":", "defaults": {}}
    assert (told["sample_rate"], told["needs_ctc"], told["options"]) == (1000, False, {})
    assert set(load_file(tmp_path / "out/model.safetensors")) == set(toy_integration.bridge.state_dict())


def test_a_ctc_head_says_its_symbols(toy_integration: Integration, tmp_path: Path) -> None:
    export_part(toy_integration, "ctc-head", tmp_path / "out", dtype="bfloat16")
    told = json.loads((tmp_path / "out/ctc_head.json").read_text())
    assert (told["input_size"], told["blank"], told["symbols"][:2]) == (12, 0, [" ", "a"])
    weights = load_file(tmp_path / "out/model.safetensors")
    assert {tensor.dtype for tensor in weights.values()} == {torch.bfloat16}
    assert toy_integration.bridge.dtype == toy_integration.ctc_head.dtype == torch.float32  # type: ignore[union-attr]


def test_what_is_there_is_not_overwritten(toy_integration: Integration, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out/notes.txt").write_text("mine")
    with pytest.raises(CheckpointError, match="exists and is not empty"):
        export_part(toy_integration, "decoder", tmp_path / "out")
    assert [file.name for file in (tmp_path / "out").iterdir()] == ["notes.txt"]


def test_an_export_that_fails_leaves_nothing(
    toy_integration: Integration, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def half(folder: Path) -> None:
        (folder / "model.safetensors").write_bytes(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(toy_integration.decoder, "save", half)
    with pytest.raises(CheckpointError, match="cannot save to .*out: disk full"):
        export_part(toy_integration, "decoder", tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_a_part_that_is_not_there(toy_integration: Integration, tmp_path: Path) -> None:
    toy_integration.ctc_head = None
    with pytest.raises(ConfigError, match="no part 'ctc-head' to export; it has: encoder, bridge, decoder"):
        export_part(toy_integration, "ctc-head", tmp_path / "out")


def test_adapters_are_merged_first(toy_integration: Integration, tmp_path: Path) -> None:
    retrain(toy_integration, "bridge", name="mine")
    with pytest.raises(ConfigError, match=r"has adapters \(mine\); merge\(integration\) before"):
        export_part(toy_integration, "bridge", tmp_path / "out")
    merge(toy_integration)
    export_part(toy_integration, "bridge", tmp_path / "out")


def test_the_command_merges_adapters(run: Run, toy_integration: Integration, tmp_path: Path) -> None:
    plain = {name: tensor.clone() for name, tensor in toy_integration.decoder.state_dict().items()}
    save(toy_integration, tmp_path / "model")
    new = add_lora(toy_integration, "decoder", LoraSettings(r=2, lora_dropout=0.0), name="mine")
    with torch.no_grad():
        for parameter in new:
            parameter += 0.5
    save_adapter(toy_integration, "mine", tmp_path / "adapter", base_model="model")
    status, out, _ = run("export", "model", "--part", "decoder", "--adapter", "adapter", "--output", "out")
    assert (status, out) == (0, "merged mine\ndecoder written to out\n")
    merge(toy_integration)
    weights = load_file(tmp_path / "out/model.safetensors")
    assert set(weights) == set(plain)
    assert any(not torch.equal(weights[name], plain[name]) for name in weights)
    for name, tensor in toy_integration.decoder.state_dict().items():
        assert torch.equal(weights[name], tensor)

    status, out, err = run("export", "model", "--part", "encoder", "--output", "out")
    assert status == 2 and "exists and is not empty" in err
    status, out, _ = run("export", "model", "--part", "encoder", "--output", "enc")
    assert (status, out) == (0, "its license: apache-2.0\nencoder written to enc\n")

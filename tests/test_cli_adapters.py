"""Adapters from the command line: transcribing with them, showing them, merging them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from nuebridge.checkpoint import load, save
from nuebridge.cli import main
from nuebridge.cli._adapters import parse_adapters, parse_weights
from nuebridge.compose import Workshop
from nuebridge.errors import ConfigError
from nuebridge.lora import add_lora, lora_parameters, retrain, save_adapter, set_adapters
from nuebridge.model import Integration
from nuebridge.settings import LoraSettings
from tests.recordings import burst, encode

Run = Callable[..., Any]


@pytest.fixture
def run(
    toy_site: Path,
    toy_registry_file: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Run:
    """``run(*words)``: exit status, standard output and standard error of the program."""
    monkeypatch.syspath_prepend(str(toy_site))
    monkeypatch.chdir(tmp_path)
    encode(tmp_path / "a.wav", burst(1.0, 1000), 1000)

    def run(*words: str) -> tuple[int, str, str]:
        takes_registry = words[:2] != ("adapters", "show")
        with pytest.raises(SystemExit) as end:
            main([*words, *(["--registry", str(toy_registry_file)] if takes_registry else [])])
        printed = capsys.readouterr()
        return end.value.code or 0, printed.out, printed.err

    return run


@pytest.fixture
def adapters(toy_integration: Integration, tmp_path: Path) -> Integration:
    """The folders ``loud`` and ``quiet`` of two trained adapters; and the integration that has both."""
    for seed, name in enumerate(("loud", "quiet"), 1):
        set_adapters(toy_integration, {})
        new = add_lora(toy_integration, "decoder", LoraSettings(r=2, lora_dropout=0.0), name=name, seed=seed)
        retrain(toy_integration, "bridge", name=name)
        with torch.no_grad():
            for parameter in [*new, *toy_integration.bridge.parameters()]:
                parameter += 0.5 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(seed))
        save_adapter(toy_integration, name, tmp_path / name, base_model="toys")
    return toy_integration


def heard(run: Run, *words: str) -> list[int]:
    status, out, err = run("transcribe", "a.wav", "--model", "toys", "--format", "json", *words)
    assert status == 0, err
    return json.loads(out)["token_ids"]


def tokens(integration: Integration, path: Path) -> list[int]:
    return list(integration.transcribe(path)[0].token_ids)


def test_transcribing_with_adapters(run: Run, adapters: Integration, tmp_path: Path) -> None:
    expected = {}
    for weights in ({}, {"loud": 1.0}, {"quiet": 1.0}, {"loud": 1.0, "quiet": 1.0}, {"loud": -3.0}):
        set_adapters(adapters, weights)
        expected[str(weights)] = tokens(adapters, tmp_path / "a.wav")
    assert len({tuple(ids) for ids in expected.values()}) == 5
    assert heard(run) == heard(run, "--adapter", "loud", "--adapter-weight", "loud=0") == expected["{}"]
    assert heard(run, "--adapter", "loud") == expected["{'loud': 1.0}"]
    assert heard(run, "--adapter", f"other={tmp_path / 'quiet'}") == expected["{'quiet': 1.0}"]
    assert heard(run, "--adapter", "loud", "--adapter", "quiet") == expected["{'loud': 1.0, 'quiet': 1.0}"]
    assert heard(run, "--adapter", "x=loud", "--adapter-weight", "x=-3") == expected["{'loud': -3.0}"]


def test_the_adapters_of_a_saved_model_are_weighed_too(run: Run, adapters: Integration, tmp_path: Path) -> None:
    set_adapters(adapters, {"loud": 1.0})
    save(adapters, tmp_path / "both")

    def said(*words: str) -> list[int]:
        status, out, err = run("transcribe", "a.wav", "--model", "./both", "--format", "json", *words)
        assert status == 0, err
        return json.loads(out)["token_ids"]

    assert said() == tokens(adapters, tmp_path / "a.wav")
    set_adapters(adapters, {"quiet": 1.0})
    assert said("--adapter-weight", "loud=0", "--adapter-weight", "quiet=1") == tokens(adapters, tmp_path / "a.wav")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--adapter", "nowhere"], "nowhere holds no adapter: it has no adapter.json"),
        (["--adapter", "=loud"], "--adapter '=loud': write NAME=DIR or DIR"),
        (["--adapter", "x="], "--adapter 'x=': write NAME=DIR or DIR"),
        (["--adapter", ""], "--adapter '': write NAME=DIR or DIR"),
        (["--adapter", "a.b=loud"], "'a.b' cannot name an adapter"),
        (["--adapter", "loud", "--adapter", "loud"], "has an adapter 'loud' already; give this one another name"),
        (["--adapter-weight", "loud=0.5"], "there is no adapter 'loud'; this integration has: none"),
        (["--adapter", "loud", "--adapter-weight", "loud"], "--adapter-weight loud: write NAME=WEIGHT"),
        (["--adapter", "loud", "--adapter-weight", "loud=much"], "--adapter-weight loud=much: write NAME=WEIGHT"),
        (["--adapter", "loud", "--adapter-weight", "loud=nan"], "the weight of the adapter 'loud' is nan"),
        (
            ["--adapter", "loud", "--adapter-weight", "l=1", "--adapter-weight", "l=2"],
            "--adapter-weight l: given twice",
        ),
    ],
)
def test_mistakes_are_one_line(run: Run, adapters: Integration, words: list[str], said: str) -> None:
    status, out, err = run("transcribe", "a.wav", "--model", "toys", *words)
    assert (status, out) == (2, "")
    assert err.startswith("error: ") and said in err and err.count("\n") == 1


def test_folders_and_names() -> None:
    assert parse_adapters(["dir", "a=b/c", "a=b=c", "./a=b"]) == [
        (None, Path("dir")),
        ("a", Path("b/c")),
        ("a", Path("b=c")),
        (None, Path("./a=b")),
    ]
    assert parse_adapters(None) == [] and parse_weights(["a=1e-1", "b=-2"]) == {"a": 0.1, "b": -2.0}
    with pytest.raises(ConfigError):
        parse_weights(["=x"])


def test_show(run: Run, adapters: Integration) -> None:
    status, out, _ = run("adapters", "show", "loud")
    assert status == 0
    first, *rest = out.splitlines()
    assert first.startswith("loud: 0.0 MB, written by nuebridge ")
    assert [line.split() for line in rest[:2]] == [
        ["bridge", "held", "whole"],
        ["decoder", "LoRA,", "r", "2,", "lora_alpha", "32"],
    ]
    set_adapters(adapters, {})
    assert rest[2].split() == ["base", "toys,", "weight", "hash", adapters.weight_hash()[:12]]
    status, out, _ = run("adapters", "show", "loud", "--json")
    assert json.loads(out)["base"]["weight_hash"] == adapters.weight_hash()
    status, out, err = run("adapters", "show", ".")
    assert status == 2 and "holds no adapter" in err


def test_merge(run: Run, adapters: Integration, toy_workshop: Workshop, tmp_path: Path) -> None:
    status, out, err = run(
        *("adapters", "merge", "--model", "toys", "--output", "merged", "--dtype", "float32"),
        *("--adapter", "loud", "--adapter", "q=quiet", "--adapter-weight", "q=0.5"),
    )
    assert (status, out) == (0, "merged loud, q; written to merged\n"), err
    merged = load(tmp_path / "merged", manager=toy_workshop.manager, registry=toy_workshop.registry)
    assert merged.adapters == {} and lora_parameters(merged.decoder) == []
    set_adapters(adapters, {"loud": 1.0, "quiet": 0.5})
    assert tokens(merged, tmp_path / "a.wav") == tokens(adapters, tmp_path / "a.wav")
    torch.testing.assert_close(merged.bridge.conv.weight, adapters.bridge.conv.weight)


def test_merging_nothing_is_an_error(run: Run, adapters: Integration, tmp_path: Path) -> None:
    status, _, err = run("adapters", "merge", "--model", "toys", "--output", "merged")
    assert status == 2 and "there is nothing to merge: toys has no active adapter; give one with --adapter" in err
    status, _, err = run("adapters", "merge", "--model", "toys", "--output", "loud", "--adapter", "loud")
    assert status == 2 and "loud exists and is not empty" in err
    assert not (tmp_path / "merged").exists()

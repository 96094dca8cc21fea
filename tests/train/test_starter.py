"""The starting configuration: it says every key, stands as it is, and passes the check once its data are there."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from nuebridge.config import parse_yaml
from nuebridge.config.keys import key_texts, models_in, yaml_value
from nuebridge.train.config import TrainConfig
from nuebridge.train.starter import starting_configuration
from tests.train.conftest import Command

PARTS = ("--encoder", "chunks", "--bridge", "pairs", "--decoder", "bytes", "--ctc-head", "letters")


def every_model(model: type[BaseModel], seen: set[type[BaseModel]]) -> Iterator[type[BaseModel]]:
    if model not in seen:
        seen.add(model)
        yield model
        for field in model.model_fields.values():
            for inner in models_in(field.annotation):
                yield from every_model(inner, seen)


@pytest.mark.parametrize("model", list(every_model(TrainConfig, set())), ids=lambda model: model.__name__)
def test_every_key_is_explained(model: type[BaseModel]) -> None:
    """By a string under it, or where it holds a block, by what is said of the block."""
    texts = key_texts(model)
    for name, field in model.model_fields.items():
        inner = next(models_in(field.annotation), None)
        assert texts.get(name) or (inner is not None and inner.__doc__), f"{model.__name__}.{name}"


@pytest.mark.parametrize("ctc_head", [True, False])
def test_every_key_is_in_it(ctc_head: bool) -> None:
    text = starting_configuration("models/m", ctc_head=ctc_head)
    for model in every_model(TrainConfig, set()):
        for name in model.model_fields:
            assert re.search(rf"(^|[\s#{{]){name}: ", text.replace(":\n", ": \n")), f"{model.__name__}.{name}"


def test_it_stands_as_it_is() -> None:
    config = parse_yaml(starting_configuration("models/m", ctc_head=True), TrainConfig, "train.yaml")
    assert (config.model, str(config.output), config.losses.ctc) == ("models/m", "runs/m", 0.3)
    trained = [name for name, part in config.parts if part.is_trained]
    assert trained == ["ctc_head", "bridge"]
    without = parse_yaml(starting_configuration("models/m", ctc_head=False), TrainConfig, "train.yaml")
    assert without.losses.ctc == 0


def test_what_is_commented_out_changes_nothing() -> None:
    """Every key that is commented out shows its default; of the stages, an example."""
    text = starting_configuration("models/m", ctc_head=True)
    config = parse_yaml(text, TrainConfig, "train.yaml")
    lines, taken = text.splitlines(), 0
    for number, line in enumerate(lines):
        if not re.match(r"\s*#\w+: ", line) or re.match(r"#stages:|\s*#lora:", line):
            continue
        changed = [*lines[:number], line.replace("#", "", 1), *lines[number + 1 :]]
        assert parse_yaml("\n".join(changed), TrainConfig, "train.yaml") == config, line
        taken += 1
    assert taken > 40
    staged = re.sub(r"schedule:\n(  .*\n)+", "", text.replace("#stages:", "stages:"))
    assert parse_yaml(staged, TrainConfig, "train.yaml").steps == 5000
    lora = parse_yaml(text.replace("    #lora:", "    lora:"), TrainConfig, "train.yaml")
    assert lora.parts.encoder.lora is not None and lora.parts.encoder.lora.r == 16


def test_composed_and_checked_and_trained(command: Command, corpus: Path, tmp_path: Path) -> None:
    status, out, _ = command("compose", *PARTS, "--output", "models/toys")
    assert status == 0
    assert "to train it: set data.train in models/toys/train.yaml, then run" in out
    file = tmp_path / "models/toys/train.yaml"
    status, out, _ = command("train", str(file), "--check")
    assert status == 2 and "2 errors, " in out and "there is no manifest train.jsonl" in out
    text = file.read_text()
    assert "ctc_head:\n    train: true" in text
    for name in ("train.jsonl", "validation.jsonl"):
        text = text.replace(f"path: {name}", f"path: {corpus}")
    file.write_text(text)
    status, out, _ = command("train", str(file), "--check", "--json")
    assert status == 0, out
    assert [finding for finding in json.loads(out)["findings"] if finding["level"] == "error"] == []
    steps = ("--set", "schedule.steps=2", "--set", "schedule.warmup_steps=0")
    assert command("train", str(file), *steps)[0] == 0
    assert (tmp_path / "runs/toys/final/config.json").is_file()


def test_for_a_model_that_is_there(command: Command, tmp_path: Path) -> None:
    status, out, err = command("train", "--init", "toys", "mine.yaml")
    assert (status, err) == (0, "")
    assert out == "written to mine.yaml; set data.train in it, then run `nuebridge train mine.yaml --check`\n"
    assert parse_yaml((tmp_path / "mine.yaml").read_text(), TrainConfig, "mine.yaml").model == "toys"
    status, _, err = command("train", "--init", "toys", "mine.yaml")
    assert (status, err) == (2, "error: mine.yaml exists; name another file to write, or remove it\n")
    status, _, err = command("train", "--init", "toyz", "other.yaml")
    assert status == 2 and "did you mean 'toys'?" in err and not (tmp_path / "other.yaml").exists()
    status, _, err = command("train", "--init", "toys", "nowhere/mine.yaml")
    assert (status, err) == (
        2,
        "error: cannot write nowhere/mine.yaml: No such file or directory; name another file\n",
    )


@pytest.mark.parametrize(
    "value",
    [
        None,
        True,
        3,
        0.5,
        1e-8,
        1e20,
        "plain",
        "",
        "null",
        "1.5",
        "a: b",
        "~",
        "{x}",
        " x",
        "no",
        [1, "a"],
        {"a": [None]},
    ],
)
def test_yaml_values_come_back(value: Any) -> None:
    class Anything(BaseModel):
        value: Any

    assert parse_yaml(f"value: {yaml_value(value)}", Anything, "x").value == value

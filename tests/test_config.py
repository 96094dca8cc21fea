"""Configuration files: values, places, and every mistake at once."""

from __future__ import annotations

import json
import sys
from enum import Enum
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import Field
from ruamel.yaml import YAML

from nuebridge.config import config_folder, load_yaml, parse_set_values, parse_yaml, raise_problems, validate
from nuebridge.config.document import Document
from nuebridge.config.problems import Problem
from nuebridge.errors import ConfigError
from nuebridge.settings import PromptTemplate, Settings


class Mode(Enum):
    FAST = "fast"
    SLOW = "slow"


class Adam(Settings):
    kind: Literal["adam"] = "adam"
    lr: float = Field(default=1e-3, gt=0)


class Sgd(Settings):
    kind: Literal["sgd"]
    momentum: float = 0.9


class Part(Settings):
    freeze: bool = False
    layers: list[int] = []


class Config(Settings):
    steps: int
    schedule: Literal["constant", "cosine"] = "constant"
    mode: Mode = Mode.FAST
    optimizer: Adam = Adam()
    tagged: Annotated[Adam | Sgd, Field(discriminator="kind")] | None = None
    either: Adam | Sgd | None = None
    parts: dict[str, Part] = {}
    data: list[Part] = []
    prompt: PromptTemplate | None = None
    revision: str | None = None


def parse(text: str, **more: Any) -> Config:
    return parse_yaml(text, Config, "f.yaml", **more)


def errors(text: str, **more: Any) -> list[str]:
    """The problems of a text, one string each."""
    with pytest.raises(ConfigError) as caught:
        parse(text, **more)
    first, *rest = str(caught.value).split("\n  ")
    if not rest:
        return [first]
    assert first == f"{len(rest)} errors"
    return rest


def test_values() -> None:
    config = parse(
        "steps: 10\nschedule: cosine\nmode: slow\noptimizer: {lr: 1e-4}\n"
        "parts:\n  encoder: {freeze: true, layers: [1, 2]}\ndata: [{}, {freeze: true}]\n"
        'prompt: {prefix: "<s>{context}"}\nrevision: 2023-12-01\n'
    )
    assert config.steps == 10
    assert config.mode is Mode.SLOW
    assert config.optimizer == Adam(lr=1e-4)
    assert config.parts == {"encoder": Part(freeze=True, layers=[1, 2])}
    assert [part.freeze for part in config.data] == [False, True]
    assert config.prompt is not None and config.prompt.fields == ("context",)
    assert config.revision == "2023-12-01", "what looks like a date is text"


def test_an_alias_stands_for_its_anchor() -> None:
    config = parse("steps: 1\nparts:\n  a: &a {layers: [3]}\n  b: *a\n")
    assert config.parts["a"] == config.parts["b"] == Part(layers=[3])


def test_all_errors_at_once_in_order_of_their_lines() -> None:
    found = errors(
        "schedul: cosine\n"
        "optimizer:\n"
        "  kind: adam\n"
        "  lr: 0\n"
        "parts:\n"
        "  encoder:\n"
        "    layers: [1, x]\n"
        "data:\n"
        "  - freeze: maybe\n"
        "  - freez: true\n"
        "prompt: {prefix: '{speaker}'}\n"
    )
    assert [line.partition(": ")[0] for line in found] == [
        "f.yaml",
        "f.yaml:1",
        "f.yaml:4",
        "f.yaml:7",
        "f.yaml:9",
        "f.yaml:10",
        "f.yaml:11",
    ]
    text = "\n".join(found)
    assert "f.yaml: steps: is missing" in text
    assert "f.yaml:1: schedul: unknown key (allowed: steps, schedule, mode, " in text
    assert "did you mean 'schedule'?)" in text
    assert "f.yaml:4: optimizer.lr: should be greater than 0, not 0" in text
    assert "f.yaml:7: parts.encoder.layers.1: should be a valid integer, " in text
    assert "not 'x'" in text
    assert "f.yaml:9: data.0.freeze: " in text
    assert "f.yaml:10: data.1.freez: unknown key (allowed: freeze, layers; did you mean 'freeze'?)" in text
    assert "f.yaml:11: prompt: the prompt declares the field 'speaker'; known fields: " in text


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("steps: 1\nschedule: cosin", "f.yaml:2: schedule: 'cosin' is not known (allowed: constant, cosine; did you"),
        ("steps: 1\nmode: slw", "f.yaml:2: mode: 'slw' is not known (allowed: fast, slow; did you mean 'slow'?)"),
        ("steps: 1\nrevision: 1234567", "f.yaml:2: revision: should be a valid string, not 1234567; put it in quotes"),
        (
            "steps: 1\ntagged: {kind: sdg}",
            "f.yaml:2: tagged: 'kind' is 'sdg' (allowed: adam, sgd; did you mean",
        ),
        ("steps: 1\ntagged: {kind: sgd, lr: 1}", "f.yaml:2: tagged.lr: unknown key (allowed: kind, momentum)"),
        ("steps: 1\nparts: 3", "f.yaml:2: parts: should be a mapping of keys, not 3"),
        ("steps:", "f.yaml:1: steps: should be a valid integer, not nothing"),
        ("steps: 1\nsteps: 2", "f.yaml:2: steps: given twice (first on line 1)"),
        ("steps: 1\nparts:\n  a: {}\n  a: {}", "f.yaml:4: parts.a: given twice (first on line 3)"),
        ("steps: 1\n7: x", "f.yaml:2: the key 7 is not text; put it in quotes"),
        ("steps: 1\n? [a]\n: x", "f.yaml:2: the key a list or mapping is not text; put it in quotes"),
        ("a: &a {}\nsteps: 1\nparts:\n  <<: *a", "f.yaml:4: parts: merge keys (<<) are not read; write the keys out"),
        ("steps: !!python/name:os.system x", "f.yaml:1: steps: the tag !!python/name:os.system is unknown or does not"),
        ("steps: 1\nparts: &a {x: *a}", "f.yaml:2: parts.x: an alias that contains itself"),
        ("steps: [1\nparts: 2", "f.yaml:2: not valid YAML: while parsing a flow sequence expected ',' or ']'"),
        ("steps: 1\n\tparts: 2", "f.yaml:2: not valid YAML"),
        ("steps: 1\nparts: \x07", "f.yaml:2: not valid YAML: it holds a control character"),
        ("steps: 1\n---\nsteps: 2", "f.yaml:2: not valid YAML"),
        ("- steps", "f.yaml:1: should be a mapping of keys, not ['steps']"),
        ("", "f.yaml: steps: is missing"),
    ],
)
def test_mistake(text: str, message: str) -> None:
    assert [line for line in errors(text) if line.startswith(message)], errors(text)


def test_a_file_that_is_no_yaml_has_one_error() -> None:
    assert len(errors("a: [")) == 1


def test_a_union_tells_what_each_branch_allows() -> None:
    assert errors("steps: 1\neither: {kind: sgd, momentm: 1}\n") == [
        "f.yaml:2: either.kind: 'sgd' is not known (allowed: adam)",
        "f.yaml:2: either.momentm: unknown key (allowed: kind, lr)",
        "f.yaml:2: either.momentm: unknown key (allowed: kind, momentum; did you mean 'momentum'?)",
    ]


def test_load_yaml(tmp_path: Path) -> None:
    file = tmp_path / "c.yaml"
    file.write_text("steps: 3\n")
    assert load_yaml(file, Config).steps == 3
    file.write_text("steps: x\n")
    with pytest.raises(ConfigError, match=r"c\.yaml:1: steps: "):
        load_yaml(file, Config)


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such file"):
        load_yaml(tmp_path / "none.yaml", Config)
    with pytest.raises(ConfigError, match="this is a folder"):
        load_yaml(tmp_path, Config)
    (tmp_path / "latin.yaml").write_bytes(b"steps: 1 # \xe9\n")
    with pytest.raises(ConfigError, match="not a text file in UTF-8"):
        load_yaml(tmp_path / "latin.yaml", Config)


def test_validate_names_what_it_is() -> None:
    with pytest.raises(ConfigError) as caught:
        validate({"freez": True}, Part, "options of p.x")
    assert str(caught.value) == "options of p.x: freez: unknown key (allowed: freeze, layers; did you mean 'freeze'?)"


class TestSetValues:
    def test_they_replace_and_add(self) -> None:
        values = parse_set_values(["steps=5", "optimizer.lr=1e-2", "parts.encoder.layers=[4]", "data.1.freeze=true"])
        config = parse("steps: 1\noptimizer:\ndata: [{}, {}]\n", set_values=values)
        assert config.steps == 5
        assert config.optimizer == Adam(lr=0.01)
        assert config.parts["encoder"].layers == [4]
        assert [part.freeze for part in config.data] == [False, True]

    def test_mistakes_are_placed_at_the_option(self) -> None:
        found = errors("steps: 1\n", set_values={"optimizer.lr": -1, "stepz": 2})
        assert "--set: optimizer.lr: should be greater than 0, not -1" in found
        assert any(line.startswith("--set: stepz: unknown key") for line in found)

    def test_a_way_through_a_value_is_a_mistake(self) -> None:
        found = errors("steps: 1\ndata: [{}]\n", set_values={"steps.x": 2, "data.7.freeze": True})
        assert "--set: steps.x: steps is 1 and has no 'x'" in found
        assert "--set: data.7.freeze: data is a list of 1 and has no '7'" in found

    @pytest.mark.parametrize(
        ("assignments", "message"),
        [
            (["steps"], "--set steps: write KEY=VALUE"),
            (["=1"], "--set =1: write KEY=VALUE"),
            (["a=1", "a=2"], "--set a: given twice"),
            (["a=[1"], "--set a:1: not valid YAML"),
        ],
    )
    def test_malformed(self, assignments: list[str], message: str) -> None:
        with pytest.raises(ConfigError) as caught:
            parse_set_values(assignments)
        assert str(caught.value).startswith(message)

    def test_text_may_hold_an_equals_sign(self) -> None:
        assert parse_set_values(["prompt.prefix=a=b", "revision="]) == {"prompt.prefix": "a=b", "revision": None}


texts = st.text("ab #:-'\"\n{}[]", max_size=8)
keys = st.text("abc-.", min_size=1, max_size=4)
values = st.recursive(
    st.none() | st.booleans() | st.integers(-1000, 1000) | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(keys, inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(keys, values, max_size=4))
def test_reads_what_the_parser_reads(data: dict[str, Any]) -> None:
    """The walk over the nodes agrees with the library's own constructor, and every key has its line."""
    # One key a line, values in JSON, which is YAML too.
    text = "".join(f"{json.dumps(key)}: {json.dumps(value)}\n" for key, value in data.items())
    document = Document.parse(text, "f")
    assert document.problems == []
    assert document.data == YAML(typ="safe", pure=True).load(text or "{}") == data
    assert [document.lines[(key,)] for key in data] == list(range(1, len(data) + 1))


def test_one_problem_is_one_line_and_more_are_counted() -> None:
    raise_problems([])
    with pytest.raises(ConfigError, match=r"^f:1: a: wrong$"):
        raise_problems([Problem("f", 1, "a", "wrong")])
    with pytest.raises(ConfigError, match=r"^2 errors\n  f:1: a: wrong\n  f: b: wrong$"):
        raise_problems([Problem("f", 1, "a", "wrong"), Problem("f", None, "b", "wrong")])


def test_config_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert config_folder({"NUEBRIDGE_CONFIG_DIR": "/n", "XDG_CONFIG_HOME": "/x"}) == Path("/n")
    assert config_folder({"XDG_CONFIG_HOME": "/x"}) == Path("/x/nuebridge")
    monkeypatch.setenv("HOME", str(tmp_path))
    expected = "Library/Application Support/nuebridge" if sys.platform == "darwin" else ".config/nuebridge"
    assert config_folder({}) == tmp_path / expected

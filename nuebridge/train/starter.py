"""A training configuration to start from: every key of the training file with what it means and its default.

The keys that a run needs are set, the others are commented out: a ``#`` right before a key, to be taken away. All of
it is read from the models of the training file (:mod:`nuebridge.train.config`). No torch here.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from nuebridge.config.keys import key_texts, models_in, prose, yaml_value
from nuebridge.errors import ConfigError
from nuebridge.train.config import TrainConfig

FILE_NAME = "train.yaml"
"""What ``nuebridge compose`` calls it, in the folder of the integration."""

WIDTH = 100

HEAD = """\
Training configuration for {model}. Set data.train (and data.validation), look it over, then

  nuebridge train {file} --check     says what it would do, and what is wrong
  nuebridge train {file}             trains; stopped, the same with --resume auto goes on

A key is set where it has no # before it; the others hold as they stand. Relative paths start in
the working directory of the command, those within a manifest at the manifest."""

EXAMPLES: Mapping[str, Any] = {"stages": [{"name": "bridge", "schedule": {"steps": 5000}}]}
"""What a key shows that is commented out and whose default says nothing."""


def starting_configuration(
    model: str, *, ctc_head: bool, needs_ctc: bool = False, name: str | None = None, file: str = FILE_NAME
) -> str:
    """The text of a training file for an integration: ``model`` is what it is to be loaded by.

    ``ctc_head`` and ``needs_ctc`` say whether it has a CTC head, and whether its bridge cannot do without.
    ``name`` names the run's folder.
    """
    chosen: dict[str, Any] = {
        "model": model,
        "output": f"runs/{name or Path(model).name}",
        "data": {
            "train": [{"path": "train.jsonl"}],
            "validation": {"path": "validation.jsonl"},
            "max_audio_seconds": 20.0,
            "batch_seconds": 40.0,
        },
        "schedule": {"steps": 20_000, "warmup_steps": 500},
        "parts": {
            "encoder": {"train": False},
            **({"ctc_head": {"train": True, "learning_rate": 1e-3}} if ctc_head else {}),
            "bridge": {"train": True, "learning_rate": 1e-3},
            "decoder": {"train": False},
        },
        **({"losses": {"ctc": 0.3 if not needs_ctc else 1.0}} if ctc_head else {}),
        "validation": {"every_steps": 1000},
        "checkpoints": {"every_steps": 500},
        "precision": "float32",
        "device": "cpu",
        "seed": 0,
    }
    head = [f"# {line}".rstrip() for line in HEAD.format(model=model, file=file).splitlines()]
    return "\n".join([*head, *_block(TrainConfig, chosen, 0, set())]) + "\n"


def write_starting_configuration(path: Path, text: str) -> None:
    """Writes a starting configuration. Raises ConfigError where there is a file already, or it cannot be written."""
    try:
        with path.open("x", encoding="utf-8") as stream:
            stream.write(text)
    except FileExistsError:
        raise ConfigError(f"{path} exists; name another file to write, or remove it") from None
    except OSError as error:
        raise ConfigError(f"cannot write {path}: {error.strerror}; name another file") from error


def _block(model: type[BaseModel], chosen: Mapping[str, Any], depth: int, seen: set[type[BaseModel]]) -> Iterator[str]:
    """The lines of a model's keys. Of one that was shown before, only the chosen keys, without a word."""
    texts, shown, pad = key_texts(model), model in seen, "  " * depth
    seen.add(model)
    for name, field in model.model_fields.items():
        if shown and name not in chosen:
            continue
        if depth == 0:
            yield ""
        inner = next(models_in(field.annotation), None)
        if not shown:
            said = texts.get(name) or ("" if inner is None else inner.__doc__ or "")
            yield from _comment(_said(said, field, chosen.get(name)), pad)
        if name not in chosen:
            if inner is not None:
                yield from _key_list(inner, pad, seen)
            yield f"{pad}#{name}: {yaml_value(_shown_value(name, field, inner))}"
            continue
        value = chosen[name]
        if inner is not None and isinstance(value, Mapping):
            yield f"{pad}{name}:"
            yield from _block(inner, value, depth + 1, seen)
        elif inner is not None and isinstance(value, list):
            yield f"{pad}{name}:"
            for one in value:
                yield from _item(list(_block(inner, one, depth + 2, seen)), depth + 1)
        else:
            yield f"{pad}{name}: {yaml_value(value)}"


def _item(lines: list[str], depth: int) -> Iterator[str]:
    """The lines of a mapping in a list: a hyphen before its first key."""
    pad = "  " * depth
    first = next(number for number, line in enumerate(lines) if not line.lstrip().startswith("#"))
    for number, line in enumerate(lines):
        yield f"{pad}- {line.lstrip()}" if number == first else line


def _key_list(model: type[BaseModel], pad: str, seen: set[type[BaseModel]], *, inner: bool = False) -> Iterator[str]:
    """What the keys of a model mean that stands on one line, commented out; with their defaults within another."""
    if model in seen:
        yield f"{pad}#   keys as above"
        return
    seen.add(model)
    texts = key_texts(model)
    for name, field in model.model_fields.items():
        said = _said(texts.get(name, ""), field, None)
        deeper = next(models_in(field.annotation), None)
        if inner and deeper is None and not field.is_required():
            said = f"{said} Default: {yaml_value(field.get_default(call_default_factory=True))}."
        yield from textwrap.wrap(
            f"{name}: {said}", WIDTH, initial_indent=f"{pad}#   ", subsequent_indent=f"{pad}#     "
        )
        if deeper is not None and deeper not in seen:
            yield from (line.replace("#   ", "#     ", 1) for line in _key_list(deeper, pad, seen, inner=True))


def _comment(text: str, pad: str) -> list[str]:
    return textwrap.wrap(text, WIDTH, initial_indent=f"{pad}# ", subsequent_indent=f"{pad}# ")


def _said(text: str, field: FieldInfo, value: Any) -> str:
    """What a key means, the words it takes, and its default where another value is set."""
    parts = [prose(text)] if text else []
    words = list(_words(field.annotation))
    if words:
        parts.append(f"One of: {', '.join(words)}.")
    default = field.get_default(call_default_factory=True)
    if value is not None and not field.is_required() and not isinstance(default, BaseModel) and value != default:
        parts.append(f"Default: {yaml_value(default)}.")
    return " ".join(parts)


def _words(annotation: Any) -> Iterator[str]:
    """The words of a Literal."""
    if get_origin(annotation) is Literal:
        yield from map(yaml_value, get_args(annotation))
    elif get_origin(annotation) in (Union, UnionType, tuple, list, Annotated):
        for argument in get_args(annotation):
            yield from _words(argument)


def _shown_value(name: str, field: FieldInfo, inner: type[BaseModel] | None) -> Any:
    """What stands after a key that is commented out: its default, or for what has none that tells, an example."""
    if name in EXAMPLES:
        return EXAMPLES[name]
    value = field.get_default(call_default_factory=True)
    if inner is not None and value is None:
        value = inner()
    return value.model_dump(mode="json") if isinstance(value, BaseModel) else value

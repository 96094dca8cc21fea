"""Writes the reference pages of the documentation from the code: `python docs/reference/generate.py [--check]`.

cli.md from the command line program, with the commands of the plugins in this repository, and
configuration.md from the pydantic models of registry files and training files.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic_core import PydanticUndefined

from nuebridge.config.keys import key_texts, models_in, prose, yaml_value

HERE = Path(__file__).parent
WRITTEN_BY = "<!-- Written by docs/reference/generate.py (make docs); edit the code it reads, not this page. -->\n"


def commands() -> Iterator[tuple[list[str], Any, Any]]:
    """Path, command and context of every command that is not hidden, groups before what they hold.

    Of contributed commands only those of the plugins in this repository.
    """
    import typer

    from nuebridge.cli import app

    todo: list[tuple[list[str], Any, Any]] = [(["nuebridge"], typer.main.get_command(app), None)]
    while todo:
        path, command, parent = todo.pop(0)
        context = command.make_context(path[-1], [], parent=parent, resilient_parsing=True)
        command = context.command
        yield path, command, context
        if hasattr(command, "list_commands"):
            children = [(name, command.get_command(context, name)) for name in sorted(command.list_commands(context))]
            todo = [([*path, name], child, context) for name, child in children if is_ours(child)] + todo


def is_ours(command: Any) -> bool:
    """False for hidden commands and those of plugins that are not in this repository."""
    root = HERE.parent.parent
    contributors = [ref.distribution for ref in getattr(command, "refs", ())]
    return not command.hidden and all(any(root.glob(f"*/{name}/pyproject.toml")) for name in contributors)


def parameters(command: Any, context: Any) -> Iterator[tuple[str, str]]:
    """What each visible parameter is called and what its help says."""
    for parameter in command.params:
        record = parameter.get_help_record(context)
        if record and record[0] and "completion" not in parameter.name:
            yield record[0], record[1]


def cell(text: str) -> str:
    """A text that fits into a cell of a table."""
    return " ".join(text.replace("|", r"\|").split())


def cli_page() -> str:
    """The page of commands."""
    lines = ["# Commands\n", WRITTEN_BY, "What `nuebridge COMMAND --help` says, on one page.\n"]
    for path, command, context in commands():
        lines.append(f"{'#' * min(len(path) + 1, 3)} {' '.join(path)}\n")
        usage = " ".join([*path, *command.collect_usage_pieces(context)])
        lines.append(f"```text\n{usage}\n```\n")
        if command.help:
            lines.append(prose(command.help) + "\n")
        rows = [f"| `{cell(name)}` | {cell(text)} |" for name, text in parameters(command, context)]
        if rows:
            lines.append("\n".join(["| option | |", "|---|---|", *rows]) + "\n")
    return "\n".join(lines)


WORDS = {
    str: "text",
    int: "integer",
    float: "number",
    bool: "true or false",
    Path: "path",
    type(None): "null",
    Any: "any",
}


def type_name(annotation: Any) -> str:
    """A type in the words of somebody who writes YAML; models are links to their table."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return type_name(arguments[0])
    if origin in (Union, UnionType):
        return " or ".join(map(type_name, arguments))
    if origin is Literal:
        return " or ".join(f"`{yaml_value(value)}`" for value in arguments)
    if origin is tuple and arguments[1:] != (...,):
        return f"[{', '.join(map(type_name, arguments))}]"
    if origin in (tuple, list):
        return f"list of {type_name(arguments[0])}"
    if origin is dict:
        return f"name: {type_name(arguments[1])}"
    if annotation in WORDS:
        return WORDS[annotation]
    if issubclass(annotation, BaseModel):
        return f"[{annotation.__name__}](#{annotation.__name__.lower()})"
    raise TypeError(f"no words for {annotation!r}: add them here")


def model_section(model: type[BaseModel], top: bool) -> str:
    """A heading, the docstring and a table of keys."""
    texts = key_texts(model)
    title = "Top level" if top else model.__name__
    lines = [f"### {title}\n", prose(model.__doc__ or "") + "\n"]
    lines += ["| key | type | default | |", "|---|---|---|---|"]
    for name, field in model.model_fields.items():
        if field.is_required():
            default = "required"
        else:
            value = field.get_default(call_default_factory=True)
            default = "" if value is PydanticUndefined or isinstance(value, BaseModel) else f"`{yaml_value(value)}`"
        lines.append(f"| `{name}` | {type_name(field.annotation)} | {default} | {cell(prose(texts.get(name, '')))} |")
    return "\n".join(lines) + "\n"


def with_parts(top: type[BaseModel], seen: set[type[BaseModel]]) -> Iterator[type[BaseModel]]:
    """A model, then the models of its fields, each once."""
    if top in seen:
        return
    seen.add(top)
    yield top
    for field in top.model_fields.values():
        for model in models_in(field.annotation):
            yield from with_parts(model, seen)


def configuration_page() -> str:
    """The page of configuration files."""
    from nuebridge.registry.entries import RegistryContents
    from nuebridge.train.config import TrainConfig

    lines = ["# Configuration files\n", WRITTEN_BY, "The keys of the YAML files. Unknown keys are errors.\n"]
    seen: set[type[BaseModel]] = set()
    for title, page, top in (
        ("Registry files", "registry.md", RegistryContents),
        ("Training files", "training.md", TrainConfig),
    ):
        lines.append(f"## {title}\n\nExplained in [{title.split()[0].lower()}](../{page}).\n")
        lines += [model_section(model, model is top) for model in with_parts(top, seen)]
    return "\n".join(lines)


PAGES = {"cli.md": cli_page, "configuration.md": configuration_page}


def main() -> int:
    """Writes the pages; with --check says instead which ones are out of date (exit status 1)."""
    os.environ["COLUMNS"] = "120"
    stale = []
    for name, page in PAGES.items():
        file, text = HERE / name, page()
        if file.exists() and file.read_text(encoding="utf-8") == text:
            continue
        if "--check" in sys.argv[1:]:
            stale.append(name)
        else:
            file.write_text(text, encoding="utf-8")
    if stale:
        print(f"{', '.join(stale)} in docs/reference: out of date; run `make docs`", file=sys.stderr)
    return 1 if stale else 0


if __name__ == "__main__":
    sys.exit(main())

"""``nuebridge registry``: the entries by name, where each stands, and what is wrong with them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from nuebridge.cli._context import CliContext, JsonFlag, RegistryFiles, columns, print_json, warn

if TYPE_CHECKING:
    from nuebridge.config import Problem
    from nuebridge.registry import Entry, Located, Registry


verbs = typer.Typer(
    help="The registry of encoders, bridges, decoders and integrations.", no_args_is_help=True, rich_markup_mode=None
)


@verbs.command("list")
def list_entries(ctx: typer.Context, registry: RegistryFiles = None, as_json: JsonFlag = False) -> None:
    """List every entry of every layer."""
    context: CliContext = ctx.obj
    merged = context.registry(registry)
    problems = merged.check(context.manager)
    if as_json:
        print_json(describe(merged, problems))
    else:
        for line in _lines(merged):
            typer.echo(line)
    for line in _grouped(problems):
        warn(line)


@verbs.command()
def show(
    ctx: typer.Context,
    name: Annotated[str, typer.Argument(help="Name of an entry.")],
    registry: RegistryFiles = None,
    as_json: JsonFlag = False,
) -> None:
    """Show the entry of a name, in every section that has it."""
    from nuebridge.config import suggestion
    from nuebridge.errors import RegistryError

    context: CliContext = ctx.obj
    merged = context.registry(registry)
    found = [one for section in merged.sections for one in merged.entries(section) if one.name == name]
    if not found:
        known = sorted({known for section in merged.sections for known in merged.names(section)})
        raise RegistryError(f"no {name!r} in the registry{suggestion(name, known, 'known')}")
    if as_json:
        print_json([{"section": one.section, "name": one.name, **_entry(one)} for one in found])
    else:
        for one in found:
            typer.echo(f"{one.section}.{one.name}  ({one.layer.label}, {one.place})")
            for line in _fields(one.entry):
                typer.echo(line)
    starts = tuple(f"{one.section}.{one.name}." for one in found)
    for problem in merged.check(context.manager):
        if f"{problem.key}.".startswith(starts):
            warn(str(problem))


@verbs.command()
def check(
    ctx: typer.Context,
    file: Annotated[Path, typer.Argument(help="The registry file to check, as the topmost layer.")],
    as_json: JsonFlag = False,
) -> None:
    """Check a registry file: its entries, the parts they name and their components' options.

    The exit status is 2 where anything is wrong.
    """
    from nuebridge.config import raise_problems
    from nuebridge.errors import RegistryError
    from nuebridge.registry import Registry, default_layers

    context: CliContext = ctx.obj
    layers, _ = default_layers(context.manager, [file])
    merged = Registry(layers, strict=context.manager.strict)
    this = next(layer for layer in layers if layer.path.resolve() == file.resolve())
    # Of the other files only what would end every command.
    found = [one for one in [*merged.warnings, *merged.check(context.manager)] if one.file == str(this.path)]
    errors = [*merged.errors, *(one for one in found if one.severity == "error")]
    warnings = [one for one in found if one.severity == "warning"]
    if as_json:
        print_json(
            {
                "file": str(file),
                "ok": not errors,
                "errors": [_problem(problem) for problem in errors],
                "warnings": [_problem(problem) for problem in warnings],
            }
        )
        raise typer.Exit(RegistryError.exit_status if errors else 0)
    for problem in warnings:
        warn(str(problem))
    raise_problems(errors, RegistryError)
    entries = sum(one.layer is this for section in merged.sections for one in merged.entries(section))
    typer.echo(f"{file}: {entries} entries, no errors")


def describe(registry: Registry, problems: Sequence[Problem]) -> dict[str, Any]:
    """What ``registry list --json`` prints.

    A key for each section (``encoders``, ``bridges``, ``decoders``, ``ctc_heads``, ``integrations``)
    with an object of its entries by name; of each, ``layer`` (``packaged``, ``plugin NAME``, ``user``,
    ``folder``, ``option``), ``file``, ``line`` and the entry's own keys, all of them, paths absolute.
    ``default_integration`` is the name of the one that is used where none is named, or null.
    ``problems`` lists objects with ``severity`` (``error`` or ``warning``), ``file``, ``line`` (or null),
    ``key`` (dotted) and ``message``.

    ``show NAME --json`` prints a list of such entries, each with ``section`` and ``name`` before;
    ``check FILE --json`` an object of ``file``, ``ok``, and ``errors`` and ``warnings`` as above.
    """
    described: dict[str, Any] = {
        section: {one.name: _entry(one) for one in registry.entries(section)} for section in registry.sections
    }
    described["default_integration"] = registry.default_integration
    described["problems"] = [_problem(problem) for problem in problems]
    return described


def _entry(one: Located) -> dict[str, Any]:
    place = {"layer": one.layer.label, "file": str(one.layer.path), "line": one.line}
    return {**place, **one.entry.model_dump(mode="json", exclude={"replaces"})}


def _problem(problem: Problem) -> dict[str, Any]:
    return {
        "severity": problem.severity,
        "file": problem.file,
        "line": problem.line,
        "key": problem.key,
        "message": problem.message,
    }


def _lines(registry: Registry) -> list[str]:
    lines: list[str] = []
    for section in registry.sections:
        entries = registry.entries(section)
        if entries:
            rows = [(one.name, *_what(one.entry), f"({one.layer.label})") for one in entries]
            lines += [section, *columns(rows)]
    if registry.default_integration is not None:
        lines += ["default_integration", f"  {registry.default_integration}"]
    return lines


def _what(entry: Entry) -> tuple[str, str]:
    """Two columns that tell an entry from others."""
    from nuebridge.registry import BridgeEntry, CtcHeadEntry, IntegrationEntry, SourcedEntry

    if isinstance(entry, SourcedEntry):
        return entry.component, entry.source
    if isinstance(entry, BridgeEntry):
        return entry.component, " ".join(f"{key}={value}" for key, value in entry.options.items())
    if isinstance(entry, CtcHeadEntry):
        return f"{len(entry.vocabulary.symbols)} symbols", ""
    assert isinstance(entry, IntegrationEntry)
    parts = " + ".join(part for part in (entry.encoder, entry.ctc_head, entry.bridge, entry.decoder) if part)
    return parts or "as its checkpoint says", entry.weights.source if entry.weights else "no weights yet"


def _grouped(problems: Sequence[Problem]) -> list[str]:
    """A line for each thing that is wrong, however many entries it is wrong with."""
    keys: dict[str, list[str]] = {}
    for problem in problems:
        keys.setdefault(problem.message, []).append(problem.key.rpartition(".")[0])
    return [f"{', '.join(entries)}: {message}" for message, entries in keys.items()]


def _fields(entry: Entry) -> list[str]:
    import json

    values = entry.model_dump(mode="json", exclude={"replaces"}, exclude_none=True)
    return [
        f"  {key}: {value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)}"
        for key, value in values.items()
    ]

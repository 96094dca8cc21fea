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
    """Show the entry of a name, in every section that has it, and how large it is.

    Sizes, rates and the audio that fits are computed from the published configuration (or from that of a folder), not
    from the weights; no hub is asked.
    """
    from nuebridge.config import suggestion
    from nuebridge.errors import RegistryError

    context: CliContext = ctx.obj
    merged = context.registry(registry)
    found = [one for section in merged.sections for one in merged.entries(section) if one.name == name]
    if not found:
        known = sorted({known for section in merged.sections for known in merged.names(section)})
        raise RegistryError(f"no {name!r} in the registry{suggestion(name, known, 'known')}")
    sizes = {one.section: size for one in found if (size := _size(one, merged, context)) is not None}
    if as_json:
        print_json(
            [
                {"section": one.section, "name": one.name, **_entry(one), "computed": sizes.get(one.section)}
                for one in found
            ]
        )
    else:
        for one in found:
            typer.echo(f"{one.section}.{one.name}  ({one.layer.label}, {one.place})")
            for line in [*_fields(one.entry), *_size_lines(sizes.get(one.section))]:
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


@verbs.command()
def pin(
    file: Annotated[Path, typer.Argument(help="The registry file to write revisions into.")], as_json: JsonFlag = False
) -> None:
    """Write the commits that the hub serves now into a registry file, wherever a hub source has no revision.

    Comments and order stay. The exit status is 1 where the hub did not tell of a source; the others are written.
    """
    from dataclasses import asdict

    from nuebridge.registry.pinning import pin as pin_file

    found = pin_file(file)
    if as_json:
        print_json([asdict(one) for one in found])
    else:
        for line in columns([(one.key, one.source, one.revision or "not pinned") for one in found]) if found else []:
            typer.echo(line)
        for reason in dict.fromkeys(one.error for one in found if one.error):
            warn(reason)
        typer.echo(f"{file}: {sum(one.revision is not None for one in found)} of {len(found)} pinned")
    if any(one.error for one in found):
        raise typer.Exit(1)


def describe(registry: Registry, problems: Sequence[Problem]) -> dict[str, Any]:
    """What ``registry list --json`` prints.

    A key for each section (``encoders``, ``bridges``, ``decoders``, ``ctc_heads``, ``integrations``)
    with an object of its entries by name; of each, ``layer`` (``packaged``, ``plugin NAME``, ``user``,
    ``folder``, ``option``), ``file``, ``line`` and the entry's own keys, all of them, paths absolute.
    ``default_integration`` is the name of the one that is used where none is named, or null.
    ``problems`` lists objects with ``severity`` (``error`` or ``warning``), ``file``, ``line`` (or null),
    ``key`` (dotted) and ``message``.

    ``show NAME --json`` prints a list of such entries, each with ``section`` and ``name`` before and ``computed``
    behind: null for a bridge or CTC head, else an object of ``error``, or of ``basis`` and what
    :mod:`nuebridge.sizes` tells of it;
    ``check FILE --json`` an object of ``file``, ``ok``, and ``errors`` and ``warnings`` as above.
    """
    described: dict[str, Any] = {
        section: {one.name: _entry(one) for one in registry.entries(section)} for section in registry.sections
    }
    described["default_integration"] = registry.default_integration
    described["problems"] = [_problem(problem) for problem in problems]
    return described


def _size(one: Located, registry: Registry, context: CliContext) -> dict[str, Any] | None:
    """What can be told of an entry's size, or why nothing can; None for what has no size by itself."""
    from dataclasses import asdict

    from nuebridge.errors import NuebridgeError
    from nuebridge.registry import DecoderEntry, EncoderEntry, IntegrationEntry

    if not isinstance(one.entry, EncoderEntry | DecoderEntry | IntegrationEntry):
        return None
    try:
        from nuebridge.compose import Workshop
        from nuebridge.sizes import entry_size

        computed = entry_size(one.entry, one.name, Workshop(context.manager, registry))
    except (NuebridgeError, ImportError) as error:
        return {"error": str(error)}
    return {"basis": computed.basis, **asdict(computed.size)}


def _size_lines(size: dict[str, Any] | None) -> list[str]:
    if size is None:
        return []
    if "error" in size:
        return [f"  size: not known: {size['error']}"]
    lines = [f"  computed from {size['basis']}, not from the weights:"]
    parts = size.get("parts", {"": size})
    lines += [f"    {f'{name}: ' if name else ''}{_part_line(part)}" for name, part in parts.items()]
    if "parts" in size:
        lines.append(f"    {size['positions_per_second']:g} audio positions a second")
        lines.append(f"    shortest clip {size['min_audio_seconds']:.3f} s, longest {_longest_clip(size)}")
    return lines


def _part_line(part: dict[str, Any]) -> str:
    units = {"hidden_size": "wide", "sample_rate": "Hz", "frame_rate": "frames a second"}
    units |= {"vocab_size": "tokens", "max_positions": "positions"}
    told = [
        f"{part[key]:g} {unit}" if key == "frame_rate" else f"{part[key]} {unit}"
        for key, unit in units.items()
        if part[key] is not None
    ]
    return ", ".join([f"{part['parameters'] / 1e6:.2f} M parameters", *told])


def _longest_clip(size: dict[str, Any]) -> str:
    if size["longest_audio_seconds"] is None:
        return "not bounded"
    prompt = size["prompt_positions"]
    around = "the prompt's own text not counted" if prompt is None else f"beside {prompt} tokens of prompt"
    return f"{size['longest_audio_seconds']:g} s beside the longest text that it may write ({around})"


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

"""``nuebridge plugins``: what is installed, what each plugin offers, and why one is not in use."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from nuebridge.cli._context import CliContext, JsonFlag, columns, print_json, warn

if TYPE_CHECKING:
    from nuebridge.plugins import PluginManager


verbs = typer.Typer(help="The installed plugins and what they offer.", rich_markup_mode=None)


@verbs.callback(invoke_without_command=True)
def _default(ctx: typer.Context, as_json: JsonFlag = False) -> None:
    if ctx.invoked_subcommand is None:
        print_plugins(ctx.obj, as_json)


@verbs.command("list")
def list_plugins(ctx: typer.Context, as_json: JsonFlag = False) -> None:
    """List the installed plugins; the same as `nuebridge plugins`."""
    above = ctx.parent is not None and ctx.parent.params["as_json"]
    print_plugins(ctx.obj, as_json or above)


@verbs.command("new")
def new(
    ctx: typer.Context,
    name: Annotated[str, typer.Argument(help="The package's name, lower-case words joined by hyphens.")],
    encoder: Annotated[bool, typer.Option("--encoder", help="With a speech encoder.")] = False,
    bridge: Annotated[bool, typer.Option("--bridge", help="With a bridge; so too where no part is asked for.")] = False,
    decoder: Annotated[bool, typer.Option("--decoder", help="With a text decoder.")] = False,
    checkpoint_format: Annotated[
        bool, typer.Option("--checkpoint-format", help="With a checkpoint format that loads as it is.")
    ] = False,
    registry_file: Annotated[bool, typer.Option("--registry-file", help="With a registry file.")] = False,
    command: Annotated[bool, typer.Option("--command", help="With a command.")] = False,
    bench_baseline: Annotated[
        bool, typer.Option("--bench-baseline", help="With a baseline for `nuebridge bench train`.")
    ] = False,
    output: Annotated[Path | None, typer.Option(help="Folder to write it to [default: ./NAME].")] = None,
) -> None:
    """Write a new plugin: a package with working parts, tests and CI, to be changed into your own."""
    from nuebridge.scaffold import KINDS, PackageNames, check_free, new_plugin

    names = PackageNames.parse(name)
    check_free(names, ctx.obj.manager)
    flags = (encoder, bridge, decoder, checkpoint_format, registry_file, command, bench_baseline)
    asked = [kind for kind, wanted in zip(KINDS, flags, strict=True) if wanted]
    folder = Path(name) if output is None else output.expanduser()
    written = new_plugin(names, asked, folder)
    for file in written.files:
        typer.echo(f"  {file}")
    typer.echo(f"the plugin {names.plugin!r} is written to {folder}, with: {', '.join(written.kinds)}")
    if written.brought and asked:
        needing = ", ".join(kind for kind in asked if KINDS[kind].brings)
        typer.echo(f"({', '.join(written.brought)}: because {needing} needs them)")
    typer.echo(f"next: cd {folder} && pip install -e '.[dev]' && pytest; then see README.md")


def print_plugins(context: CliContext, as_json: bool) -> None:
    """Everything about every plugin, on stdout."""
    if as_json:
        print_json(describe(context.manager))
        return
    for line in _lines(context.manager):
        typer.echo(line)
    for note in context.manager.notes:
        warn(note)


def describe(manager: PluginManager) -> list[dict[str, Any]]:
    """What ``--json`` prints: a list by name, of objects with

    ``name``, ``distribution``, ``version``; ``state`` (``loaded``, ``failed``, ``incompatible``,
    ``conflict``, ``disabled``); ``reason`` (null for a loaded one); ``components``, a list of objects
    with ``id``, ``kind`` and ``summary``.
    """
    return [
        {
            "name": report.name,
            "distribution": report.distribution,
            "version": report.version,
            "state": report.state,
            "reason": report.reason,
            "components": [
                {"id": ref.id, "kind": ref.record.kind, "summary": ref.record.summary} for ref in report.components
            ],
        }
        for report in manager.reports()
    ]


def _lines(manager: PluginManager) -> list[str]:
    from nuebridge.plugins import INSTALL_DEFAULTS

    reports = manager.reports()
    if not reports:
        return [f"No plugin is installed: {INSTALL_DEFAULTS} brings the default ones."]
    lines: list[str] = []
    for report in reports:
        state = "" if report.reason is None else f"  {report.state}: {report.reason}"
        lines.append(f"{report.name}  ({report.distribution} {report.version}){state}")
        if report.components:
            lines += columns([(ref.id, ref.record.kind, ref.record.summary) for ref in report.components])
    return lines

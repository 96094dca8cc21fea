"""What a verb needs of the environment, and the options that several verbs share."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from nuebridge.compose import Workshop
    from nuebridge.plugins import PluginManager
    from nuebridge.registry import Registry

RegistryFiles = Annotated[
    list[Path] | None,
    typer.Option("--registry", metavar="FILE", help="A registry file above all others; may be given more than once."),
]
JsonFlag = Annotated[bool, typer.Option("--json", help="Print JSON.")]


class CliContext:
    """One run of the command line: ``ctx.obj`` of every verb, those of plugins included."""

    def __init__(self) -> None:
        self._warned: set[str] = set()

    @cached_property
    def manager(self) -> PluginManager:
        """The plugins of this environment, found when they are first asked for."""
        from nuebridge.plugins import PluginManager

        return PluginManager.discover()

    @cached_property
    def command_plugins(self) -> PluginManager:
        """Only the plugins that may add commands: to list commands is not to wait for all the others."""
        from nuebridge.plugins import PluginManager

        manager = PluginManager.discover(hook="nuebridge_cli_commands")
        self.warn_of_plugins(manager)
        return manager

    def warn_of_plugins(self, manager: PluginManager | None = None) -> None:
        """Tells of plugins that cannot be used, in one line on stderr, each once."""
        found = [line for line in (manager or self.manager).warnings() if line not in self._warned]
        self._warned.update(found)
        if found:
            warn("; ".join(found) + "; see `nuebridge plugins`")

    def registry(self, files: Sequence[Path] | None = None) -> Registry:
        """The registry with ``--registry`` files on top; files of plugins that are left out are warned about."""
        from nuebridge.registry import Registry

        registry = Registry.load(self.manager, files or ())
        for problem in registry.warnings:
            warn(str(problem))
        return registry

    def workshop(self, files: Sequence[Path] | None = None) -> Workshop:
        """Plugins and registry for the functions that make and load integrations. Imports torch."""
        from nuebridge.compose import Workshop

        return Workshop(self.manager, self.registry(files))


def warn(message: str) -> None:
    """One line on stderr."""
    typer.echo(f"warning: {message}", err=True)


def print_json(data: Any) -> None:
    """Data as JSON on stdout, indented, keys in the order given."""
    typer.echo(json.dumps(data, indent=2, ensure_ascii=False))


def columns(rows: Sequence[Sequence[str]], indent: str = "  ") -> list[str]:
    """Rows of text as lines whose columns align."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows)
    return [(indent + line).rstrip() for line in lines]

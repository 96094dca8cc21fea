"""The group of all verbs: the built-in ones and, where they are asked for, those of plugins."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import typer
from typer.core import TyperCommand, TyperGroup

from nuebridge.cli._context import CliContext, warn
from nuebridge.errors import PluginError

if TYPE_CHECKING:
    from nuebridge.hookspecs import CliCommand
    from nuebridge.plugins import ComponentRef, PluginManager


class Verbs(TyperGroup):
    """Looks for plugins' verbs only to list them or to run one that is not built in."""

    def list_commands(self, ctx: Any) -> list[str]:
        """The built-in verbs in their own order, then those of plugins by name."""
        manager = ctx.ensure_object(CliContext).command_plugins
        return [*super().list_commands(ctx), *self._contributed(manager, warn)]

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """The verb of that name, or None."""
        if cmd_name in self.commands:
            return self.commands[cmd_name]
        context = ctx.ensure_object(CliContext)
        command = self._contributed(context.command_plugins).get(cmd_name)
        # A plugin may have made its hook in a way that only importing it shows.
        return command or self._contributed(context.manager).get(cmd_name)

    def _contributed(
        self, manager: PluginManager, tell: Callable[[str], None] | None = None
    ) -> dict[str, ContributedCommand]:
        from nuebridge.hookspecs import CliCommand

        offers: dict[str, list[ComponentRef[CliCommand]]] = {}
        for ref in manager.refs(CliCommand):
            name = ref.record.name
            if name not in self.commands:
                offers.setdefault(name, []).append(ref)
            elif tell is not None:
                tell(f"the command {name!r} of plugin {ref.plugin!r} is left out: nuebridge has one of that name")
        return {name: ContributedCommand(refs) for name, refs in sorted(offers.items())}


class ContributedCommand(TyperCommand):
    """A plugin's verb; its code is loaded when it is run or asked for its own help, not to list it."""

    def __init__(self, refs: list[ComponentRef[CliCommand]]) -> None:
        summary = refs[0].record.summary
        if len(refs) > 1:
            summary = f"Added by more than one plugin: {', '.join(ref.plugin for ref in refs)}."
        super().__init__(refs[0].record.name, help=summary, rich_markup_mode=None)
        self.refs = refs
        self._command: Any = None

    def load(self) -> Any:
        """The command that typer makes of the plugin's function. Raises PluginError."""
        if len(self.refs) > 1:
            offers = " and ".join(f"{ref.plugin!r} ({ref.distribution} {ref.version})" for ref in self.refs)
            raise PluginError(
                f"the plugins {offers} both add a command {self.name!r}: "
                f"set NUEBRIDGE_DISABLE={self.refs[-1].plugin}, or uninstall one"
            )
        if self._command is None:
            record = self.refs[0].record
            function = self.refs[0].load()
            single = typer.Typer(add_completion=False, rich_markup_mode=None)
            # A docstring, where the function has one, says more than the record's one line.
            help_text = function.__doc__ or record.summary
            single.command(record.name, help=help_text, context_settings=dict(record.context_settings))(function)
            self._command = typer.main.get_command(single)
        return self._command

    @property
    def params(self) -> Any:
        """The options and arguments of the plugin's function."""
        return self.load().params

    @params.setter
    def params(self, value: Any) -> None:
        """The base class sets its own, which are none."""

    def make_context(self, info_name: Any, args: Any, parent: Any = None, **extra: Any) -> Any:
        """Hands over to the plugin's command, which the context then runs."""
        return self.load().make_context(info_name, args, parent=parent, **extra)

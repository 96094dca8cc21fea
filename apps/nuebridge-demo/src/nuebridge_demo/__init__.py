"""The command ``nuebridge demo``, as a plugin like any other. Nothing heavy is imported here."""

from __future__ import annotations

from collections.abc import Callable

from nuebridge.hookspecs import CliCommand, hookimpl


def _demo() -> Callable[..., None]:
    from nuebridge_demo.command import demo

    return demo


@hookimpl
def nuebridge_cli_commands() -> list[CliCommand]:
    """The one command of this package."""
    return [CliCommand(name="demo", summary="Open a web page to try integrations with clips of your own.", load=_demo)]

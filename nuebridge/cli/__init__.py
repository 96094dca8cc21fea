"""The command line: ``nuebridge VERB``.

Each verb is a small module of this package, ``_VERB.py``. To add one, write the module and add it to
``app`` below. Such a module imports typer, the standard library and nuebridge's errors only, and
what does the work inside its functions, so that ``nuebridge --help`` stays quick and works even
where torch does not. Plugins and registry come from ``ctx.obj``, a
:class:`nuebridge.cli._context.CliContext`.
"""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Sequence
from typing import Annotated

import typer

from nuebridge.cli import _adapters, _bench, _data, _plugins, _registry
from nuebridge.cli._adapt import adapt
from nuebridge.cli._compose import compose
from nuebridge.cli._context import CliContext
from nuebridge.cli._export import export
from nuebridge.cli._group import Verbs
from nuebridge.cli._push import push
from nuebridge.cli._train import train
from nuebridge.cli._transcribe import transcribe
from nuebridge.errors import NuebridgeError, PluginError

app = typer.Typer(
    name="nuebridge",
    cls=Verbs,
    no_args_is_help=True,
    add_completion=False,
    # Rich help takes longer than all the rest, and pretty tracebacks leave out what a report needs.
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
# In the order of `nuebridge --help`.
app.command()(transcribe)
app.command()(compose)
app.command()(train)
app.command()(adapt)
app.command()(export)
app.command()(push)
app.add_typer(_bench.verbs, name="bench")
app.add_typer(_data.verbs, name="data")
app.add_typer(_adapters.verbs, name="adapters")
app.add_typer(_plugins.verbs, name="plugins")
app.add_typer(_registry.verbs, name="registry")


def _show_version(wanted: bool) -> None:
    if wanted:
        from importlib import metadata

        try:
            typer.echo(f"nuebridge {metadata.version('nuebridge')}")
        except metadata.PackageNotFoundError:
            typer.echo("nuebridge (version unknown: it is not installed, only on the path)")
        raise typer.Exit


@app.callback()
def _root(
    ctx: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version and leave.")
    ] = False,
) -> None:
    """Join a speech encoder to a text language model through a small trainable bridge, and transcribe with it."""
    context = ctx.ensure_object(CliContext)
    # `nuebridge plugins` shows what is wrong with plugins by itself.
    if ctx.invoked_subcommand != "plugins":
        context.warn_of_plugins()


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the command line (``sys.argv`` for None) and leaves the process.

    A NuebridgeError becomes one message on stderr and its ``exit_status``; ``NUEBRIDGE_TRACEBACK=1``
    prints the traceback before it, and so does ``NUEBRIDGE_STRICT=1`` for the fault of a plugin.
    """
    try:
        app(args=None if arguments is None else list(arguments), prog_name="nuebridge")
    except NuebridgeError as error:
        fault_of_plugin = isinstance(error, PluginError) and os.environ.get("NUEBRIDGE_STRICT") == "1"
        if fault_of_plugin or os.environ.get("NUEBRIDGE_TRACEBACK") == "1":
            traceback.print_exc()
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_status)
    except BrokenPipeError:
        raise
    except MemoryError as error:
        _out_of_memory(error)
    except RuntimeError as error:
        if type(error).__name__ != "OutOfMemoryError":  # torch's, without importing torch
            raise
        _out_of_memory(error)
    except OSError as error:  # a full disk, say
        if os.environ.get("NUEBRIDGE_TRACEBACK") == "1":
            traceback.print_exc()
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)


def _out_of_memory(error: BaseException) -> None:
    if os.environ.get("NUEBRIDGE_TRACEBACK") == "1":
        traceback.print_exc()
    reason = " ".join(str(error).split()) or "there is no more"
    print(
        f"error: out of memory ({reason}); use smaller batches (--batch-size, data.device_batch_seconds), shorter "
        "clips or --dtype bfloat16",
        file=sys.stderr,
    )
    sys.exit(1)

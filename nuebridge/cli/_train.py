"""``nuebridge train``: runs or resumes what a configuration file describes."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from nuebridge.cli._context import CliContext, JsonFlag, RegistryFiles, print_json
from nuebridge.errors import ConfigError


def train(
    ctx: typer.Context,
    config: Annotated[Path, typer.Argument(help="Training configuration, a YAML file.")],
    set_values: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Override a key, such as schedule.steps=100.")
    ] = None,
    resume: Annotated[
        Literal["auto", "must", "never"],
        typer.Option(
            "--resume",
            help="auto: go on where there is a run in the output folder, else begin one; "
            "must: an error where there is none; never: where there is one.",
        ),
    ] = "never",
    check: Annotated[
        bool,
        typer.Option(
            "--check", help="Train nothing: look at all that the file names; say what is wrong and what it will take."
        ),
    ] = False,
    as_json: JsonFlag = False,
    init: Annotated[
        str | None,
        typer.Option("--init", metavar="MODEL", help="Write CONFIG, a commented file to start from, for this model."),
    ] = None,
    registry: RegistryFiles = None,
) -> None:
    """Train an integration. Exit status 75: stopped early, saved, to be resumed."""
    import logging
    import os

    if as_json and not check:
        raise ConfigError("--json prints what --check finds; give --check as well")
    if init is not None:
        _write_start(ctx.obj, init, config, registry)
        return
    if check:
        _check(ctx.obj, config, set_values or [], registry, as_json)
        return

    from nuebridge.train.launcher import die_with_launcher

    die_with_launcher()  # before what takes long to import

    from nuebridge.config import load_yaml, parse_set_values
    from nuebridge.train.config import TrainConfig

    # Before torch is imported, which takes seconds.
    settings = load_yaml(config, TrainConfig, set_values=parse_set_values(set_values or []))

    from nuebridge.train.loop import train as run
    from nuebridge.train.watching import line_handler

    # Of several processes (torchrun sets RANK) one speaks; the others only of what goes wrong.
    level = logging.INFO if os.environ.get("RANK", "0") == "0" else logging.ERROR
    logging.basicConfig(level=level, handlers=[line_handler()])
    final = run(settings, ctx.obj.workshop(registry), resume=resume)
    if level == logging.INFO:
        typer.echo(f"trained integration: {final}")


def _check(
    context: CliContext, config: Path, set_values: list[str], registry: list[Path] | None, as_json: bool
) -> None:
    import logging

    from nuebridge.config import Document, parse_set_values

    document = Document.read(config, set_values=parse_set_values(set_values))

    from nuebridge.train.checking import check

    # What it has to say is in the report.
    logging.disable(logging.WARNING)
    try:
        report = check(document, lambda: context.workshop(registry))
    finally:
        logging.disable(logging.NOTSET)
    if as_json:
        print_json(report.as_dict())
    else:
        typer.echo("\n".join(report.lines()))
    if report.errors:
        raise typer.Exit(2)


def _write_start(context: CliContext, model: str, file: Path, registry: list[Path] | None) -> None:
    from nuebridge.checkpoint import outline
    from nuebridge.train.starter import starting_configuration, write_starting_configuration

    if file.exists():
        raise ConfigError(f"{file} exists; name another file to write, or remove it")
    integration = outline(model, context.workshop(registry))
    text = starting_configuration(
        model,
        ctc_head=integration.ctc_head is not None,
        needs_ctc=integration.bridge.needs_ctc,
        file=str(file),
    )
    write_starting_configuration(file, text)
    typer.echo(f"written to {file}; set data.train in it, then run `nuebridge train {file} --check`")

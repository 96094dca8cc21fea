"""``nuebridge train``: runs or resumes what a configuration file describes."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from nuebridge.cli._context import RegistryFiles


def train(
    ctx: typer.Context,
    config: Annotated[Path, typer.Argument(help="Training configuration, a YAML file.")],
    set_values: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Override a key, such as schedule.steps=100.")
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run in the output folder.")] = False,
    registry: RegistryFiles = None,
) -> None:
    """Train an integration. Exit status 75: stopped early, saved, to be resumed."""
    import logging
    import os

    from nuebridge.config import load_yaml, parse_set_values
    from nuebridge.train.config import TrainConfig
    from nuebridge.train.loop import train as run

    # Of several processes (torchrun sets RANK) one speaks; the others only of what goes wrong.
    level = logging.INFO if os.environ.get("RANK", "0") == "0" else logging.ERROR
    logging.basicConfig(level=level, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    settings = load_yaml(config, TrainConfig, set_values=parse_set_values(set_values or []))
    final = run(settings, ctx.obj.workshop(registry), resume=resume)
    if level == logging.INFO:
        typer.echo(f"trained integration: {final}")

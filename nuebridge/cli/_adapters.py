"""``nuebridge adapters``: what an adapter is, and baking adapters into a model. Also the options that name adapters."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from nuebridge.cli._context import JsonFlag, RegistryFiles, columns, print_json
from nuebridge.errors import ConfigError

if TYPE_CHECKING:
    from nuebridge.model import Integration

verbs = typer.Typer(help="Show adapters, or bake them into a model.", no_args_is_help=True, rich_markup_mode=None)

Adapters = Annotated[
    list[str] | None,
    typer.Option(
        "--adapter",
        metavar="[NAME=]DIR",
        help="An adapter to add, by its own name or another; may be given more than once.",
    ),
]
AdapterWeights = Annotated[
    list[str] | None,
    typer.Option(
        "--adapter-weight",
        metavar="NAME=WEIGHT",
        help="How much of an adapter to use: 1 = as it was trained, 0 = none; may be given more than once.",
    ),
]


def parse_adapters(given: Sequence[str] | None) -> list[tuple[str | None, Path]]:
    """``NAME=DIR`` or ``DIR`` each; a name has no slash. Raises ConfigError for what is neither."""
    parsed: list[tuple[str | None, Path]] = []
    name: str | None
    for one in given or ():
        name, equals, folder = one.partition("=")
        if not equals or "/" in name:
            name, folder = None, one
        if name == "" or not folder:
            raise ConfigError(f"--adapter {one!r}: write NAME=DIR or DIR")
        parsed.append((name, Path(folder)))
    return parsed


def parse_weights(given: Sequence[str] | None) -> dict[str, float]:
    """``NAME=WEIGHT`` each. Raises ConfigError for what is not, and for a name given twice."""
    weights: dict[str, float] = {}
    for one in given or ():
        name, _, number = one.partition("=")
        try:
            weight = float(number)
        except ValueError:
            raise ConfigError(f"--adapter-weight {one}: write NAME=WEIGHT, for instance {name or 'NAME'}=0.5") from None
        if name in weights:
            raise ConfigError(f"--adapter-weight {name}: given twice")
        weights[name] = weight
    return weights


def use_adapters(
    integration: Integration, adapters: Sequence[tuple[str | None, Path]], weights: dict[str, float]
) -> None:
    """Adds adapters to a loaded integration and weighs them and its own. Raises ConfigError, CheckpointError."""
    if not adapters and not weights:
        return
    from nuebridge.lora import load_adapter, set_adapters

    for name, folder in adapters:
        load_adapter(integration, folder, name)
    active = {name: adapter.weight for name, adapter in integration.adapters.items()}
    set_adapters(integration, active | weights)


@verbs.command()
def show(
    adapter: Annotated[Path, typer.Argument(metavar="DIR", help="The folder of an adapter.")], json: JsonFlag = False
) -> None:
    """Say what an adapter changes, and of which model."""
    from nuebridge.lora import read_adapter

    saved = read_adapter(adapter)
    if json:
        print_json(saved.model_dump(mode="json"))
        return
    size = sum(file.stat().st_size for file in adapter.rglob("*") if file.is_file())
    typer.echo(f"{saved.name}: {size / 1e6:.1f} MB, written by nuebridge {saved.nuebridge_version}")
    rows: list[tuple[str, str]] = [
        (part, "held whole" if lora is None else f"LoRA, r {lora.r}, lora_alpha {lora.lora_alpha:g}")
        for part, lora in saved.parts.items()
    ]
    rows.append(("base", f"{saved.base.model or 'not named'}, weight hash {(saved.base.weight_hash or 'none')[:12]}"))
    for line in columns(rows):
        typer.echo(line)


@verbs.command()
def merge(
    ctx: typer.Context,
    model: Annotated[str, typer.Option(help="Integration: registry name, folder or hub id.")],
    output: Annotated[Path, typer.Option(help="Folder of the new integration.")],
    adapter: Adapters = None,
    adapter_weight: AdapterWeights = None,
    dtype: Annotated[
        str | None, typer.Option(help="Store the weights as float32, bfloat16 or float16 [default: losing nothing].")
    ] = None,
    registry: RegistryFiles = None,
) -> None:
    """Bake adapters into a model, which then needs them no more.

    What is baked in: the adapters given here and those of the model itself that are active.
    """
    adapters, weights = parse_adapters(adapter), parse_weights(adapter_weight)
    from nuebridge.checkpoint import check_target, load, save
    from nuebridge.lora import merge as bake

    check_target(output)
    workshop = ctx.obj.workshop(registry)
    integration = load(model, manager=workshop.manager, registry=workshop.registry)
    use_adapters(integration, adapters, weights)
    merged = bake(integration)
    if not merged:
        raise ConfigError(f"there is nothing to merge: {model} has no active adapter; give one with --adapter")
    save(integration, output, dtype=dtype)
    typer.echo(f"merged {', '.join(merged)}; written to {output}")

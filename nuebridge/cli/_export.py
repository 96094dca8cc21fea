"""``nuebridge export``: one part of an integration as its own library reads it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from nuebridge.cli._adapters import Adapters, AdapterWeights, parse_adapters, parse_weights, use_adapters
from nuebridge.cli._context import RegistryFiles


def export(
    ctx: typer.Context,
    model: Annotated[str, typer.Argument(help="Integration: registry name, folder or hub id.")],
    part: Annotated[Literal["encoder", "bridge", "decoder", "ctc-head"], typer.Option(help="The part to write.")],
    output: Annotated[Path, typer.Option(help="Folder to write it to.")],
    adapter: Adapters = None,
    adapter_weight: AdapterWeights = None,
    dtype: Annotated[
        str | None, typer.Option(help="Store the weights as float32, bfloat16 or float16 [default: losing nothing].")
    ] = None,
    registry: RegistryFiles = None,
) -> None:
    """Write one part of an integration in its own library's format, adapters merged.

    An encoder and a decoder become a folder that their library opens (the decoder's tokenizer with it), a bridge and a
    CTC head weights and a JSON file.
    """
    adapters, weights = parse_adapters(adapter), parse_weights(adapter_weight)
    from nuebridge.checkpoint import check_target, load
    from nuebridge.export import export_part
    from nuebridge.lora import merge

    check_target(output)
    workshop = ctx.obj.workshop(registry)
    integration = load(model, manager=workshop.manager, registry=workshop.registry)
    use_adapters(integration, adapters, weights)
    merged = merge(integration)
    export_part(integration, part, output, dtype=dtype)
    if merged:
        typer.echo(f"merged {', '.join(merged)}")
    info = integration.part_info.get(part.replace("-", "_"))
    if info is not None and info.license is not None:
        typer.echo(f"its license: {info.license}")
    typer.echo(f"{part} written to {output}")

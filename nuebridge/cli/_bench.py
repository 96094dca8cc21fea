"""``nuebridge bench``: nuebridge measured beside other ways of doing the same."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from nuebridge.cli._context import JsonFlag, RegistryFiles, print_json
from nuebridge.errors import ConfigError

verbs = typer.Typer(
    help="Measure nuebridge beside other ways of doing the same.", no_args_is_help=True, rich_markup_mode=None
)


@verbs.command()
def train(
    ctx: typer.Context,
    model: Annotated[
        str | None, typer.Option(help="The integration: registry name, folder or hub id [default: CONFIG's].")
    ] = None,
    data: Annotated[Path | None, typer.Option(help="Manifest to train on [default: CONFIG's data.train].")] = None,
    config: Annotated[
        Path | None, typer.Option(help="Training configuration: what is trained, batches, precision.")
    ] = None,
    versus: Annotated[
        list[str] | None,
        typer.Option("--vs", metavar="BASELINE", help="What to compare with; repeatable [default: all installed]."),
    ] = None,
    cache_frozen: Annotated[
        bool, typer.Option("--cache-frozen", help="Also measure with the frames of the frozen encoder kept on disk.")
    ] = False,
    rounds: Annotated[int, typer.Option(min=1, help="How often each is measured, in alternating order.")] = 5,
    passes: Annotated[int, typer.Option(min=1, help="Passes over the utterances in a measurement.")] = 1,
    utterances: Annotated[
        int | None, typer.Option(min=1, help="At most so many utterances, of all lengths [default: all].")
    ] = None,
    warmup_steps: Annotated[int, typer.Option(min=0, help="Steps before the measurement begins.")] = 3,
    threads: Annotated[int | None, typer.Option(min=1, help="Threads that compute [default: torch's own].")] = None,
    device: Annotated[str | None, typer.Option(help="What computes: cpu, cuda, cuda:1 and so on.")] = None,
    dtype: Annotated[
        Literal["float32", "bfloat16"] | None, typer.Option(help="What is computed in [default: CONFIG's].")
    ] = None,
    set_values: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Set a key, such as data.batch_seconds=80."),
    ] = None,
    output: Annotated[Path | None, typer.Option(metavar="FILE", help="Also write the figures as JSON.")] = None,
    as_json: JsonFlag = False,
    registry: RegistryFiles = None,
) -> None:
    """Measure the throughput of training: audio seconds a second, memory, padding.

    Every row trains the same parts of the same integration on the same utterances, each measurement in a new process.
    """
    import json

    from nuebridge.config import load_yaml, parse_set_values, parse_yaml
    from nuebridge.train.config import TrainConfig

    values = parse_set_values(set_values or [])
    for key, value in {"model": model, "data.train": data, "device": device, "precision": dtype}.items():
        if value is not None:
            values[key] = str(value)
    if output is not None and not output.parent.is_dir():
        raise ConfigError(f"there is no folder {output.parent} to write {output.name} into")
    if config is not None:
        settings = load_yaml(config, TrainConfig, set_values=values)
    elif model is None or data is None:
        raise ConfigError("give --model and --data, or a configuration that names both with --config")
    else:
        settings = parse_yaml("{output: unused, schedule: {steps: 1}}", TrainConfig, "options", set_values=values)

    from nuebridge.bench.training import BenchOptions, bench_training

    options = BenchOptions(
        baselines=None if versus is None else tuple(versus),
        cached=cache_frozen,
        rounds=rounds,
        passes=passes,
        warmup_steps=warmup_steps,
        utterances=utterances,
        threads=threads,
        registry_files=tuple(path.absolute() for path in registry or ()),
    )
    results = bench_training(settings, options, ctx.obj.workshop(registry), lambda line: typer.echo(line, err=True))
    if output is not None:
        output.write_text(json.dumps(results.as_dict(), indent=2) + "\n", encoding="utf-8")
    if as_json:
        print_json(results.as_dict())
    else:
        typer.echo("\n".join(results.lines()))

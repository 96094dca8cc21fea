"""``nuebridge adapt``: an adapter for a new domain, and a table of what it does to both domains."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from nuebridge.cli._context import JsonFlag, RegistryFiles, print_json, warn
from nuebridge.errors import ConfigError


def adapt(
    ctx: typer.Context,
    model: Annotated[str, typer.Option(help="The base: registry name, folder or hub id. It is left as it is.")],
    data: Annotated[Path, typer.Option(metavar="NEW", help="Manifest of the new domain.")],
    output: Annotated[Path, typer.Option(help="Folder of the adapter; the training run is kept in it.")],
    test: Annotated[
        Path | None,
        typer.Option(metavar="NEW_TEST", help="Manifest to measure the new domain on [default: a tenth of NEW]."),
    ] = None,
    validation: Annotated[
        Path | None,
        typer.Option(metavar="NEW_DEV", help="Manifest to choose the best checkpoint by [default: a tenth of NEW]."),
    ] = None,
    replay: Annotated[
        str | None,
        typer.Option(metavar="OLD", help="Data of the original domain, trained on as well, against forgetting."),
    ] = None,
    replay_share: Annotated[
        float | None, typer.Option(help="Share of the audio trained on that is replay [default: 0.3].")
    ] = None,
    original_test: Annotated[
        Path | None, typer.Option(metavar="OLD_TEST", help="Manifest to measure the original domain on.")
    ] = None,
    kl: Annotated[
        float | None,
        typer.Option(
            help="How firmly the model is held near its base on what it trains on "
            "[default: 0.2 without --replay, 0 with it]."
        ),
    ] = None,
    parts: Annotated[
        str | None,
        typer.Option(
            metavar="PART,...",
            help="What is changed: encoder and decoder by LoRA, bridge and ctc_head whole [default: bridge,decoder].",
        ),
    ] = None,
    r: Annotated[int | None, typer.Option("--r", help="Rank of the LoRA [default: 16].")] = None,
    lora_alpha: Annotated[
        float | None, typer.Option(help="What LoRA adds is scaled by this over its rank [default: 32].")
    ] = None,
    lora_dropout: Annotated[
        float | None, typer.Option(help="Share of LoRA's inputs that is dropped in training [default: 0.05].")
    ] = None,
    target_modules: Annotated[
        str | None, typer.Option(metavar="NAME,...", help="Layers that get LoRA [default: the part's own choice].")
    ] = None,
    steps: Annotated[int | None, typer.Option(help="Training steps.")] = None,
    epochs: Annotated[
        float | None,
        typer.Option(help="How often NEW is gone through [default: 3 times, or oftener until there are 400 steps]."),
    ] = None,
    learning_rate: Annotated[float | None, typer.Option(help="Peak learning rate of LoRA [default: 0.001].")] = None,
    bridge_learning_rate: Annotated[
        float | None, typer.Option(help="Peak learning rate of bridge and CTC head [default: a third of LoRA's].")
    ] = None,
    name: Annotated[str | None, typer.Option(help="Name of the adapter [default: that of its folder].")] = None,
    fillers: Annotated[
        str | None,
        typer.Option(
            metavar="PHRASE,...",
            help="Words and phrases ('um,you know') to count where they are written and were not said, beside "
            "the words that are found to be of the new domain.",
        ),
    ] = None,
    group_by: Annotated[
        list[str] | None,
        typer.Option(
            metavar="FIELD",
            help="Field that held-out parts of NEW do not share with the rest; repeatable "
            "[default: speaker, recording].",
        ),
    ] = None,
    only_warn: Annotated[
        list[str] | None,
        typer.Option(
            metavar="KIND",
            help="Overlap of test and training data that is no error here, such as overlap-text; repeatable.",
        ),
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Of what is held out, the order, and all that is drawn.")] = None,
    device: Annotated[str | None, typer.Option(help="What computes: cpu, cuda, cuda:1 and so on.")] = None,
    precision: Annotated[
        Literal["float32", "bfloat16"] | None, typer.Option(help="What training computes in [default: float32].")
    ] = None,
    set_values: Annotated[
        list[str] | None,
        typer.Option(
            "--set", metavar="KEY=VALUE", help="Set a key of the training file, such as schedule.shape=linear."
        ),
    ] = None,
    resume: Annotated[
        Literal["auto", "must", "never"],
        typer.Option(
            "--resume",
            help="auto: go on where there is a run in the output folder, else begin one; "
            "must: an error where there is none; never: where there is one.",
        ),
    ] = "never",
    keep_run: Annotated[
        bool, typer.Option("--keep-run", help="Keep the run's checkpoints when the adapter is written.")
    ] = False,
    as_json: JsonFlag = False,
    registry: RegistryFiles = None,
) -> None:
    """Adapt an integration to a new domain: an adapter of a few MB, and a table of before and after.

    Exit status 75: stopped early, saved, to be gone on with by --resume auto.
    """
    import logging
    import os

    from nuebridge.train.launcher import die_with_launcher

    die_with_launcher()  # before what takes long to import

    from nuebridge.adapt.settings import AdaptSettings
    from nuebridge.config import parse_set_values, validate

    lora = {"r": r, "lora_alpha": lora_alpha, "lora_dropout": lora_dropout, "target_modules": _words(target_modules)}
    given: dict[str, Any] = {
        "model": model,
        "data": str(data),
        "output": str(output),
        "test": test,
        "validation": validation,
        "replay": replay,
        "replay_share": replay_share,
        "original_test": original_test,
        "kl": kl,
        "parts": _words(parts),
        "lora": {key: value for key, value in lora.items() if value is not None} or None,
        "steps": steps,
        "epochs": epochs,
        "learning_rate": learning_rate,
        "bridge_learning_rate": bridge_learning_rate,
        "name": name,
        "fillers": _words(fillers),
        "group_by": group_by or None,
        "only_warn": only_warn or None,
        "seed": seed,
        "device": device,
        "precision": precision,
        "set_values": parse_set_values(set_values or []),
        "keep_run": keep_run,
    }
    if replay_share is not None and replay is None:
        raise ConfigError("--replay-share is of the data of --replay; give that as well")
    # Before torch is imported, which takes seconds.
    settings = validate({key: value for key, value in given.items() if value is not None}, AdaptSettings, "adapt")

    from nuebridge.adapt.adapting import adapt as run
    from nuebridge.adapt.results import as_text, notes

    # Of several processes (torchrun sets RANK) one speaks; the others only of what goes wrong.
    level = logging.INFO if os.environ.get("RANK", "0") == "0" else logging.ERROR
    logging.basicConfig(level=level, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    found = run(settings, ctx.obj.workshop(registry), resume=resume)
    if found is None:
        return
    if as_json:
        print_json(found)
        return
    typer.echo(as_text(found))
    for line in notes(found, warnings=False):
        typer.echo(line)
    for line in found["warnings"]:
        warn(line)
    typer.echo(f"adapter: {settings.output}")


def _words(given: str | None) -> list[str] | None:
    return None if given is None else [word.strip() for word in given.split(",") if word.strip()]

"""``nuebridge push``: an integration and its model card to the hub."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from nuebridge.cli._context import RegistryFiles, warn


def push(
    ctx: typer.Context,
    model: Annotated[str, typer.Argument(help="Integration: registry name, folder or hub id.")],
    repo: Annotated[str, typer.Argument(help="Repository on the hub, ORG/NAME; it is made where there is none.")],
    private: Annotated[bool, typer.Option("--private", help="Make a new repository private.")] = False,
    weights: Annotated[
        Literal["all", "trained"], typer.Option(help="Upload all weights, or only those that training touched.")
    ] = "all",
    evaluation: Annotated[
        Path | None, typer.Option(help="JSON file of error rates for the card.", dir_okay=False)
    ] = None,
    license: Annotated[
        str | None,
        typer.Option(help="License of the whole for the card, as the hub spells it [default: the parts' own]."),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the card and what would be uploaded; no hub is asked.")
    ] = False,
    registry: RegistryFiles = None,
) -> None:
    """Publish an integration on the Hugging Face hub, with a model card made of what its checkpoint says.

    A README.md that is there is replaced. Needs `hf auth login` once.
    """
    from nuebridge.errors import ConfigError
    from nuebridge.registry.entries import HUB_ID

    if "/" not in repo or not HUB_ID.fullmatch(repo):
        raise ConfigError(f"{repo!r} is no repository of the hub; write ORG/NAME")
    from nuebridge.checkpoint import load, push_to_hub
    from nuebridge.publishing import judge_licenses, model_card, part_licenses, read_evaluation

    measured = read_evaluation(evaluation) if evaluation is not None else []
    workshop = ctx.obj.workshop(registry)
    integration = load(model, manager=workshop.manager, registry=workshop.registry)
    judgement = judge_licenses(part_licenses(integration))
    if judgement.combined != "yes":
        said = {"no": "do not allow", "conditions": "allow on conditions", "unknown": "are not known to allow"}
        warn(f"the parts' licenses {said[judgement.combined]} sharing them as one: {judgement.reasons[0]}")
    card = model_card(integration, repo, measured, license=license)
    if dry_run:
        typer.echo(card)
        typer.echo(f"would be uploaded to {repo} ({'private' if private else 'public'} where it is new):")
        for name, part in integration.parts.items():
            count = sum(parameter.numel() for parameter in part.parameters())
            typer.echo(f"  {name:9} {count / 1e6:10.2f} M parameters")
        typer.echo("nothing was uploaded")
        return
    typer.echo(push_to_hub(integration, repo, private=private, weights=weights, card=card))

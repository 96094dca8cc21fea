"""``nuebridge compose``: parts by name become an integration on disk."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from nuebridge.cli._context import RegistryFiles


def compose(
    ctx: typer.Context,
    encoder: Annotated[str, typer.Option(help="Speech encoder: registry name, folder, hub id or COMPONENT:SOURCE.")],
    bridge: Annotated[str, typer.Option(help="Bridge: registry name.")],
    decoder: Annotated[str, typer.Option(help="Text decoder: registry name, folder, hub id or COMPONENT:SOURCE.")],
    output: Annotated[Path, typer.Option(help="Folder to write the integration to.")],
    ctc_head: Annotated[str | None, typer.Option(help="CTC head: registry name.")] = None,
    prefix: Annotated[
        str | None, typer.Option(help="Prompt before the audio [default: the decoder's begin-of-text token].")
    ] = None,
    suffix: Annotated[str, typer.Option(help="Prompt between the audio and the text.")] = "",
    language: Annotated[str | None, typer.Option(help="Language of the speech, a code such as 'en'.")] = None,
    max_audio_seconds: Annotated[
        float | None, typer.Option(min=0.1, help="Longest clip it reads at once; longer ones are cut at quiet places.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of the new bridge and CTC head.")] = 0,
    registry: RegistryFiles = None,
) -> None:
    """Join an encoder, a bridge and a decoder into an integration, its bridge yet untrained."""
    from nuebridge.checkpoint import check_target, save
    from nuebridge.compose import compose as compose_parts
    from nuebridge.compose import default_prompt
    from nuebridge.config import validate
    from nuebridge.settings import PromptTemplate
    from nuebridge.train.starter import FILE_NAME, starting_configuration, write_starting_configuration

    # Both are known to be right before the parts are loaded, which may take minutes.
    check_target(output)
    prompt = validate({"prefix": prefix or "", "suffix": suffix}, PromptTemplate, "prompt")
    workshop = ctx.obj.workshop(registry)
    integration = compose_parts(
        encoder,
        bridge,
        decoder,
        ctc_head,
        max_audio_seconds=max_audio_seconds,
        language=language,
        seed=seed,
        manager=workshop.manager,
        registry=workshop.registry,
    )
    if prefix is None:
        prompt = prompt.model_copy(update={"prefix": default_prompt(integration.decoder).prefix})
    integration.prompt = prompt
    save(integration, output)
    for name, part in integration.parts.items():
        count = sum(parameter.numel() for parameter in part.parameters())
        typer.echo(f"{name:9} {integration.part_info[name].component:16} {count / 1e6:10.2f} M parameters")
    file = output / FILE_NAME
    text = starting_configuration(
        str(output), ctc_head=integration.ctc_head is not None, needs_ctc=integration.bridge.needs_ctc, file=str(file)
    )
    write_starting_configuration(file, text)
    typer.echo(f"written to {output}")
    typer.echo(f"to train it: set data.train in {file}, then run `nuebridge train {file} --check`")

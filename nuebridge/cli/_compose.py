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
    ctc_head: Annotated[
        str | None,
        typer.Option(help="CTC head: registry name, or 'from-encoder': the one its checkpoint brings along."),
    ] = None,
    prefix: Annotated[
        str | None, typer.Option(help="Prompt before the audio [default: the decoder's begin-of-text token].")
    ] = None,
    suffix: Annotated[str | None, typer.Option(help="Prompt between the audio and the text [default: none].")] = None,
    prompt: Annotated[
        str | None,
        typer.Option(help="'chat': prefix and suffix are those of the decoder's own chat template."),
    ] = None,
    system: Annotated[str | None, typer.Option(help="With --prompt chat: the system's turn.")] = None,
    instruction: Annotated[
        str | None,
        typer.Option(
            help="With --prompt chat: what the user says [default: Transcribe the speech.]; {audio} in it is the "
            "audio's place, else it goes before it."
        ),
    ] = None,
    language: Annotated[str | None, typer.Option(help="Language of the speech, a code such as 'en'.")] = None,
    max_audio_seconds: Annotated[
        float | None, typer.Option(min=0.1, help="Longest clip it reads at once; longer ones are cut at quiet places.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of the new bridge and CTC head.")] = 0,
    weights: Annotated[
        str,
        typer.Option(help="'trained': name the sources of encoder and decoder instead of copying their weights."),
    ] = "all",
    registry: RegistryFiles = None,
) -> None:
    """Join an encoder, a bridge and a decoder into an integration, its bridge yet untrained."""
    from nuebridge.checkpoint import check_target, save
    from nuebridge.compose import compose as compose_parts
    from nuebridge.config import validate
    from nuebridge.errors import ConfigError
    from nuebridge.settings import ChatPrompt, PromptTemplate
    from nuebridge.train.starter import FILE_NAME, starting_configuration, write_starting_configuration

    # Both are known to be right before the parts are loaded, which may take minutes.
    check_target(output)
    if weights not in ("all", "trained"):
        raise ConfigError(f"--weights is {weights!r}; it can be: all, trained")
    plain = {key: text for key, text in (("prefix", prefix), ("suffix", suffix)) if text is not None}
    chat = {key: text for key, text in (("system", system), ("instruction", instruction)) if text is not None}
    if prompt not in (None, "chat"):
        raise ConfigError(f"--prompt is {prompt!r}; it can be 'chat', or give --prefix and --suffix")
    if prompt == "chat" and plain:
        raise ConfigError(f"--prompt chat has the decoder's own prefix and suffix; leave out --{next(iter(plain))}")
    if prompt is None and chat:
        raise ConfigError(f"--{next(iter(chat))} goes with --prompt chat; add it, or leave --{next(iter(chat))} out")
    wanted: ChatPrompt | PromptTemplate = validate(plain, PromptTemplate, "prompt")
    if prompt is not None:
        wanted = validate(chat, ChatPrompt, "prompt")
    workshop = ctx.obj.workshop(registry)
    integration = compose_parts(
        encoder,
        bridge,
        decoder,
        ctc_head,
        prompt=wanted if prompt or prefix is not None else None,
        max_audio_seconds=max_audio_seconds,
        language=language,
        seed=seed,
        manager=workshop.manager,
        registry=workshop.registry,
    )
    if suffix is not None and prefix is None:
        integration.prompt = integration.prompt.model_copy(update={"suffix": suffix})
    save(integration, output, weights="trained" if weights == "trained" else "all")
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

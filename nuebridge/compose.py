"""Parts by name become an integration: sizes are inferred, and what does not fit is an error.

A name is an entry of the registry, a folder, a hub id, or ``COMPONENT-ID:SOURCE``.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import Any

import torch
from pydantic import BaseModel

from nuebridge.contracts import Bridge, CtcWeights, SourcedPart, SpeechEncoder, TextDecoder
from nuebridge.ctc import CtcHead
from nuebridge.errors import CheckpointError, ConfigError
from nuebridge.hookspecs import BridgeComponent, Component, SpeechEncoderComponent, TextDecoderComponent
from nuebridge.model import Integration, PartInfo, with_info
from nuebridge.plugins import ComponentRef, PluginManager
from nuebridge.prompt import settled
from nuebridge.registry import (
    FROM_ENCODER,
    BridgeEntry,
    DecoderEntry,
    EncoderEntry,
    IntegrationEntry,
    Registry,
    is_local,
)
from nuebridge.settings import ChatPrompt, GenerationSettings, PromptTemplate

CTC_HEAD = "ctc-head"
"""What ``PartInfo.component`` says of the CTC head, which no plugin provides."""


@dataclass(frozen=True)
class Workshop:
    """The plugins and the registry that names are looked up in."""

    manager: PluginManager
    registry: Registry
    outlines: bool = False
    """Parts are made with their weights unread, on torch's meta device, where they can be: to look at, not to compute
    with (see ``SourcedPart.outline``)."""
    published: bool = False
    """Outlines of what a hub has are made of the configuration that it was published with, and no hub is asked; what is
    not known so is a CheckpointError. Goes with ``outlines``."""

    @classmethod
    def open(cls, manager: PluginManager | None = None, registry: Registry | None = None) -> Workshop:
        """The given ones, or those of the environment."""
        manager = manager or PluginManager.discover()
        return cls(manager, registry or Registry.load(manager))


def compose(
    encoder: str,
    bridge: str,
    decoder: str,
    ctc_head: str | None = None,
    *,
    prompt: PromptTemplate | ChatPrompt | None = None,
    generation: GenerationSettings | None = None,
    max_audio_seconds: float | None = None,
    language: str | None = None,
    seed: int = 0,
    manager: PluginManager | None = None,
    registry: Registry | None = None,
) -> Integration:
    """Joins parts named in the registry (or given as folder, hub id or ``COMPONENT-ID:SOURCE``).

    The bridge and the CTC head are new and untrained, their weights drawn from ``seed``; all
    weights are float32 in memory, and the model is in eval mode. The CTC head ``from-encoder`` is
    the one that the encoder's checkpoint was fine-tuned with, its weights and its vocabulary. Without a
    prompt, the decoder's begin-of-text token opens it (``ChatPrompt()`` is the one that its chat template
    makes); without ``max_audio_seconds``, what the encoder reads at once bounds it. Raises RegistryError,
    PluginError, CheckpointError, PromptError, ConfigError or SizeMismatchError.
    """
    return _compose(
        Workshop.open(manager, registry),
        (encoder, bridge, decoder, ctc_head),
        prompt=prompt,
        generation=generation,
        max_audio_seconds=max_audio_seconds,
        language=language,
        seed=seed,
    )


def _compose(
    workshop: Workshop,
    names: tuple[str, str, str, str | None],
    *,
    prompt: PromptTemplate | ChatPrompt | None,
    generation: GenerationSettings | None,
    max_audio_seconds: float | None,
    language: str | None,
    seed: int,
) -> Integration:
    encoder, bridge, decoder, ctc_head = names
    # Loading may take minutes: a name that is not there is found first.
    bridge_entry = workshop.registry.resolve("bridges", bridge, workshop.manager)
    head_entry = None
    if ctc_head not in (None, FROM_ENCODER):
        head_entry = workshop.registry.resolve("ctc_heads", ctc_head, workshop.manager)
    own_head = _own_ctc_head(workshop, encoder) if ctc_head == FROM_ENCODER else None
    speech = _sourced(workshop, SpeechEncoderComponent, "encoders", encoder)
    text = _sourced(workshop, TextDecoderComponent, "decoders", decoder)
    encoder_part, decoder_part = speech.part, text.part
    assert isinstance(encoder_part, SpeechEncoder) and isinstance(decoder_part, TextDecoder)
    with torch.random.fork_rng(devices=[]), made_by(workshop):
        torch.manual_seed(seed)
        built, bridge_info = _bridge(workshop, bridge_entry, encoder_part.hidden_size, decoder_part.hidden_size)
        head = None if head_entry is None else CtcHead(encoder_part.hidden_size, head_entry.vocabulary)
        if own_head is not None:
            head = CtcHead.of_checkpoint(own_head)
    info = {"encoder": speech.info, "bridge": bridge_info, "decoder": text.info}
    if head is not None:
        info["ctc_head"] = ctc_head_info()
    if own_head is not None:
        source, revision, license = speech.info.source, speech.info.revision, speech.info.license
        info["ctc_head"] = replace(info["ctc_head"], source=source, revision=revision, license=license)
    integration = Integration(
        encoder_part,
        built,
        decoder_part,
        ctc_head=head,
        prompt=default_prompt(decoder_part) if prompt is None else settled(prompt, decoder_part),
        generation=generation,
        max_audio_seconds=_bounded(max_audio_seconds, encoder_part),
        language=language,
        part_info=info,
    )
    return integration.float().eval()


def compose_entry(entry: IntegrationEntry, workshop: Workshop, *, seed: int = 0) -> Integration:
    """The integration that a registry entry spells out by its parts, with an untrained bridge."""
    if entry.encoder is None or entry.bridge is None or entry.decoder is None:
        raise ConfigError("an integration without weights needs an encoder, a bridge and a decoder")
    return _compose(
        workshop,
        (entry.encoder, entry.bridge, entry.decoder, entry.ctc_head),
        prompt=entry.prompt,
        generation=GenerationSettings(max_new_tokens=entry.max_new_tokens, min_new_tokens=entry.min_new_tokens),
        max_audio_seconds=entry.max_audio_seconds,
        language=entry.language,
        seed=seed,
    )


def default_prompt(decoder: TextDecoder) -> PromptTemplate:
    """The prompt of an integration that names none: the decoder's begin-of-text token, where it has one."""
    if decoder.bos_token_id is None:
        return PromptTemplate()
    token = decoder.token(decoder.bos_token_id)
    return PromptTemplate(prefix=token.replace("{", "{{").replace("}", "}}"))


def part_info(ref: ComponentRef[Any], **source: Any) -> PartInfo:
    """Where a part comes from, given the component that makes it."""
    return PartInfo(ref.id, ref.distribution, ref.version, **source)


def ctc_head_info() -> PartInfo:
    """Where the CTC head comes from: nuebridge itself."""
    from importlib.metadata import version

    return PartInfo(CTC_HEAD, "nuebridge", version("nuebridge"))


@dataclass(frozen=True)
class _Sourced:
    part: SourcedPart
    info: PartInfo


def _own_ctc_head(workshop: Workshop, encoder: str) -> CtcWeights:
    """The CTC head of an encoder's checkpoint. Raises CheckpointError where it has none."""
    entry = workshop.registry.resolve("encoders", encoder, workshop.manager)
    if workshop.published and not is_local(entry.source):
        raise CheckpointError(f"the CTC head comes with the checkpoint {entry.source}, so it has to be loaded for that")
    ref = workshop.manager.find(SpeechEncoderComponent, entry.component)
    encoder_class: type[SpeechEncoder] = ref.load()
    own = encoder_class.own_ctc_head(entry.source, ref.parse_options(entry.options), revision=entry.revision)
    if own is None:
        raise CheckpointError(
            f"{entry.source} brings no CTC head along, as only checkpoints fine-tuned with CTC do; name a CTC head of "
            "the registry instead of from-encoder, or leave it out"
        )
    return own


def _bounded(max_audio_seconds: float | None, encoder: SpeechEncoder) -> float | None:
    """The longest clip of an integration: as asked for, as far as the encoder reads so much at once."""
    most = encoder.max_audio_seconds
    if max_audio_seconds is None or most is None:
        return most if max_audio_seconds is None else max_audio_seconds
    if max_audio_seconds > most:
        raise ConfigError(
            f"max_audio_seconds is {max_audio_seconds:g}, but the encoder reads at most {most:g} s at once; ask less"
        )
    return max_audio_seconds


def _sourced(workshop: Workshop, kind: type[Component], section: str, name: str) -> _Sourced:
    entry = workshop.registry.resolve(section, name, workshop.manager)
    assert isinstance(entry, EncoderEntry | DecoderEntry)
    ref = workshop.manager.find(kind, entry.component)
    options = ref.parse_options(entry.options)
    part = read_sourced(workshop, ref, entry.source, options, revision=entry.revision)
    info = part_info(ref, source=entry.source, revision=entry.revision, license=entry.license)
    return _Sourced(part, info if workshop.outlines else with_info(info, part))


def read_encoder(workshop: Workshop, name: str) -> tuple[SpeechEncoder, PartInfo]:
    """An encoder by whatever a name of one may be, and where it comes from: for parts that are made of others."""
    speech = _sourced(workshop, SpeechEncoderComponent, "encoders", name)
    assert isinstance(speech.part, SpeechEncoder)
    return speech.part, speech.info


def read_decoder(workshop: Workshop, name: str) -> tuple[TextDecoder, PartInfo]:
    """The same of a decoder."""
    text = _sourced(workshop, TextDecoderComponent, "decoders", name)
    assert isinstance(text.part, TextDecoder)
    return text.part, text.info


def read_sourced(
    workshop: Workshop, ref: ComponentRef[Any], source: str, options: BaseModel, *, revision: str | None = None
) -> Any:
    """An encoder or decoder from its source, or its outline where the workshop makes outlines and it has one."""
    if workshop.published and not is_local(source):
        return _published(ref, source, options)
    component = ref.load()
    part = component.outline(source, options, revision=revision) if workshop.outlines else None
    return component.load_in(workshop, source, options, revision=revision) if part is None else part


def _published(ref: ComponentRef[Any], source: str, options: BaseModel) -> Any:
    part = None if ref.record.published is None else ref.record.published(source, options)
    if part is None:
        raise CheckpointError(
            f"{ref.id} does not know the configuration that {source} was published with, so nothing can be said of "
            "its size before it is loaded"
        )
    return part


def made_by(workshop: Workshop) -> AbstractContextManager[Any]:
    """A block in which new parts are made as the workshop makes them: in full, or on torch's meta device."""
    return torch.device("meta") if workshop.outlines else nullcontext()


def _bridge(workshop: Workshop, entry: BridgeEntry, input_size: int, output_size: int) -> tuple[Bridge, PartInfo]:
    ref = workshop.manager.find(BridgeComponent, entry.component)
    bridge = ref.load().build(input_size, output_size, ref.parse_options(entry.options))
    assert isinstance(bridge, Bridge)
    return bridge, part_info(ref)

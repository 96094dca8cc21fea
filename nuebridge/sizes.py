"""How large parts and integrations are, and how much audio fits, told without any weights.

Everything here is computed from configurations: parts are made on torch's meta device, joined as they would be, and
looked at. What a hub has is made of the configuration it was published with, where its component knows it; no hub is
asked, and nothing is said of the weights themselves.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from nuebridge.checkpoint import outline
from nuebridge.compose import Workshop, compose_entry, read_sourced
from nuebridge.contracts import Bridge, Part, SpeechEncoder, TextDecoder
from nuebridge.errors import CheckpointError
from nuebridge.hookspecs import Component, SpeechEncoderComponent, TextDecoderComponent
from nuebridge.model import Integration
from nuebridge.prompt import render
from nuebridge.registry import DecoderEntry, EncoderEntry, IntegrationEntry, is_local
from nuebridge.settings import PromptTemplate

PUBLISHED = "the published configuration"
"""The ``basis`` of what was not looked at itself."""

_LONGEST = 24 * 3600
"""Seconds beyond which no clip is looked for."""


@dataclass(frozen=True)
class PartSize:
    """What is known of a part; None where it does not apply or is not bounded."""

    parameters: int
    """Each once, tied ones included once."""
    hidden_size: int | None = None
    """Width of an encoder's frames or of a decoder's embeddings."""
    sample_rate: int | None = None
    """Hz."""
    frame_rate: float | None = None
    """Nominal frames per second."""
    vocab_size: int | None = None
    max_positions: int | None = None
    """Prompt plus text."""


@dataclass(frozen=True)
class IntegrationSize:
    """What is known of an integration."""

    parts: Mapping[str, PartSize]
    positions_per_second: float
    """Audio positions that the decoder reads for a second of audio; where compression depends on the data, at most."""
    min_audio_seconds: float
    prompt_positions: int | None
    """Tokens around the audio; None where the tokenizer is not at hand, and 0 is reckoned with."""
    longest_audio_seconds: float | None
    """The longest clip of which prompt, audio and the longest allowed text fit; None where nothing bounds it."""


@dataclass(frozen=True)
class Computed:
    """Sizes, and what they were computed from."""

    basis: str
    size: PartSize | IntegrationSize


def entry_size(entry: EncoderEntry | DecoderEntry | IntegrationEntry, name: str, workshop: Workshop) -> Computed:
    """The size of an entry of the registry, without weights; ``name`` is its name.

    Raises CheckpointError where only loading it could tell, and what reading its configuration raises.
    """
    workshop = replace(workshop, outlines=True, published=True)
    if isinstance(entry, IntegrationEntry):
        return _integration(entry, name, workshop)
    kind: type[Component] = SpeechEncoderComponent if isinstance(entry, EncoderEntry) else TextDecoderComponent
    ref = workshop.manager.find(kind, entry.component)
    options = ref.parse_options(entry.options)
    if is_local(entry.source):
        part = ref.load().outline(entry.source, options, revision=entry.revision)
        if part is None:
            raise CheckpointError(f"{ref.id} tells the size of a checkpoint only when it loads it")
        return Computed(f"the configuration in {entry.source}", part_size(part))
    part = read_sourced(workshop, ref, entry.source, options, revision=entry.revision)
    return Computed(PUBLISHED, part_size(part))


def _integration(entry: IntegrationEntry, name: str, workshop: Workshop) -> Computed:
    if entry.weights is not None and Path(entry.weights.source).is_dir():
        integration = outline(name, workshop)
        return Computed(f"the configuration in {entry.weights.source}", integration_size(integration))
    if entry.encoder is None or entry.bridge is None or entry.decoder is None:
        raise CheckpointError("its parts are named in its checkpoint alone, which is not here")
    # A prompt that is left open, or to a chat template, would need the tokenizer.
    prompt = entry.prompt if isinstance(entry.prompt, PromptTemplate) else PromptTemplate()
    return Computed(PUBLISHED, integration_size(compose_entry(entry.model_copy(update={"prompt": prompt}), workshop)))


def part_size(part: Part) -> PartSize:
    """The size of a part, on the meta device or not."""
    parameters = sum(parameter.numel() for parameter in part.parameters())
    if isinstance(part, SpeechEncoder):
        return PartSize(parameters, part.hidden_size, part.sample_rate, part.frame_rate)
    if isinstance(part, TextDecoder):
        return PartSize(parameters, part.hidden_size, vocab_size=part.vocab_size, max_positions=part.max_positions)
    return PartSize(parameters, part.output_size if isinstance(part, Bridge) else None)


def integration_size(integration: Integration) -> IntegrationSize:
    """The size of an integration and the clips that fit, by the exact lengths of its own parts."""
    rate = (_positions(integration, 20.0) - _positions(integration, 10.0)) / 10.0
    around = _prompt_positions(integration)
    return IntegrationSize(
        parts={name: part_size(part) for name, part in integration.parts.items()},
        positions_per_second=rate,
        min_audio_seconds=integration.min_audio_seconds,
        prompt_positions=around,
        longest_audio_seconds=_longest(integration, around or 0),
    )


def _positions(integration: Integration, seconds: float) -> int:
    samples = torch.tensor([round(seconds * integration.sample_rate)])
    return int(integration.bridge.output_lengths(integration.encoder.output_lengths(samples).clamp(min=0)))


def _prompt_positions(integration: Integration) -> int | None:
    """The tokens of the prompt, its fields empty where they have no default."""
    values = {name: integration.prompt.defaults.get(name, "") for name in integration.prompt.fields}
    try:
        return sum(len(integration.decoder.encode(text)) for text in render(integration.prompt, values))
    except CheckpointError:
        return None


def _longest(integration: Integration, around: int) -> float | None:
    limit, budget = integration.decoder.max_positions, integration.generation.max_new_tokens
    if limit is None:
        return None

    def fits(tenths: int) -> bool:
        seconds = tenths / 10
        return around + _positions(integration, seconds) + budget.tokens(seconds) <= limit

    low, high = 0, 10 * _LONGEST
    if fits(high):
        return None
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low / 10

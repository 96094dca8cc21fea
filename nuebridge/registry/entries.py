"""The entries of a registry file, as pydantic models. Sizes and rates of parts are never among them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar

from pydantic import AfterValidator, Field, model_validator

from nuebridge.settings import CtcVocabulary, Prompt, Settings, TokenBudget

ENTRY_NAME = re.compile(r"[a-z0-9]+([-.][a-z0-9]+)*")
COMPONENT_ID = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*\.[a-z0-9]+(-[a-z0-9]+)*")
HUB_ID = re.compile(r"[\w-][\w.-]*(/[\w-][\w.-]*)?")
FROM_ENCODER = "from-encoder"
"""In place of a CTC head's name: the one that the encoder's checkpoint was fine-tuned with."""
_RELATIVE = ("./", "../", "~/")


def _name(value: str) -> str:
    if not ENTRY_NAME.fullmatch(value):
        raise ValueError(f"{value!r} is not a kebab-case name, like 'my-encoder-2.1'")
    return value


def _component(value: str) -> str:
    if not COMPONENT_ID.fullmatch(value):
        raise ValueError(f"{value!r} is not the id of a component, PLUGIN.NAME; `nuebridge plugins` lists them")
    return value


def _source(value: str) -> str:
    if not (is_local(value) or HUB_ID.fullmatch(value)):
        raise ValueError(f"{value!r} is neither a hub id, ORG/NAME, nor a path; a path starts with ./, ../, ~/ or /")
    return value


def _path(value: str) -> str:
    if not is_local(value):
        raise ValueError(f"{value!r} is not a path; a path starts with ./, ../, ~/ or /")
    return value


def is_local(source: str) -> bool:
    """True where a source is a path of this machine, not a hub id."""
    return source in (".", "..") or source.startswith(_RELATIVE) or Path(source).is_absolute()


Name = Annotated[str, AfterValidator(_name)]
ComponentId = Annotated[str, AfterValidator(_component)]
Source = Annotated[str, AfterValidator(_source)]
LocalPath = Annotated[str, AfterValidator(_path)]


class Entry(Settings):
    """What every entry of the registry may say."""

    kind: ClassVar[str]

    summary: str | None = None
    """One line."""
    replaces: bool = False
    """True where this entry is meant to replace one of the same name in a lower layer."""


class SourcedEntry(Entry):
    """A part that starts from a checkpoint."""

    component: ComponentId
    """Which component reads the checkpoint."""
    source: Source
    """Hub id, or path: ``./`` and ``../`` are relative to the registry file."""
    revision: str | None = None
    """Commit of the hub repository; null leaves open what will be downloaded, with a warning."""
    license: str | None = None
    """SPDX identifier of the weights' license, or the hub's own name for it, where it is known."""
    options: dict[str, Any] = Field(default_factory=dict)
    """Options of the component."""


class EncoderEntry(SourcedEntry):
    """A speech encoder."""

    kind: ClassVar[str] = "encoder"


class DecoderEntry(SourcedEntry):
    """A text decoder."""

    kind: ClassVar[str] = "decoder"


class BridgeEntry(Entry):
    """A bridge; its widths come from its neighbours."""

    kind: ClassVar[str] = "bridge"

    component: ComponentId
    options: dict[str, Any] = Field(default_factory=dict)


class CtcHeadEntry(Entry):
    """A CTC head: its symbols."""

    kind: ClassVar[str] = "CTC head"

    vocabulary: CtcVocabulary


class WeightsSource(Settings):
    """Where the weights of an integration are."""

    source: Source
    revision: str | None = None


class IntegrationEntry(Entry):
    """Parts joined by a prompt. Its parts may be left out where a checkpoint describes itself."""

    kind: ClassVar[str] = "integration"

    encoder: str | None = None
    """A name in ``encoders``, or what else ``Registry.resolve`` takes; so for the other parts."""
    bridge: str | None = None
    decoder: str | None = None
    ctc_head: str | None = None
    """A name in ``ctc_heads``, or ``from-encoder``: the head that the encoder's checkpoint brings along."""
    prompt: Prompt | None = None
    """Text around the audio; ``chat``: as the decoder's own chat template has it."""
    weights: WeightsSource | None = None
    """None for an integration that is composed anew, its bridge untrained."""
    max_new_tokens: TokenBudget = TokenBudget()
    min_new_tokens: int = Field(default=0, ge=0)
    max_audio_seconds: float | None = Field(default=None, gt=0)
    language: str | None = None
    license: str | None = None
    sample: LocalPath | None = None
    """A recording to try it with; ``./`` and ``../`` are relative to the registry file."""

    @model_validator(mode="after")
    def _complete(self) -> IntegrationEntry:
        missing = [part for part in ("encoder", "bridge", "decoder") if getattr(self, part) is None]
        if missing and self.weights is None:
            raise ValueError(f"{', '.join(missing)} missing; only a checkpoint named under weights can stand for it")
        return self


def _head_names(value: dict[str, CtcHeadEntry]) -> dict[str, CtcHeadEntry]:
    if FROM_ENCODER in value:
        raise ValueError(f"{FROM_ENCODER!r} stands for the CTC head of an encoder's checkpoint; choose another name")
    return value


class RegistryContents(Settings):
    """What one registry file may hold."""

    encoders: dict[Name, EncoderEntry] = Field(default_factory=dict)
    bridges: dict[Name, BridgeEntry] = Field(default_factory=dict)
    decoders: dict[Name, DecoderEntry] = Field(default_factory=dict)
    ctc_heads: Annotated[dict[Name, CtcHeadEntry], AfterValidator(_head_names)] = Field(default_factory=dict)
    integrations: dict[Name, IntegrationEntry] = Field(default_factory=dict)
    default_integration: Name | None = None
    """The integration that commands use where none is named; a higher layer's goes before a lower one's."""


SECTIONS: Mapping[str, type[Entry]] = {
    "encoders": EncoderEntry,
    "bridges": BridgeEntry,
    "decoders": DecoderEntry,
    "ctc_heads": CtcHeadEntry,
    "integrations": IntegrationEntry,
}

PARTS: Mapping[str, str] = {"encoder": "encoders", "bridge": "bridges", "decoder": "decoders", "ctc_head": "ctc_heads"}
"""Key of an integration to the section that it names an entry of."""

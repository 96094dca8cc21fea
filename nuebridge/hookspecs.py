"""What a plugin can offer: one hook a kind, each returning typed records.

This module imports nothing heavy; a plugin's entry module needs it and the standard library only.

    from nuebridge.hookspecs import SpeechEncoderComponent, hookimpl

    @hookimpl
    def nuebridge_speech_encoders():
        def load():
            from my_plugin.encoder import MyEncoder
            return MyEncoder
        return [SpeechEncoderComponent(name="mine", summary="My encoder.", load=load)]

The id of a component is ``PLUGIN.NAME``, where PLUGIN is the name of the plugin's entry point in
the group ``nuebridge``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pluggy

# pydantic is not imported here: a plugin that has no options answers without it, and it is slow.
if TYPE_CHECKING:
    from pydantic import BaseModel

    from nuebridge.bench import TrainingWork
    from nuebridge.contracts import Bridge, SpeechEncoder, TextDecoder
    from nuebridge.model import Integration
    from nuebridge.plugins import PluginManager
    from nuebridge.settings import NoOptions as NoOptions

PROJECT = "nuebridge"
"""pluggy's project name and the entry-point group in which plugins announce themselves."""

CONTRACT_VERSION = 1
"""Version of the contracts in :mod:`nuebridge.contracts` and of the records below."""

hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)


def __getattr__(name: str) -> Any:
    if name != "NoOptions":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from nuebridge.settings import NoOptions

    return NoOptions


@dataclass(frozen=True, kw_only=True)
class Component:
    """One thing a plugin offers. ``load`` is called when it is needed, not before."""

    name: str
    """Kebab-case name, unique within the plugin and kind."""
    summary: str
    """One line for ``nuebridge plugins``."""
    load: Callable[[], Any]
    """Imports and returns the implementation."""
    options: type[BaseModel] | None = None
    """pydantic model of the options that a registry entry may set; it refuses unknown keys. None: no options."""
    contract_version: int = CONTRACT_VERSION
    """The contract version this component was written for."""

    kind = "component"


@dataclass(frozen=True, kw_only=True)
class SpeechEncoderComponent(Component):
    """A class of :class:`nuebridge.contracts.SpeechEncoder`."""

    load: Callable[[], type[SpeechEncoder]]
    model_types: tuple[str, ...] = ()
    """Values of ``model_type`` in a checkpoint's config.json that this component claims."""
    published: Callable[[str, BaseModel], SpeechEncoder | None] | None = None
    """Lazily, given a hub id and options: what that checkpoint gives at full size, without its weights and without
    asking the hub, made from the configuration that it was published with; None for one that is not known."""
    examples: Callable[[], Mapping[str, Callable[[Path], None]]] | None = None
    """Lazily, by name: functions that write a tiny random checkpoint into a folder, for the conformance suite."""

    kind = "speech encoder"


@dataclass(frozen=True, kw_only=True)
class BridgeComponent(Component):
    """A class of :class:`nuebridge.contracts.Bridge`."""

    load: Callable[[], type[Bridge]]
    examples: Callable[[], Mapping[str, Mapping[str, Any]]] | None = None
    """Lazily, by name: small options to test it with, as a registry entry has them. None: the defaults."""

    kind = "bridge"


@dataclass(frozen=True, kw_only=True)
class TextDecoderComponent(Component):
    """A class of :class:`nuebridge.contracts.TextDecoder`."""

    load: Callable[[], type[TextDecoder]]
    model_types: tuple[str, ...] = ()
    """Values of ``model_type`` claimed; ``("*",)`` claims what no other component claims."""
    published: Callable[[str, BaseModel], TextDecoder | None] | None = None
    """As for encoders. Its tokenizer may have no texts, only the ids of special tokens."""
    examples: Callable[[], Mapping[str, Callable[[Path], None]]] | None = None
    """Lazily, by name: functions that write a tiny random checkpoint into a folder, for the conformance suite."""

    kind = "text decoder"


@dataclass(frozen=True, kw_only=True)
class CheckpointFormat(Component):
    """A foreign checkpoint format that loads as an integration without conversion.

    ``load()`` returns a function ``(folder: Path, manager: PluginManager) -> Integration``.
    """

    load: Callable[[], Callable[[Path, PluginManager], Integration]]
    recognizes: Callable[[Mapping[str, Any]], bool]
    """Given the folder's parsed config.json, says whether this format is meant."""

    kind = "checkpoint format"


@dataclass(frozen=True, kw_only=True)
class RegistryFile(Component):
    """A registry file that a plugin contributes; ``load()`` returns its path."""

    load: Callable[[], Path]

    kind = "registry file"


@dataclass(frozen=True, kw_only=True)
class CliCommand(Component):
    """A command line verb; ``load()`` returns the function that typer turns into a command."""

    load: Callable[[], Callable[..., None]]
    context_settings: Mapping[str, Any] = field(default_factory=dict)

    kind = "command"


@dataclass(frozen=True, kw_only=True)
class BenchBaseline(Component):
    """Another way of doing what nuebridge does, measured beside it by ``nuebridge bench``.

    For the bench ``train``, ``load()`` returns a function that does a :class:`nuebridge.bench.TrainingWork`.
    """

    load: Callable[[], Callable[[TrainingWork], None]]
    bench: str = "train"
    """The verb of ``nuebridge bench`` that it is for."""

    kind = "bench baseline"


@hookspec
def nuebridge_speech_encoders() -> list[SpeechEncoderComponent]:  # type: ignore[empty-body]
    """Speech encoders: waveforms to frames."""


@hookspec
def nuebridge_bridges() -> list[BridgeComponent]:  # type: ignore[empty-body]
    """Bridges: encoder frames to positions in a decoder's embedding space."""


@hookspec
def nuebridge_text_decoders() -> list[TextDecoderComponent]:  # type: ignore[empty-body]
    """Text decoders: language models that continue a prompt of embeddings."""


@hookspec
def nuebridge_checkpoint_formats() -> list[CheckpointFormat]:  # type: ignore[empty-body]
    """Foreign checkpoint formats that ``nuebridge.load`` opens as they are."""


@hookspec
def nuebridge_registry_files() -> list[RegistryFile]:  # type: ignore[empty-body]
    """Registry files, layered above the packaged registry and below the user's own."""


@hookspec
def nuebridge_cli_commands() -> list[CliCommand]:  # type: ignore[empty-body]
    """Commands added to the ``nuebridge`` program."""


@hookspec
def nuebridge_bench_baselines() -> list[BenchBaseline]:  # type: ignore[empty-body]
    """What ``nuebridge bench`` measures beside nuebridge."""

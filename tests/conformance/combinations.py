"""Which encoders, bridges and decoders are joined: enumerated from the installed plugins of this repository.

What a plugin adds comes in by its ``examples``, without an edit here.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch

from nuebridge.compose import compose
from nuebridge.hookspecs import BridgeComponent, SpeechEncoderComponent, TextDecoderComponent
from nuebridge.model import Integration
from nuebridge.plugins import ComponentRef, PluginManager
from nuebridge.registry import Layer, Registry
from nuebridge.settings import GenerationSettings, PromptTemplate, TokenBudget
from nuebridge.testing.subject import BridgeSubject
from nuebridge.testing.suite import KINDS, subjects

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Named:
    """A part of the table: a component and one of its examples."""

    component: str
    example: str

    def __str__(self) -> str:
        short = self.component.partition(".")[2]
        return self.example if self.example.startswith(short) else f"{short}-{self.example}"


@dataclass(frozen=True)
class Combination:
    encoder: Named
    bridge: Named
    decoder: Named

    def __str__(self) -> str:
        return f"{self.encoder}+{self.bridge}+{self.decoder}"


@cache
def manager() -> PluginManager:
    return PluginManager.discover({})


@cache
def own_plugins() -> frozenset[str]:
    """Distributions of this repository."""
    return frozenset(file.parent.name for file in (ROOT / "plugins").glob("*/pyproject.toml"))


def components(kind: type) -> list[ComponentRef[Any]]:
    return [ref for ref in manager().refs(kind) if ref.distribution in own_plugins()]


def every_component() -> list[str]:
    """Ids of the components that need no source to be tested.

    One whose examples are none is left out: the installed libraries know no such model (transformers 4.57, say).
    """
    every = [ref for kind in KINDS[:3] for ref in components(kind)]
    return [ref.id for ref in every if ref.record.examples is None or ref.record.examples()]


@cache
def _makers(kind: type) -> Mapping[Named, Callable[[Path], None]]:
    return {
        Named(ref.id, name): write
        for ref in components(kind)
        for name, write in (ref.record.examples() if ref.record.examples else {}).items()
    }


def encoders() -> list[Named]:
    return list(_makers(SpeechEncoderComponent))


def decoders() -> list[Named]:
    return list(_makers(TextDecoderComponent))


@cache
def _bridges() -> Mapping[Named, Mapping[str, Any]]:
    """Every example of every bridge that joins any two widths."""
    found = {}
    for ref in components(BridgeComponent):
        for subject in subjects(ref.id, manager=manager()):
            assert isinstance(subject, BridgeSubject)
            if subject.sizes[0] != subject.sizes[1]:
                found[Named(ref.id, subject.example or "default")] = subject.given
    return found


def bridges() -> list[Named]:
    return list(_bridges())


def every_pair(first: Sequence[Named], middle: Sequence[Named], last: Sequence[Named]) -> Iterator[Combination]:
    """As few combinations as cover every pair of neighbours: for each bridge, all of both sides side by side."""
    for turn, bridge in enumerate(middle):
        for place in range(max(len(first), len(last))):
            # Turned from bridge to bridge, so that encoders and decoders meet in as many ways as there is room for.
            yield Combination(first[(place + 3 * turn) % len(first)], bridge, last[place % len(last)])


def each_once(first: Sequence[Named], middle: Sequence[Named], last: Sequence[Named]) -> Iterator[Combination]:
    """One example of every component, and as many decoders as that gives room for."""
    one = [_first_of_each(parts) for parts in (first, middle)]
    for place in range(max(map(len, one))):
        step = max(1, len(last) // max(map(len, one)))
        yield Combination(one[0][place % len(one[0])], one[1][place % len(one[1])], last[place * step % len(last)])


def _first_of_each(parts: Sequence[Named]) -> list[Named]:
    return list({part.component: part for part in reversed(parts)}.values())[::-1]


@cache
def quick() -> tuple[Combination, ...]:
    """What runs with every `make test`."""
    if not (encoders() and bridges() and decoders()):
        return ()
    return tuple(each_once(encoders(), bridges(), decoders()))


@cache
def table() -> tuple[Combination, ...]:
    """The whole table; its first rows are the quick ones."""
    if not (encoders() and bridges() and decoders()):
        return ()
    return tuple(dict.fromkeys([*quick(), *every_pair(encoders(), bridges(), decoders())]))


# --- making one ------------------------------------------------------------------------------------


@cache
def _home() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="nuebridge-conformance-")


@cache
def source(kind: type, part: Named) -> Path:
    """The folder of an example, written once in a process."""
    folder = Path(_home().name) / part.component / part.example
    folder.mkdir(parents=True)
    with torch.random.fork_rng(devices=[]):
        _makers(kind)[part](folder)
    return folder


@cache
def registry() -> Registry:
    """The bridges of the table by name, and a CTC head for those that need one."""
    file = Path(_home().name) / "registry.yaml"
    entries = {
        "bridges": {
            str(part): {"component": part.component, "options": dict(options)} for part, options in _bridges().items()
        },
        "ctc_heads": {"letters": {"vocabulary": {"symbols": " abcdefghijklmnopqrstuvwxyz"}}},
    }
    file.write_text(json.dumps(entries))
    return Registry([Layer("option", file)])


def composed(combination: Combination) -> Integration:
    """The untrained integration, with a prompt before and after the audio."""
    bridge = combination.bridge
    kind = manager().find(BridgeComponent, bridge.component).load()
    return compose(
        f"{combination.encoder.component}:{source(SpeechEncoderComponent, combination.encoder)}",
        str(bridge),
        f"{combination.decoder.component}:{source(TextDecoderComponent, combination.decoder)}",
        "letters" if kind.needs_ctc else None,
        prompt=PromptTemplate(prefix="hear ", suffix=" so:"),
        generation=GenerationSettings(max_new_tokens=TokenBudget(per_second=0, plus=6)),
        manager=manager(),
        registry=registry(),
    )

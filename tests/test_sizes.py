"""Sizes told without weights, of toys; the packaged registry's are in tests/registry."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from toy.parts import ToyEncoder

from nuebridge.checkpoint import save
from nuebridge.compose import Workshop, compose_entry
from nuebridge.errors import CheckpointError
from nuebridge.hookspecs import SpeechEncoderComponent
from nuebridge.model import Integration
from nuebridge.registry import EncoderEntry, Layer, Registry
from nuebridge.sizes import PUBLISHED, IntegrationSize, PartSize, entry_size, integration_size


def test_of_a_part_in_a_folder(toy_workshop: Workshop) -> None:
    entry = toy_workshop.registry.encoder("chunks")
    computed = entry_size(entry, "chunks", toy_workshop)
    assert computed.basis == f"the configuration in {entry.source}"
    assert computed.size == PartSize(12 * 100 + 12, hidden_size=12, sample_rate=1000, frame_rate=10.0)


def test_of_a_part_that_only_loading_tells(toy_workshop: Workshop) -> None:
    """The toy decoder makes no outlines."""
    with pytest.raises(CheckpointError, match=r"toy.decoder tells the size of a checkpoint only when it loads it"):
        entry_size(toy_workshop.registry.decoder("bytes"), "bytes", toy_workshop)


def test_of_an_integration(toy_integration: Integration) -> None:
    """5 positions a second, two tokens of prompt, int(4 s + 8) tokens of text and 200 positions: 190 / 9 = 21.1 s."""
    found = integration_size(toy_integration)
    assert found.positions_per_second == 5.0
    assert found.prompt_positions == 2
    assert found.min_audio_seconds == 0.2
    assert found.longest_audio_seconds is not None

    def needed(seconds: float) -> int:
        return 2 + int(round(seconds * 10) // 2) + int(4 * seconds + 8)

    assert needed(found.longest_audio_seconds) <= 200 < needed(found.longest_audio_seconds + 0.1)
    assert 21.0 <= found.longest_audio_seconds <= 21.3
    assert set(found.parts) == {"encoder", "ctc_head", "bridge", "decoder"}
    assert found.parts["decoder"].max_positions == 200


def test_of_a_decoder_without_bounds(toy_integration: Integration) -> None:
    toy_integration.decoder.max_positions = None
    assert integration_size(toy_integration).longest_audio_seconds is None


def test_of_an_integration_with_weights(toy_integration: Integration, toy_workshop: Workshop, tmp_path: Path) -> None:
    save(toy_integration, tmp_path / "model")
    (tmp_path / "registry.yaml").write_text("integrations:\n  mine: {weights: {source: ./model}}\n")
    registry = Registry([Layer("option", tmp_path / "registry.yaml")])
    computed = entry_size(registry.integration("mine"), "mine", Workshop(toy_workshop.manager, registry))
    assert computed.basis == f"the configuration in {tmp_path / 'model'}"
    assert computed.size == integration_size(toy_integration)


def test_what_a_component_knows_of_a_hub_id(toy_workshop: Workshop, monkeypatch: pytest.MonkeyPatch) -> None:
    """A component that knows one hub id, and is not asked to load anything."""

    def published(source: str, options: Any) -> ToyEncoder | None:
        with torch.device("meta"):
            return ToyEncoder(7) if source == "org/known" else None

    ref = toy_workshop.manager.find(SpeechEncoderComponent, "toy.encoder")
    knowing = replace(ref, record=replace(ref.record, published=published))
    manager: Any = SimpleNamespace(find=lambda kind, component: knowing)
    workshop = Workshop(manager, toy_workshop.registry)
    computed = entry_size(EncoderEntry(component="toy.encoder", source="org/known"), "x", workshop)
    assert computed.basis == PUBLISHED and computed.size == PartSize(707, 7, 1000, 10.0)
    with pytest.raises(
        CheckpointError, match="toy.encoder does not know the configuration that org/else was published"
    ):
        entry_size(EncoderEntry(component="toy.encoder", source="org/else"), "x", workshop)
    with pytest.raises(CheckpointError, match="does not know the configuration that org/any"):
        entry_size(EncoderEntry(component="toy.encoder", source="org/any"), "x", toy_workshop)


def test_an_integration_of_the_registry_is_what_composing_gives(toy_workshop: Workshop) -> None:
    entry = toy_workshop.registry.integration("toys")
    computed = entry_size(entry, "toys", toy_workshop)
    assert isinstance(computed.size, IntegrationSize)
    assert computed.size == integration_size(compose_entry(entry, toy_workshop))

"""Shared by the host's tests: the toy plugin, made discoverable, and what is composed of its parts."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from nuebridge.compose import Workshop
    from nuebridge.model import Integration
    from nuebridge.plugins import PluginManager
    from nuebridge.registry import Registry

TESTS = Path(__file__).parent
if str(TESTS) not in sys.path:
    sys.path.append(str(TESTS))  # where the toy plugin's package is


@pytest.fixture(scope="session")
def toy_site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the metadata of an installed distribution that announces the toy plugin."""
    site = tmp_path_factory.mktemp("site")
    info = site / "nuebridge_toy-0.1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: nuebridge-toy\nVersion: 0.1\n")
    (info / "entry_points.txt").write_text("[nuebridge]\ntoy = toy\n")
    return site


@pytest.fixture(scope="session")
def toy_manager(toy_site: Path) -> PluginManager:
    """The toy plugin and no other."""
    from nuebridge.plugins import PluginManager

    return PluginManager.discover({}, path=[str(toy_site)])


@pytest.fixture(scope="session")
def toy_registry_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A registry of toy parts, their checkpoints beside it."""
    from toy.parts import write_source

    folder = tmp_path_factory.mktemp("toys")
    write_source(folder / "encoder", "encoder", 12)
    write_source(folder / "decoder", "decoder", 16, seed=1)
    (folder / "registry.yaml").write_text(
        "encoders:\n  chunks: {component: toy.encoder, source: ./encoder, license: apache-2.0}\n"
        "bridges:\n  pairs: {component: toy.bridge}\n"
        "decoders:\n  bytes: {component: toy.decoder, source: ./decoder}\n"
        'ctc_heads:\n  letters: {vocabulary: {symbols: " abcdefghijklmnopqrstuvwxyz"}}\n'
        "integrations:\n"
        "  toys:\n    encoder: chunks\n    bridge: pairs\n    decoder: bytes\n    ctc_head: letters\n"
        '    prompt: {prefix: "<s>", suffix: ":"}\n    max_new_tokens: {per_second: 4, plus: 8}\n'
    )
    return folder / "registry.yaml"


@pytest.fixture(scope="session")
def toy_registry(toy_registry_file: Path) -> Registry:
    from nuebridge.registry import Layer, Registry

    return Registry([Layer("option", toy_registry_file)])


@pytest.fixture(scope="session")
def toy_workshop(toy_manager: PluginManager, toy_registry: Registry) -> Workshop:
    from nuebridge.compose import Workshop

    return Workshop(toy_manager, toy_registry)


@pytest.fixture
def toy_integration(toy_workshop: Workshop) -> Integration:
    """A fresh, untrained integration of toy parts, CTC head included."""
    from nuebridge.compose import compose_entry

    return compose_entry(toy_workshop.registry.integration("toys"), toy_workshop)

"""A page of small real integrations, made of the toy plugin that the host's own tests use."""

from __future__ import annotations

import math
import random
import struct
import sys
import wave
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from nuebridge.checkpoint import save
from nuebridge.compose import Workshop, compose
from nuebridge.plugins import PluginManager
from nuebridge.registry import Registry

TOYS = Path(__file__).parents[3] / "tests"

FAILING = """
from nuebridge.hookspecs import SpeechEncoderComponent, hookimpl

def _load():
    from toy.parts import ToyEncoder

    class OutOfMemory(ToyEncoder):
        @classmethod
        def load(cls, source, options, *, revision=None):
            raise MemoryError("cannot allocate 9 GB")

    return OutOfMemory

@hookimpl
def nuebridge_speech_encoders():
    return [SpeechEncoderComponent(name="encoder", summary="Never fits.", load=_load)]
"""

REGISTRY = """
encoders:
  toy: {component: toy.encoder, source: ./encoder}
  failing: {component: failing.encoder, source: ./encoder}
bridges:
  toy: {component: toy.bridge}
decoders:
  toy: {component: toy.decoder, source: ./decoder}
integrations:
  toy-trained: {weights: {source: ./trained}, sample: ./sample.wav}
  toy-fetched: {weights: {source: somebody/not-in-the-cache}}
  toy-untrained: {encoder: toy, bridge: toy, decoder: toy}
  toy-missing: {weights: {source: ./nowhere}}
  toy-failing: {encoder: failing, bridge: toy, decoder: toy}
default_integration: toy-trained
"""


def write_wav(path: Path, seconds: float, *, peak: float = 0.5, rate: int = 16000) -> None:
    """Noise with a slow swell; silence for ``peak=0``."""
    noise = random.Random(0)
    samples = [
        round(32767 * peak * noise.uniform(-1, 1) * math.sin(index / rate) ** 2)
        for index in range(round(seconds * rate))
    ]
    with wave.open(str(path), "wb") as file:
        file.setparams((1, 2, rate, 0, "NONE", ""))
        file.writeframes(struct.pack(f"<{len(samples)}h", *samples))


@dataclass(frozen=True)
class Place:
    """Where the toys of a test are."""

    folder: Path
    """Holds ``trained/``, ``registry.yaml``, ``sample.wav`` (3 s) and ``silence.wav`` (0.5 s)."""
    site: Path
    """Where the toy plugins are installed."""
    workshop: Workshop


@pytest.fixture(scope="session")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    folder = tmp_path_factory.mktemp("toys")
    site = tmp_path_factory.mktemp("site")
    (site / "failing.py").write_text(FAILING)
    for name in ("toy", "failing"):
        # The name that the host's own tests use: in one process with them, one shadows the other.
        info = site / f"nuebridge_{name}-0.1.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: nuebridge-{name}\nVersion: 0.1\n")
        (info / "entry_points.txt").write_text(f"[nuebridge]\n{name} = {name}\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(TOYS))
        patch.syspath_prepend(str(site))
        from toy.parts import write_source

        write_source(folder / "encoder", "encoder", 8, seed=1)
        write_source(folder / "decoder", "decoder", 12, seed=2)
        (folder / "registry.yaml").write_text(REGISTRY)
        write_wav(folder / "sample.wav", 3.0)
        write_wav(folder / "silence.wav", 0.5, peak=0)
        manager = PluginManager.discover({}, path=[str(site)])
        assert [report.state for report in manager.reports()] == ["loaded", "loaded"], manager.reports()
        registry = Registry.load(
            manager, [folder / "registry.yaml"], environ={"NUEBRIDGE_CONFIG_DIR": str(folder / "none")}, folder=folder
        )
        integration = compose("toy", "toy", "toy", manager=manager, registry=registry)
        save(integration, folder / "trained")
        yield Place(folder, site, Workshop(manager, registry))
    for name in ("toy", "toy.parts", "failing"):
        sys.modules.pop(name, None)

"""A base that has learned three tones, and a new domain: other tones, and a filler after every word."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from nuebridge.adapt.adapting import adapt
from nuebridge.adapt.settings import AdaptSettings
from nuebridge.checkpoint import save
from nuebridge.compose import Workshop, compose_entry
from nuebridge.config import validate
from nuebridge.train.config import TrainConfig
from nuebridge.train.folder import Resume
from nuebridge.train.loop import train
from tests.tones import WORDS, write_tone

NEW_WORDS = {"low um": 90, "mid um": 210, "high um": 430}
"""Text to pitch in Hz."""


def write_tones(folder: Path, words: Mapping[str, int], count: int, seed: int, speakers: int = 0) -> Path:
    """A manifest of tones of 0.4 to 0.8 s that say words; each speaker, if there are any, says all in turn."""
    rng = random.Random(seed)
    folder.mkdir(parents=True)
    lines = []
    for index in range(count):
        text = list(words)[index % len(words)]
        seconds = rng.randrange(400, 801) / 1000
        write_tone(folder / f"{index}.wav", words[text], seconds, rng)
        line = {"audio_filepath": f"{index}.wav", "text": text, "duration": seconds}
        lines.append(line | ({"speaker": f"{folder.name}-{index // len(words) % speakers}"} if speakers else {}))
    (folder / "manifest.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder / "manifest.jsonl"


@pytest.fixture(scope="session")
def base(tmp_path_factory: pytest.TempPathFactory, toy_workshop: Workshop) -> Path:
    """The folder of an integration that writes low, mid and high without a fault."""
    folder = tmp_path_factory.mktemp("base")
    save(compose_entry(toy_workshop.registry.integration("toys"), toy_workshop), folder / "start")
    corpus = write_tones(folder / "corpus", WORDS, 24, seed=1)
    part = {"train": True, "learning_rate": 0.05}
    values = {
        "model": str(folder / "start"),
        "output": str(folder / "run"),
        "data": {"train": str(corpus), "batch_seconds": 10.0},
        "schedule": {"steps": 120, "warmup_steps": 5},
        "parts": dict.fromkeys(("encoder", "bridge", "decoder"), part),
        "checkpoints": {"every_steps": 1000},
    }
    return train(validate(values, TrainConfig, "test"), toy_workshop)


@pytest.fixture(scope="session")
def domains(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Manifests by folder: ``new`` and ``new-test``, ``old`` and ``old-test``."""
    folder = tmp_path_factory.mktemp("domains")
    write_tones(folder / "new", NEW_WORDS, 48, seed=2, speakers=12)
    write_tones(folder / "new-test", NEW_WORDS, 12, seed=3)
    write_tones(folder / "old", WORDS, 24, seed=4, speakers=8)
    write_tones(folder / "old-test", WORDS, 12, seed=5)
    return folder


Settle = Callable[..., AdaptSettings]
Adapt = Callable[..., tuple[Path, dict[str, Any]]]


@pytest.fixture(scope="session")
def settle(base: Path, domains: Path) -> Settle:
    """Settings of a short adaptation into a folder, with changes; ``None`` takes a setting out."""

    def settle(output: Path, **changes: Any) -> AdaptSettings:
        values: dict[str, Any] = {
            "model": str(base),
            "data": str(domains / "new/manifest.jsonl"),
            "test": str(domains / "new-test/manifest.jsonl"),
            "original_test": str(domains / "old-test/manifest.jsonl"),
            "replay": str(domains / "old/manifest.jsonl"),
            "replay_share": 0.5,
            "output": str(output),
            "only_warn": ["overlap-text"],  # a tone can say one word only
            "parts": ["encoder", "bridge", "decoder"],
            "lora": {"r": 8, "lora_alpha": 16, "target_modules": None},
            "learning_rate": 0.03,
            "bridge_learning_rate": 0.03,
            "steps": 120,
            "fillers": ["um", "you know"],
            "set_values": {"data.batch_seconds": 10.0, "validation.audio_gain": False},
            **changes,
        }
        return validate({key: value for key, value in values.items() if value is not None}, AdaptSettings, "test")

    return settle


@pytest.fixture(scope="session")
def adapted(settle: Settle, toy_workshop: Workshop) -> Adapt:
    """Adapts into a folder; the folder and the results."""

    def adapted(output: Path, resume: Resume = "never", **changes: Any) -> tuple[Path, dict[str, Any]]:
        found = adapt(settle(output, **changes), toy_workshop, resume=resume)
        assert found is not None
        return output, found

    return adapted

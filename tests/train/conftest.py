"""A small corpus of tones, an untrained integration to start from, and runs of a few steps."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from nuebridge.checkpoint import save
from nuebridge.cli import main
from nuebridge.compose import Workshop, compose_entry
from nuebridge.config import validate
from nuebridge.train.config import TrainConfig
from nuebridge.train.folder import Resume
from nuebridge.train.loop import train
from tests.tones import write_corpus

Configure = Callable[..., TrainConfig]
Run = Callable[..., Path]
Command = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A manifest of 12 tones."""
    return write_corpus(tmp_path_factory.mktemp("corpus"), 12)


@pytest.fixture(scope="session")
def start(tmp_path_factory: pytest.TempPathFactory, toy_workshop: Workshop) -> Path:
    """The folder of an untrained integration with a CTC head."""
    folder = tmp_path_factory.mktemp("start") / "toys"
    save(compose_entry(toy_workshop.registry.integration("toys"), toy_workshop), folder)
    return folder


@pytest.fixture
def configure(corpus: Path, start: Path, tmp_path: Path) -> Configure:
    """A configuration of 7 short steps in which everything is trained; ``a__b=x`` sets ``a.b``."""

    def configure(**changes: Any) -> TrainConfig:
        data: dict[str, Any] = {
            "model": str(start),
            "output": str(tmp_path / "run"),
            "data": {"train": [str(corpus)], "batch_seconds": 3.0},
            "schedule": {"steps": 7, "warmup_steps": 2},
            "parts": {
                name: {"train": True, "learning_rate": 0.01} for name in ("encoder", "ctc_head", "bridge", "decoder")
            },
            "losses": {"ctc": 0.3, "token_replacement": 0.1},
            "checkpoints": {"every_steps": 2},
            "log_every_steps": 1,
        }
        for way, value in changes.items():
            here = data
            *before, last = way.split("__")
            for key in before:
                here = here.setdefault(key, {})
            here[last] = value
        return validate(data, TrainConfig, "test")

    return configure


@pytest.fixture
def run(configure: Configure, toy_workshop: Workshop) -> Run:
    """Trains with a changed configuration; returns the output folder."""

    def run(*, resume: Resume = "never", **changes: Any) -> Path:
        config = configure(**changes)
        assert train(config, toy_workshop, resume=resume) == config.output / "final"
        return config.output

    return run


@pytest.fixture
def command(
    toy_site: Path,
    toy_registry_file: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Command:
    """Runs the command line in this process and in ``tmp_path``: exit status, standard output, standard error."""
    monkeypatch.syspath_prepend(str(toy_site))
    monkeypatch.setenv("NUEBRIDGE_CONFIG_DIR", "/nowhere")
    monkeypatch.chdir(tmp_path)

    def command(*arguments: str) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as left:
            main([*arguments, "--registry", str(toy_registry_file)])
        said = capsys.readouterr()
        return int(left.value.code or 0), said.out, said.err

    return command

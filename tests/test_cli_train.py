"""``nuebridge compose`` and ``nuebridge train`` as a user runs them, killed and resumed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from nuebridge.checkpoint import load
from nuebridge.cli import main
from nuebridge.compose import Workshop
from nuebridge.settings import PromptTemplate
from tests.conftest import TESTS
from tests.tones import write_corpus
from tests.train.runs import figures

Call = Callable[..., tuple[int, str, str]]


@pytest.fixture
def call(
    toy_site: Path,
    toy_registry_file: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Call:
    """Runs the command line in this process: exit status, standard output, standard error."""
    monkeypatch.syspath_prepend(str(toy_site))
    monkeypatch.setenv("NUEBRIDGE_CONFIG_DIR", str(tmp_path / "config"))
    monkeypatch.chdir(tmp_path)

    def call(verb: str, *arguments: str) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as left:
            main([verb, *arguments, "--registry", str(toy_registry_file)])
        said = capsys.readouterr()
        return int(left.value.code or 0), said.out, said.err

    return call


PARTS = ("--encoder", "chunks", "--bridge", "pairs", "--decoder", "bytes")


def test_compose(call: Call, tmp_path: Path, toy_workshop: Workshop) -> None:
    status, out, err = call(
        "compose", *PARTS, "--ctc-head", "letters", "--suffix", ":", "--language", "en", "--output", "new/toys"
    )
    assert (status, err) == (0, "")
    lines = [line.split() for line in out.splitlines()]
    assert [line[:2] for line in lines[:4]] == [
        ["encoder", "toy.encoder"],
        ["ctc_head", "ctc-head"],
        ["bridge", "toy.bridge"],
        ["decoder", "toy.decoder"],
    ]
    assert lines[4] == ["written", "to", "new/toys"]
    model = load(tmp_path / "new/toys", manager=toy_workshop.manager, registry=toy_workshop.registry)
    assert model.prompt == PromptTemplate(prefix="<s>", suffix=":") and model.language == "en"


def test_compose_with_a_prompt_of_its_own(call: Call, tmp_path: Path, toy_workshop: Workshop) -> None:
    assert call("compose", *PARTS, "--prefix", "{context}|", "--seed", "4", "--output", "toys")[0] == 0
    model = load(tmp_path / "toys", manager=toy_workshop.manager, registry=toy_workshop.registry)
    assert model.prompt == PromptTemplate(prefix="{context}|") and model.ctc_head is None


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--bridge", "pears"], "no bridge 'pears' in the registry"),
        (["--prefix", "{who}"], "the prompt declares the field 'who'; known fields: language, task, context"),
        (["--suffix", "{"], "the prompt has an unmatched brace"),
        (["--output", "taken"], "taken exists and is not empty; choose another folder"),
        (["--output", "taken/file"], "file is a file"),
    ],
)
def test_compose_says_what_is_wrong(call: Call, tmp_path: Path, arguments: list[str], said: str) -> None:
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken/file").write_text("x")
    status, out, err = call("compose", *PARTS, "--output", "toys", *arguments)
    assert status == 2 and out == ""
    assert err.startswith("error: ") and said in err and len(err.splitlines()) == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["taken"]


def write_config(folder: Path, **extra: object) -> Path:
    write_corpus(folder / "corpus", 9)
    config = {
        "model": "toys",
        "output": "run",
        "data": {"train": ["corpus/manifest.jsonl"], "batch_seconds": 2.0},
        "schedule": {"steps": 30},
        "parts": {
            name: {"train": True, "learning_rate": 0.01} for name in ("encoder", "ctc_head", "bridge", "decoder")
        },
        "losses": {"ctc": 0.3, "token_replacement": 0.1},
        "checkpoints": {"every_steps": 4},
        "log_every_steps": 1,
        **extra,
    }
    (folder / "train.yaml").write_text(json.dumps(config))  # JSON is YAML
    return folder / "train.yaml"


def test_train_says_what_is_wrong(call: Call, tmp_path: Path) -> None:
    write_config(tmp_path, sede=3)
    status, _, err = call("train", "train.yaml", "--set", "schedule.stepz=3")
    assert status == 2 and "Traceback" not in err
    assert "train.yaml:1: sede: unknown key" in err and "did you mean 'seed'?" in err
    assert "--set: schedule.stepz: unknown key" in err
    assert call("train", "missing.yaml")[2].startswith("error: missing.yaml: no such file")


SIGNALLED = """
import os, signal, sys
from nuebridge.cli import main
from nuebridge.train.step import Stepper

number, at = signal.Signals[sys.argv[1]], int(sys.argv[2])
step = Stepper._step

def signalled(self, *args):
    if args[1] == at:
        os.kill(os.getpid(), number)
    return step(self, *args)

Stepper._step = signalled
main(sys.argv[3:])
"""


def test_train_killed_and_resumed(
    call: Call, tmp_path: Path, toy_site: Path, toy_registry_file: Path, toy_workshop: Workshop
) -> None:
    """Stopped by SIGTERM, gone on with, killed by SIGKILL, gone on with: the figures of an unbroken run."""
    write_config(tmp_path)
    environ = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, (toy_site, TESTS, TESTS.parent)))}

    def signalled(number: signal.Signals, at: int) -> subprocess.CompletedProcess[str]:
        """The command in a process of its own, which gets a signal within its step ``at``, counted from 0."""
        arguments = ["train", "train.yaml", "--resume", "auto", "--registry", str(toy_registry_file)]
        command = [sys.executable, "-c", SIGNALLED, number.name, str(at), *arguments]
        return subprocess.run(command, cwd=tmp_path, env=environ, capture_output=True, text=True)

    stopped = signalled(signal.SIGTERM, 6)
    assert stopped.returncode == 75, stopped.stderr
    assert "error: stopped at step 7 of 30; the same command with --resume auto goes on" in stopped.stderr
    assert "train step 7/30" in stopped.stderr and "Traceback" not in stopped.stderr
    killed = signalled(signal.SIGKILL, 17)
    assert killed.returncode == -signal.SIGKILL and "resuming from step 7" in killed.stderr
    status, out, err = call("train", "train.yaml", "--resume", "auto")
    assert status == 0 and out == "trained integration: run/final\n"

    assert call("train", "train.yaml", "--set", "output=whole")[0] == 0
    found, expected = figures(tmp_path / "run"), figures(tmp_path / "whole")
    assert list(found) == list(range(1, 31))
    for step, numbers in expected.items():
        assert found[step] == pytest.approx(numbers, abs=1e-6), f"step {step}"
    weights = [
        load(tmp_path / name / "final", manager=toy_workshop.manager, registry=toy_workshop.registry).weight_hash()
        for name in ("run", "whole")
    ]
    assert weights[0] == weights[1]

    status, _, err = call("train", "train.yaml")
    assert status == 2 and "run holds a run already; pass --resume auto" in err

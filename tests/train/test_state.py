from __future__ import annotations

import json
import logging
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from toy.parts import ToyEncoder

from nuebridge.errors import CheckpointError, TrainingError
from nuebridge.model import Integration
from nuebridge.train.batches import Position
from nuebridge.train.state import (
    Progress,
    checkpoints,
    keep_metrics,
    locked,
    read_progress,
    restore,
    save_checkpoint,
)


@pytest.fixture
def optimizer(toy_integration: Integration) -> torch.optim.Optimizer:
    optimizer = torch.optim.AdamW([{"params": list(toy_integration.parameters()), "lr": 0.1, "part": "all"}])
    for parameter in toy_integration.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    return optimizer


def test_everything_comes_back(toy_integration: Integration, optimizer: torch.optim.Optimizer, tmp_path: Path) -> None:
    progress = Progress(7, Position(2, 3), audio_seconds=12.5, minutes=0.25)
    torch.manual_seed(11)
    torch.rand(3)
    folder = save_checkpoint(tmp_path / "c", toy_integration, optimizer, progress, keep=2)
    assert folder == tmp_path / "c/step-00000007" and checkpoints(tmp_path / "c") == [(7, folder)]
    expected = torch.rand(4)
    other = torch.optim.AdamW([{"params": list(toy_integration.parameters()), "lr": 0.1, "part": "all"}])
    restore(folder, other)
    assert torch.equal(torch.rand(4), expected)
    assert read_progress(folder) == progress
    for ours, theirs in zip(other.state.values(), optimizer.state.values(), strict=True):
        assert all(torch.equal(ours[key], theirs[key]) for key in ("step", "exp_avg", "exp_avg_sq"))


def test_the_configured_rates_hold(
    toy_integration: Integration, optimizer: torch.optim.Optimizer, tmp_path: Path
) -> None:
    folder = save_checkpoint(tmp_path, toy_integration, optimizer, Progress(1), keep=2)
    changed = torch.optim.AdamW([{"params": list(toy_integration.parameters()), "lr": 0.002, "weight_decay": 0.5}])
    restore(folder, changed)
    assert (changed.param_groups[0]["lr"], changed.param_groups[0]["weight_decay"]) == (0.002, 0.5)


def test_other_parameters_are_an_error(
    toy_integration: Integration, optimizer: torch.optim.Optimizer, tmp_path: Path
) -> None:
    folder = save_checkpoint(tmp_path, toy_integration, optimizer, Progress(1), keep=2)
    with pytest.raises(TrainingError, match="written while other parameters were trained"):
        restore(folder, torch.optim.AdamW(toy_integration.bridge.parameters()))


def test_the_last_few_are_kept(toy_integration: Integration, optimizer: torch.optim.Optimizer, tmp_path: Path) -> None:
    for step in (2, 10, 100, 3000):
        save_checkpoint(tmp_path, toy_integration, optimizer, Progress(step), keep=2)
    assert [step for step, _ in checkpoints(tmp_path)] == [100, 3000]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-00000100", "step-00003000"]


def test_saving_a_step_again(toy_integration: Integration, optimizer: torch.optim.Optimizer, tmp_path: Path) -> None:
    for minutes in (1.0, 2.0):
        save_checkpoint(tmp_path, toy_integration, optimizer, Progress(5, minutes=minutes), keep=2)
    ((step, folder),) = checkpoints(tmp_path)
    assert step == 5 and read_progress(folder).minutes == 2.0


@pytest.mark.parametrize("lost", ["run.json", "state.pt", "integration/config.json", "integration"])
def test_an_incomplete_checkpoint_is_left_out_and_named(
    toy_integration: Integration,
    optimizer: torch.optim.Optimizer,
    tmp_path: Path,
    lost: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    for step in (1, 2):
        save_checkpoint(tmp_path, toy_integration, optimizer, Progress(step), keep=5)
    (tmp_path / "step-best").mkdir()
    path = tmp_path / "step-00000002" / lost
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    with caplog.at_level(logging.WARNING):
        assert [step for step, _ in checkpoints(tmp_path)] == [1]
    assert "step-00000002 is not a whole checkpoint and is left out: it lacks" in caplog.text
    assert lost in caplog.text and "step-best is not a whole checkpoint" in caplog.text


def test_a_save_that_fails_leaves_the_others(
    toy_integration: Integration,
    optimizer: torch.optim.Optimizer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    save_checkpoint(tmp_path, toy_integration, optimizer, Progress(1), keep=1)

    def full(*_: object) -> None:
        raise OSError("No space left on device")

    for target, name in ((ToyEncoder, "save"), (torch, "save")):
        with monkeypatch.context() as patch:
            patch.setattr(target, name, full)
            with pytest.raises(CheckpointError, match="No space left"):
                save_checkpoint(tmp_path, toy_integration, optimizer, Progress(2), keep=1)
        assert [step for step, _ in checkpoints(tmp_path)] == [1]
    save_checkpoint(tmp_path, toy_integration, optimizer, Progress(2), keep=1)
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000002"]


@pytest.mark.parametrize("size", [0, 10, 1000])
def test_a_damaged_state_says_what_to_do(
    toy_integration: Integration, optimizer: torch.optim.Optimizer, tmp_path: Path, size: int
) -> None:
    folder = save_checkpoint(tmp_path, toy_integration, optimizer, Progress(1), keep=1)
    file = folder / "state.pt"
    file.write_bytes(file.read_bytes()[:size])
    with pytest.raises(
        CheckpointError, match=r"^[^\n]*state\.pt cannot be read [^\n]*remove .*step-00000001 to resume"
    ):
        restore(folder, optimizer)


def test_a_state_that_would_run_code_is_refused(optimizer: torch.optim.Optimizer, tmp_path: Path) -> None:
    torch.save({"optimizer": Path("x"), "random": {}}, tmp_path / "state.pt")
    with pytest.raises(CheckpointError, match="cannot be read"):
        restore(tmp_path, optimizer)


@pytest.mark.parametrize("text", ["{}", "[]", '{"step": 1}', '{"position": {"epoch": 1, "page": 2}}', "{"])
def test_damaged_progress(tmp_path: Path, text: str) -> None:
    (tmp_path / "run.json").write_text(text)
    with pytest.raises(CheckpointError, match=r"run\.json"):
        read_progress(tmp_path)


def test_metrics_after_the_checkpoint_are_dropped(tmp_path: Path) -> None:
    file = tmp_path / "metrics.jsonl"
    keep_metrics(file, 3)
    assert not file.exists()
    lines = [json.dumps({"step": step}) + "\n" for step in (1, 2, 3, 3, 4, 5)]
    file.write_text("".join(lines) + '{"step": 6, "lo')
    keep_metrics(file, 3)
    assert file.read_text() == "".join(lines[:4])
    keep_metrics(file, 0)
    assert file.read_text() == ""


def test_a_run_has_one_writer(tmp_path: Path) -> None:
    said = "another process is training in .*/run; stop it or choose"
    with locked(tmp_path / "run"), pytest.raises(TrainingError, match=said), locked(tmp_path / "run"):
        pytest.fail("entered")
    with locked(tmp_path / "run"):
        pass


def test_a_killed_writer_lets_go(tmp_path: Path) -> None:
    code = (
        "import fcntl, sys\nfile = open(sys.argv[1], 'w')\nfcntl.flock(file, fcntl.LOCK_EX)\n"
        "print('in', flush=True)\nsys.stdin.read()\n"
    )
    command = [sys.executable, "-c", code, str(tmp_path / ".lock")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None and other.stdout.readline() == "in\n"
        with pytest.raises(TrainingError, match="another process"), locked(tmp_path):
            pytest.fail("entered")
        other.kill()
    with locked(tmp_path):
        pass


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(TrainingError, match="cannot write to"), locked(tmp_path / "file"):
        pytest.fail("entered")

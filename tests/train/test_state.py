from __future__ import annotations

import errno
import fcntl
import json
import os
import random
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from toy.parts import ToyEncoder

from nuebridge.errors import CheckpointError, TrainingError
from nuebridge.model import Integration
from nuebridge.train import folder as run_folder
from nuebridge.train.batches import Position
from nuebridge.train.folder import held, keep_metrics
from nuebridge.train.progress import Progress
from nuebridge.train.state import (
    checkpoints,
    newest_checkpoint,
    read_checkpoint,
    restore,
    save_checkpoint,
)

Save = Callable[..., Path]


@pytest.fixture
def optimizer(toy_integration: Integration) -> torch.optim.Optimizer:
    optimizer = torch.optim.AdamW([{"params": list(toy_integration.parameters()), "lr": 0.1, "part": "all"}])
    for parameter in toy_integration.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    return optimizer


@pytest.fixture
def saved(toy_integration: Integration, optimizer: torch.optim.Optimizer, tmp_path: Path) -> Save:
    """Saves a checkpoint of a step."""

    def saved(step: int, keep: int = 5, **progress: Any) -> Path:
        state = optimizer.state_dict()
        return save_checkpoint(tmp_path / "c", toy_integration, state, Progress(step, **progress), keep)

    return saved


def test_everything_comes_back(saved: Save, optimizer: torch.optim.Optimizer, tmp_path: Path) -> None:
    progress = {"position": Position(2, 3), "audio_seconds": 12.5, "minutes": 0.25, "data": "3 utterances"}
    torch.manual_seed(11)
    random.seed(12)
    np.random.seed(13)
    torch.rand(3), random.gauss(0, 1), np.random.randn(3)  # odd counts: a second number waits in both
    folder = saved(7, **progress)
    assert folder == tmp_path / "c/step-00000007" and checkpoints(tmp_path / "c") == [(7, folder)]

    def drawn() -> list[float]:
        return [*torch.rand(4).tolist(), random.gauss(0, 1), random.random(), *np.random.randn(2), np.random.rand()]

    expected = drawn()
    found = newest_checkpoint(tmp_path / "c")
    assert found is not None and found.folder == folder and found.progress == Progress(7, **progress)
    state = restore(folder)
    assert drawn() == expected
    for ours, theirs in zip(state["state"].values(), optimizer.state.values(), strict=True):
        assert all(torch.equal(ours[key], theirs[key]) for key in ("step", "exp_avg", "exp_avg_sq"))


def test_the_last_few_are_kept(saved: Save, tmp_path: Path) -> None:
    for step in (2, 10, 100, 3000):
        saved(step, keep=2)
    assert [step for step, _ in checkpoints(tmp_path / "c")] == [100, 3000]
    assert sorted(path.name for path in (tmp_path / "c").iterdir()) == ["step-00000100", "step-00003000"]


def test_steps_of_nine_figures(saved: Save, tmp_path: Path) -> None:
    for step in (99_999_999, 100_000_000):
        saved(step)
    assert [step for step, _ in checkpoints(tmp_path / "c")] == [99_999_999, 100_000_000]


def test_saving_a_step_again(saved: Save, tmp_path: Path) -> None:
    for minutes in (1.0, 2.0):
        saved(5, minutes=minutes)
    ((step, folder),) = checkpoints(tmp_path / "c")
    assert step == 5 and read_checkpoint(folder).progress.minutes == 2.0
    assert [path.name for path in (tmp_path / "c").iterdir()] == [folder.name]


def test_what_a_crash_left_is_brought_to_an_end(saved: Save, tmp_path: Path) -> None:
    for step in (1, 2, 3):
        saved(step)
    folder = tmp_path / "c"
    (folder / "step-00000001").rename(folder / ".step-00000001.old")
    (folder / "step-00000002").rename(folder / ".step-00000002.replaced")  # killed before the new one had the name
    (folder / ".step-00000003.replaced").mkdir()
    (folder / ".step-00000004.tmp").mkdir()
    (folder / ".step-00000004.tmp/state.pt").write_text("half")
    folder.rename(tmp_path / "checkpoints")
    for name in (".best.tmp", "..best.tmp.x1", ".final.x2"):
        (tmp_path / name).mkdir()
    (tmp_path / ".summary.html.17.tmp").write_text("half")
    with held(tmp_path):
        pass
    left = sorted(path.name for path in (tmp_path / "checkpoints").iterdir())
    assert left == ["step-00000002", "step-00000003"]
    assert [read_checkpoint(tmp_path / "checkpoints" / name).progress.step for name in left] == [2, 3]
    assert sorted(path.name for path in tmp_path.iterdir()) == [".lock", "checkpoints"]


def test_the_best_is_put_back_where_the_new_one_did_not_come(tmp_path: Path) -> None:
    (tmp_path / ".best.replaced").mkdir()
    (tmp_path / ".best.replaced/best.json").write_text("{}")
    with held(tmp_path):
        pass
    assert (tmp_path / "best/best.json").is_file() and not (tmp_path / ".best.replaced").exists()


@pytest.mark.parametrize("lost", ["run.json", "state.pt", "integration/config.json", "integration"])
def test_an_incomplete_checkpoint_is_an_error_that_says_how_to_go_on(saved: Save, tmp_path: Path, lost: str) -> None:
    for step in (1, 2, 3):
        saved(step)
    (tmp_path / "c/step-best").mkdir()  # somebody's own
    path = tmp_path / "c/step-00000003" / lost
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    with pytest.raises(CheckpointError) as caught:
        newest_checkpoint(tmp_path / "c")
    message = str(caught.value)
    assert re.search(r"step-00000003 is damaged: it lacks .*step-00000002 is whole: move it away \(mv ", message)
    assert lost in message and "\n" not in message
    _, source, target = message[message.index("(mv ") + 1 : message.index(")")].split()
    Path(source).rename(target)
    found = newest_checkpoint(tmp_path / "c")
    assert found is not None and found.progress.step == 2


@pytest.mark.parametrize("file", ["state.pt", "integration/bridge/model.safetensors", "integration/config.json"])
@pytest.mark.parametrize("how", ["empty", "cut", "flipped", "longer"])
def test_a_damaged_file_is_named(saved: Save, tmp_path: Path, file: str, how: str) -> None:
    saved(1), saved(2)
    path = tmp_path / "c/step-00000002" / file
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes({"empty": b"", "cut": data[:-10], "flipped": data, "longer": data + b"x"}[how])
    with pytest.raises(
        CheckpointError, match=f"step-00000002 is damaged: {file} is not what was written; .*1 is whole"
    ):
        newest_checkpoint(tmp_path / "c")


def test_several_damaged_checkpoints(saved: Save, tmp_path: Path) -> None:
    for step in (1, 2, 3):
        saved(step)
    for step in (2, 3):
        (tmp_path / f"c/step-0000000{step}/state.pt").unlink()
    with pytest.raises(CheckpointError, match="step-00000001 is whole: move them away .mv .*3 && mv .*2 "):
        newest_checkpoint(tmp_path / "c")
    (tmp_path / "c/step-00000001/run.json").write_text("{")
    with pytest.raises(CheckpointError, match=r"no checkpoint in .*/c is whole: copy them again, or choose another"):
        newest_checkpoint(tmp_path / "c")


@pytest.mark.parametrize("text", ["{}", "[]", '{"progress": 1}', '{"progress": {"position": {"page": 2}}}', "{"])
def test_damaged_progress(saved: Save, tmp_path: Path, text: str) -> None:
    (saved(1) / "run.json").write_text(text)
    with pytest.raises(CheckpointError, match=r"run\.json"):
        newest_checkpoint(tmp_path / "c")


@pytest.mark.parametrize("failing", [(ToyEncoder, "save"), (torch, "save"), (os, "fsync"), (Path, "rename")])
def test_a_save_that_fails_leaves_the_others(
    saved: Save, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing: tuple[Any, str]
) -> None:
    saved(1, keep=1)

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", "somewhere")

    with monkeypatch.context() as patch:
        patch.setattr(*failing, full)
        with pytest.raises(CheckpointError, match=r"^cannot save .*2: No space left on device; the checkpoints before"):
            saved(2, keep=1)
    assert [path.name for path in (tmp_path / "c").iterdir()] == ["step-00000001"]
    read_checkpoint(tmp_path / "c/step-00000001")
    saved(2, keep=1)
    assert [path.name for path in (tmp_path / "c").iterdir()] == ["step-00000002"]


def test_an_old_one_that_cannot_be_removed_is_said(
    saved: Save, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    saved(1, keep=1)

    rmtree = shutil.rmtree

    def busy(path: Path, *rest: Any, **options: Any) -> None:
        if path.name.endswith(".old"):
            raise OSError(errno.EBUSY, "Device or resource busy")
        rmtree(path, *rest, **options)

    with monkeypatch.context() as patch:
        patch.setattr(shutil, "rmtree", busy)
        folder = saved(2, keep=1)
    assert "cannot remove" in caplog.text and "resource busy" in caplog.text
    read_checkpoint(folder)


@pytest.mark.skipif(sys.platform != "linux", reason="the limit is Linux's")
def test_a_disk_that_is_really_full(tmp_path: Path) -> None:
    """The system itself refuses what is longer than so many bytes, to Python, torch and safetensors alike."""
    code = """
import resource, signal, sys
from pathlib import Path
import torch
from toy.parts import ToyDecoder
from nuebridge.errors import CheckpointError
from nuebridge.train import state
from nuebridge.train.progress import Progress

class Model:
    pass

def save(integration, folder, **_):
    folder.mkdir()
    try:
        ToyDecoder(16).save(folder)
    except OSError as error:
        raise CheckpointError("cannot save") from error

state.save = save
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
folder = Path(sys.argv[1])
for limit, tensor in ((100, 1), (100_000, 10_000_000)):
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
    try:
        state.save_checkpoint(folder, Model(), {"moments": torch.zeros(tensor)}, Progress(1), 1)
    except CheckpointError as error:
        print(error)
print(sorted(path.name for path in folder.iterdir()))
"""
    own = os.pathsep.join([str(Path(__file__).parents[1]), str(Path(__file__).parents[2])])
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "c")],
        env={**os.environ, "PYTHONPATH": own},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    first, second, left = done.stdout.splitlines()
    for line in (first, second):
        assert line.startswith("cannot save ") and "File too large" in line and line.endswith("before it are whole")
    assert left == "[]"


def test_a_state_that_would_run_code_is_refused(tmp_path: Path) -> None:
    torch.save({"optimizer": Path("x"), "random": {}}, tmp_path / "state.pt")
    with pytest.raises(CheckpointError, match="cannot be read"):
        restore(tmp_path)


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


def test_damaged_lines_of_the_metrics_are_said_and_dropped(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    file = tmp_path / "metrics.jsonl"
    file.write_bytes(b'{"step": 1}\n\x00\xff\n{"step": 2}\n')
    keep_metrics(file, 5)
    assert file.read_text() == '{"step": 1}\n{"step": 2}\n' and "metrics.jsonl:2 is damaged" in caplog.text


@pytest.mark.parametrize("named", [True, False])
def test_what_the_system_says_of_the_folder_is_one_line(tmp_path: Path, named: bool) -> None:
    path = (str(tmp_path / "metrics.jsonl"),) if named else ()
    said = r"cannot write to .*: No space left on device; mend that, .*--resume auto"
    with pytest.raises(TrainingError, match=said), held(tmp_path):
        raise OSError(errno.ENOSPC, "No space left on device", *path)
    for error in (OSError(errno.ENOENT, "No such file", "/elsewhere"), OSError(errno.ECONNRESET, "reset")):
        with pytest.raises(OSError) as caught, held(tmp_path):
            raise error
        assert caught.value is error


def test_a_run_has_one_writer(tmp_path: Path) -> None:
    said = "another process is training in .*/run; stop it or choose"
    with held(tmp_path / "run"), pytest.raises(TrainingError, match=said), held(tmp_path / "run"):
        pytest.fail("entered")
    assert not (tmp_path / "run").exists()  # nothing was written
    with held(tmp_path / "run"):
        pass


def test_a_lock_whose_file_went_keeps_nobody_out_and_is_not_taken_for_one(tmp_path: Path) -> None:
    """Who waits for a file that its holder removes must not hold what no newcomer sees."""
    order: list[str] = []
    flock = fcntl.flock

    def slow(stream: Any, how: int) -> None:
        if not order:
            (tmp_path / ".lock").unlink()  # the holder leaves between opening and locking
        order.append("locked")
        flock(stream, how)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run_folder.fcntl, "flock", slow)
        with held(tmp_path):
            assert order == ["locked", "locked"]
            with pytest.raises(TrainingError, match="another process"), held(tmp_path):
                pytest.fail("entered")


def test_a_killed_writer_lets_go(tmp_path: Path) -> None:
    code = (
        "import fcntl, sys\nfile = open(sys.argv[1], 'w')\nfcntl.flock(file, fcntl.LOCK_EX)\n"
        "print('in', flush=True)\nsys.stdin.read()\n"
    )
    command = [sys.executable, "-c", code, str(tmp_path / ".lock")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None and other.stdout.readline() == "in\n"
        with pytest.raises(TrainingError, match="another process"), held(tmp_path):
            pytest.fail("entered")
        other.kill()
    with held(tmp_path):
        pass


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(TrainingError, match="is a file; choose another output"), held(tmp_path / "file"):
        pytest.fail("entered")

"""The folder of a run: who may write in it, whether there is a run to go on with, what a crash left behind.

.lock            held by the process that writes
checkpoints/     what a resumed run goes on from
best/            the integration of the best validation so far
final/           the trained integration; there once the run is finished
metrics.jsonl    what was logged
"""

from __future__ import annotations

import errno
import fcntl
import json
import logging
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Literal

from nuebridge.errors import TrainingError
from nuebridge.tensors import write_text
from nuebridge.train.placing import tidy
from nuebridge.train.state import Saved, checkpoints, newest_checkpoint

log = logging.getLogger(__name__)

Resume = Literal["auto", "must", "never"]
"""auto: go on where there is a run, else begin one; must: an error where there is none; never: where there is one."""

_OF_WRITES = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EROFS)
CHECKPOINTS, BEST, FINAL, LOCK = "checkpoints", "best", "final", ".lock"


@contextmanager
def held(folder: Path) -> Iterator[None]:
    """Makes the folder of a run, holds it for the block, and brings to an end what a crash left undone in it.

    The system lets go of it when the process ends, however it ends. A folder that holds nothing at
    the end, since the run failed before it wrote anything, is removed again. Raises TrainingError
    where another process holds it or it cannot be written.
    """
    made = [path for path in (folder, *folder.parents) if not path.exists()]
    stream = _lock(folder)
    try:
        with _named(folder):
            _tidy(folder)
            yield
    finally:
        with suppress(OSError):
            if [path.name for path in folder.iterdir()] == [LOCK]:
                (folder / LOCK).unlink()
                for path in made:
                    path.rmdir()
        stream.close()


def _lock(folder: Path) -> IO[str]:
    file = folder / LOCK
    if folder.exists() and not folder.is_dir():
        raise TrainingError(f"{folder} is a file; choose another output")
    while True:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            stream = file.open("a", encoding="utf-8")
        except OSError as error:
            raise TrainingError(f"cannot write to {folder}: {error.strerror}; choose another output") from error
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            stream.close()
            if isinstance(error, BlockingIOError):
                raise TrainingError(
                    f"another process is training in {folder}; stop it or choose another output"
                ) from None
            raise TrainingError(
                f"cannot lock {file}: {error.strerror}; choose an output on a file system that has file locks"
            ) from error
        with suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(stream.fileno()), file.stat()):
                return stream
        stream.close()  # who held it before has removed the file: this lock keeps nobody out


@contextmanager
def _named(folder: Path) -> Iterator[None]:
    """What the system says of a run's own files becomes one line that says what to do."""
    try:
        yield
    except OSError as error:
        where = Path(os.fsdecode(error.filename)) if isinstance(error.filename, str | bytes) else None
        # A failed write names no file; these are what one fails of.
        ours = error.errno in _OF_WRITES if where is None else where.is_relative_to(folder)
        if not ours:
            raise
        raise TrainingError(
            f"cannot write to {where or folder}: {error.strerror or error}; mend that, and the same command with "
            "--resume auto goes on from the last checkpoint"
        ) from error


def _tidy(folder: Path) -> None:
    tidy(folder / CHECKPOINTS, "step-*")
    tidy(folder, BEST)
    # Of the final integration, and of files that are written aside.
    for leftover in [*folder.glob(f".{FINAL}.*"), *folder.glob(".*.tmp")]:
        if leftover.is_dir():
            shutil.rmtree(leftover)
        else:
            leftover.unlink()


def to_resume(output: Path, resume: Resume) -> Saved | None:
    """The checkpoint to go on from; None where a run begins, and where it is finished.

    Raises TrainingError where that is not what ``resume`` asks for, and CheckpointError where the
    newest checkpoint is damaged.
    """
    if resume not in ("auto", "must", "never"):
        raise TrainingError(f"resume is {resume!r}; allowed: auto, must, never")
    final, folder = output / FINAL, output / CHECKPOINTS
    there = final.exists() or bool(checkpoints(folder))
    if there and resume == "never":
        raise TrainingError(
            f"{output} holds a run already; pass --resume auto to go on with it or choose another output"
        )
    if not there and resume == "must":
        raise TrainingError(f"{output} holds no run to go on with; pass --resume auto to begin one, or mend the path")
    if final.exists():
        return None
    return newest_checkpoint(folder)


def keep_metrics(file: Path, step: int) -> None:
    """Drops what a run logged after the checkpoint it goes on from: it will be logged again."""
    if not file.is_file():
        return
    kept = []
    for number, line in enumerate(file.read_text(encoding="utf-8", errors="replace").splitlines(keepends=True), 1):
        if not line.endswith("\n"):  # cut short where the process was killed while it wrote
            continue
        try:
            if json.loads(line)["step"] <= step:
                kept.append(line)
        except (ValueError, KeyError, TypeError):
            log.warning("%s:%d is damaged and is left out of what was logged", file, number)
    write_text(file, "".join(kept))

"""Training checkpoints: a folder a step, complete or not there at all.

checkpoints/step-00000500/integration/   what nuebridge.load opens
                          state.pt       optimiser, random states (tensors and numbers only)
                          run.json       progress, configuration, and the hash of every other file
"""

from __future__ import annotations

import hashlib
import logging
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from nuebridge.checkpoint import save
from nuebridge.errors import CheckpointError, TrainingError
from nuebridge.model import Integration
from nuebridge.tensors import read_json, write_json
from nuebridge.train.placing import aside, discard, give_up, put_in_place
from nuebridge.train.progress import Progress
from nuebridge.train.randomness import random_states, set_random_state
from nuebridge.train.ranks import ALONE, Ranks

log = logging.getLogger(__name__)

_RUN, _STATE = "run.json", "state.pt"
_FILES = (_RUN, _STATE, "integration/config.json")
_NAME = re.compile(r"step-(\d{8,})")


def save_checkpoint(
    folder: Path,
    integration: Integration,
    optimizer_state: Mapping[str, Any],
    progress: Progress,
    keep: int,
    ranks: Ranks = ALONE,
    *,
    weights: Literal["all", "trained"] = "all",
    configuration: Mapping[str, Any] | None = None,
) -> Path:
    """Writes a checkpoint aside, flushes it to the disk, renames it into place, and drops the oldest.

    Every rank must call it: the main one writes, with the random states of all. ``optimizer_state``
    holds full tensors, and so must ``integration`` on the main rank. Raises CheckpointError where it
    cannot be written, and on the other ranks TrainingError; the checkpoints before it are untouched.
    """
    target = folder / f"step-{progress.total_step:08d}"
    state = {"optimizer": dict(optimizer_state), "random": random_states(ranks)}
    run = {"progress": progress.saved(), "configuration": configuration}
    with written_by_main(ranks, target):
        if ranks.is_main:
            _write(target, integration, state, weights, run)
            for _, old in checkpoints(folder)[:-keep]:
                discard(old)
    return target


@contextmanager
def written_by_main(ranks: Ranks, target: Path) -> Iterator[None]:
    """Every rank leaves the block when the main one has written ``target`` in it; where it cannot, all raise."""
    failure: CheckpointError | None = None
    try:
        yield
    except CheckpointError as error:
        failure = error
    failed = ranks.sum_numbers({"failed": float(failure is not None)})["failed"] > 0
    if failure is not None:
        raise failure
    if failed:
        raise TrainingError(f"the main process cannot save {target}, and says why")


def _write(
    target: Path,
    integration: Integration,
    state: Mapping[str, Any],
    weights: Literal["all", "trained"],
    run: Mapping[str, Any],
) -> None:
    written: Path | None = None
    try:
        written = aside(target)
        written.mkdir()
        save(integration, written / "integration", weights=weights)
        # Through Python's own file, which says of a full disk that it is full.
        with (written / _STATE).open("wb") as stream:
            torch.save(dict(state), stream)
        files = {str(file.relative_to(written)): _hash(file) for file in sorted(written.rglob("*")) if file.is_file()}
        write_json(written / _RUN, {**run, "files": files})
        put_in_place(written, target)
    except (OSError, RuntimeError, CheckpointError) as error:  # torch.save may make the second of the first
        if written is not None:
            give_up(written)
        raise CheckpointError(
            f"cannot save {target}: {reason_of(error)}; the checkpoints before it are whole"
        ) from error


def checkpoints(folder: Path) -> list[tuple[int, Path]]:
    """The checkpoints of a run with their steps, oldest first; whether they are whole is not looked at."""
    return sorted((int(match[1]), path) for path in folder.glob("step-*") if (match := _NAME.fullmatch(path.name)))


@dataclass(frozen=True)
class Saved:
    """A checkpoint that was found whole."""

    folder: Path
    progress: Progress
    configuration: dict[str, Any] | None
    """The training configuration it was written under, as JSON holds it."""


def newest_checkpoint(folder: Path) -> Saved | None:
    """The newest checkpoint of a run, every file of it checked; None where there is none.

    Nothing older is taken in its place unasked. Raises CheckpointError where it is damaged,
    saying which older one is whole and how to go on from that.
    """
    damaged: list[tuple[Path, str]] = []
    for _, path in reversed(checkpoints(folder)):
        try:
            saved = read_checkpoint(path)
        except CheckpointError as error:
            damaged.append((path, str(error)))
            continue
        if not damaged:
            return saved
        raise CheckpointError(f"{damaged[0][1]}; {path} is whole: {_to_go_back(damaged)}, then resume from it")
    if damaged:
        raise CheckpointError(
            f"{damaged[0][1]}; no checkpoint in {folder} is whole: copy them again, or choose another output"
        )
    return None


def read_checkpoint(checkpoint: Path) -> Saved:
    """How far a run was, every file of the checkpoint checked. Raises CheckpointError where it is damaged."""
    missing = [name for name in _FILES if not (checkpoint / name).is_file()]
    if missing:
        raise CheckpointError(f"{checkpoint} is damaged: it lacks {', '.join(missing)}")
    data = read_json(checkpoint / _RUN)
    try:
        progress, files, configuration = Progress.from_saved(data["progress"]), data["files"], data["configuration"]
        for name, expected in files.items():
            if _hash(checkpoint / name) != expected:
                raise CheckpointError(f"{checkpoint} is damaged: {name} is not what was written")
    except (AttributeError, KeyError, TypeError) as error:
        raise CheckpointError(
            f"{checkpoint / _RUN} is damaged, or of another release ({type(error).__name__}: {error})"
        ) from error
    except OSError as error:
        raise CheckpointError(f"{checkpoint} is damaged: {error.filename}: {error.strerror}") from error
    return Saved(checkpoint, progress, configuration)


def restore(checkpoint: Path, ranks: Ranks = ALONE) -> dict[str, Any]:
    """Puts this rank's random states back and returns the optimiser's state. Raises CheckpointError."""
    file = checkpoint / _STATE
    try:
        state = torch.load(file, map_location="cpu", weights_only=True)
        optimizer: dict[str, Any] = state["optimizer"]
        random: list[dict[str, Tensor]] = state["random"]
        if len(random) == ranks.count:
            set_random_state(random[ranks.rank])
    except Exception as error:  # torch raises many kinds for a damaged file
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        raise CheckpointError(
            f"{file} cannot be read ({reason}); {_to_go_back([(checkpoint, '')])} to resume from the one before it"
        ) from error
    if len(random) != ranks.count:
        log.warning(
            "%s was written by %d ranks and is resumed by %d: dropout will draw differently",
            checkpoint,
            len(random),
            ranks.count,
        )
    return optimizer


def _to_go_back(damaged: list[tuple[Path, str]]) -> str:
    """What to do to leave checkpoints out: nothing is removed that might yet be mended."""
    moves = [f"mv {path} {path.with_name('damaged-' + path.name)}" for path, _ in damaged]
    return f"move {'it' if len(moves) == 1 else 'them'} away ({' && '.join(moves)})"


def reason_of(error: BaseException) -> str:
    """What the system said at the bottom of an error, without names of files that were there for the moment."""
    link: BaseException | None = error
    while link is not None:
        if isinstance(link, OSError) and link.strerror:
            return link.strerror
        last, link = link, link.__cause__ or link.__context__
    return " ".join(str(last).split())


def _hash(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()

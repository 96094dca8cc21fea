"""Training checkpoints: a folder a step, complete or not there at all.

checkpoints/step-00000500/integration/   what nuebridge.load opens
                          state.pt       optimiser, random states (tensors and numbers only)
                          run.json       step, position in the data, totals
"""

from __future__ import annotations

import fcntl
import json
import logging
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from nuebridge.checkpoint import save
from nuebridge.errors import CheckpointError, TrainingError
from nuebridge.model import Integration
from nuebridge.tensors import flush, flush_folder, read_json, write_json, write_text
from nuebridge.train.batches import ALONE, Position
from nuebridge.train.ranks import Ranks

log = logging.getLogger(__name__)

_FILES = ("run.json", "state.pt", "integration/config.json")
_NAME = re.compile(r"step-(\d{8})")


@dataclass
class Progress:
    """How far a run has come."""

    step: int = 0
    """Steps of the stage that are done."""
    position: Position = field(default_factory=Position)
    audio_seconds: float = 0.0
    """Audio trained on, padding not counted."""
    minutes: float = 0.0
    """Time spent in training steps and validation, over all sittings."""
    stage: int = 0
    """Which of the run's stages, from 0."""
    earlier_steps: int = 0
    """Steps of the stages before it."""

    @property
    def total_step(self) -> int:
        """Steps of the whole run that are done."""
        return self.earlier_steps + self.step

    def advance(self, position: Position, audio_seconds: float) -> None:
        """One more step is done; training goes on at ``position``."""
        self.step += 1
        self.position = position
        self.audio_seconds += audio_seconds

    def begin_stage(self, number: int) -> None:
        """The stage before it is done; the data begin anew."""
        self.stage, self.earlier_steps, self.step, self.position = number, self.total_step, 0, Position()


def save_checkpoint(
    folder: Path,
    integration: Integration,
    optimizer: torch.optim.Optimizer,
    progress: Progress,
    keep: int,
    ranks: Ranks = ALONE,
) -> Path:
    """Writes a checkpoint aside, flushes it to the disk, renames it into place, and drops the oldest.

    Every rank must call it: the main one writes, with the random states of all.
    """
    target = folder / f"step-{progress.total_step:08d}"
    random = random_states(ranks)
    if ranks.is_main:
        _write(folder, target, integration, optimizer, progress, keep, random)
    ranks.wait()
    return target


def _write(
    folder: Path,
    target: Path,
    integration: Integration,
    optimizer: torch.optim.Optimizer,
    progress: Progress,
    keep: int,
    random: list[dict[str, Tensor]],
) -> None:
    aside = folder / f".{target.name}.tmp"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for leftover in folder.glob(".step-*"):  # of a process that was killed while it saved
            shutil.rmtree(leftover)
        aside.mkdir()
        save(integration, aside / "integration")
        torch.save({"optimizer": optimizer.state_dict(), "random": random}, aside / "state.pt")
        write_json(aside / "run.json", asdict(progress))
        flush_folder(aside)
        _remove(target)
        aside.rename(target)
        flush(folder)
        for _, old in checkpoints(folder)[:-keep]:
            _remove(old)
    except (OSError, RuntimeError) as error:  # torch.save raises the latter where the disk is full
        reason = " ".join(str(error).split())
        raise CheckpointError(f"cannot save {target}: {reason}; the checkpoints before it are untouched") from error


def checkpoints(folder: Path) -> list[tuple[int, Path]]:
    """The complete checkpoints of a run with their steps, oldest first; others are warned about."""
    complete = []
    for path in sorted(folder.glob("step-*")):
        match = _NAME.fullmatch(path.name)
        missing = [name for name in _FILES if not (path / name).is_file()]
        if match and not missing:
            complete.append((int(match[1]), path))
        else:
            lacking = ", ".join(missing) or "a step in its name"
            log.warning("%s is not a whole checkpoint and is left out: it lacks %s", path, lacking)
    return sorted(complete)


def read_progress(checkpoint: Path) -> Progress:
    """How far the run was. Raises CheckpointError."""
    data = read_json(checkpoint / "run.json")
    try:
        return Progress(**{**data, "position": Position(**data["position"])})
    except (KeyError, TypeError) as error:
        raise CheckpointError(
            f"{checkpoint / 'run.json'} is damaged ({type(error).__name__}: {error}); {_go_back(checkpoint)}"
        ) from error


def restore(checkpoint: Path, optimizer: torch.optim.Optimizer, ranks: Ranks = ALONE) -> None:
    """Puts the optimiser and this rank's random states back; learning rates and the like stay as configured now.

    Raises CheckpointError, and TrainingError where other parameters were trained.
    """
    try:
        state = torch.load(checkpoint / "state.pt", map_location="cpu", weights_only=True)
        saved, random = state["optimizer"], state["random"]
    except Exception as error:  # torch raises many kinds for a damaged file
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        raise CheckpointError(f"{checkpoint / 'state.pt'} cannot be read ({reason}); {_go_back(checkpoint)}") from error
    configured = [{k: v for k, v in group.items() if k != "params"} for group in optimizer.param_groups]
    try:
        optimizer.load_state_dict(saved)
    except ValueError as error:
        raise TrainingError(
            f"{checkpoint} was written while other parameters were trained ({error}); "
            "resume with the parts.*.train it had, or start a new run from its integration"
        ) from error
    for group, settings in zip(optimizer.param_groups, configured, strict=True):
        group.update(settings)
    if len(random) == ranks.count:
        set_random_state(random[ranks.rank])
    else:
        log.warning(
            "%s was written by %d ranks and is resumed by %d: dropout will draw differently",
            checkpoint,
            len(random),
            ranks.count,
        )


def keep_metrics(file: Path, step: int) -> None:
    """Drops what a run logged after the checkpoint it goes on from: it will be logged again."""
    if not file.is_file():
        return
    kept = []
    for line in file.read_text(encoding="utf-8").splitlines(keepends=True):
        # Only the last line can be cut short, where the process was killed while writing it.
        if line.endswith("\n") and json.loads(line)["step"] <= step:
            kept.append(line)
    write_text(file, "".join(kept))


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Holds the folder of a run; the system lets go of it when the process ends, however it ends.

    Raises TrainingError where another process holds it or it cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        stream = (folder / ".lock").open("w")
    except OSError as error:
        raise TrainingError(f"cannot write to {folder}: {error.strerror}; choose another output") from error
    with stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise TrainingError(f"another process is training in {folder}; stop it or choose another output") from None
        yield


def random_states(ranks: Ranks = ALONE) -> list[dict[str, Tensor]]:
    """The states of torch's generators, by rank."""
    states = [{"cpu": state} for state in ranks.gather(torch.get_rng_state())]
    if torch.cuda.is_available():
        for state, on_device in zip(states, ranks.gather(torch.cuda.get_rng_state()), strict=True):
            state["cuda"] = on_device
    return states


def set_random_state(state: Mapping[str, Tensor]) -> None:
    """Puts back what :func:`random_states` gave for a rank."""
    torch.set_rng_state(state["cpu"])
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"])


def _go_back(checkpoint: Path) -> str:
    return f"remove {checkpoint} to resume from the checkpoint before it"


def _remove(checkpoint: Path) -> None:
    """Removes a checkpoint such that it is never seen in part."""
    if checkpoint.exists():
        shutil.rmtree(checkpoint.rename(checkpoint.with_name(f".{checkpoint.name}.old")))

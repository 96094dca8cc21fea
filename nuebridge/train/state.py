"""Training checkpoints: a folder a step, complete or not there at all.

    checkpoints/step-00000500/integration/   what nuebridge.load opens
                              state.pt       optimiser, random states (tensors and numbers only)
                              run.json       step, position in the data, totals
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from nuebridge.checkpoint import save
from nuebridge.errors import CheckpointError
from nuebridge.model import Integration
from nuebridge.tensors import read_json, write_json
from nuebridge.train.batches import Position

_NAME = re.compile(r"step-(\d{8})")


@dataclass
class Progress:
    """How far a run has come."""

    step: int = 0
    position: Position = field(default_factory=Position)
    audio_seconds: float = 0.0
    """Audio trained on, padding not counted."""
    minutes: float = 0.0
    """Time spent in training steps and validation, over all sittings."""


def save_checkpoint(
    folder: Path, integration: Integration, optimizer: torch.optim.Optimizer, progress: Progress, keep: int
) -> Path:
    """Writes a checkpoint aside, flushes it to the disk, renames it into place, and drops the oldest."""
    target = folder / f"step-{progress.step:08d}"
    aside = folder / f".{target.name}.tmp"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(aside, ignore_errors=True)
        aside.mkdir()
        save(integration, aside / "integration")
        torch.save({"optimizer": optimizer.state_dict(), "random": random_state()}, aside / "state.pt")
        write_json(aside / "run.json", asdict(progress))
        _flush(aside)
        shutil.rmtree(target, ignore_errors=True)
        aside.rename(target)
        _flush_folder(folder)
    except OSError as error:
        raise CheckpointError(f"cannot save {target}: {error}; the checkpoints before it are untouched") from error
    for _, old in checkpoints(folder)[:-keep]:
        shutil.rmtree(old)
    return target


def checkpoints(folder: Path) -> list[tuple[int, Path]]:
    """The complete checkpoints of a run with their steps, oldest first."""
    found = [(_NAME.fullmatch(path.name), path) for path in folder.glob("step-*")]
    return sorted((int(match[1]), path) for match, path in found if match)


def read_progress(checkpoint: Path) -> Progress:
    """How far the run was. Raises CheckpointError."""
    data = read_json(checkpoint / "run.json")
    return Progress(**{**data, "position": Position(**data["position"])})


def restore(checkpoint: Path, optimizer: torch.optim.Optimizer) -> None:
    """Puts the optimiser and the random states back. Raises CheckpointError."""
    try:
        state = torch.load(checkpoint / "state.pt", weights_only=True)
        optimizer.load_state_dict(state["optimizer"])
    except Exception as error:  # torch raises many kinds for a damaged file
        raise CheckpointError(
            f"{checkpoint / 'state.pt'} cannot be read ({type(error).__name__}: {error}); "
            f"remove {checkpoint} to resume from the checkpoint before it"
        ) from error
    set_random_state(state["random"])


def random_state() -> dict[str, Any]:
    """The states of torch's generators, as tensors."""
    state: dict[str, Any] = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state_all()
    return state


def set_random_state(state: Mapping[str, Any]) -> None:
    """Puts back what :func:`random_state` gave."""
    torch.set_rng_state(state["cpu"])
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state_all(state["cuda"])


def _flush(folder: Path) -> None:
    for path in folder.rglob("*"):
        _flush_folder(path)
    _flush_folder(folder)


def _flush_folder(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

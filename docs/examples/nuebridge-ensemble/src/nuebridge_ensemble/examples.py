"""Tiny checkpoints with random weights, for the conformance suite and for trying things out.

    python -m nuebridge_ensemble.examples FOLDER

writes each of them into a folder of its own below FOLDER.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from functools import partial
from importlib.metadata import version
from pathlib import Path

import torch
from nuebridge.model import PartInfo

from nuebridge_ensemble.ensemble import Combine, EnsembleEncoder, Rate
from nuebridge_ensemble.log_mel import LogMelEncoder


def _log_mel(hidden_size: int, hop: int, seed: int) -> LogMelEncoder:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return LogMelEncoder(hidden_size, hop)


def _write_log_mel(folder: Path, *, hop: int) -> None:
    _log_mel(16, hop, seed=0).save(folder)


def _write_ensemble(folder: Path, *, combine: Combine, rate: Rate) -> None:
    """Frames of 10 ms and of 16.4 ms, which do not divide one another."""
    info = PartInfo("ensemble.log-mel", "nuebridge-ensemble", version("nuebridge-ensemble"))
    encoders = [_log_mel(16, 160, seed=0), _log_mel(16, 263, seed=1)]
    EnsembleEncoder(encoders, [info, info], combine, rate).save(folder)


LOG_MELS: Mapping[str, Callable[[Path], None]] = {
    "log-mel-10ms": partial(_write_log_mel, hop=160),
    "log-mel-20ms": partial(_write_log_mel, hop=320),
}
ENSEMBLES: Mapping[str, Callable[[Path], None]] = {
    "side-by-side": partial(_write_ensemble, combine="concatenate", rate="slowest"),
    "added-up": partial(_write_ensemble, combine="sum", rate="fastest"),
}


def main(folder: Path) -> None:
    """Writes every example."""
    for name, write in {**LOG_MELS, **ENSEMBLES}.items():
        target = folder / name
        target.mkdir(parents=True)
        write(target)
        print(target)


if __name__ == "__main__":
    main(Path(sys.argv[1]))

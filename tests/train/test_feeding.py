"""Augmentation in runs: it changes what is learned from, the same way whatever else happens."""

from __future__ import annotations

from pathlib import Path

import pytest

from nuebridge.train.state import checkpoints
from tests.train.conftest import Run
from tests.train.runs import figures

AUGMENTED = {"data__augmentation": {"gain": {"probability": 1.0}, "speed": {"probability": 1.0}}}


def test_augmentation_changes_losses_and_is_drawn_again_alike(run: Run, tmp_path: Path) -> None:
    plain, changed, again = (
        run(output=str(tmp_path / name), **settings)
        for name, settings in (("plain", {}), ("changed", AUGMENTED), ("again", AUGMENTED))
    )
    assert figures(changed) == figures(again)
    assert figures(changed)[1] != figures(plain)[1]


def test_a_run_with_augmentation_goes_on_exactly(run: Run, tmp_path: Path) -> None:
    whole = run(output=str(tmp_path / "whole"), **AUGMENTED)
    part = run(output=str(tmp_path / "part"), **AUGMENTED)
    found = checkpoints(part / "checkpoints")
    assert len(found) > 1
    for folder in (part / "final", found[-1][1]):  # back to an earlier checkpoint
        for path in sorted(folder.rglob("*"), reverse=True):
            path.rmdir() if path.is_dir() else path.unlink()
        folder.rmdir()
    run(output=str(tmp_path / "part"), resume="auto", **AUGMENTED)
    for step, values in figures(whole).items():
        assert figures(part)[step] == pytest.approx(values, rel=1e-6)


def test_masks_on_frames_change_losses(run: Run, tmp_path: Path) -> None:
    plain = run(output=str(tmp_path / "plain"))
    masked = run(output=str(tmp_path / "masked"), spec_augment={"time_masks": 2, "max_time_frames": 2})
    assert figures(plain)[1] != figures(masked)[1]

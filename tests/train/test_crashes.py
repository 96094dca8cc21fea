"""A process that ends, or a disk that is full, at moments of a run: nothing half-written is taken for whole.

Some moments of each kind here, all of them in tests/acceptance/test_training.py.
"""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tests.tones import write_corpus
from tests.train.crashing import series
from tests.train.killing import Runs, Who


@pytest.mark.skipif(sys.platform != "linux", reason="names of open files come from /proc")
@pytest.mark.timeout(900)
def test_crashes_and_full_disks(toy_site: Path, toy_registry_file: Path, tmp_path: Path) -> None:
    figures = series(toy_site, toy_registry_file, tmp_path, {"crash": 53, "full": 79})
    assert set(figures["kinds"]) == {"open", "write", "half", "fsync", "rename", "mkdir", "chmod", "remove", "rmdir"}
    assert figures["crashed"] >= 15 and figures["refused"] >= 8


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_every_rank_leaves_where_the_main_one_cannot_save(
    toy_site: Path, toy_registry_file: Path, tmp_path: Path
) -> None:
    runs = Runs(tmp_path, toy_site, toy_registry_file, write_corpus(tmp_path / "corpus", 12), steps=4)
    (tmp_path / "two").mkdir()
    (tmp_path / "two/checkpoints").write_text("in the way")
    assert runs.start("two", 2).wait() == 1
    said = runs.said("two")
    assert "two/checkpoints/step-00000003: File exists; the checkpoints before it are whole" in said
    # torchrun may end the other before it has said "the main process cannot save"; the traceback is torchrun's own.
    assert said.count("Traceback") == 1 and "closed by peer" not in said
    (tmp_path / "two/checkpoints").unlink()
    runs.finish("two", 2)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="looks at processes in /proc")
@pytest.mark.timeout(900)
@pytest.mark.parametrize("who", ["rank", "launcher"])
def test_killed_under_torchrun(who: Who, toy_site: Path, toy_registry_file: Path, tmp_path: Path) -> None:
    runs = Runs(tmp_path, toy_site, toy_registry_file, write_corpus(tmp_path / "corpus", 12), steps=30)
    found = runs.killed(who, times=1, seed=0, unbroken=runs.finish("unbroken", 2))
    assert found.difference < 1e-6 and found.lingering_seconds < 30

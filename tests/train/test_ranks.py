"""Two processes train what one trains: real ranks under torchrun."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.train.conftest import Configure, Run

ROOT = Path(__file__).parents[2]
FROZEN = {"parts__encoder": {"train": False}}
"""The toy encoder alone has dropout, which every rank draws for itself."""


def torchrun(count: int, config: Path, site: Path, *options: str, status: int = 0) -> str:
    """``nuebridge train`` in ``count`` processes; its stderr."""
    own = [str(site), str(ROOT / "tests"), str(ROOT)]
    done = subprocess.run(
        [
            *(sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={count}"),
            *("-m", "nuebridge.cli", "train", str(config), *options),
        ],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(own), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        cwd=config.parent,
    )
    assert done.returncode == status, done.stderr[-3000:]
    return done.stderr


def losses(folder: Path) -> list[tuple[float, float]]:
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [(line["loss"], line["ctc_loss"]) for line in lines if line["kind"] == "train"]


def written(configure: Configure, folder: Path, **changes: Any) -> Path:
    """The configuration as a file; its run goes into ``folder/run``."""
    config = configure(output=str(folder / "run"), **changes)
    folder.mkdir()
    file = folder / "config.yaml"
    file.write_text(config.model_dump_json())
    return file


@pytest.mark.timeout(600)
def test_two_ranks_give_the_losses_of_one(configure: Configure, run: Run, toy_site: Path, tmp_path: Path) -> None:
    alone = losses(run(**FROZEN))
    config = written(configure, tmp_path / "two", **FROZEN)
    torchrun(2, config, toy_site)
    together = losses(tmp_path / "two" / "run")
    assert len(together) == len(alone) == 7
    assert together == [pytest.approx(pair, abs=1e-4) for pair in alone]
    assert sorted(p.name for p in (tmp_path / "two" / "run" / "final").iterdir())


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_two_ranks_resume_as_two_and_as_one(configure: Configure, run: Run, toy_site: Path, tmp_path: Path) -> None:
    alone = losses(run(**FROZEN))
    config = written(configure, tmp_path / "stopped", stop_after_minutes=1e-6, **FROZEN)
    for _ in range(2):  # each sitting ends after one step, saved
        assert "--resume goes on" in torchrun(2, config, toy_site, "--resume", status=1)
    folder = tmp_path / "stopped" / "run"
    assert len(losses(folder)) == 2
    config.write_text(configure(output=str(folder), **FROZEN).model_dump_json())
    torchrun(1, config, toy_site, "--resume")
    assert losses(folder) == [pytest.approx(pair, abs=1e-4) for pair in alone]


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_dropout_resumes_exactly_at_equal_rank_count(configure: Configure, toy_site: Path, tmp_path: Path) -> None:
    torchrun(2, written(configure, tmp_path / "unbroken"), toy_site)
    config = written(configure, tmp_path / "broken", stop_after_minutes=1e-6)
    torchrun(2, config, toy_site, status=1)
    folder = tmp_path / "broken" / "run"
    config.write_text(configure(output=str(folder)).model_dump_json())
    torchrun(2, config, toy_site, "--resume")
    expected = losses(tmp_path / "unbroken" / "run")
    assert losses(folder) == [pytest.approx(pair, abs=1e-6) for pair in expected]

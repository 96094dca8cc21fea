"""Two processes train what one trains: real ranks under torchrun, model replicated or divided."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from nuebridge.checkpoint import load
from nuebridge.compose import Workshop
from nuebridge.train.state import restore
from tests.train.conftest import Configure, Run

ROOT = Path(__file__).parents[2]
FROZEN = {"parts__encoder": {"train": False}}
"""The toy encoder alone has dropout, which every rank draws for itself."""
SHARD = {"parallel__strategy": "shard"}

Written = Callable[..., str]
Several = Callable[..., str]


@pytest.fixture
def written(configure: Configure, tmp_path: Path) -> Written:
    """Writes a configuration whose run goes into ``tmp_path/NAME/run``; gives its file."""

    def written(name: str, **changes: Any) -> str:
        folder = tmp_path / name
        folder.mkdir(exist_ok=True)
        (folder / "config.json").write_text(configure(output=str(folder / "run"), **changes).model_dump_json())
        return str(folder / "config.json")

    return written


@pytest.fixture
def several(toy_site: Path, toy_registry_file: Path, tmp_path: Path) -> Several:
    """Trains by configurations in a row, in ``count`` processes; their stderr."""

    def several(count: int, *files: str) -> str:
        return torchrun(
            count, [str(ROOT / "tests/train/several.py"), str(toy_registry_file), str(toy_site), *files], tmp_path
        )

    return several


def torchrun(count: int, command: list[str], folder: Path, *paths: Path, status: int = 0) -> str:
    done = subprocess.run(
        [*(sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={count}"), *command],
        env={
            **os.environ,
            "PYTHONPATH": os.pathsep.join([*map(str, paths), str(ROOT / "tests"), str(ROOT)]),
            "OMP_NUM_THREADS": "1",
        },
        capture_output=True,
        text=True,
        cwd=folder,
    )
    assert done.returncode == status, done.stderr[-3000:]
    return done.stderr


def losses(folder: Path) -> list[tuple[float, ...]]:
    """Losses and gradient norm of every step; a step that was logged twice would be there twice."""
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    names = ("loss", "ctc_loss", "kl", "gradient_norm")
    return [tuple(line[n] for n in names if n in line) for line in lines if line["kind"] == "train"]


def same(ours: Path, theirs: Path, tolerance: float = 1e-4) -> None:
    found, expected = losses(ours), losses(theirs)
    assert len(found) == 7
    assert found == [pytest.approx(numbers, abs=tolerance) for numbers in expected], ours


@pytest.mark.timeout(600)
def test_two_ranks_give_the_losses_of_one(
    written: Written, several: Several, run: Run, toy_workshop: Workshop, tmp_path: Path
) -> None:
    """The model replicated and divided, each share of a batch in pieces."""
    alone = run(**FROZEN)
    pieces = {"data__device_batch_seconds": 1.0}
    said = several(2, written("replicated", **FROZEN, **pieces), written("divided", **FROZEN, **SHARD, **pieces))
    assert "Error" not in said and "Warning" not in said, said
    folders = [alone, tmp_path / "replicated/run", tmp_path / "divided/run"]
    models = [load(f / "final", manager=toy_workshop.manager, registry=toy_workshop.registry) for f in folders]
    for folder in folders[1:]:
        same(folder, alone)
    for one, *others in zip(*(model.parameters() for model in models), strict=True):
        assert all(torch.allclose(one, other, rtol=0, atol=1e-4) for other in others)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_two_ranks_give_the_losses_of_one_with_all_that_there_is(
    written: Written, several: Several, run: Run, corpus: Path, tmp_path: Path
) -> None:
    """Held near the start, validated meanwhile, begun later, computed again, with batches of one clip."""
    changes: dict[str, dict[str, Any]] = {
        "held": {"losses__kl": 0.5, "data__validation": str(corpus), "validation": {"every_steps": 3}},
        "later": {"parts__decoder": {"train": True, "learning_rate": 0.01, "from_step": 3}},
        "few": {"data__batch_seconds": 0.8, "gradient_checkpointing": True},
    }
    files = [
        written(f"{name} {i}", **FROZEN, **how, **c) for name, c in changes.items() for i, how in enumerate(({}, SHARD))
    ]
    half = written("half", **FROZEN, **SHARD, precision="bfloat16", parallel__cpu_offload=True)
    said = several(2, *files, half)
    assert "Error" not in said and "Warning" not in said, said
    for name, change in changes.items():
        alone = run(output=str(tmp_path / name), **FROZEN, **change)
        same(tmp_path / f"{name} 0/run", alone)
        same(tmp_path / f"{name} 1/run", alone)
    exact = run(output=str(tmp_path / "exact"), **FROZEN)
    assert [n[0] for n in losses(tmp_path / "half/run")] == pytest.approx([n[0] for n in losses(exact)], rel=0.02)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_checkpoint_serves_any_number_of_ranks(
    written: Written, several: Several, run: Run, configure: Configure, toy_workshop: Workshop, tmp_path: Path
) -> None:
    """A divided run goes on in one process, one of one process in two, divided; and one in two at once."""
    alone = run(**FROZEN)
    stop = {"stop_after_minutes": 1e-6}  # each sitting ends after one step, saved
    run_alone = {"output": str(tmp_path / "widened/run"), **FROZEN}
    with pytest.raises(Exception, match="stopped at step 1 of 7"):
        run(**run_alone, **stop)
    narrowed = written("narrowed", **FROZEN, **SHARD, **stop)
    said = several(
        2,
        narrowed,
        narrowed + ":auto",
        written("widened", **FROZEN, **SHARD) + ":auto",
    )
    assert "stopped at step 2 of 7" in said
    same(tmp_path / "widened/run", alone)
    folder = tmp_path / "narrowed/run/checkpoints"
    (_, last) = sorted(folder.iterdir())
    kept = restore(last)["state"]["bridge.conv.weight"]
    assert kept["step"] == 2 and kept["exp_avg"].shape == (16, 12, 2)
    assert run(output=str(tmp_path / "narrowed/run"), resume="auto", **FROZEN)
    same(tmp_path / "narrowed/run", alone)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_dropout_resumes_exactly_at_equal_rank_count(written: Written, several: Several, tmp_path: Path) -> None:
    several(
        2,
        written("unbroken"),
        written("broken", stop_after_minutes=1e-6),
        written("unbroken divided", **SHARD),
        written("broken divided", stop_after_minutes=1e-6, **SHARD),
    )
    several(2, written("broken") + ":auto", written("broken divided", **SHARD) + ":auto")
    for name in ("", " divided"):
        same(tmp_path / f"broken{name}/run", tmp_path / f"unbroken{name}/run", 1e-6)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_loss_that_is_not_finite_ends_every_rank(
    configure: Configure, start: Path, toy_workshop: Workshop, written: Written, several: Several, tmp_path: Path
) -> None:
    """Each names the whole batch, and no weight has moved."""
    model = load(start, manager=toy_workshop.manager, registry=toy_workshop.registry)
    with torch.no_grad():
        model.bridge.conv.weight[0, 0, 0] = float("inf")
    model.save(tmp_path / "broken model")
    said = several(
        2, *(written(name, model=str(tmp_path / "broken model"), **how) for name, how in (("a", {}), ("b", SHARD)))
    )
    lines = re.findall(r"TrainingError: the loss is (?:nan|inf) at step 1 on the batch (.*); look at", said)
    assert len(lines) == 4 and all(line.count(".wav:") > 1 for line in lines)
    assert len({tuple(sorted(line.split(", "))) for line in lines}) == 1

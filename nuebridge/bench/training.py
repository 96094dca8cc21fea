"""``nuebridge bench train``: the throughput of training beside baselines, in rounds, each time in a new process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

import torch

from nuebridge.bench.ours import planned_batches
from nuebridge.bench.results import Measurement, Results
from nuebridge.bench.work import as_measured, utterances_of
from nuebridge.bench.worker import Job, count_trained
from nuebridge.checkpoint import outline
from nuebridge.checkpoint.loading import check_device
from nuebridge.compose import Workshop
from nuebridge.config import suggestion
from nuebridge.errors import ConfigError, TrainingError
from nuebridge.hookspecs import BenchBaseline
from nuebridge.plugins import ComponentRef, PluginManager
from nuebridge.train.config import TrainConfig

OURS, CACHED = "nuebridge", "nuebridge, warm cache"

Tell = Callable[[str], None]
T = TypeVar("T")


@dataclass(frozen=True)
class BenchOptions:
    """How it is measured."""

    baselines: tuple[str, ...] | None = None
    """Names or ids; None: all that are installed."""
    cached: bool = False
    """Also with the frames of the frozen encoder kept beforehand."""
    rounds: int = 5
    passes: int = 1
    warmup_steps: int = 3
    utterances: int | None = None
    """At most so many; None: all."""
    threads: int | None = None
    """None: as many as torch takes."""
    registry_files: tuple[Path, ...] = ()


@dataclass(frozen=True)
class _Row:
    name: str
    summary: str
    job: Job


def bench_training(config: TrainConfig, options: BenchOptions, workshop: Workshop, tell: Tell) -> Results:
    """Measures; ``tell`` is called with a line after each measurement.

    Raises ConfigError, DataError and PluginError before anything is measured, and TrainingError where a measurement
    fails.
    """
    if "WORLD_SIZE" in os.environ:
        raise ConfigError("WORLD_SIZE is set: measure in one process, without torchrun")
    measured, left_out = as_measured(config)
    check_device(measured.device)
    if measured.device.startswith("cuda"):
        measured = measured.model_copy(update={"device": "cuda"})  # the worker sees no other
    refs = find_baselines(workshop.manager, options.baselines)
    integration = outline(measured.model, workshop)
    if options.cached and measured.parts.encoder.is_trained:
        raise ConfigError("--cache-frozen needs a frozen encoder; set parts.encoder.train to false")
    count_trained(integration, measured)  # what is wrong with the parts is said before anything is measured
    utterances = utterances_of(measured, integration, options.utterances)
    batches = planned_batches(measured, integration, utterances)
    job = Job(
        does="train",
        config=measured,
        batch_size=max(1, round(len(utterances) / batches)),
        passes=options.passes,
        warmup_steps=options.warmup_steps,
        utterances=options.utterances,
        threads=options.threads,
        registry_files=options.registry_files,
    )
    with tempfile.TemporaryDirectory(prefix="nuebridge-bench-") as name:
        folder = Path(name)
        rows = list(_rows(job, refs, options.cached, folder))
        if options.cached:
            kept = next(row.job for row in rows if row.name == CACHED)
            _run(kept.model_copy(update={"does": "keep frames"}), folder, config.device)
            tell("the frames of the encoder are kept")
        found = list(_measure(rows, options.rounds, folder, config.device, tell))
    return Results(
        model=Path(config.model).name,
        data=tuple(Path(source.path).name for source in config.data.train),
        durations=tuple(utterance.duration or 0.0 for utterance in utterances),
        summaries={row.name: row.summary for row in rows},
        batch_seconds=measured.data.batch_seconds,
        batch_size=job.batch_size,
        precision=measured.precision,
        passes=options.passes,
        warmup_steps=options.warmup_steps,
        left_out=tuple(left_out),
        when=datetime.now(UTC).isoformat(timespec="seconds"),
        measurements=tuple(found),
    )


def find_baselines(manager: PluginManager, names: Sequence[str] | None) -> list[ComponentRef[BenchBaseline]]:
    """The baselines of those names or ids; all for None. Raises PluginError where one cannot be used."""
    there = [ref for ref in manager.refs(BenchBaseline) if ref.record.bench == "train"]
    if names is None:
        chosen = there
    else:
        chosen = []
        for name in names:
            found = [ref for ref in there if name in (ref.id, ref.record.name)]
            if not found:
                known = [ref.record.name for ref in there]
                raise ConfigError(f"--vs {name}: there is no such baseline{suggestion(name, known, 'installed')}")
            if len(found) > 1:
                raise ConfigError(f"--vs {name}: {' and '.join(ref.id for ref in found)} have that name; give the id")
            chosen += [ref for ref in found if ref not in chosen]
    for ref in chosen:
        ref.load()
    return chosen


def _rows(job: Job, refs: Sequence[ComponentRef[BenchBaseline]], cached: bool, folder: Path) -> Iterator[_Row]:
    yield _Row(OURS, "nuebridge train", job)
    if cached:
        cache = job.config.cache
        kept = {"cache_frozen": True, "cache": cache.model_copy(update={"folder": cache.folder or folder / "cache"})}
        changed = job.model_copy(update={"config": job.config.model_copy(update=kept)})
        yield _Row(CACHED, "nuebridge train with the frames of the frozen encoder on disk", changed)
    names = [ref.record.name for ref in refs]
    for ref in refs:
        name = ref.id if names.count(ref.record.name) > 1 else ref.record.name
        yield _Row(name, ref.record.summary, job.model_copy(update={"does": "baseline", "baseline": ref.id}))


def _measure(rows: Sequence[_Row], rounds: int, folder: Path, device: str, tell: Tell) -> Iterator[Measurement]:
    for number in range(rounds):
        for row in in_turn(rows, number):
            one = Measurement.of(row.name, number, _run(row.job, folder, device, row.name))
            tell(f"round {number + 1} of {rounds}: {row.name}: {one.throughput:.1f} audio seconds a second")
            yield one


def in_turn(rows: Sequence[T], number: int) -> list[T]:
    """The order of a round: another in each, so that what a machine does beside does not fall on the same row."""
    turned = [*rows[number % len(rows) :], *rows[: number % len(rows)]]
    return turned if number % 2 == 0 else turned[::-1]


def _run(job: Job, folder: Path, device: str, who: str = "keeping frames") -> dict[str, Any]:
    """Has a new process do a job. Raises TrainingError where it fails."""
    asked, result, said = folder / "job.json", folder / "result.json", folder / "stderr"
    asked.write_text(job.model_dump_json(), encoding="utf-8")
    result.unlink(missing_ok=True)
    with said.open("wb") as stream:
        done = subprocess.run(
            [sys.executable, "-m", "nuebridge.bench.worker", str(asked), str(result)],
            env=_environment(job.threads, device),
            stdin=subprocess.DEVNULL,
            stdout=stream,
            stderr=stream,
        )
    told = json.loads(result.read_text(encoding="utf-8")) if result.is_file() else None
    if told is None:
        lines = said.read_text(encoding="utf-8", errors="replace").strip().splitlines()
        reason = lines[-1] if lines else "it said nothing"
        raise TrainingError(f"measuring {who} ended with status {done.returncode}: {reason}")
    if "error" in told:
        raise TrainingError(f"measuring {who}: {told['error']}")
    found: dict[str, Any] = told
    return found


def _environment(threads: int | None, device: str) -> dict[str, str]:
    changes: dict[str, str] = {}
    if threads is not None:
        changes |= {name: str(threads) for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS")}
    kind = torch.device(device)
    if kind.type == "cuda":
        # One device, and no other in sight: some trainers take all they see.
        seen = os.environ.get("CUDA_VISIBLE_DEVICES")
        index = kind.index or 0
        changes["CUDA_VISIBLE_DEVICES"] = str(index) if seen is None else seen.split(",")[index]
    return {**os.environ, **changes}

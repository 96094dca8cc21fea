"""Runs on other data than one clean manifest: what cannot be read, streams, shards, weights."""

from __future__ import annotations

import io
import json
import logging
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from nuebridge.data import read_manifest
from nuebridge.errors import DataError
from nuebridge.train import batches
from nuebridge.train.batches import Batch, Position
from nuebridge.train.ranks import Ranks
from nuebridge.train.step import Stepper, StepResult
from nuebridge.train.unreadable import Unreadable
from tests.tones import write_corpus
from tests.train.runs import figures, metrics

Run = Callable[..., Path]


# --- what cannot be read ---------------------------------------------------------------------------


def damaged(folder: Path, count: int, *gone: int) -> str:
    """A manifest of tones some of which are not there."""
    manifest = write_corpus(folder / "damaged", count)
    for index in gone:
        (folder / f"damaged/{index}.wav").unlink()
    return str(manifest)


def test_recordings_that_cannot_be_read_are_skipped(run: Run, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    data = {"train": [damaged(tmp_path, 9, 2, 5)], "batch_seconds": 2, "max_unreadable": 2}
    with caplog.at_level(logging.WARNING):
        output = run(data=data, schedule={"steps": 10})  # several epochs
    said = [r.getMessage() for r in caplog.records if "cannot be read and is left out" in r.getMessage()]
    assert sorted(line.split()[1] for line in said) == ["2.wav:3", "5.wav:6"]  # each once
    assert list(metrics(output)) == list(range(1, 11))


@pytest.mark.parametrize(("most", "gone"), [(0, (4,)), (2, (1, 4, 7))])
def test_too_many_recordings_that_cannot_be_read(run: Run, tmp_path: Path, most: int, gone: tuple[int, ...]) -> None:
    data = {"train": [damaged(tmp_path, 9, *gone)], "batch_seconds": 2, "max_unreadable": most}
    with pytest.raises(DataError) as caught:
        run(data=data, schedule={"steps": 20})
    said = str(caught.value)
    assert said.startswith(f"{most + 1} utterances cannot be read (")
    assert said.endswith(f"), and data.max_unreadable is {most}; mend them or take them out, or raise it")
    assert all(f"{index}.wav:{index + 1}" in said for index in gone)


def test_a_batch_of_nothing_is_no_step(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    results: list[StepResult] = []
    step = Stepper.step

    def noting(self: Any, *args: Any) -> StepResult:
        results.append(step(self, *args))
        return results[-1]

    monkeypatch.setattr(Stepper, "step", noting)
    output = run(data={"train": [damaged(tmp_path, 6, 3)], "batch_seconds": 0.1}, schedule={"steps": 12})
    assert list(metrics(output)) == list(range(1, 13))  # two epochs and a bit of the five that can be read
    empty = [result for result in results if not result.figures]
    assert len(results) == 12 + len(empty) and len(empty) in (2, 3)
    assert all(result.samples == 0 and result.unreadable == 1 for result in empty)


def batch(*unreadable: str, epoch: int = 0) -> Batch:
    return Batch(torch.zeros(0, 0), torch.zeros(0, dtype=torch.int64), (), epoch, Position(), unreadable=unreadable)


def result(unreadable: int, **figures: float) -> StepResult:
    return StepResult(figures, 1, False, unreadable)


def test_nothing_can_be_read() -> None:
    count = Unreadable(5, Ranks())
    for epoch in (3, 4):  # a resumed run may begin with the last batch of an epoch
        count.add(batch("a", epoch=epoch), result(1))
    with pytest.raises(DataError, match="nothing of a whole epoch can be read"):
        count.add(batch("a", epoch=5), result(1))
    count = Unreadable(5, Ranks())
    for epoch in range(9):
        count.add(batch("a", epoch=epoch), result(1))
        count.add(batch(epoch=epoch), result(0, loss=1.0))


def test_an_utterance_counts_once_over_all_ranks() -> None:
    other: list[str] = []

    class Two(Ranks):
        """The first of two ranks; what the other one skipped is given."""

        def gather_texts(self, texts: Any) -> list[str]:
            return [*texts, *other]

    count = Unreadable(2, Two())
    for own, others in ((["a"], ["b"]), (["b"], ["a"]), ([], ["b"])):  # shares change with the epoch
        other[:] = others
        count.add(batch(*own), result(len(own) + len(others), loss=1.0))
    other[:] = ["c"]
    with pytest.raises(DataError, match=r"3 utterances cannot be read \(a, b, c\), and data\.max_unreadable is 2"):
        count.add(batch(), result(1, loss=1.0))


# --- other sources ---------------------------------------------------------------------------------


def test_training_on_shards(run: Run, tmp_path: Path, corpus: Path) -> None:
    """The same utterances give the same losses from a tar file as from a manifest."""
    lines = []
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        for index, u in enumerate(read_manifest(corpus)):
            fields = {"text": u.text, "duration": u.duration, "id": str(index)}
            for ending, content in (("wav", u.audio_filepath.read_bytes()), ("json", json.dumps(fields).encode())):
                info = tarfile.TarInfo(f"{index}.{ending}")
                info.size = len(content)
                archive.addfile(info, io.BytesIO(content))
            lines.append({**fields, "audio_filepath": str(u.audio_filepath)})
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, lines)))
    found = []
    for name in ("a.tar", "a.jsonl"):
        output = run(output=str(tmp_path / f"run {name}"), data={"train": [str(tmp_path / name)], "batch_seconds": 3})
        found.append(figures(output))
    assert found[0] == found[1]


def test_batches_capped_by_positions(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    shapes: list[int] = []
    step = Stepper.step

    def noting(self: Any, batch: Batch, *args: Any) -> StepResult:
        shapes.append(len(batch.utterances))
        return step(self, batch, *args)

    monkeypatch.setattr(Stepper, "step", noting)
    run(data__batch_tokens=30, data__batch_seconds=100)
    assert max(shapes) < 4


@pytest.fixture
def streamed(tmp_path: Path, corpus: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The corpus as Parquet without durations, streamed, and some of it as a manifest beside it."""
    datasets = pytest.importorskip("datasets", reason="the extra nuebridge[datasets] is not installed")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setattr(batches, "BUCKET_WINDOW", 5)
    utterances = read_manifest(corpus)
    columns = {"audio": [u.audio_filepath.read_bytes() for u in utterances], "sentence": [u.text for u in utterances]}
    datasets.Dataset.from_dict(columns).to_parquet(tmp_path / "rows.parquet")
    rows = {"path": str(tmp_path / "rows.parquet"), "streaming": True, "utterances": 12, "weight": 1.5}
    return {"train": [rows, {"path": str(corpus), "weight": 0.5}], "batch_seconds": 2.0}


class Killed(BaseException):
    """Stands for the end of the process."""


@pytest.mark.parametrize("after", [1, 5, 11])
def test_a_killed_run_on_a_stream_goes_on_as_if_nothing_had_been(
    run: Run, streamed: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, after: int
) -> None:
    settings = {"data": streamed, "schedule": {"steps": 13}}
    expected = figures(run(output=str(tmp_path / "unbroken"), **settings))
    step, calls = Stepper.step, iter(range(after))

    def dying(self: Any, *args: Any) -> StepResult:
        if next(calls, None) is None:
            raise Killed
        return step(self, *args)

    with monkeypatch.context() as patch:
        patch.setattr(Stepper, "step", dying)
        with pytest.raises(Killed):
            run(**settings)
    found = figures(run(resume="auto", **settings))
    assert list(found) == list(range(1, 14))
    for number, numbers in expected.items():
        assert found[number] == pytest.approx(numbers, abs=1e-6), f"step {number}"

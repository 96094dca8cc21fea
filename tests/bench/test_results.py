from __future__ import annotations

import json
from typing import Any

import pytest

from nuebridge.bench.results import Measurement, Results, Spread


def measurement(row: str, number: int, wall: float, **more: Any) -> Measurement:
    figures = {
        "audio_seconds": 100.0,
        "wall_seconds": wall,
        "cpu_seconds": wall / 2,
        "steps": 10,
        "samples": 80,
        "computed": 100,
        "peak_bytes": 3_000_000_000,
        "loaded_bytes": 1_000_000_000,
        "peak_since": "the measurement began",
        "weight_hash": "0123456789abcdef",
        "trained": {"encoder": [0, 10], "bridge": [1_500_000, 1_500_000]},
        "hardware": "a machine, 1 thread",
        "notes": {"nuebridge": "1", "library": "4.5"},
        **more,
    }
    return Measurement.of(row, number, figures)


@pytest.fixture
def results() -> Results:
    ours = [measurement("nuebridge", i, wall) for i, wall in enumerate((10.0, 20.0, 40.0))]
    theirs = [measurement("plain", i, wall, peak_bytes=6_000_000_000) for i, wall in enumerate((30.0, 40.0, 60.0))]
    return Results(
        model="m",
        data=("d.jsonl",),
        durations=(1.0, 14.0, 85.0),
        summaries={"nuebridge": "ours", "plain": "theirs"},
        batch_seconds=40.0,
        batch_size=5,
        precision="float32",
        passes=1,
        warmup_steps=3,
        left_out=("spec_augment",),
        when="2030-01-01T00:00:00+00:00",
        measurements=(*theirs, *reversed(ours)),
    )


def test_ratios_are_paired_by_round(results: Results) -> None:
    assert results.ratio("nuebridge", "plain") == Spread(2.0, 1.5, 3.0)
    assert results.ratio("nuebridge", "plain", lambda m: m.peak_bytes) == Spread(0.5, 0.5, 0.5)
    assert results.spread("nuebridge", lambda m: m.throughput) == Spread(5.0, 2.5, 10.0)


def test_a_measurement_tells_its_figures() -> None:
    one = measurement("nuebridge", 0, 10.0)
    assert (one.throughput, one.training_bytes, one.padding) == (10.0, 2_000_000_000, pytest.approx(0.2))


def test_the_table_says_what_it_was_measured_on(results: Results) -> None:
    text = "\n".join(results.lines())
    for what in (
        "m (0123456789ab)",
        "1.0 to 85.0 s",
        "bridge (1.5 of 1.5 M parameters)",
        "a machine",
        "float32",
        "5 utterances a batch",
        "left out for all: spec_augment",
        "library 4.5",
        "5 (2.5-10)",
        "20.0%",
        "nuebridge / plain: 2.00x (1.50-3.00) the audio, 0.50x (0.50-0.50) the peak memory",
    ):
        assert what in text
    assert "encoder" not in text


def test_json_has_every_round(results: Results) -> None:
    told = json.loads(json.dumps(results.as_dict()))
    assert [row["name"] for row in told["rows"]] == ["nuebridge", "plain"]
    assert [one["wall_seconds"] for one in told["rows"][0]["rounds"]] == [10.0, 20.0, 40.0]
    assert told["ratios"][0]["audio_seconds_per_second"] == {"median": 2.0, "least": 1.5, "most": 3.0}
    assert told["rows"][0]["rounds"][0]["weight_hash"] == "0123456789abcdef"

"""The whole bench, its measurements in processes of their own."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from nuebridge.bench.training import BenchOptions, bench_training, find_baselines, in_turn
from nuebridge.cli import main
from nuebridge.compose import Workshop
from nuebridge.errors import ConfigError, TrainingError
from nuebridge.plugins import PluginManager
from nuebridge.registry import Layer, Registry
from nuebridge.train.config import TrainConfig

Configure = Callable[..., TrainConfig]


def test_the_command_measures_and_writes(
    environment: Path,
    toy_registry_file: Path,
    start: Path,
    corpus: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    written = tmp_path / "figures.json"
    arguments = ["--model", str(start), "--data", str(corpus), "--vs", "one-by-one", "--cache-frozen", "--rounds", "1"]
    more = ["--set", "data.batch_seconds=2", "--threads", "1", "--output", str(written)]
    with pytest.raises(SystemExit) as left:
        main(["bench", "train", *arguments, *more, "--registry", str(toy_registry_file)])
    said = capsys.readouterr()
    assert left.value.code in (0, None), said.err
    told = json.loads(written.read_text())
    rows = {row["name"]: row for row in told["rows"]}
    assert list(rows) == ["nuebridge", "nuebridge, warm cache", "one-by-one"]
    seconds = told["audio_seconds"]
    for name, row in rows.items():
        (one,) = row["rounds"]
        assert row["audio_seconds_per_second"]["median"] == pytest.approx(seconds / one["wall_seconds"])
        assert one["samples"] == pytest.approx(1000 * seconds, abs=12), name
        assert one["trained"] == rows["nuebridge"]["rounds"][0]["trained"]
        assert one["weight_hash"] == rows["nuebridge"]["rounds"][0]["weight_hash"]
        assert one["threads"] == 1
        assert one["peak_bytes"] > one["loaded_bytes"] * 0.9 > 10_000_000
    assert rows["one-by-one"]["rounds"][0]["steps"] == 12
    assert rows["one-by-one"]["padding"] == 0
    assert rows["one-by-one"]["rounds"][0]["notes"]["clips a step"] == "1"
    assert [ratio["over"] for ratio in told["ratios"]] == ["one-by-one", "one-by-one"]
    for what in ("nuebridge, warm cache / one-by-one:", "trained: bridge", "clips a step 1"):
        assert what in said.out
    assert said.err.count("round 1 of 1") == 3


def workshop(toy_registry_file: Path, *folders: str) -> Workshop:
    return Workshop(PluginManager.discover({}, path=list(folders)), Registry([Layer("option", toy_registry_file)]))


def test_a_measurement_that_fails_is_named(
    environment: Path, toy_site: Path, toy_registry_file: Path, config: Configure
) -> None:
    there = workshop(toy_registry_file, str(environment), str(toy_site))
    options = BenchOptions(baselines=("broken",), rounds=1, registry_files=(toy_registry_file,))
    lines: list[str] = []
    with pytest.raises(TrainingError, match="measuring broken ended with status 1: MemoryError: no room"):
        bench_training(config(), options, there, lines.append)
    assert len(lines) == 1


def test_what_cannot_be_measured_is_said_beforehand(
    environment: Path, toy_site: Path, toy_registry_file: Path, config: Configure, monkeypatch: pytest.MonkeyPatch
) -> None:
    there = workshop(toy_registry_file, str(environment), str(toy_site))
    everything = config(parts={"encoder": {"train": True}})
    with pytest.raises(ConfigError, match="needs a frozen encoder"):
        bench_training(everything, BenchOptions(baselines=(), cached=True), there, print)
    with pytest.raises(ConfigError, match="one-by-on: there is no such baseline.*one-by-one"):
        bench_training(config(), BenchOptions(baselines=("one-by-on",)), there, print)
    with pytest.raises(ConfigError, match="cuda:77"):
        bench_training(config(device="cuda:77"), BenchOptions(baselines=()), there, print)
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ConfigError, match="without torchrun"):
        bench_training(config(), BenchOptions(baselines=()), there, print)
    assert os.environ["WORLD_SIZE"] == "2"


def test_baselines_are_found_by_name_and_id(environment: Path) -> None:
    manager = PluginManager.discover({}, path=[str(environment)])
    assert [ref.id for ref in find_baselines(manager, None)] == ["slow.one-by-one", "slow.broken"]
    assert [ref.id for ref in find_baselines(manager, ["slow.broken", "broken"])] == ["slow.broken"]
    with pytest.raises(ConfigError, match="no such baseline"):
        find_baselines(manager, ["of-another-bench"])


def test_the_order_changes_from_round_to_round() -> None:
    orders = [in_turn(["a", "b", "c"], number) for number in range(6)]
    assert all(sorted(order) == ["a", "b", "c"] for order in orders)
    assert {order[0] for order in orders} == {order[-1] for order in orders} == {"a", "b", "c"}

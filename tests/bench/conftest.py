"""A plugin with a baseline, and the work that is measured."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from nuebridge.bench import Meter, TrainingWork
from nuebridge.bench.work import as_measured, utterances_of
from nuebridge.checkpoint import load, save
from nuebridge.compose import Workshop, compose_entry
from nuebridge.config import validate
from nuebridge.train.config import TrainConfig
from tests.distributions import Site
from tests.tones import write_corpus

ONE_BY_ONE = """
from nuebridge.hookspecs import BenchBaseline, hookimpl


def train(work):
    import torch
    from nuebridge.train.trainable import trainable_groups

    model = work.integration
    optimizer = torch.optim.AdamW(trainable_groups(model, work.stage.config))

    def step(utterance):
        waveform = torch.from_numpy(utterance.load(model.sample_rate))[None]
        losses = model(waveform, torch.tensor([waveform.shape[1]]), [utterance.target])
        (losses.text / losses.text_tokens).backward()
        optimizer.step()
        optimizer.zero_grad()
        work.meter.count(waveform.numel(), waveform.numel())

    for utterance in work.utterances[: work.warmup_steps]:
        step(utterance)
    work.meter.begin()
    for utterance in work.utterances * work.passes:
        step(utterance)
    work.meter.end()
    work.meter.note("clips a step", 1)


def broken(work):
    raise MemoryError("no room")


@hookimpl
def nuebridge_bench_baselines():
    return [
        BenchBaseline(name="one-by-one", summary="A clip a step.", load=lambda: train),
        BenchBaseline(name="broken", summary="Falls over.", load=lambda: broken),
        BenchBaseline(name="of-another-bench", summary="Not for training.", load=lambda: train, bench="decode"),
    ]
"""


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A manifest of 12 tones."""
    return write_corpus(tmp_path_factory.mktemp("corpus"), 12)


@pytest.fixture(scope="session")
def start(tmp_path_factory: pytest.TempPathFactory, toy_workshop: Workshop) -> Path:
    """The folder of an untrained integration."""
    folder = tmp_path_factory.mktemp("start") / "toys"
    save(compose_entry(toy_workshop.registry.integration("toys"), toy_workshop), folder)
    return folder


@pytest.fixture
def environment(toy_site: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What processes that are started find: the toy plugin and one with baselines; the folder of the latter."""
    site = Site(tmp_path / "baselines")
    site.plugin("slow", ONE_BY_ONE)
    tests = Path(__file__).parents[1]
    before = [os.environ["PYTHONPATH"]] if os.environ.get("PYTHONPATH") else []
    folders = [str(site.folder), str(toy_site)]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([*folders, str(tests), *before]))
    monkeypatch.setenv("NUEBRIDGE_CONFIG_DIR", "/nowhere")
    for folder in folders:
        monkeypatch.syspath_prepend(folder)
    return site.folder


@pytest.fixture
def config(start: Path, corpus: Path) -> Callable[..., TrainConfig]:
    """``config(**keys)``: a training configuration with those top-level keys."""

    def config(**keys: Any) -> TrainConfig:
        whole = {
            "model": str(start),
            "output": "unused",
            "data": {"train": str(corpus), "batch_seconds": 2.0},
            "schedule": {"steps": 10},
            **keys,
        }
        return validate(whole, TrainConfig, "test")

    return config


@pytest.fixture
def work(toy_workshop: Workshop) -> Callable[..., TrainingWork]:
    """``work(config, **changes)``: the work of a configuration, with the model loaded."""

    def work(config: TrainConfig, **changes: Any) -> TrainingWork:
        measured, _ = as_measured(config)
        if "cache" in changes:
            kept = {"cache_frozen": True, "cache": {"folder": changes.pop("cache")}}
            measured = validate({**measured.model_dump(mode="json"), **kept}, TrainConfig, "test")
        device = torch.device("cpu")
        integration = load(measured.model, manager=toy_workshop.manager, registry=toy_workshop.registry)
        given = {
            "integration": integration,
            "stage": next(measured.unrolled()),
            "utterances": utterances_of(measured, integration),
            "batch_size": 3,
            "passes": 1,
            "warmup_steps": 2,
            "device": device,
            "meter": Meter(device),
        }
        return TrainingWork(**{**given, **changes})

    return work

"""Adapting an integration to a new domain, from data to adapter and table."""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from nuebridge.adapt.data import AdaptData, prepare
from nuebridge.adapt.extraction import extract
from nuebridge.adapt.fillers import new_words
from nuebridge.adapt.measuring import BEFORE, TestSet, Texts, keep, kept, lines, write_down
from nuebridge.adapt.output import (
    RESULTS,
    TABLE,
    TEXTS,
    adapter_name,
    drop_weights,
    is_finished,
    put_adapter,
)
from nuebridge.adapt.plan import Plan, plan
from nuebridge.adapt.results import Fillers, as_markdown, results
from nuebridge.adapt.settings import AdaptSettings
from nuebridge.checkpoint import load, outline
from nuebridge.compose import Workshop
from nuebridge.errors import ConfigError
from nuebridge.lora import read_adapter, require_peft, save_adapter
from nuebridge.metrics import basic_normalize
from nuebridge.model import Integration
from nuebridge.tensors import write_json, write_text
from nuebridge.train.config import TrainConfig
from nuebridge.train.folder import BEST, FINAL, Resume, held
from nuebridge.train.launcher import die_with_launcher
from nuebridge.train.loop import train
from nuebridge.train.stopping import stopping_on_signals

log = logging.getLogger(__name__)


def adapt(settings: AdaptSettings, workshop: Workshop, *, resume: Resume = "never") -> dict[str, Any] | None:
    """Adapts; returns what ``results.json`` holds, and None on all but the main process of several.

    The adapter is in ``settings.output`` afterwards. ``resume`` as for training. Raises ConfigError, DataError,
    TrainingError, CheckpointError; TrainingStopped when a signal ends the sitting, to be gone on with.
    """
    die_with_launcher()
    is_main = os.environ.get("RANK", "0") == "0"
    name = adapter_name(settings)
    if is_main and is_finished(settings, resume):
        log.info("%s is finished", settings.output)
        return _finish(settings)
    if not is_main and is_finished(settings, "auto"):
        return None
    if {"encoder", "decoder"} & set(settings.parts):
        require_peft()
    if is_main:
        with held(settings.run):
            job = _Job.open(settings, workshop, name, is_main=True)
            job.measure_base()
    else:
        job = _Job.open(settings, workshop, name, is_main=False)
    train(job.plan.config, workshop, resume="never" if resume == "never" else "auto")
    if not is_main:
        return None
    with held(settings.run):
        job.write()
        return _finish(settings)


@dataclass
class _Job:
    """An adaptation of which the data is known."""

    settings: AdaptSettings
    workshop: Workshop
    name: str
    data: AdaptData
    plan: Plan

    @classmethod
    def open(cls, settings: AdaptSettings, workshop: Workshop, name: str, *, is_main: bool) -> _Job:
        base = outline(settings.model, workshop)
        data = prepare(settings, is_main=is_main)
        job = cls(settings, workshop, name, data, plan(settings, data, base))
        if is_main:
            _say(job)
        return job

    def measure_base(self) -> None:
        """What the base writes of the test data, unless that is known: what is wrong with the data shows before hours
        are spent."""
        base, sets = self._base(), self._sets()
        before = self._before(base, sets)
        scored = results(sets, before, before, self._fillers(), adapter=self.name, base=self._names(base))
        for key in ("new_domain", "original_domain"):
            if scored[key] is not None and scored[key]["before"]["wer"] is not None:
                log.info("before, %s: WER %.1f %%", key.replace("_", " "), 100 * scored[key]["before"]["wer"])

    def write(self) -> None:
        """The adapter and its results, from a run that is finished."""
        base, sets = self._base(), self._sets()
        before = self._before(base, sets)
        names = self._names(base)
        run = self.settings.run
        best = run / BEST
        trained = load(
            best if best.is_dir() else run / FINAL, manager=self.workshop.manager, registry=self.workshop.registry
        )
        if best.is_dir():  # written in the middle of the run, whose history it does not know
            trained.training_history = outline(run / FINAL, self.workshop).training_history
        extract(base, trained, self._config, self.name)
        del trained
        with stopping_on_signals(None) as stopping:
            after = write_down(base, sets, self._config.validation.batch_size, stopping)
        found = results(sets, before, after, self._fillers(), adapter=self.name, base=names)
        base.adapters[self.name].error_rates = found
        written = run / "adapter"
        shutil.rmtree(written, ignore_errors=True)
        save_adapter(base, self.name, written, base_model=self.settings.model)
        write_text(self.settings.output / TEXTS, lines(sets, before, after))
        put_adapter(written, self.settings.output)

    @property
    def _config(self) -> TrainConfig:
        return self.plan.config

    def _base(self) -> Integration:
        """The base, on the device that trains. Raises ConfigError for one that has adapters."""
        workshop = self.workshop
        base = load(
            self.settings.model, device=self._config.device, manager=workshop.manager, registry=workshop.registry
        )
        if base.adapters:
            raise ConfigError(
                f"{self.settings.model} has adapters of its own ({', '.join(base.adapters)}); bake them in first: "
                f"nuebridge adapters merge --model {self.settings.model} --output FOLDER"
            )
        return base

    def _sets(self) -> list[TestSet]:
        sets = [TestSet.read("new", self.data.test)]
        if self.data.original_test is not None:
            sets.append(TestSet.read("original", self.data.original_test))
        return sets

    def _before(self, base: Integration, sets: Sequence[TestSet]) -> Texts:
        file, weights = self.settings.run / BEFORE, base.weight_hash()
        found = kept(file, weights, sets)
        if found is None:
            log.info("measuring the base on %d utterances", sum(len(one.utterances) for one in sets))
            with stopping_on_signals(None) as stopping:
                found = write_down(base, sets, self._config.validation.batch_size, stopping)
            keep(file, weights, sets, found)
        return found

    def _fillers(self) -> Fillers:
        original = [one.target or "" for one in self.data.replay_utterances]
        if self.data.original_test is not None:
            original += TestSet.read("original", self.data.original_test).references
        given = (basic_normalize(one) for one in self.settings.fillers)
        found = new_words((one.target or "" for one in self.data.train_utterances), original)
        return Fillers(tuple(dict.fromkeys(one for one in given if one)), tuple(found))

    def _names(self, base: Integration) -> Mapping[str, Any]:
        return {"model": self.settings.model, "weight_hash": base.weight_hash()}


def _say(job: _Job) -> None:
    config, data = job.plan.config, job.data
    log.info(
        "new domain: %d utterances, %.1f min, to train on; %d steps, %s adapted",
        *(len(data.train_utterances), data.seconds / 60, config.steps, " and ".join(job.settings.parts)),
    )
    if job.plan.replay_weight is not None:
        log.info(
            "replay: %d utterances, %.1f min; an epoch takes each %.2f times, so that %.0f %% of the audio is replay",
            *(len(data.replay_utterances), data.replay_seconds / 60, job.plan.replay_weight),
            100 * job.settings.replay_share,
        )
    if config.losses.kl:
        log.info("losses.kl %g holds the model near its base on what it is trained on", config.losses.kl)
    if data.original_test is None:
        log.warning("the original domain is not measured; give --original-test to see what is forgotten")


def _finish(settings: AdaptSettings) -> dict[str, Any]:
    """Writes the results of a saved adapter beside it, and drops what is no longer needed."""
    found: dict[str, Any] = read_adapter(settings.output).error_rates
    write_json(settings.output / RESULTS, found)
    write_text(settings.output / TABLE, as_markdown(found))
    if not settings.keep_run:
        drop_weights(settings.run)
    return found

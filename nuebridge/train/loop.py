"""The training loop: from a configuration to a trained integration, through as many sittings as it takes."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, closing, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from nuebridge.checkpoint import load, save
from nuebridge.compose import Workshop
from nuebridge.data import Utterance
from nuebridge.data.sources import Source, Stream, open_sources
from nuebridge.model import Integration
from nuebridge.train.best import Best
from nuebridge.train.changes import check_changes, check_data, fingerprint
from nuebridge.train.config import Stage, TrainConfig
from nuebridge.train.engine import Engine
from nuebridge.train.feeding import feed, keep_frames
from nuebridge.train.fitness import check_fit, check_recordings, check_utterances
from nuebridge.train.folder import CHECKPOINTS, FINAL, Resume, held, keep_metrics, to_resume
from nuebridge.train.launcher import die_with_launcher, others_named
from nuebridge.train.progress import Progress
from nuebridge.train.randomness import random_states, seed_all, set_random_state
from nuebridge.train.ranks import Ranks, joined
from nuebridge.train.record import METRICS_FILE
from nuebridge.train.reference import Reference
from nuebridge.train.selection import select, validation_set
from nuebridge.train.state import Saved, restore, save_checkpoint
from nuebridge.train.step import Stepper
from nuebridge.train.stopping import Stopping, TrainingStopped, stopping_on_signals
from nuebridge.train.unreadable import Unreadable
from nuebridge.train.validation import validate
from nuebridge.train.watching import Watcher, check_loggers

log = logging.getLogger(__name__)


def train(config: TrainConfig, workshop: Workshop, *, resume: Resume = "never") -> Path:
    """Runs or resumes a training run; returns the folder of the trained integration.

    ``resume``: "auto" goes on where there is a run in the output folder and else begins one, "must"
    raises where there is none, "never" where there is one.

    Raises TrainingError, DataError, CheckpointError; TrainingStopped when a signal or
    ``stop_after_minutes`` ends the sitting after a checkpoint was written.
    """
    die_with_launcher()
    with (
        others_named(int(os.environ.get("WORLD_SIZE", "1"))),
        _joined(config) as ranks,
        _held_by_main(config.output, ranks),
    ):
        return _train(config, workshop, resume, ranks)


def _train(config: TrainConfig, workshop: Workshop, resume: Resume, ranks: Ranks) -> Path:
    final = config.output / FINAL
    saved = to_resume(config.output, resume)
    if final.exists():
        log.info("%s is there: this run is finished", final)
        return final
    if ranks.is_main:
        check_loggers(config.loggers)
    run = _Run.open(config, workshop, saved, ranks)
    if ranks.is_main:
        keep_metrics(config.output / METRICS_FILE, -1 if saved is None else saved.progress.total_step)
    with stopping_on_signals(config.stop_after_minutes) as stopping, run.watcher:
        run.train(stopping)
    run.integration.training_history.append(_history(config, run.progress))
    if ranks.is_main:
        save(run.integration, final, weights=config.checkpoints.weights)
    ranks.wait()
    return final


@dataclass
class _Run:
    """A run of one or more stages, from where it stands."""

    config: TrainConfig
    workshop: Workshop
    stages: list[Stage]
    integration: Integration
    """With whole weights between stages; within one, the engine has them."""
    sources: list[Source | Stream]
    """What is trained on, before anything is left out of it."""
    unreadable: Unreadable
    validation: list[Utterance]
    progress: Progress
    checkpoint: Path | None
    """What the run goes on from; its optimiser is that of the stage it was written in."""
    watcher: Watcher
    best: Best
    ranks: Ranks

    @classmethod
    def open(cls, config: TrainConfig, workshop: Workshop, saved: Saved | None, ranks: Ranks) -> _Run:
        progress = Progress() if saved is None else saved.progress
        if saved is not None:
            check_changes(saved.configuration, config, progress, saved.folder)
            log.info("resuming from step %d", progress.total_step)
        checkpoint = None if saved is None else saved.folder
        source = config.model if checkpoint is None else checkpoint / "integration"
        # Where every rank is to have a share only, a whole model may be more than a device can hold.
        device = "cpu" if config.parallel.strategy == "shard" else ranks.device(config.device)
        integration = _opened(source, config, workshop, device)
        seed_all(config.seed, ranks.rank)
        stages = list(config.unrolled())
        check_fit(integration, config, stages)
        sources, unreadable = open_sources(config.data.train), Unreadable(config.data.max_unreadable, ranks)
        check_recordings(sources)
        validation = validation_set(config.data, config.validation.max_utterances)
        watcher = Watcher(config, integration.sample_rate, progress, ranks)
        best = Best(config, ranks)
        return cls(
            config,
            workshop,
            stages,
            integration,
            sources,
            unreadable,
            validation,
            progress,
            checkpoint,
            watcher,
            best,
            ranks,
        )

    def train(self, stopping: Stopping) -> None:
        """All that is left of the run."""
        for number, stage in enumerate(self.stages):
            if number < self.progress.stage:
                continue
            if number > self.progress.stage:
                self.progress.begin_stage(number)
            self._train_stage(stage, stopping)

    def _train_stage(self, stage: Stage, stopping: Stopping) -> None:
        config = stage.config
        if len(self.stages) > 1:
            log.info("stage %s (%d of %d)", stage.name, self.progress.stage + 1, len(self.stages))
        shortest = self.integration.min_audio_seconds / config.data.augmentation.shortest_factor
        selection = select(self.sources, config.data, shortest)
        utterances = selection.utterances
        for line in selection.report:
            log.warning(line)
        check_data(self.progress, fingerprint(utterances), config)
        if config.losses.text > 0:
            check_utterances(self.integration, utterances, config.data.augmentation.longest_factor)
        if config.losses.ctc > 0:
            _warn_of_unknown(self.integration, utterances)
        reference = Reference(self.integration, self._start(), config) if config.losses.kl > 0 else None
        cache = keep_frames(self.integration, selection, config, self.ranks, self.ranks.device(config.device))
        engine = Engine(self.integration, stage, self.ranks)
        if reference is not None:
            reference.settle(engine)
        if self.checkpoint is not None:
            engine.load_optimizer_state(restore(self.checkpoint, self.ranks), self.checkpoint)
            self.checkpoint = None
        stepper = Stepper(engine, stage, reference)
        groups, count = engine.optimizer.param_groups, None if selection.streams else len(utterances)
        self.watcher.begin_stage(stage, engine.integration, groups, utterances=count, left_out=selection.report)
        rate = self.integration.sample_rate
        with closing(feed(selection, config, self.integration, self.progress.position, self.ranks, cache)) as batches:
            started, before = time.monotonic(), self.progress.minutes
            while self.progress.step < stage.schedule.steps:
                batch = self.watcher.next_batch(batches)
                result = stepper.step(batch, self.progress.step, lambda: stopping.asked)
                self.unreadable.add(batch, result)
                if not result.figures:  # nothing of the batch could be read
                    self.progress.position = batch.next_position
                    continue
                self.progress.advance(batch.next_position, result.samples / rate)
                self.progress.minutes = before + (time.monotonic() - started) / 60
                self.watcher.add(result, stepper.learning_rates)
                self._after_step(stage, stepper, result.asked_to_stop)
        self.integration = engine.close()

    def _start(self) -> Integration:
        """The integration as the run began with it; what is drawn afterwards is the same with it and without."""
        (drawn,) = random_states()
        start = _opened(self.config.model, self.config, self.workshop, "cpu")
        set_random_state(drawn)
        return start

    def _after_step(self, stage: Stage, stepper: Stepper, asked_to_stop: bool) -> None:
        """Reports, validates and saves where it is time to."""
        step, config = self.progress.step, stage.config
        ends_stage = step == stage.schedule.steps
        ends_run = ends_stage and self.progress.stage == len(self.stages) - 1
        if step % config.log_every_steps == 0 or ends_stage:
            self.watcher.report_training(stepper.learning_rates)
        if self.validation and (step % config.validation.every_steps == 0 or ends_stage):
            # The others wait meanwhile: the main rank transcribes with the whole model, however it is divided.
            with stepper.engine.whole(stepper.engine.device) as integration:
                self.best.offer(integration, self._validate(integration, config), self.progress.total_step)
        stop = asked_to_stop and not ends_run
        if step % config.checkpoints.every_steps == 0 or (ends_stage and not ends_run) or stop:
            with stepper.engine.whole() as integration:
                save_checkpoint(
                    config.output / CHECKPOINTS,
                    integration,
                    stepper.engine.optimizer_state(),
                    self.progress,
                    config.checkpoints.keep,
                    self.ranks,
                    weights=config.checkpoints.weights,
                    configuration=self.config.model_dump(mode="json"),
                )
        if stop:
            raise TrainingStopped(
                f"stopped at step {self.progress.total_step} of {self.config.steps}; "
                "the same command with --resume auto goes on"
            )

    def _validate(self, integration: Integration, config: TrainConfig) -> dict[str, float | None] | None:
        """The error rates, on the main rank."""
        if not self.ranks.is_main:
            return None
        settings = config.validation
        result = validate(
            integration,
            self.validation,
            batch_size=settings.batch_size,
            samples=settings.samples,
            text=config.losses.text > 0,
            audio_gain=settings.audio_gain,
            seed=config.seed,
        )
        self.watcher.report_validation(result)
        return result.figures


def _joined(config: TrainConfig) -> AbstractContextManager[Ranks]:
    return joined(as_group=config.parallel.strategy == "shard")


def _opened(source: str | Path, config: TrainConfig, workshop: Workshop, device: torch.device | str) -> Integration:
    """An integration to train: the same on every rank and every time, also where a part of it is drawn."""
    seed_all(config.seed, 0)
    return load(source, device=device, manager=workshop.manager, registry=workshop.registry)


@contextmanager
def _held_by_main(folder: Path, ranks: Ranks) -> Iterator[None]:
    """The main rank holds the run's folder for all."""
    with held(folder) if ranks.is_main else nullcontext():
        ranks.wait()
        yield


def _warn_of_unknown(integration: Integration, utterances: Sequence[Utterance]) -> None:
    """Says which characters of the texts the CTC head cannot learn."""
    assert integration.ctc_head is not None
    unknown = [integration.ctc_head.unknown(utterance.target or "") for utterance in utterances]
    if any(unknown):
        log.warning(
            "%d of %d texts have characters that the CTC head has no symbol for; it does not learn them: %s",
            sum(map(bool, unknown)),
            len(unknown),
            " ".join(sorted(set("".join(unknown)))),
        )


def _history(config: TrainConfig, progress: Progress) -> dict[str, Any]:
    """What a checkpoint says of how it was trained. Folders are left out: they say where, not what."""
    said = config.model_dump(mode="json", exclude={"output": True, "cache": {"folder"}})
    said["model"] = Path(config.model).name
    for source in [*said["data"]["train"], said["data"]["validation"]]:
        if source is not None:
            source["path"] = Path(source["path"]).name
    return {
        "steps": progress.total_step,
        "audio_hours": round(progress.audio_seconds / 3600, 3),
        "configuration": said,
    }

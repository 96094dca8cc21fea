"""The training loop: from a configuration to a trained integration, through as many sittings as it takes."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from nuebridge.checkpoint import load, save
from nuebridge.compose import Workshop
from nuebridge.data import Utterance, read_manifest
from nuebridge.errors import TrainingError
from nuebridge.model import Integration
from nuebridge.train.batches import Position, select, stream
from nuebridge.train.config import Stage, TrainConfig
from nuebridge.train.ranks import Ranks, joined
from nuebridge.train.state import Progress, checkpoints, keep_metrics, locked, read_progress, restore, save_checkpoint
from nuebridge.train.step import Stepper
from nuebridge.train.stopping import Stopping, TrainingStopped, stopping_on_signals
from nuebridge.train.trainable import trainable_groups
from nuebridge.train.validation import validate
from nuebridge.train.watching import METRICS_FILE, Watcher

log = logging.getLogger(__name__)

MAX_RANKS = 65_536
"""Keeps the seeds of ranks apart from those of other runs."""


def train(config: TrainConfig, workshop: Workshop, *, resume: bool = False) -> Path:
    """Runs or resumes a training run; returns the folder of the trained integration.

    Raises TrainingError, DataError, CheckpointError; TrainingStopped when a signal or
    ``stop_after_minutes`` ends the sitting after a checkpoint was written.
    """
    with joined() as ranks, _locked_by_main(config.output, ranks):
        return _train(config, workshop, resume, ranks)


def _train(config: TrainConfig, workshop: Workshop, resume: bool, ranks: Ranks) -> Path:
    final = config.output / "final"
    found = checkpoints(config.output / "checkpoints")
    if (found or final.exists()) and not resume:
        raise TrainingError(
            f"{config.output} holds a run already; pass --resume to go on with it or choose another output"
        )
    if final.exists():
        log.info("%s is there: this run is finished", final)
        return final
    run = _Run.open(config, workshop, found[-1][1] if found else None, ranks)
    if ranks.is_main:
        keep_metrics(config.output / METRICS_FILE, run.progress.total_step)
    with stopping_on_signals(config.stop_after_minutes) as stopping:
        run.train(stopping)
    run.integration.training_history.append(_history(config, run.progress))
    if ranks.is_main:
        save(run.integration, final)
    ranks.wait()
    return final


@dataclass
class _Run:
    """A run of one or more stages, from where it stands."""

    config: TrainConfig
    stages: list[Stage]
    integration: Integration
    validation: list[Utterance]
    progress: Progress
    checkpoint: Path | None
    """What the run goes on from; its optimiser is that of the stage it was written in."""
    watcher: Watcher
    ranks: Ranks

    @classmethod
    def open(cls, config: TrainConfig, workshop: Workshop, checkpoint: Path | None, ranks: Ranks) -> _Run:
        torch.manual_seed(config.seed * MAX_RANKS + ranks.rank)
        source = config.model if checkpoint is None else checkpoint / "integration"
        integration = load(source, device=config.device, manager=workshop.manager, registry=workshop.registry)
        stages = list(config.unrolled())
        if integration.ctc_head is None and any(stage.config.losses.ctc > 0 for stage in stages):
            raise TrainingError("losses.ctc is above 0, but the integration has no CTC head; compose with --ctc-head")
        validation = read_manifest(Path(config.data.validation.path), need_text=True) if config.data.validation else []
        progress = Progress()
        if checkpoint is not None:
            progress = read_progress(checkpoint)
            log.info("resuming from step %d", progress.total_step)
        watcher = Watcher(config.output, config.steps, integration.sample_rate, speaks=ranks.is_main)
        limit = config.validation.max_utterances
        return cls(config, stages, integration, validation[:limit], progress, checkpoint, watcher, ranks)

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
        utterances, left_out = select(config.data, self.integration.min_audio_seconds)
        for line in left_out:
            log.warning(line)
        if config.losses.ctc > 0:
            _warn_of_unknown(self.integration, utterances)
        groups = trainable_groups(self.integration, config)
        optimizer = torch.optim.AdamW(groups, betas=config.optimizer.betas, eps=config.optimizer.epsilon, fused=True)
        if self.checkpoint is not None:
            restore(self.checkpoint, optimizer, self.ranks)
            self.checkpoint = None
        stepper = Stepper(self.integration, optimizer, stage, self.ranks)
        rate = self.integration.sample_rate
        with closing(
            stream(utterances, config.data, config.seed, rate, self.progress.position, self.ranks)
        ) as batches:
            started, before = time.monotonic(), self.progress.minutes
            while self.progress.step < stage.schedule.steps:
                batch = next(batches)
                result = stepper.step(batch, self.progress.step, lambda: stopping.asked)
                self.progress.advance(batch.next_position, result.samples / rate)
                self.progress.minutes = before + (time.monotonic() - started) / 60
                self.watcher.add(result)
                self._after_step(stage, stepper, result.asked_to_stop)

    def _after_step(self, stage: Stage, stepper: Stepper, asked_to_stop: bool) -> None:
        """Reports, validates and saves where it is time to."""
        step, config = self.progress.step, stage.config
        ends_stage = step == stage.schedule.steps
        ends_run = ends_stage and self.progress.stage == len(self.stages) - 1
        if step % config.log_every_steps == 0 or ends_stage:
            self.watcher.report_training(self.progress, stepper.learning_rates)
        if self.validation and (step % config.validation.every_steps == 0 or ends_stage):
            self._validate(config)
        stop = asked_to_stop and not ends_run
        if step % config.checkpoints.every_steps == 0 or (ends_stage and not ends_run) or stop:
            save_checkpoint(
                config.output / "checkpoints",
                self.integration,
                stepper.optimizer,
                self.progress,
                config.checkpoints.keep,
                self.ranks,
            )
        if stop:
            raise TrainingStopped(
                f"stopped at step {self.progress.total_step} of {self.config.steps}; "
                "the same command with --resume goes on"
            )

    def _validate(self, config: TrainConfig) -> None:
        if not self.ranks.is_main:
            return
        settings = config.validation
        result = validate(
            self.integration,
            self.validation,
            batch_size=settings.batch_size,
            samples=settings.samples,
            text=config.losses.text > 0,
        )
        self.watcher.report_validation(self.progress, {"wer": result.wer, "cer": result.cer, "ctc_cer": result.ctc_cer})
        for reference, hypothesis in result.samples:
            log.info("  reference:  %s", reference)
            log.info("  hypothesis: %s", hypothesis)


@contextmanager
def _locked_by_main(folder: Path, ranks: Ranks) -> Iterator[None]:
    """The main rank holds the run's folder for all."""
    with locked(folder) if ranks.is_main else nullcontext():
        ranks.wait()
        yield


def _warn_of_unknown(integration: Integration, utterances: Sequence[Utterance]) -> None:
    """Says which characters of the texts the CTC head cannot learn."""
    assert integration.ctc_head is not None
    unknown = [integration.ctc_head.unknown(utterance.text or "") for utterance in utterances]
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

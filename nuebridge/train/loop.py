"""The training loop: from a configuration to a trained integration, through as many sittings as it takes."""

from __future__ import annotations

import json
import logging
import math
import signal
import threading
import time
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from torch import Tensor, nn

from nuebridge.checkpoint import load, save
from nuebridge.compose import Workshop
from nuebridge.data import Utterance, read_manifest
from nuebridge.errors import AudioError, PromptError, TrainingError
from nuebridge.model import Integration, Losses
from nuebridge.train.batches import Batch, select, stream
from nuebridge.train.config import TrainConfig
from nuebridge.train.ranks import Ranks, joined
from nuebridge.train.state import (
    Progress,
    checkpoints,
    keep_metrics,
    locked,
    read_progress,
    restore,
    save_checkpoint,
)
from nuebridge.train.trainable import set_training_mode, trainable_groups
from nuebridge.train.validation import validate

log = logging.getLogger(__name__)

MAX_RANKS = 65_536
"""Keeps the seeds of ranks apart from those of other runs."""

METRICS_FILE = "metrics.jsonl"
"""What a run logs, in its output folder: one JSON object a line, ``kind`` is ``train`` or ``validation``."""


class TrainingStopped(TrainingError):
    """The run was asked to stop, has saved itself, and can be resumed."""

    exit_status = 75


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
        keep_metrics(config.output / METRICS_FILE, run.progress.step)
    with _stop_on_signals() as stopping:
        run.train(stopping)
    run.integration.training_history.append(_history(config, run.progress))
    if ranks.is_main:
        save(run.integration, final)
    ranks.wait()
    return final


@dataclass
class _Run:
    config: TrainConfig
    integration: Integration
    optimizer: torch.optim.Optimizer
    utterances: list[Utterance]
    validation: list[Utterance]
    progress: Progress
    ranks: Ranks

    @classmethod
    def open(cls, config: TrainConfig, workshop: Workshop, checkpoint: Path | None, ranks: Ranks) -> _Run:
        torch.manual_seed(config.seed * MAX_RANKS + ranks.rank)
        source = config.model if checkpoint is None else checkpoint / "integration"
        integration = load(source, device=config.device, manager=workshop.manager, registry=workshop.registry)
        if config.losses.ctc > 0 and integration.ctc_head is None:
            raise TrainingError("losses.ctc is above 0, but the integration has no CTC head; compose with --ctc-head")
        utterances, left_out = select(config.data.train, config.data, integration.min_audio_seconds)
        for line in left_out:
            log.warning(line)
        if config.losses.ctc > 0:
            _warn_of_unknown(integration, utterances)
        validation = read_manifest(config.data.validation, need_text=True) if config.data.validation else []
        groups = trainable_groups(integration, config)
        optimizer = torch.optim.AdamW(groups, betas=config.optimizer.betas, eps=config.optimizer.epsilon, fused=True)
        progress = Progress()
        if checkpoint is not None:
            progress = read_progress(checkpoint)
            restore(checkpoint, optimizer, ranks)
            log.info("resuming from step %d", progress.step)
        limit = config.validation.max_utterances
        return cls(config, integration, optimizer, utterances, validation[:limit], progress, ranks)

    def train(self, stopping: _Stopping) -> None:
        rate, position = self.integration.sample_rate, self.progress.position
        with closing(
            stream(self.utterances, self.config.data, self.config.seed, rate, position, self.ranks)
        ) as batches:
            self._train(batches, stopping)

    def _train(self, batches: Iterator[Batch], stopping: _Stopping) -> None:
        config = self.config
        started, before = time.monotonic(), self.progress.minutes
        limit = math.inf if config.stop_after_minutes is None else config.stop_after_minutes

        def asked_to_stop() -> bool:
            return stopping.asked or (time.monotonic() - started) / 60 >= limit

        window = _Window()
        while self.progress.step < config.schedule.steps:
            batch = next(batches)
            try:
                figures, sums = self._step(batch, asked_to_stop)
            except (AudioError, PromptError) as error:
                raise TrainingError(f"the batch {_names(batch)} cannot be trained on: {error}") from error
            audio_seconds = sums["samples"] / self.integration.sample_rate
            window.add(figures, audio_seconds)
            self.progress.step += 1
            self.progress.position = batch.next_position
            self.progress.audio_seconds += audio_seconds
            self.progress.minutes = before + (time.monotonic() - started) / 60
            step, last = self.progress.step, self.progress.step == config.schedule.steps
            if step % config.log_every_steps == 0 or last:
                self._log("train", {**window.means(), "learning_rate": self._learning_rates()})
                window = _Window()
            if self.validation and (step % config.validation.every_steps == 0 or last):
                self._validate()
            stop = sums["stop"] > 0  # asked of any rank, so that all leave after the same step
            if step % config.checkpoints.every_steps == 0 or (stop and not last):
                self._save()
            if stop and not last:
                raise TrainingStopped(
                    f"stopped at step {step} of {config.schedule.steps}; the same command with --resume goes on"
                )

    def _step(self, batch: Batch, asked_to_stop: Callable[[], bool]) -> tuple[dict[str, float], dict[str, float]]:
        """One step on this rank's share of a batch; means to log, and sums over all ranks."""
        config = self.config
        set_training_mode(self.integration)
        factor = config.schedule.factor(self.progress.step)
        for group in self.optimizer.param_groups:
            group["lr"] = group["peak_learning_rate"] * factor
        losses = self._losses(batch) if batch.utterances else None
        sums = self.ranks.sum_numbers({**_sums(losses, batch), "stop": float(asked_to_stop())})
        figures = self._means(sums, batch)
        self._check_finite("loss", sum(figures.values()), batch)
        if losses is not None:
            self._total(losses, sums).backward()  # type: ignore[no-untyped-call]
        parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
        self.ranks.sum_gradients(parameters)
        norm = nn.utils.clip_grad_norm_(parameters, config.optimizer.max_gradient_norm)
        self._check_finite("gradient", float(norm), batch)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return {**figures, "gradient_norm": float(norm)}, sums

    def _losses(self, batch: Batch) -> Losses:
        config, device = self.config, self.integration.device
        autocast = torch.autocast(device.type, torch.bfloat16) if config.precision == "bfloat16" else nullcontext()
        with autocast:
            losses: Losses = self.integration(
                batch.waveforms.to(device),
                batch.lengths.to(device),
                batch.texts,
                fields=self._fields(batch),
                text_loss=config.losses.text > 0,
                label_smoothing=config.losses.label_smoothing,
                token_replacement=config.losses.token_replacement,
                generators=[self._generator(utterance) for utterance in batch.utterances],
            )
        return losses

    def _generator(self, utterance: Utterance) -> torch.Generator:
        """What is drawn for an utterance depends on seed, epoch and utterance, not on batch or rank."""
        name = f"{self.config.seed}:{self.progress.position.epoch}:{utterance.id}"
        return torch.Generator().manual_seed(zlib.crc32(name.encode()))

    def _check_finite(self, what: str, value: float, batch: Batch) -> None:
        if not math.isfinite(value):
            raise TrainingError(
                f"the {what} is {value} at step {self.progress.step + 1} on the batch {_names(batch)}; look at "
                "these recordings, or lower the learning rate and pass --resume"
            )

    def _fields(self, batch: Batch) -> list[dict[str, str]]:
        declared = self.integration.prompt.fields
        default = {"language": self.integration.language} if self.integration.language else {}
        return [
            {name: value for name, value in {**default, **u.prompt_fields}.items() if name in declared}
            for u in batch.utterances
        ]

    def _means(self, sums: Mapping[str, float], batch: Batch) -> dict[str, float]:
        """What is logged of a step: the losses of the whole batch, each over what it counts."""
        means = {}
        if sums["text_tokens"]:
            means["loss"] = sums["text"] / sums["text_tokens"]
        if sums["ctc_symbols"] and self.config.losses.ctc > 0:
            means["ctc_loss"] = sums["ctc"] / sums["ctc_symbols"]
        if not means:
            raise TrainingError(
                f"every text of the batch {_names(batch)} is too long for its audio, so that there is no CTC loss; "
                "leave these utterances out"
            )
        if sums["auxiliary"]:
            means["auxiliary_loss"] = sums["auxiliary"] / sums["utterances"]
        return means

    def _total(self, losses: Losses, sums: Mapping[str, float]) -> Tensor:
        """This rank's part of what is minimised: its sums over the counts of the whole batch."""
        weights, total = self.config.losses, losses.text.new_zeros(())
        if sums["text_tokens"]:
            total = total + weights.text * losses.text / sums["text_tokens"]
        if losses.ctc is not None and sums["ctc_symbols"]:
            total = total + weights.ctc * losses.ctc / sums["ctc_symbols"]
        for value in losses.auxiliary.values():
            total = total + value / sums["utterances"]
        return total

    def _validate(self) -> None:
        if not self.ranks.is_main:
            return
        settings = self.config.validation
        result = validate(
            self.integration,
            self.validation,
            batch_size=settings.batch_size,
            samples=settings.samples,
            text=self.config.losses.text > 0,
        )
        self._log("validation", {"wer": result.wer, "cer": result.cer, "ctc_cer": result.ctc_cer})
        for reference, hypothesis in result.samples:
            log.info("  reference:  %s", reference)
            log.info("  hypothesis: %s", hypothesis)

    def _save(self) -> None:
        folder = self.config.output / "checkpoints"
        save_checkpoint(
            folder, self.integration, self.optimizer, self.progress, self.config.checkpoints.keep, self.ranks
        )

    def _learning_rates(self) -> dict[str, float]:
        return {group["part"]: group["lr"] for group in self.optimizer.param_groups}

    def _log(self, kind: str, figures: dict[str, Any]) -> None:
        if not self.ranks.is_main:
            return
        line = {"kind": kind, "step": self.progress.step, "minutes": round(self.progress.minutes, 2), **figures}
        with (self.config.output / METRICS_FILE).open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(line) + "\n")
        shown = " ".join(f"{name} {value:.4g}" for name, value in figures.items() if isinstance(value, int | float))
        log.info("%s step %d/%d  %s", kind, self.progress.step, self.config.schedule.steps, shown)


@contextmanager
def _locked_by_main(folder: Path, ranks: Ranks) -> Iterator[None]:
    """The main rank holds the run's folder for all."""
    with locked(folder) if ranks.is_main else nullcontext():
        ranks.wait()
        yield


def _sums(losses: Losses | None, batch: Batch) -> dict[str, float]:
    """What a rank adds to the sums of a step."""
    return {
        "text": 0.0 if losses is None else float(losses.text.detach()),
        "text_tokens": 0 if losses is None else losses.text_tokens,
        "ctc": 0.0 if losses is None or losses.ctc is None else float(losses.ctc.detach()),
        "ctc_symbols": 0 if losses is None else losses.ctc_symbols,
        "auxiliary": 0.0 if losses is None else sum(float(value.detach()) for value in losses.auxiliary.values()),
        "utterances": len(batch.utterances),
        "samples": float(batch.lengths.sum()),
    }


class _Window:
    """Means over the steps since the last log line."""

    def __init__(self) -> None:
        self.sums: dict[str, float] = {}
        self.steps = 0
        self.audio_seconds = 0.0
        self.started = time.monotonic()

    def add(self, figures: dict[str, float], audio_seconds: float) -> None:
        self.steps += 1
        self.audio_seconds += audio_seconds
        for name, value in figures.items():
            self.sums[name] = self.sums.get(name, 0.0) + value

    def means(self) -> dict[str, float]:
        means = {name: value / self.steps for name, value in self.sums.items()}
        return {**means, "audio_seconds_per_second": self.audio_seconds / (time.monotonic() - self.started)}


class _Stopping:
    asked = False


@contextmanager
def _stop_on_signals() -> Iterator[_Stopping]:
    """Within the block, SIGTERM and SIGINT ask for a stop after the current step; a second one ends at once."""
    stopping = _Stopping()
    if threading.current_thread() is not threading.main_thread():  # which alone receives signals
        yield stopping
        return

    def ask(number: int, frame: FrameType | None) -> None:
        stopping.asked = True
        signal.signal(number, before[signal.Signals(number)])

    before = {number: signal.signal(number, ask) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield stopping
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _names(batch: Batch) -> str:
    return ", ".join(utterance.id for utterance in batch.utterances)


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
    said = config.model_dump(mode="json", exclude={"output"})
    said["model"] = Path(config.model).name
    said["data"]["train"] = [path.name for path in config.data.train]
    said["data"]["validation"] = config.data.validation and config.data.validation.name
    return {
        "steps": progress.step,
        "audio_hours": round(progress.audio_seconds / 3600, 3),
        "configuration": said,
    }

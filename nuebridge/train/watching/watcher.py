"""What a run tells of itself: to its record, to the terminal, to loggers, and in a summary to look at."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from datetime import UTC, datetime
from types import TracebackType
from typing import Any, Self

from torch import nn

from nuebridge.model import Integration
from nuebridge.train.batches import Batch
from nuebridge.train.config import Stage, TrainConfig
from nuebridge.train.gain import not_listening
from nuebridge.train.progress import Progress
from nuebridge.train.ranks import ALONE, Ranks
from nuebridge.train.record import append_line
from nuebridge.train.step import StepResult
from nuebridge.train.stopping import TrainingStopped
from nuebridge.train.summary import short_count, write_summary
from nuebridge.train.validation import ValidationResult
from nuebridge.train.watching.hardware import describe, memory_bytes
from nuebridge.train.watching.loggers import Logger, open_loggers
from nuebridge.train.watching.terminal import Terminal, format_figures

log = logging.getLogger(__name__)

SMOOTHING = 0.9
"""Share of what the bar shows that a step leaves as it was."""


class Watcher:
    """Gathers what steps give and reports it; only the main rank's does. A context manager around the run.

    Raises TrainingError where a logger cannot start.
    """

    def __init__(
        self,
        config: TrainConfig,
        sample_rate: int,
        progress: Progress,
        ranks: Ranks = ALONE,
        *,
        terminal: Terminal | None = None,
    ) -> None:
        self._config = config
        self._sample_rate = sample_rate
        self._device = ranks.device(config.device)
        self._progress = progress
        self._ranks = ranks
        self._terminal = terminal or Terminal()
        self._loggers: list[Logger] = []
        self._stage: Stage | None = None
        self._window = _Window()
        self._smooth: dict[str, float] = {}
        self._step_began = 0.0
        self._exits = ExitStack()

    def __enter__(self) -> Self:
        if self._ranks.is_main:
            self._loggers = open_loggers(self._config, self._progress.total_step)
            for logger in self._loggers:
                self._exits.callback(logger.close)
            self._exits.enter_context(self._terminal.showing(self._config.steps, self._progress.total_step))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._exits.close()
        if self._stage is None:
            return  # nothing was begun
        if kind is None:
            self._summarize("finished")
        elif issubclass(kind, TrainingStopped):
            self._summarize("stopped, to be resumed")
        elif issubclass(kind, Exception):
            self._summarize(f"ended by an error: {error}")

    def begin_stage(
        self,
        stage: Stage,
        integration: Integration,
        groups: Sequence[Mapping[str, Any]],
        *,
        utterances: int | None = None,
        left_out: Sequence[str] = (),
    ) -> None:
        """A stage begins or goes on: ``groups`` are those of its optimiser, ``left_out`` says what data it drops."""
        self._stage = stage
        parts = _counted(integration, groups)
        if self._ranks.is_main:
            log.info("training %s", _said(parts))
        self._record(
            "start",
            {
                "time": datetime.now(UTC).isoformat(timespec="seconds"),
                "stage_steps": stage.schedule.steps,
                "processes": self._ranks.count,
                "hardware": describe(self._device),
                "utterances": utterances,
                "left_out": list(left_out),
                "parts": parts,
            },
        )

    def next_batch(self, batches: Iterator[Batch]) -> Batch:
        """A step begins, with waiting for its batch."""
        self._step_began = time.monotonic()
        batch = next(batches)
        self._window.waited_seconds += time.monotonic() - self._step_began
        return batch

    def add(self, result: StepResult, learning_rates: Mapping[str, float]) -> None:
        """The step is done."""
        self._window.add(result, result.samples / self._sample_rate, time.monotonic() - self._step_began)
        if not self._terminal.has_bar:
            return
        for name, value in result.figures.items():
            self._smooth[name] = SMOOTHING * self._smooth.get(name, value) + (1 - SMOOTHING) * value
        shown = {name: value for name, value in self._smooth.items() if name in result.figures}
        figures = {
            **{name: value for name, value in shown.items() if name != "gradient_norm"},
            "learning_rate": _merged(learning_rates),
            "audio s/s": self._window.speed,
            "memory GB": self._memory(),
        }
        self._terminal.update(self._stage.name if self._stage else "train", self._progress.total_step, figures)

    def report_training(self, learning_rates: Mapping[str, float]) -> None:
        """Reports the means over the steps since the last such report."""
        figures = {**self._window.figures(), "memory_gigabytes": round(self._memory(), 3)}
        self._window = _Window()
        self._report("train", {**figures, "learning_rate": dict(learning_rates)}, quiet=self._terminal.has_bar)

    def report_validation(self, result: ValidationResult) -> None:
        """Reports scores and samples, warns of a decoder that does not listen, and writes the summary anew."""
        if not self._ranks.is_main:
            return
        assert self._stage is not None
        self._report("validation", {**result.figures, "samples": [list(pair) for pair in result.samples]})
        for reference, hypothesis in result.samples:
            log.info("  reference:  %s", reference)
            log.info("  hypothesis: %s", hypothesis)
        if result.left_out:
            log.warning("%d validation utterances are too short or too long for the loss on them", result.left_out)
        if result.audio_gain is not None and self._progress.step >= self._stage.schedule.warmup_steps:
            advice = not_listening(result.audio_gain, self._stage.config)
            if advice is not None:
                log.warning(advice)
        self._summarize("running")

    def _report(self, kind: str, figures: dict[str, Any], *, quiet: bool = False) -> None:
        if not self._ranks.is_main:
            return
        line = self._record(kind, figures)
        for logger in self._loggers:
            logger.write(line)
        if not quiet:
            numbers = {name: value for name, value in figures.items() if isinstance(value, int | float)}
            log.info("%s step %d/%d  %s", kind, line["step"], self._config.steps, format_figures(numbers))

    def _record(self, kind: str, figures: dict[str, Any]) -> dict[str, Any]:
        progress = self._progress
        line = {
            "kind": kind,
            "step": progress.total_step,
            "stage": self._stage.name if self._stage else None,
            "minutes": round(progress.minutes, 2),
            **figures,
        }
        if self._ranks.is_main:
            append_line(self._config.output, line)
        return line

    def _summarize(self, status: str) -> None:
        if self._ranks.is_main:
            write_summary(self._config, status)

    def _memory(self) -> float:
        return memory_bytes(self._device) / 1e9


class _Window:
    """Means over the steps since the last report."""

    def __init__(self) -> None:
        self.sums: dict[str, float] = {}
        self.steps = 0
        self.audio_seconds = 0.0
        self.seconds = 0.0
        """Spent in steps; validating and saving do not count."""
        self.waited_seconds = 0.0
        """Of these, for data."""
        self.unreadable = 0

    def add(self, result: StepResult, audio_seconds: float, seconds: float) -> None:
        self.steps += 1
        self.audio_seconds += audio_seconds
        self.seconds += seconds
        self.unreadable += result.unreadable
        for name, value in result.figures.items():
            self.sums[name] = self.sums.get(name, 0.0) + value

    @property
    def speed(self) -> float:
        """Audio seconds a second."""
        return self.audio_seconds / max(self.seconds, 1e-9)

    def figures(self) -> dict[str, float]:
        """Means over the steps, and how many recordings were skipped where any were."""
        means = {name: value / self.steps for name, value in self.sums.items()}
        waited = round(self.waited_seconds / max(self.seconds, 1e-9), 4)
        skipped = {"unreadable": self.unreadable} if self.unreadable else {}
        return {**means, "audio_seconds_per_second": self.speed, "data_wait_share": waited, **skipped}


def _counted(integration: Integration, groups: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Per part what it is, how many parameters it has, and how many of them are trained."""
    trained: dict[str, int] = {}
    for group in groups:
        trained[group["part"]] = trained.get(group["part"], 0) + _size(group["params"])
    parts: dict[str, dict[str, Any]] = {}
    for name, part in integration.parts.items():
        info = integration.part_info.get(name)
        parts[name] = {
            "component": type(part).__name__ if info is None else info.component,
            "parameters": _size(list(part.parameters())),
            "trained": trained.get(name, 0),
        }
    return parts


def _size(parameters: Sequence[nn.Parameter]) -> int:
    return sum(parameter.numel() for parameter in parameters)


def _said(parts: Mapping[str, Mapping[str, Any]]) -> str:
    """For instance ``1.2 M of 5.8 M parameters: encoder 0 of 4.6 M, bridge 1.2 M of 1.2 M``."""
    total = " of ".join(short_count(sum(part[what] for part in parts.values())) for what in ("trained", "parameters"))
    each = ", ".join(
        f"{name} {short_count(part['trained'])} of {short_count(part['parameters'])}" for name, part in parts.items()
    )
    return f"{total} parameters: {each}"


def _merged(learning_rates: Mapping[str, float]) -> object:
    """One number where all parts have the same."""
    values = set(learning_rates.values())
    return values.pop() if len(values) == 1 else learning_rates

"""What a run tells of itself: a line in ``metrics.jsonl`` and a line on the terminal for each report."""

from __future__ import annotations

import json
import logging
import time
from pathlib import Path
from typing import Any

from nuebridge.train.state import Progress
from nuebridge.train.step import StepResult

log = logging.getLogger(__name__)

METRICS_FILE = "metrics.jsonl"
"""What a run logs, in its output folder: one JSON object a line, ``kind`` is ``train`` or ``validation``."""


class Watcher:
    """Gathers what steps give and reports it."""

    def __init__(self, output: Path, total_steps: int, sample_rate: int, *, speaks: bool) -> None:
        self._file = output / METRICS_FILE
        self._total_steps = total_steps
        self._sample_rate = sample_rate
        self._speaks = speaks
        self._window = _Window()

    def add(self, result: StepResult) -> None:
        """Takes note of a step."""
        self._window.add(result.figures, result.samples / self._sample_rate)

    def report_training(self, progress: Progress, learning_rates: dict[str, float]) -> None:
        """Reports the means over the steps since the last such report."""
        self._report("train", progress, {**self._window.means(), "learning_rate": learning_rates})
        self._window = _Window()

    def report_validation(self, progress: Progress, figures: dict[str, Any]) -> None:
        """Reports error rates."""
        self._report("validation", progress, figures)

    def _report(self, kind: str, progress: Progress, figures: dict[str, Any]) -> None:
        if not self._speaks:
            return
        line = {"kind": kind, "step": progress.total_step, "minutes": round(progress.minutes, 2), **figures}
        with self._file.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(line) + "\n")
        shown = " ".join(f"{name} {value:.4g}" for name, value in figures.items() if isinstance(value, int | float))
        log.info("%s step %d/%d  %s", kind, progress.total_step, self._total_steps, shown)


class _Window:
    """Means over the steps since the last report."""

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

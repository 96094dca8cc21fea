"""What a person sees while a run goes on: a progress bar on a terminal, log lines elsewhere."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import TextIO

from rich.console import Console, RenderableType
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.text import Text

log = logging.getLogger("nuebridge.train")

SPEED_SECONDS = 600.0
"""The time left is told from the steps of the last so many seconds."""


class _LineFormatter(logging.Formatter):
    """``12:30:05 message``; what is to be looked at says so."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(message)s", "%H:%M:%S")

    def formatMessage(self, record: logging.LogRecord) -> str:
        if record.levelno >= logging.WARNING:
            record.message = f"{record.levelname.lower()}: {record.message}"
        return super().formatMessage(record)


def line_handler() -> logging.Handler:
    """Log lines on the standard error, as the command line shows them; above a bar while there is one."""
    handler = logging.StreamHandler()
    handler.setFormatter(_LineFormatter())
    return handler


def format_figures(figures: Mapping[str, object]) -> str:
    """Numbers in a line, those of a mapping by name."""
    shown = []
    for name, value in figures.items():
        if isinstance(value, Mapping):
            shown.append(f"{name} " + " ".join(f"{key} {number:.3g}" for key, number in value.items()))
        elif isinstance(value, int | float):
            shown.append(f"{name} {value:.4g}")
    return "  ".join(shown)


class _Bar(Progress):
    """A bar over the width of the terminal, the figures below it."""

    figures = ""

    def get_renderables(self) -> Iterable[RenderableType]:
        yield self.make_tasks_table(self.tasks)
        if self.figures:
            yield Text(self.figures, style="dim")


class Terminal:
    """Shows how far a run is. Log lines, warnings and what is printed stand above the bar."""

    def __init__(self, console: Console | None = None) -> None:
        self._console = console or Console(stderr=True)
        self._bar: _Bar | None = None

    @property
    def has_bar(self) -> bool:
        """True while there is a bar, so that lines that say the same are not needed."""
        return self._bar is not None

    @contextmanager
    def showing(self, total_steps: int, step: int) -> Iterator[None]:
        """Within the block there is a bar: on a terminal, and where log lines are wanted at all."""
        if not self._console.is_terminal or self._console.is_dumb_terminal or not log.isEnabledFor(logging.INFO):
            yield
            return
        bar = _Bar(
            TextColumn("{task.description}"),
            BarColumn(bar_width=None),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("left"),
            console=self._console,
            refresh_per_second=2,
            speed_estimate_period=SPEED_SECONDS,
            redirect_stdout=sys.stdout.isatty(),  # piped, it goes where it was meant to go
            expand=True,
        )
        bar.add_task("training", total=total_steps, completed=step)
        before = sys.stderr
        with bar, _logging_to_the_new_stderr(before):
            self._bar = bar
            try:
                yield
            finally:
                self._bar = None

    def update(self, what: str, step: int, figures: Mapping[str, object]) -> None:
        """A step is done; ``what`` is trained now."""
        if self._bar is not None:
            self._bar.figures = format_figures(figures).replace("_", " ")
            self._bar.update(self._bar.task_ids[0], description=what, completed=step)


@contextmanager
def _logging_to_the_new_stderr(before: TextIO) -> Iterator[None]:
    """Log handlers that write to what was ``sys.stderr`` write to what it is now: above the bar."""
    handlers = [
        handler
        for handler in logging.getLogger().handlers
        if isinstance(handler, logging.StreamHandler) and handler.stream is before
    ]
    for handler in handlers:
        handler.setStream(sys.stderr)
    try:
        yield
    finally:
        for handler in handlers:
            handler.setStream(before)

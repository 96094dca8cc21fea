"""What a check found: marks and messages, tables of parts, data and figures; as lines to read and as JSON."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from nuebridge.train.estimates import Estimate

Level = Literal["ok", "warning", "error"]

WIDTH = 110
"""Characters of a message on one line."""

TOPICS = ("configuration", "model", "parts", "data", "texts", "output", "device", "loggers", "memory", "disk", "time")
"""In the order in which they are shown."""


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at."""

    level: Level
    topic: str
    message: str
    """For an error: what, which value, what to do."""


@dataclass(frozen=True)
class PartRow:
    """A part in a stage."""

    stage: str
    part: str
    component: str
    parameters: int
    trained: int
    """Of these, or beside them as LoRA, trainable parameters."""
    how: str
    """``all``, ``frozen``, ``LoRA r 16``, or the patterns of the groups that are trained."""
    learning_rate: float | None
    from_step: int


@dataclass(frozen=True)
class DataRow:
    """The data of a stage."""

    stage: str
    utterances: int
    hours: float
    left_out: tuple[str, ...]
    batches: int
    """In an epoch."""
    epochs: float
    """Passes over the data that the stage's steps make."""
    padding: float
    """Share of the audio seconds in batches that is padding."""
    largest: str
    """The largest batch, in words."""


@dataclass
class Report:
    """All that was found. A check is passed where there are no errors."""

    name: str
    """The configuration file."""
    findings: list[Finding] = field(default_factory=list)
    parts: list[PartRow] = field(default_factory=list)
    data: list[DataRow] = field(default_factory=list)
    estimates: dict[str, Estimate] = field(default_factory=dict)

    @property
    def errors(self) -> list[Finding]:
        """Those that keep a training from starting or from ending."""
        return [finding for finding in self.findings if finding.level == "error"]

    def add(self, level: Level, topic: str, message: str) -> None:
        """Takes note of something."""
        assert topic in TOPICS, topic
        finding = Finding(level, topic, message)
        if finding not in self.findings:  # two stages may say the same
            self.findings.append(finding)

    def as_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return {
            "configuration": self.name,
            "ok": not self.errors,
            "findings": [asdict(finding) for finding in self._sorted()],
            "parts": [asdict(row) for row in self.parts],
            "data": [asdict(row) for row in self.data],
            "estimates": {name: asdict(estimate) for name, estimate in self.estimates.items()},
        }

    def lines(self) -> Iterator[str]:
        """The report as a person reads it."""
        marks = {"ok": "ok     ", "warning": "warning", "error": "error  "}
        for finding in self._sorted():
            first, *rest = [part for line in finding.message.splitlines() for part in textwrap.wrap(line, WIDTH)]
            yield f"{marks[finding.level]}  {finding.topic:13}  {first}"
            yield from (f"{'':24}{line}" for line in rest)
        if self.parts:
            yield ""
            yield from _table(
                ("part", "component", "parameters", "trained", "how", "learning rate", "from step"),
                [
                    (
                        _staged(self.parts, row.stage, row.part),
                        row.component,
                        f"{row.parameters:,}",
                        f"{row.trained:,}",
                        row.how,
                        "" if row.learning_rate is None else f"{row.learning_rate:g}",
                        str(row.from_step) if row.from_step else "",
                    )
                    for row in self.parts
                ],
            )
        if self.data:
            yield ""
            yield from _table(
                ("data", "utterances", "hours", "batches", "epochs", "padding", "largest batch"),
                [
                    (
                        _staged(self.data, row.stage, "train"),
                        f"{row.utterances:,}",
                        f"{row.hours:.3g}",
                        f"{row.batches:,}",
                        f"{row.epochs:,.0f}" if row.epochs >= 100 else f"{row.epochs:.3g}",
                        f"{row.padding:.0%}",
                        row.largest,
                    )
                    for row in self.data
                ],
            )
        yield ""
        warnings = sum(finding.level == "warning" for finding in self.findings)
        yield f"{_counted(len(self.errors), 'error')}, {_counted(warnings, 'warning')}"

    def _sorted(self) -> list[Finding]:
        return sorted(self.findings, key=lambda finding: TOPICS.index(finding.topic))


def in_bytes(count: float) -> str:
    """A number of bytes in words: ``1.2 GB``."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 999.5:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} TB"


def in_time(seconds: float) -> str:
    """A time in words: ``3 h 20 min``."""
    if not math.isfinite(seconds):
        return "not known"
    if seconds < 99.5:
        return f"{seconds:.2g} s"
    minutes = round(seconds / 60)
    if minutes < 60:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours < 48 else f"{hours // 24} days {hours % 24} h"


def _counted(count: int, noun: str) -> str:
    return f"{count or 'no'} {noun}{'' if count == 1 else 's'}"


def _staged(rows: Sequence[Any], stage: str, name: str) -> str:
    """The name of a row, with its stage where there are several."""
    return name if len({row.stage for row in rows}) == 1 else f"{stage}: {name}"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    numbers = [all(row[column][:1].isdigit() or not row[column] for row in rows) for column in range(len(head))]
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    for row in (head, *rows):
        cells = (
            cell.rjust(width) if number else cell.ljust(width)
            for cell, width, number in zip(row, widths, numbers, strict=True)
        )
        yield "  ".join(cells).rstrip()


def sum_in_words(parts: Mapping[str, float]) -> str:
    """What bytes are the sum of: ``weights 1 GB + gradients 20 MB``; what is nothing is left out."""
    return " + ".join(f"{name} {in_bytes(value)}" for name, value in parts.items() if value)

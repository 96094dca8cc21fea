"""What was measured, put together: medians with their spread, ratios paired by round, as a table and as JSON."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any


@dataclass(frozen=True)
class Measurement:
    """One row in one round."""

    row: str
    round: int
    """From 0."""
    audio_seconds: float
    """Padding not counted."""
    figures: Mapping[str, Any]

    @classmethod
    def of(cls, row: str, number: int, figures: Mapping[str, Any]) -> Measurement:
        """From what the process that measured has told."""
        return cls(row, number, float(figures["audio_seconds"]), figures)

    @property
    def throughput(self) -> float:
        """Audio seconds a second."""
        return self.audio_seconds / float(self.figures["wall_seconds"])

    @property
    def peak_bytes(self) -> int:
        return int(self.figures["peak_bytes"])

    @property
    def training_bytes(self) -> int:
        """What of the peak is more than the loaded model takes."""
        return self.peak_bytes - int(self.figures["loaded_bytes"])

    @property
    def padding(self) -> float:
        """Share of what was computed on."""
        return 1 - float(self.figures["samples"]) / float(self.figures["computed"])


@dataclass(frozen=True)
class Spread:
    """Median, least and most over the rounds."""

    median: float
    least: float
    most: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        return cls(statistics.median(values), min(values), max(values))

    def text(self, form: str, unit: str = "") -> str:
        """Such as ``2.1 (2.0-2.3)``."""
        return f"{self.median:{form}}{unit} ({self.least:{form}}-{self.most:{form}})"


@dataclass(frozen=True)
class Results:
    """Everything that was measured, and on what."""

    model: str
    data: tuple[str, ...]
    durations: tuple[float, ...]
    """Of the utterances, in seconds."""
    summaries: Mapping[str, str]
    """What each row is, in the order of rows; the first is nuebridge itself."""
    batch_seconds: float
    batch_size: int
    precision: str
    passes: int
    warmup_steps: int
    left_out: tuple[str, ...]
    when: str
    measurements: tuple[Measurement, ...]

    @cached_property
    def rows(self) -> dict[str, list[Measurement]]:
        """The measurements of each row, by round."""
        return {
            name: sorted((one for one in self.measurements if one.row == name), key=lambda one: one.round)
            for name in self.summaries
        }

    def spread(self, row: str, figure: Callable[[Measurement], float]) -> Spread:
        """A figure of a row over the rounds."""
        return Spread.of([figure(one) for one in self.rows[row]])

    def ratio(self, row: str, other: str, figure: Callable[[Measurement], float] | None = None) -> Spread:
        """How many times the other's figure (default: throughput) a row has, paired by round."""
        of = figure or (lambda one: one.throughput)
        return Spread.of([of(a) / of(b) for a, b in zip(self.rows[row], self.rows[other], strict=True)])

    @property
    def ours(self) -> list[str]:
        """The rows of nuebridge."""
        return [name for name in self.summaries if self._is_ours(name)]

    @property
    def baselines(self) -> list[str]:
        """The other rows."""
        return [name for name in self.summaries if not self._is_ours(name)]

    @staticmethod
    def _is_ours(name: str) -> bool:
        return name.partition(",")[0] == "nuebridge"

    def seconds_a_batch(self, row: str) -> float:
        """Audio seconds of a batch on average, padding not counted."""
        one = self.rows[row][0]
        return one.audio_seconds / int(one.figures["steps"])

    def lines(self) -> list[str]:
        """The table, for people."""
        first = self.rows[next(iter(self.summaries))][0].figures
        seconds = sum(self.durations)
        trained = ", ".join(
            f"{name} ({some / 1e6:.3g} of {whole / 1e6:.3g} M parameters)"
            for name, (some, whole) in first["trained"].items()
            if some
        )
        table = [
            (
                "",
                "audio s / s",
                "wall s",
                "CPU s",
                "peak memory, GB",
                "to train",
                "padding",
                "steps",
                "audio s/step",
            )
        ]
        for name in self.summaries:
            one = self.rows[name][0]
            table.append(
                (
                    name,
                    self.spread(name, lambda m: m.throughput).text(".3g"),
                    f"{self.spread(name, lambda m: m.figures['wall_seconds']).median:.1f}",
                    f"{self.spread(name, lambda m: m.figures['cpu_seconds']).median:.1f}",
                    self.spread(name, lambda m: m.peak_bytes / 1e9).text(".2f"),
                    f"{self.spread(name, lambda m: m.training_bytes / 1e9).median:.2f}",
                    f"{one.padding:.1%}",
                    str(one.figures["steps"]),
                    f"{self.seconds_a_batch(name):.1f}",
                )
            )
        widths = [max(map(len, column)) for column in zip(*table, strict=True)]
        rows = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in table]
        said = [
            f"{self.model} ({first['weight_hash'][:12]}) on {', '.join(self.data)}: {len(self.durations)} utterances "
            f"of {min(self.durations):.1f} to {max(self.durations):.1f} s, {seconds / 60:.1f} minutes",
            f"trained: {trained}",
            f"{first['hardware']}; {self.precision}; {self.when}",
            f"{len(self.rows[self.ours[0]])} rounds, {self.passes} pass{'es' if self.passes > 1 else ''} over the "
            f"utterances after {self.warmup_steps} steps; medians, least and most; ours: up to {self.batch_seconds:g} "
            f"s a batch with padding; baselines: {self.batch_size} utterances a batch",
        ]
        if self.left_out:
            said.append(f"left out for all: {', '.join(self.left_out)}")
        if first["peak_since"] != "the measurement began":
            said.append(f"peak memory since {first['peak_since']}")
        for name in self.baselines:
            notes = {**self.rows[name][0].figures["notes"]}
            notes.pop("nuebridge", None)
            told = "".join(f"; {key} {value}" for key, value in notes.items())
            said.append(f"{name}: {self.summaries[name]}{told}")
        ratios = [
            f"{name} / {other}: {self.ratio(name, other).text('.2f', 'x')} the audio, "
            f"{self.ratio(name, other, lambda m: m.peak_bytes).text('.2f', 'x')} the peak memory"
            for name in self.ours
            for other in self.baselines
        ]
        return [*said, "", *rows, *([""] if ratios else []), *ratios]

    def as_dict(self) -> dict[str, Any]:
        """For JSON. Bytes and seconds; every round of every row beside the medians."""
        return {
            "bench": "train",
            "when": self.when,
            "model": self.model,
            "data": list(self.data),
            "utterances": len(self.durations),
            "audio_seconds": sum(self.durations),
            "shortest_seconds": min(self.durations),
            "longest_seconds": max(self.durations),
            "precision": self.precision,
            "batch_seconds": self.batch_seconds,
            "batch_size_of_baselines": self.batch_size,
            "passes": self.passes,
            "warmup_steps": self.warmup_steps,
            "left_out": list(self.left_out),
            "rows": [
                {
                    "name": name,
                    "summary": self.summaries[name],
                    "audio_seconds_per_second": _spread_dict(self.spread(name, lambda m: m.throughput)),
                    "peak_bytes": _spread_dict(self.spread(name, lambda m: m.peak_bytes)),
                    "training_bytes": _spread_dict(self.spread(name, lambda m: m.training_bytes)),
                    "padding": self.rows[name][0].padding,
                    "audio_seconds_per_step": self.seconds_a_batch(name),
                    "rounds": [dict(one.figures) for one in self.rows[name]],
                }
                for name in self.summaries
            ],
            "ratios": [
                {
                    "row": name,
                    "over": other,
                    "audio_seconds_per_second": _spread_dict(self.ratio(name, other)),
                    "peak_bytes": _spread_dict(self.ratio(name, other, lambda m: m.peak_bytes)),
                }
                for name in self.ours
                for other in self.baselines
            ],
        }


def _spread_dict(spread: Spread) -> dict[str, float]:
    return {"median": spread.median, "least": spread.least, "most": spread.most}

"""Curves as inline SVG. A chart is drawn at about the size it is shown at, so that its letters stay readable."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape
from itertools import groupby

Point = tuple[float, float]

WIDTH, HEIGHT = 360, 210
LEFT, RIGHT, TOP, BOTTOM = 46, 10, 10, 22
"""Margins, for the numbers at the axes."""
MAX_POINTS = 240
"""A longer curve is drawn through the means of so many stretches."""
MAX_HOVER = 60
MISSING = math.nan
"""The value of a point where the curve has a gap."""
LOG_FROM = 20.0
"""Positive values that differ by this factor get a logarithmic axis."""


@dataclass(frozen=True)
class Series:
    """A curve."""

    name: str
    points: Sequence[Point]
    """Step and value, steps rising."""
    dots: bool = False
    """For the few points of validations."""

    @property
    def known(self) -> list[Point]:
        """The points that can be drawn."""
        return [(x, y) for x, y in self.points if math.isfinite(y)]

    @property
    def runs(self) -> list[list[Point]]:
        """The points between gaps."""
        groups = groupby(self.points, key=lambda point: math.isfinite(point[1]))
        return [list(points) for known, points in groups if known]


def chart(
    title: str,
    unit: str,
    series: Sequence[Series],
    *,
    last_step: float,
    marks: Sequence[tuple[float, str]] = (),
    zero: bool = False,
    log: bool = False,
) -> str:
    """A figure with title, legend and curves from step 0 to ``last_step``; empty where there is not a point.

    ``marks`` are steps to draw a line at, with what begins there; ``zero`` has the axis include 0;
    ``log`` allows a logarithmic one.
    """
    drawn = [one for one in series if one.known]
    if not drawn:
        return ""
    axes = _Axes.around([y for one in drawn for _, y in one.known], last_step, zero=zero, log=log)
    legend = "".join(
        f'<li><i class="s{index}"></i>{escape(one.name)} <b>{escape(number(one.known[-1][1]))}</b></li>'
        for index, one in enumerate(drawn)
    )
    scale = ", logarithmic" if axes.log else ""
    said = ", ".join(f"{one.name} {number(one.known[0][1])} to {number(one.known[-1][1])}" for one in drawn)
    body = [axes.grid(), *(axes.curve(one, index) for index, one in enumerate(drawn)), *axes.marks(marks)]
    return (
        f'<figure class="chart"><figcaption>{escape(title)} <small>{escape(unit)}{scale}</small></figcaption>'
        f'<ul class="legend">{legend}</ul>'
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(f"{title}: {said}")}">'
        f"{''.join(body)}</svg></figure>"
    )


def number(value: float) -> str:
    """A number in few characters: 12000 as 12k, 0.0031 as 3.1e-3."""
    if value == 0:
        return "0"
    if abs(value) >= 1e6:
        return f"{value / 1e6:.3g}M"
    if abs(value) >= 1e4:
        return f"{value / 1e3:.3g}k"
    if abs(value) < 1e-2:
        mantissa, exponent = f"{value:.1e}".split("e")
        return f"{mantissa.removesuffix('.0')}e{int(exponent)}"
    return f"{value:.4g}" if abs(value) >= 1000 else f"{value:.3g}"


def ticks(low: float, high: float, count: int = 5) -> list[float]:
    """Round numbers within an interval, about ``count`` of them: steps of 1, 2 or 5 times a power of ten."""
    if not high > low:
        return [low]
    rough = (high - low) / count
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough)
    first = math.ceil(low / step - 1e-9)
    last = math.floor(high / step + 1e-9)
    return [round(index * step, 12) for index in range(first, last + 1)]


def thinned(points: Sequence[Point], limit: int) -> list[Point]:
    """At most ``limit`` points: means over stretches of like size, each at the step its stretch ends with."""
    size = math.ceil(len(points) / limit)
    if size <= 1:
        return list(points)
    stretches = [points[start : start + size] for start in range(0, len(points), size)]
    return [(stretch[-1][0], sum(y for _, y in stretch) / len(stretch)) for stretch in stretches]


@dataclass(frozen=True)
class _Axes:
    low: Point
    high: Point
    log: bool

    @classmethod
    def around(cls, values: Sequence[float], last_step: float, *, zero: bool, log: bool) -> _Axes:
        low, high = min(values), max(values)
        if log and low > 0 and high / low >= LOG_FROM:
            return cls((0, low / 1.1), (last_step, high * 1.1), True)
        if zero:
            low, high = min(low, 0.0), max(high, 0.0)
        room = (high - low) * 0.06 or abs(high) * 0.1 or 1.0
        # Nothing is below zero that was not measured there.
        bottom = low - room if low < 0 or low - room > 0 else min(low, 0.0)
        return cls((0, bottom), (last_step, high + room), False)

    def place(self, point: Point) -> Point:
        """Where a point stands in the picture."""
        (x, y), (left, bottom), (right, top) = point, self.low, self.high
        across = (x - left) / (right - left)
        up = (y - bottom) / (top - bottom)
        if self.log:
            up = math.log(y / bottom) / math.log(top / bottom)
        return LEFT + across * (WIDTH - LEFT - RIGHT), HEIGHT - BOTTOM - up * (HEIGHT - TOP - BOTTOM)

    def grid(self) -> str:
        lines = []
        for value in self._levels():
            _, y = self.place((self.low[0], value))
            kind = "axis" if value == 0 else "grid"
            lines.append(f'<line class="{kind}" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
            lines.append(f'<text x="{LEFT - 5}" y="{y + 4:.1f}" text-anchor="end">{number(value)}</text>')
        steps = [step for step in ticks(self.low[0], self.high[0], 4) if step == int(step)]
        for step in steps or [self.high[0]]:
            x, _ = self.place((step, self.high[1]))
            anchor = "end" if x > WIDTH - 30 else "middle"
            lines.append(f'<text x="{x:.1f}" y="{HEIGHT - 6}" text-anchor="{anchor}">{number(step)}</text>')
        return "".join(lines)

    def _levels(self) -> list[float]:
        if not self.log:
            return ticks(self.low[1], self.high[1])
        powers = range(math.floor(math.log10(self.low[1])), math.ceil(math.log10(self.high[1])) + 1)
        factors = (1, 2, 5) if self.high[1] / self.low[1] < 300 else (1,)
        levels = [factor * 10.0**power for power in powers for factor in factors]
        return [level for level in levels if self.low[1] <= level <= self.high[1]]

    def marks(self, marks: Sequence[tuple[float, str]]) -> Iterator[str]:
        """Lines with names, each lower than the one before where they would touch."""
        before, row = -math.inf, 0
        for step, name in marks:
            if step >= self.high[0]:
                continue
            x, _ = self.place((step, self.high[1]))
            row = row + 1 if x < before else 0
            before = x + 8 + 6.5 * len(name)
            if step > self.low[0]:
                yield f'<line class="mark" x1="{x:.1f}" x2="{x:.1f}" y1="{TOP}" y2="{HEIGHT - BOTTOM}"/>'
            yield f'<text class="mark" x="{x + 4:.1f}" y="{TOP + 9 + 13 * row}">{escape(name)}</text>'

    def curve(self, series: Series, index: int) -> str:
        shown = []
        for run in series.runs:
            share = len(run) / len(series.known)
            points = thinned(run, max(1, round(MAX_POINTS * share)))
            line = " ".join("{:.1f},{:.1f}".format(*self.place(point)) for point in points)
            shown.append(f'<polyline class="s{index}" points="{line}"/>')
            dots = points if series.dots or len(points) == 1 else []
            shown += [_circle(self.place(point), f"dot s{index}", 3.2) for point in dots]
            shown += [
                _circle(self.place(point), "hover", 7, f"{series.name}, step {point[0]:g}: {number(point[1])}")
                for point in thinned(run, max(1, round(MAX_HOVER * share)))
            ]
        return "".join(shown)


def _circle(place: Point, kind: str, radius: float, title: str = "") -> str:
    inside = f"<title>{escape(title)}</title>" if title else ""
    return f'<circle class="{kind}" cx="{place[0]:.1f}" cy="{place[1]:.1f}" r="{radius}">{inside}</circle>'

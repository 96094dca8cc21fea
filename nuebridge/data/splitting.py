"""Splits of a manifest into train, dev and test that share no speaker and no recording.

Utterances that are linked, by a speaker, a recording or an audio file, directly or through others,
form a group, and a group goes to one part as a whole.
"""

from __future__ import annotations

import random
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nuebridge.data.manifest import Utterance, read_manifest
from nuebridge.data.paths import PathsFrom, RealPaths
from nuebridge.data.writing import check_new_folder, to_line, write_manifests
from nuebridge.errors import ConfigError, DataError

ATTEMPTS = 32
"""Orders in which the groups are dealt out; the one that comes nearest to the sizes asked for is taken."""

GOOD_ENOUGH = 0.005
"""A deviation from the sizes at which no further order is tried."""

SECONDS_PER_UNIT = {"s": 1.0, "m": 60.0, "h": 3600.0}


@dataclass(frozen=True)
class Size:
    """How large a part should be."""

    value: float
    unit: str
    """``share`` of the whole, ``utterances``, ``seconds``, or ``rest``: whatever the other parts leave."""

    @classmethod
    def parse(cls, text: str) -> Size:
        """From ``0.1`` or ``10%`` (shares), ``500`` (utterances), ``90s``, ``30m``, ``2h`` or ``rest``.

        Raises ConfigError.
        """
        if text == "rest":
            return cls(0.0, "rest")
        match = re.fullmatch(r"(\d+(?:\.\d*)?|\.\d+)(%|s|m|h)?", text.strip())
        value = float(match[1]) if match else 0.0
        unit = match[2] if match else None
        if unit == "%":
            value, unit = value / 100, "share"
        elif unit in SECONDS_PER_UNIT:
            value, unit = value * SECONDS_PER_UNIT[unit], "seconds"
        elif match and "." in match[1]:
            unit = "share"
        else:
            unit = "utterances"
        if value <= 0 or (unit == "share" and value >= 1):
            raise ConfigError(
                f"the size {text!r} is none; write a share (0.1, 10%), utterances (500), a time (90s, 30m, 2h) or rest"
            )
        return cls(value, unit)

    def __str__(self) -> str:
        """As messages say it."""
        if self.unit == "rest":
            return "the rest"
        return f"{self.value:.1%}" if self.unit == "share" else f"{self.value:g} {self.unit}"


@dataclass(frozen=True)
class Part:
    """What one part got."""

    name: str
    size: Size
    utterances: int
    seconds: float | None
    """None where the manifest does not give every duration."""
    groups: int
    speakers: int


@dataclass(frozen=True)
class Split:
    """What a split came to."""

    folder: Path
    parts: tuple[Part, ...]
    left_out: int
    """Utterances in no part, where none of them takes the rest."""
    without_speaker: int
    """Utterances that name no speaker: only their recordings keep them together."""

    def as_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return {
            "folder": str(self.folder),
            "parts": {
                part.name: {
                    "manifest": str(self.folder / f"{part.name}.jsonl"),
                    "asked": str(part.size),
                    "utterances": part.utterances,
                    "seconds": part.seconds,
                    "groups": part.groups,
                    "speakers": part.speakers,
                }
                for part in self.parts
            },
            "left_out": self.left_out,
            "without_speaker": self.without_speaker,
        }


@dataclass
class _Group:
    members: list[int]
    weights: dict[str, float]
    """Its ``utterances`` and, where they are known, ``seconds``."""


def split(
    manifest: Path,
    folder: Path,
    sizes: Mapping[str, Size],
    *,
    seed: int = 0,
    by: str | None = None,
    group_by: Sequence[str] = ("speaker", "recording"),
    tolerance: float = 0.2,
) -> Split:
    """Writes a manifest for each part into a new folder.

    Shares are of ``by``: ``seconds`` (unless told otherwise, where every line gives its duration) or
    ``utterances``. ``group_by`` names the fields whose values no two parts may have in common; the
    audio file always is one. Lines keep their order.

    Raises ConfigError for sizes that make no sense, DataError where the groups do not allow to come
    within ``tolerance`` (relative) of a size, and where the folder is not new or empty.
    """
    check_new_folder(folder)
    utterances = read_manifest(manifest)
    unknown = sum(one.duration is None for one in utterances)
    by = by or ("utterances" if unknown else "seconds")
    asked, sizes = sizes, _checked(sizes)
    if unknown and (by == "seconds" or any(size.unit == "seconds" for size in sizes.values())):
        raise DataError(
            f"{manifest}: {unknown} of {len(utterances)} lines give no duration; have them measured "
            f"(nuebridge data import {manifest} --output NEW.jsonl), or split by utterances"
        )
    groups = _groups(utterances, group_by, measured=not unknown)
    total = {unit: sum(group.weights[unit] for group in groups) for unit in groups[0].weights}
    targets = {
        name: (by, size.value * total[by]) if size.unit == "share" else (size.unit, size.value)
        for name, size in sizes.items()
        if size.unit != "rest"
    }
    dealt, deviation = _deal(groups, targets, next((n for n, s in sizes.items() if s.unit == "rest"), None), seed)
    if deviation > tolerance:
        raise DataError(_why_not(utterances, groups, targets, dealt, total, group_by, tolerance))
    paths = PathsFrom(folder)
    lines = {
        f"{name}.jsonl": [to_line(utterances[i], paths) for i in sorted(i for g in dealt[name] for i in g.members)]
        for name in sizes
    }
    write_manifests(folder, lines)
    parts = tuple(_part(name, asked[name], dealt[name], utterances) for name in sizes)
    speakers = [one.fields.get("speaker") in (None, "") for one in utterances]
    return Split(folder, parts, len(utterances) - sum(part.utterances for part in parts), sum(speakers))


def _checked(sizes: Mapping[str, Size]) -> dict[str, Size]:
    """The sizes; where shares sum to one, the largest takes the rest, which is as much. Raises ConfigError."""
    bounded = [name for name, size in sizes.items() if size.unit != "rest"]
    if not bounded or len(sizes) < 2:
        raise ConfigError("give two parts at least, and the size of all but one, such as --dev 5% --test 5%")
    if len(sizes) - len(bounded) > 1:
        raise ConfigError("only one part can take the rest")
    shares = sum(size.value for size in sizes.values() if size.unit == "share")
    full = abs(shares - 1) < 1e-6
    if (shares > 1 and not full) or (full and not all(size.unit == "share" for size in sizes.values())):
        raise ConfigError(f"the parts together take {shares:.1%} of the data, which leaves nothing for the others")
    largest = max(bounded, key=lambda name: sizes[name].value)
    return {name: Size(0.0, "rest") if full and name == largest else size for name, size in sizes.items()}


def _groups(utterances: Sequence[Utterance], group_by: Sequence[str], *, measured: bool) -> list[_Group]:
    """Connected components, each in the order of the manifest, by their first member."""
    parent = list(range(len(utterances)))

    def root(index: int) -> int:
        while parent[index] != index:
            parent[index] = parent[parent[index]]
            index = parent[index]
        return index

    first: dict[tuple[str, str], int] = {}
    real = RealPaths()
    for index, one in enumerate(utterances):
        values = {name: one.fields.get(name) for name in group_by}
        keys = [(name, str(value)) for name, value in values.items() if value not in (None, "")]
        for key in [*keys, ("", real.of(one.audio_filepath))]:
            above, below = sorted((root(index), root(first.setdefault(key, index))))
            parent[below] = above
    members: dict[int, list[int]] = {}
    for index in range(len(utterances)):
        members.setdefault(root(index), []).append(index)
    groups = []
    for those in members.values():
        weights = {"utterances": float(len(those))}
        if measured:
            weights["seconds"] = sum(utterances[index].duration or 0.0 for index in those)
        groups.append(_Group(those, weights))
    return groups


Target = tuple[str, float]
"""Unit and value."""


def _deal(
    groups: Sequence[_Group], targets: Mapping[str, Target], rest: str | None, seed: int
) -> tuple[dict[str, list[_Group]], float]:
    """Groups by part, and the largest relative deviation from a target, of the best of several orders."""
    best: tuple[float, dict[str, list[_Group]]] | None = None
    # The small parts choose first: what a large one lacks then is little of it.
    total = {unit: _reached(groups, unit) for unit, _ in targets.values()}
    smallest_first = sorted(targets, key=lambda name: targets[name][1] / total[targets[name][0]])
    for attempt in range(ATTEMPTS):
        left = list(groups)
        random.Random(f"{seed} {attempt}").shuffle(left)
        dealt: dict[str, list[_Group]] = {}
        for name in smallest_first:
            dealt[name], left = _fill(left, *targets[name])
        if rest is not None:
            dealt[rest] = left
        deviation = max(_deviation(dealt[name], target) for name, target in targets.items())
        if rest is not None and not left:
            deviation = max(deviation, 1.0)
        if best is None or deviation < best[0]:
            best = deviation, dealt
        if deviation <= GOOD_ENOUGH:
            break
    assert best is not None
    return best[1], best[0]


def _fill(groups: Sequence[_Group], unit: str, target: float) -> tuple[list[_Group], list[_Group]]:
    """Those groups, taken in order, that fit into a target, and the others.

    At the end one more, where that brings the sum nearer to the target than without it.
    """
    taken: list[_Group] = []
    others: list[_Group] = []
    reached = 0.0
    for group in groups:
        fits = reached + group.weights[unit] <= target * (1 + 1e-9)
        reached += group.weights[unit] if fits else 0.0
        (taken if fits else others).append(group)
    if others:
        smallest = min(range(len(others)), key=lambda index: others[index].weights[unit])
        if abs(reached + others[smallest].weights[unit] - target) < target - reached:
            taken.append(others.pop(smallest))
    return taken, others


def _reached(groups: Sequence[_Group], unit: str) -> float:
    return sum(group.weights[unit] for group in groups)


def _deviation(groups: Sequence[_Group], target: Target) -> float:
    return abs(_reached(groups, target[0]) - target[1]) / target[1]


def _part(name: str, size: Size, groups: Sequence[_Group], utterances: Sequence[Utterance]) -> Part:
    mine = [utterances[index] for group in groups for index in group.members]
    durations = [one.duration for one in mine if one.duration is not None]
    seconds = sum(durations) if len(durations) == len(mine) else None
    speakers = {str(one.fields["speaker"]) for one in mine if one.fields.get("speaker") not in (None, "")}
    return Part(name, size, len(mine), seconds, len(groups), len(speakers))


def _why_not(
    utterances: Sequence[Utterance],
    groups: Sequence[_Group],
    targets: Mapping[str, Target],
    dealt: Mapping[str, Sequence[_Group]],
    total: Mapping[str, float],
    group_by: Sequence[str],
    tolerance: float,
) -> str:
    """What a split that comes too far from its sizes would have, why, and what to do."""
    name, (unit, target) = max(targets.items(), key=lambda item: _deviation(dealt[item[0]], item[1]))
    largest = max(groups, key=lambda group: group.weights[unit])
    mine = [utterances[index] for index in largest.members]
    links = []
    for field in group_by:
        values = {str(one.fields[field]) for one in mine if one.fields.get(field) not in (None, "")}
        if values:
            links.append(f"{field} {min(values)!r}" + (f" and {len(values) - 1} more" if len(values) > 1 else ""))
    empty = [part for part, those in dealt.items() if not those and part not in targets]
    reached = _reached(dealt[name], unit)
    came = (
        f"nothing would be left for {empty[0]}"
        if empty
        else f"{name} would get {reached:g} {unit} where {target:g} are asked for (tolerance {tolerance:.0%})"
    )
    return (
        f"no split without a common {' or '.join([*group_by, 'audio file'])} comes near these sizes: {came}. "
        f"There are {len(groups)} groups that must stay whole; the largest has {len(mine)} utterances, "
        f"{largest.weights[unit] / total[unit]:.0%} of the {unit} ({', '.join(links) or mine[0].audio_filepath}). "
        "Ask for sizes that the groups allow, correct the fields that link them, allow more with --tolerance, or name "
        "the fields that must not be shared with --group-by"
    )

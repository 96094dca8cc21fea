"""Statistics and faults of manifests, and what they share with the test data."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from nuebridge.config import suggestion
from nuebridge.data.checking.audio import Depth, Heard, listen
from nuebridge.data.checking.overlap import overlaps, repetitions
from nuebridge.data.checking.statistics import outliers, statistics
from nuebridge.data.manifest import read_manifest
from nuebridge.errors import ConfigError

__all__ = ["KINDS", "Depth", "Finding", "Report", "check"]

KINDS: Mapping[str, tuple[bool, str]] = {
    "missing-audio": (True, "recordings that are not there"),
    "unreadable-audio": (True, "recordings that are empty, corrupt, truncated or not audio"),
    "span": (True, "stretches that their recording does not have"),
    "duration": (False, "durations shorter than their recording"),
    "silent": (True, "digital silence with a text"),
    "clipped": (True, "audio that is clipped"),
    "missing-text": (True, "no text, where others have one"),
    "empty-text": (True, "empty texts, but for silence"),
    "speech-rate": (False, "texts much too long or too short for their audio"),
    "duplicate-audio": (False, "audio that is there already"),
    "contradiction": (True, "audio that is there already, with another text"),
    "overlap-text": (True, "texts of the test data"),
    "overlap-audio": (True, "audio of the test data"),
    "overlap-recording": (True, "recordings of the test data"),
    "overlap-speaker": (True, "speakers of the test data"),
}
"""What may be found: whether it is a fault (else a warning), and a description."""


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong with one utterance."""

    kind: str
    manifest: Path
    utterance: str
    """Its id."""
    message: str


@dataclass(frozen=True)
class Report:
    """What :func:`check` found."""

    statistics: Mapping[str, Any]
    findings: Mapping[str, Sequence[Finding]]
    """By kind, in the order of KINDS; kinds that were not found are left out."""
    only_warn: frozenset[str]
    """Kinds of faults that were asked to be no more than warnings."""

    def is_fault(self, kind: str) -> bool:
        """True for kinds that make data unfit, False for those that only warn."""
        return KINDS[kind][0] and kind not in self.only_warn

    @property
    def faults(self) -> int:
        """How many findings are faults."""
        return sum(len(found) for kind, found in self.findings.items() if self.is_fault(kind))

    def as_dict(self) -> dict[str, Any]:
        """Plain data for JSON: ``ok``, ``faults``, ``statistics``, ``findings`` (a list, complete)."""
        return {
            "ok": not self.faults,
            "faults": self.faults,
            "statistics": dict(self.statistics),
            "findings": [
                {
                    "kind": one.kind,
                    "fault": self.is_fault(one.kind),
                    "manifest": str(one.manifest),
                    "utterance": one.utterance,
                    "message": one.message,
                }
                for found in self.findings.values()
                for one in found
            ],
        }


def check(
    manifests: Sequence[Path],
    *,
    against: Sequence[Path] = (),
    depth: Depth = "headers",
    only_warn: Collection[str] = (),
    workers: int = 8,
    on_progress: Callable[[int, int], None] | None = None,
) -> Report:
    """Looks at manifests, together, and at their recordings as deep as ``depth`` says.

    ``none`` opens no recording; ``headers`` compares durations, and bytes where two files have one
    size; ``decode`` also finds damage in the middle of a file, silence, clipping and equal audio in
    files of different kinds. Whatever ``against``, the test data, shares with the manifests is
    found. Of the test data itself only recordings that cannot be compared are reported.

    ``on_progress`` is told how many of how many files are read. Raises ConfigError for kinds and
    depths that do not exist, DataError for manifests that cannot be read.
    """
    for kind in only_warn:
        if kind not in KINDS:
            raise ConfigError(f"there is no finding {kind!r}{suggestion(kind, list(KINDS))}")
    if depth not in get_args(Depth):
        raise ConfigError(f"audio can be checked by {', '.join(get_args(Depth))}, not {depth!r}")
    own = [Heard(one, path) for path in manifests for one in read_manifest(path)]
    other = [Heard(one, path) for path in against for one in read_manifest(path)]
    listen([*own, *other], depth, workers, on_progress or (lambda done, total: None))

    found: list[tuple[str, Heard, str]] = [(kind, one, message) for one in own for kind, message in one.faults]
    found += [
        (kind, one, f"{message} (test data, which cannot be compared)")
        for one in other
        for kind, message in one.faults
        if kind in ("missing-audio", "unreadable-audio")
    ]
    found += _texts(own)
    found += repetitions(own)
    found += overlaps(own, other)
    by_kind: dict[str, list[Finding]] = {kind: [] for kind in KINDS}
    for kind, one, message in found:
        by_kind[kind].append(Finding(kind, one.manifest, one.utterance.id, message))
    findings = {kind: those for kind, those in by_kind.items() if those}
    return Report(statistics(own), findings, frozenset(only_warn))


def _texts(heard: Sequence[Heard]) -> list[tuple[str, Heard, str]]:
    """What is wrong with texts alone, and with texts for the time they take."""
    found = []
    some = any(one.text is not None for one in heard)
    for one in heard:
        text, path = one.text, one.utterance.audio_filepath
        if text is None:
            if some:
                found.append(("missing-text", one, f"{path} has no text, others have"))
        elif not text.strip() and not one.is_silent:
            found.append(("empty-text", one, f"{path} has an empty text"))
    for index, (rate, usual) in outliers(heard).items():
        one = heard[index]
        message = f"{one.utterance.audio_filepath}: {rate:.1f} characters a second, {usual:.1f} are usual"
        found.append(("speech-rate", one, message))
    return found

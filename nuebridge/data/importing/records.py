"""What a reader of a foreign format hands over, and where it notes what it could not."""

from __future__ import annotations

import gzip
import json
import math
import zlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nuebridge.data.paths import PathsFrom
from nuebridge.data.writing import RESERVED
from nuebridge.errors import DataError

AUDIO_ENDINGS = (".wav", ".flac", ".mp3", ".ogg", ".opus", ".m4a", ".webm", ".mp4")
"""Tried, in lower and upper case, for recordings that are named without an ending."""

OWN_FIELDS = (*RESERVED, "speaker", "recording")
"""Fields of our lines that a reader fills from its format's own words for them."""


@dataclass(frozen=True)
class ImportOptions:
    """How to read; what does not concern a format is refused."""

    audio_root: Path | None = None
    """Where relative paths of recordings begin; None: the folder of the file that names them."""
    columns: Mapping[str, str] = field(default_factory=dict)
    """Tables: our field to the name of their column."""
    delimiter: str | None = None
    """Tables: the character between cells; None: a tab in .tsv files, else a comma."""
    header: Sequence[str] = ()
    """Tables: names of the columns of a file that has no line of them."""
    measure: bool = True
    """Open every recording's header: durations that are not given, spans that are not there."""
    skip_faults: bool = False
    """Leave out what is faulty, counted and named, where it would be an error."""
    workers: int = 8
    """Threads that read headers."""


@dataclass
class Record:
    """One utterance as the foreign format has it. Times in seconds."""

    place: str
    """File and line."""
    audio: Path
    text: str | None = None
    duration: float | None = None
    offset: float = 0.0
    id: str | None = None
    speaker: str | None = None
    recording: str | None = None
    fields: dict[str, Any] = field(default_factory=dict)
    channel: int = 0
    """The channel meant, where the recording has several. A manifest cannot name one."""
    one_channel: bool = False
    """True where only that channel is meant, and not the mean of all."""

    @property
    def name(self) -> str:
        """What messages call it."""
        return self.place if self.id is None else self.id

    def line(self, paths: PathsFrom) -> dict[str, Any]:
        """The line of a manifest."""
        own: dict[str, Any] = {
            "audio_filepath": paths.shown(self.audio),
            "text": self.text,
            "duration": None if self.duration is None else round(self.duration, 6),
            "offset": round(self.offset, 6) or None,
            "id": self.id,
            "speaker": self.speaker,
            "recording": self.recording,
        }
        return {name: value for name, value in own.items() if value is not None} | self.fields


@dataclass(frozen=True)
class Dropped:
    """Something that the source has and the manifest has not."""

    reason: str
    name: str
    """An utterance's id where it has one, else its place."""


class Intake:
    """Collects what a reader finds: records, what is dropped, what is wrong."""

    def __init__(self, source: Path, options: ImportOptions) -> None:
        self.options = options
        self.source = source
        self.folder = source if source.is_dir() else source.parent
        self.root = options.audio_root or self.folder
        self.records: list[Record] = []
        self.dropped: list[Dropped] = []
        self.faults: list[tuple[str, str]] = []
        """Place and message."""
        self.notes: list[str] = []
        """What the user should know and nothing is wrong with."""
        self._places: dict[str, str] = {}
        self._found: dict[str, Path] = {}

    def add(self, record: Record) -> None:
        """Takes an utterance. Raises ValueError where its id is taken or its times are impossible."""
        if record.duration is not None and record.duration <= 0:
            raise ValueError(f"ends at {record.offset + record.duration:g} s, which is not after {record.offset:g} s")
        if record.id is not None:
            if record.id in self._places:
                raise ValueError(f"the id {record.id!r} is that of {self._places[record.id]} already")
            self._places[record.id] = record.place
        self.records.append(record)

    def drop(self, name: str, reason: str) -> None:
        """Notes what is left out on purpose."""
        self.dropped.append(Dropped(reason, name))

    def fault(self, place: str, message: str) -> None:
        """Notes what is wrong."""
        self.faults.append((place, message))

    @contextmanager
    def at(self, place: str) -> Iterator[None]:
        """Makes a ValueError from within a fault at this place."""
        try:
            yield
        except (ValueError, RecursionError) as error:
            self.fault(place, str(error))

    def audio(self, name: str) -> Path:
        """The recording of that name, which may lack its ending. Raises ValueError where there is none."""
        found = self._found.get(name)
        if found is None:
            found = self._found[name] = self._find(name)
        return found

    def _find(self, name: str) -> Path:
        if not name or "\0" in name:
            raise ValueError("no recording is named")
        path = self.root / name
        if not self.options.measure or path.is_file():
            return path
        endings = [form for ending in AUDIO_ENDINGS for form in (ending, ending.upper())]
        there = [file for file in (path.with_name(path.name + ending) for ending in endings) if file.is_file()]
        # A file system that does not tell upper from lower case has each file twice.
        there = [file for index, file in enumerate(there) if not any(file.samefile(other) for other in there[:index])]
        if len(there) > 1:
            raise ValueError(f"{there[0]} and {there[1]} could both be meant; keep one, or name the file in full")
        if not there:
            raise ValueError(f"there is no recording {path}{self._hint(name)}")
        return there[0]

    def _hint(self, name: str) -> str:
        if Path(name).is_absolute():
            return ""
        here = "; here it would be found: --audio-root ." if Path(name).is_file() else "; --audio-root says otherwise"
        return f" (relative paths begin at {self.root}{here})"

    def settle(self) -> None:
        """Drops the few without a text where the others have one.

        Raises DataError for faults, the first ten of them, unless they are to be skipped, and where nothing is left.
        """
        if any(record.text is not None for record in self.records):
            for record in self.records:
                if record.text is None:
                    self.drop(record.name, "no text")
            self.records = [record for record in self.records if record.text is not None]
        if self.options.skip_faults:
            for place, message in self.faults:
                self.drop(f"{place}: {message}", "faulty")
        elif self.faults:
            lines = [f"{place}: {message}" for place, message in self.faults]
            more = f"\n(and {len(lines) - 10} more)" if len(lines) > 10 else ""
            advice = "\nnothing is written; mend them, or leave them out with --skip-faults"
            raise DataError("\n".join(lines[:10]) + more + advice)
        if not self.records:
            counts = "; ".join(f"{reason} ({len(names)})" for reason, names in by_reason(self.dropped).items())
            raise DataError(f"{self.source} gives no utterance: " + (f"all dropped: {counts}" if counts else "empty"))


def by_reason(dropped: Sequence[Dropped]) -> dict[str, list[str]]:
    """Names of what was dropped, by reason."""
    reasons: dict[str, list[str]] = {}
    for one in dropped:
        reasons.setdefault(one.reason, []).append(one.name)
    return reasons


# --- reading ------------------------------------------------------------------------------------------------------


def text_lines(path: Path, intake: Intake) -> Iterator[tuple[str, str]]:
    """Place and text of every line that is not blank; ``.gz`` is unpacked.

    A line that is not UTF-8 is a fault of that line. Raises DataError where the file cannot be read.
    """
    try:
        with gzip.open(path) if path.suffix == ".gz" else open(path, "rb") as file:
            for number, raw in enumerate(file, 1):
                place = f"{path}:{number}"
                with intake.at(place):
                    line = raw.decode("utf-8-sig" if number == 1 else "utf-8").strip("\r\n")
                    if line.strip():
                        yield place, line
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path} cannot be read: {error}") from error


def json_lines(path: Path, intake: Intake) -> Iterator[tuple[str, dict[str, Any]]]:
    """Place and object of every line of a JSON Lines file; lines that hold no object are faults."""
    for place, line in text_lines(path, intake):
        with intake.at(place):
            row = json.loads(line)
            if not isinstance(row, dict):
                raise ValueError("a line must be a JSON object")
            yield place, row


def seconds(value: Any, name: str) -> float:
    """A time from JSON or from a table. Raises ValueError."""
    try:
        number = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not 0 <= number < 1e9:
        raise ValueError(f"{name} must be seconds, not {value!r}")
    return number


def string(row: Mapping[str, Any], name: str, *, needed: bool = False) -> str | None:
    """A text from JSON; numbers are written out. Raises ValueError for anything else."""
    value = row.get(name)
    if value is None or value == "":
        if needed:
            raise ValueError(f"{name} is missing")
        return value
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise ValueError(f"{name} must be a string, not {value!r}")
    return str(value)


def apart(fields: Mapping[str, Any], prefix: str, taken: Collection[str] = OWN_FIELDS) -> dict[str, Any]:
    """Fields to keep, those whose names are taken under others."""
    return {f"{prefix}_{name}" if name in taken else name: value for name, value in fields.items()}

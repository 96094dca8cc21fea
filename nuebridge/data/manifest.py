"""Manifests: JSON Lines with one utterance a line, the fields that NeMo's users already have.

``audio_filepath`` (relative to the manifest), ``text``, ``duration`` and ``offset`` in seconds;
``target`` is what is learned where it is not the text itself; ``language``, ``context`` and ``task``
(or ``prompt``, or ``instruction``) fill the prompt's fields; any other field is kept as it is.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, BinaryIO, Protocol

from nuebridge.audio import Waveform, load_audio
from nuebridge.data.headers import read_header
from nuebridge.errors import AudioError, DataError
from nuebridge.settings import PROMPT_FIELDS

TASK_FIELDS = ("task", "prompt", "instruction")
"""Each fills the prompt's field ``task``; the first of them that an utterance has."""

SHOWN_FAULTS = 10
"""Faults of a source that are listed; of more only the number is said."""


class StoredAudio(Protocol):
    """A recording that is no file of its own: it lies in another file, or in memory."""

    def open(self) -> BinaryIO:
        """The recording as a binary file that can seek. Raises AudioError."""


@dataclass(frozen=True)
class Utterance:
    """One line of a manifest, or one row of another source. Times in seconds."""

    id: str
    """``id`` of the line, or file name and line number; unique within a manifest."""
    audio_filepath: Path
    """The recording's file; for one that is ``stored``, a path that names it and cannot be opened."""
    text: str | None = None
    duration: float | None = None
    offset: float = 0.0
    fields: Mapping[str, Any] = field(default_factory=dict)
    """Whatever else the line holds."""
    stored: StoredAudio | None = field(default=None, repr=False)
    """Where the recording lies, if not in a file of its own."""
    is_measured: bool = False
    """The duration is that of the recording's header, not of a line: the recording is read to its end."""

    @property
    def target(self) -> str | None:
        """What is learned: the line's ``target``, else its text."""
        target = self.fields.get("target")
        return self.text if target is None else str(target)

    @property
    def prompt_fields(self) -> dict[str, str]:
        """Values for the prompt's fields."""
        values = {name: self.fields.get(name) for name in PROMPT_FIELDS}
        values["task"] = next((self.fields[name] for name in TASK_FIELDS if self.fields.get(name) is not None), None)
        return {name: str(value) for name, value in values.items() if value is not None}

    def with_target(self, target: str) -> Utterance:
        """The same recording with something else to learn."""
        if self.fields.get("target") is None:
            return replace(self, text=target)
        return replace(self, fields={**self.fields, "target": target})

    def load(self, sample_rate: int) -> Waveform:
        """The waveform ``[S]``. Raises AudioError."""
        duration = None if self.is_measured else self.duration
        if self.stored is None:
            return load_audio(self.audio_filepath, sample_rate, offset=self.offset, duration=duration)
        name = str(self.audio_filepath)
        with self.stored.open() as file:
            return load_audio(file, sample_rate, offset=self.offset, duration=duration, name=name)

    def measured(self) -> Utterance:
        """The same utterance with the duration that its recording's header declares. Raises AudioError."""
        if self.stored is None:
            seconds = read_header(self.audio_filepath).seconds
        else:
            with self.stored.open() as file:
                seconds = read_header(file, str(self.audio_filepath)).seconds
        if self.offset and self.offset >= seconds:
            raise AudioError(f"{self.audio_filepath}: ends at {seconds:.3f} s, before the offset {self.offset:.3f} s")
        return replace(self, duration=seconds - self.offset, is_measured=True)


def read_manifest(path: Path, *, need_text: bool = False) -> list[Utterance]:
    """The utterances of a manifest, in order.

    ``need_text``: a target will do as well. Raises DataError naming the file and every faulty line
    (the first ten), and for an empty manifest.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise DataError(f"there is no manifest {path}; give the path of a JSON Lines file") from None
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"the manifest {path} cannot be read: {error}") from error
    utterances, faults = [], []
    places: dict[str, int] = {}
    # Not splitlines: JSON strings may hold the other separators that it knows.
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            utterance = _utterance(json.loads(line), path, number, need_text)
            first = places.setdefault(utterance.id, number)
            if first != number:
                raise ValueError(f"the id {utterance.id!r} is that of line {first} already")
            utterances.append(utterance)
        except (ValueError, RecursionError) as error:  # a line that is no JSON included
            faults.append(f"{path}:{number}: {error}")
    raise_faults(faults)
    if not utterances:
        raise DataError(f"the manifest {path} holds no utterances")
    return utterances


def raise_faults(faults: list[str]) -> None:
    """Raises DataError listing the first faults of a source, where there are any."""
    if faults:
        more = f"\n(and {len(faults) - SHOWN_FAULTS} more)" if len(faults) > SHOWN_FAULTS else ""
        raise DataError("\n".join(faults[:SHOWN_FAULTS]) + more)


def make_utterance(
    record: Mapping[str, Any],
    audio: Path,
    default_id: str,
    *,
    stored: StoredAudio | None = None,
    need_text: bool = False,
) -> Utterance:
    """The utterance that a record of fields describes, all but its audio. Raises ValueError saying what is wrong."""
    rest = dict(record)
    text, target = rest.pop("text", None), rest.get("target")
    for name, value in (("text", text), ("target", target)):
        if value is not None and not isinstance(value, str):
            raise ValueError(f"{name} must be a string, not {value!r}")
    if need_text and text is None and target is None:
        raise ValueError("text is missing")
    duration, offset = rest.pop("duration", None), rest.pop("offset", 0.0)
    for name, value in (("duration", duration), ("offset", offset)):
        if value is None:
            continue
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 1e9:
            raise ValueError(f"{name} must be seconds, not {value!r}")
    name = rest.pop("id", None)
    return Utterance(default_id if name is None else str(name), audio, text, duration, offset or 0.0, rest, stored)


def _utterance(line: Any, path: Path, number: int, need_text: bool) -> Utterance:
    if not isinstance(line, dict):
        raise ValueError("a line must be a JSON object")
    audio = line.pop("audio_filepath", None)
    if not isinstance(audio, str) or not audio:
        raise ValueError("audio_filepath is missing")
    return make_utterance(line, path.parent / audio, f"{Path(audio).name}:{number}", need_text=need_text)

"""Manifests: JSON Lines with one utterance a line, the fields that NeMo's users already have.

``audio_filepath`` (relative to the manifest), ``text``, ``duration`` and ``offset`` in seconds;
``language``, ``task`` and ``context`` fill the prompt's fields; any other field is kept as it is.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nuebridge.audio import load_audio
from nuebridge.errors import DataError
from nuebridge.settings import PROMPT_FIELDS


@dataclass(frozen=True)
class Utterance:
    """One line of a manifest. Times in seconds."""

    id: str
    """``id`` of the line, or file name and line number; unique within a manifest."""
    audio_filepath: Path
    text: str | None = None
    duration: float | None = None
    offset: float = 0.0
    fields: Mapping[str, Any] = field(default_factory=dict)
    """Whatever else the line holds."""

    @property
    def prompt_fields(self) -> dict[str, str]:
        """Values for the prompt's fields."""
        return {name: str(self.fields[name]) for name in PROMPT_FIELDS if self.fields.get(name) is not None}

    def load(self, sample_rate: int) -> NDArray[np.float32]:
        """The waveform ``[S]``. Raises AudioError."""
        return load_audio(self.audio_filepath, sample_rate, offset=self.offset, duration=self.duration)


def read_manifest(path: Path, *, need_text: bool = False, need_duration: bool = False) -> list[Utterance]:
    """The utterances of a manifest, in order.

    Raises DataError naming the file and every faulty line (the first ten), and for an empty manifest.
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
            utterance = _utterance(json.loads(line), path, number, need_text, need_duration)
            first = places.setdefault(utterance.id, number)
            if first != number:
                raise ValueError(f"the id {utterance.id!r} is that of line {first} already")
            utterances.append(utterance)
        except (ValueError, RecursionError) as error:  # a line that is no JSON included
            faults.append(f"{path}:{number}: {error}")
    if faults:
        more = f"\n(and {len(faults) - 10} more)" if len(faults) > 10 else ""
        raise DataError("\n".join(faults[:10]) + more)
    if not utterances:
        raise DataError(f"the manifest {path} holds no utterances")
    return utterances


def _utterance(line: Any, path: Path, number: int, need_text: bool, need_duration: bool) -> Utterance:
    if not isinstance(line, dict):
        raise ValueError("a line must be a JSON object")
    rest = dict(line)
    audio = rest.pop("audio_filepath", None)
    if not isinstance(audio, str) or not audio:
        raise ValueError("audio_filepath is missing")
    text = rest.pop("text", None)
    if text is not None and not isinstance(text, str):
        raise ValueError(f"text must be a string, not {text!r}")
    if need_text and text is None:
        raise ValueError("text is missing")
    duration, offset = rest.pop("duration", None), rest.pop("offset", 0.0)
    for name, value in (("duration", duration), ("offset", offset)):
        if value is None:
            continue
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 1e9:
            raise ValueError(f"{name} must be seconds, not {value!r}")
    if need_duration and duration is None:
        raise ValueError("duration is missing; it is needed to batch by length")
    name = rest.pop("id", None)
    name = f"{Path(audio).name}:{number}" if name is None else str(name)
    return Utterance(name, path.parent / audio, text, duration, offset or 0.0, rest)

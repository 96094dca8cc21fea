"""Transcripts as text: plain, JSON, JSON Lines, SubRip (srt) and WebVTT subtitles.

Each writer takes a :class:`~nuebridge.contracts.Transcript` and returns the whole document, ending
with a line break; an empty transcript gives a valid, empty document.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

from nuebridge.contracts import Transcript


def to_txt(transcript: Transcript) -> str:
    """The text on one line."""
    return one_line(transcript.text) + "\n"


def to_json(transcript: Transcript) -> str:
    """Every field of the transcript as one indented JSON document; numbers that are not finite become null."""
    return json.dumps(_fields(transcript), ensure_ascii=False, indent=2, allow_nan=False) + "\n"


def to_jsonl(transcript: Transcript) -> str:
    """The same fields as :func:`to_json` on one line."""
    return json.dumps(_fields(transcript), ensure_ascii=False, allow_nan=False) + "\n"


def to_srt(transcript: Transcript) -> str:
    """SubRip subtitles: one numbered cue a segment that has text."""
    return "\n".join(
        f"{number}\n{_time(start, ',')} --> {_time(end, ',')}\n{text}\n"
        for number, (start, end, text) in enumerate(_cues(transcript), 1)
    )


def to_vtt(transcript: Transcript) -> str:
    """WebVTT subtitles: one cue a segment that has text, with ``&``, ``<`` and ``>`` escaped."""
    cues = [
        f"\n{_time(start, '.')} --> {_time(end, '.')}\n{_escaped(text)}\n" for start, end, text in _cues(transcript)
    ]
    return "WEBVTT\n" + "".join(cues)


WRITERS: dict[str, Callable[[Transcript], str]] = {
    "txt": to_txt,
    "json": to_json,
    "jsonl": to_jsonl,
    "srt": to_srt,
    "vtt": to_vtt,
}
"""Writer by format name, which is also the file extension."""


def one_line(text: str) -> str:
    """A text with its line breaks turned into spaces and nothing blank around it."""
    return " ".join(line.strip() for line in text.splitlines() if line.strip())


def _fields(transcript: Transcript) -> dict[str, Any]:
    fields = asdict(transcript)
    first = {"audio_filepath": fields.pop("audio_filepath")}
    return {name: _finite(value) for name, value in (first | fields).items()}


def _finite(value: Any) -> Any:
    """JSON has no word for infinity or not-a-number."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {name: _finite(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return value


def _cues(transcript: Transcript) -> list[tuple[int, int, str]]:
    """Start and end in milliseconds, each end after its start, and one line of text, by start."""
    spoken = [(s.start, s.end, s.text) for s in transcript.segments] or [(0.0, transcript.duration, transcript.text)]
    cues = []
    for start_seconds, end_seconds, text in spoken:
        start = max(0, round(start_seconds * 1000))
        if line := one_line(text):
            cues.append((start, max(start + 1, round(end_seconds * 1000)), line))
    return sorted(cues, key=lambda cue: cue[0])


def _time(milliseconds: int, point: str) -> str:
    """``HH:MM:SS`` and milliseconds after ``point``; hours grow past two digits where they must."""
    seconds, rest = divmod(milliseconds, 1000)
    minutes, seconds = divmod(seconds, 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours:02}:{minutes:02}:{seconds:02}{point}{rest:03}"


def _escaped(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")

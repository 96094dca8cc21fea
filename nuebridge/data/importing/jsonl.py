"""JSON Lines of other toolkits: NeMo's manifests, and lines of key, source and target."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from nuebridge.data.importing.records import OWN_FIELDS, Intake, Record, apart, json_lines, seconds, string


def read_nemo(source: Path, intake: Intake) -> None:
    """NeMo's manifests: their fields are ours, and others stay as they are."""
    for place, row in json_lines(source, intake):
        with intake.at(place):
            rest = {name: value for name, value in row.items() if name not in OWN_FIELDS}
            _add(row, place, intake, "audio_filepath", "text", "id", rest)


def read_key_source_target(source: Path, intake: Intake) -> None:
    """SLAM-LLM's lines: ``key``, the path ``source``, the text ``target``; others stay as they are."""
    for place, row in json_lines(source, intake):
        with intake.at(place):
            own = ("key", "source", "target", "duration", "offset", "speaker", "recording")
            rest = apart({name: value for name, value in row.items() if name not in own}, "source")
            _add(row, place, intake, "source", "target", "key", rest)


def _add(
    row: dict[str, Any], place: str, intake: Intake, audio: str, text: str, key: str, rest: dict[str, Any]
) -> None:
    path = row.get(audio)
    if not isinstance(path, str) or not path:
        raise ValueError(f"{audio} must be the path of one recording, not {path!r}")
    duration, offset = row.get("duration"), row.get("offset")
    words = row.get(text)
    if words is not None and not isinstance(words, str):
        raise ValueError(f"{text} must be a string, not {words!r}")
    intake.add(
        Record(
            place,
            intake.audio(path),
            text=words,
            duration=None if duration is None else seconds(duration, "duration"),
            offset=0.0 if offset is None else seconds(offset, "offset"),
            id=string(row, key),
            speaker=string(row, "speaker"),
            recording=string(row, "recording"),
            fields=rest,
        )
    )

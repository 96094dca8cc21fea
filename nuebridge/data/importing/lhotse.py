"""Lhotse cuts: one MonoCut a line, each supervision an utterance."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from nuebridge.data.importing.records import Intake, Record, apart, json_lines

EDGE_SECONDS = 0.02
"""How far a supervision may reach beyond its cut: times are rounded."""

HARMLESS_TRANSFORMS = ("Resample",)
"""Changes of a recording on the way from disk that neither move times nor alter the speech."""

ADVICE = "write its audio to a file first (CutSet.save_audios)"


class _Part(BaseModel):
    model_config = ConfigDict(extra="allow", coerce_numbers_to_str=True, allow_inf_nan=False)


class _Source(_Part):
    type: str
    channels: list[int] = []
    source: Any = None


class _Recording(_Part):
    id: str
    sources: list[_Source]
    transforms: list[Any] | None = None


class _Supervision(_Part):
    id: str
    start: float
    """From the start of the cut; negative where that lies within the supervision. Seconds."""
    duration: float = Field(ge=0)
    recording_id: str | None = None
    channel: Any = None
    text: str | None = None
    speaker: str | None = None
    custom: dict[str, Any] | None = None


class _Cut(_Part):
    id: str
    start: float = Field(ge=0)
    duration: float = Field(ge=0)
    channel: int = 0
    supervisions: list[_Supervision] = []
    recording: _Recording | None = None
    custom: dict[str, Any] | None = None


def read(source: Path, intake: Intake) -> None:
    """Every supervision of every cut."""
    for place, row in json_lines(source, intake):
        with intake.at(place):
            kind = row.get("type", "MonoCut")
            if kind != "MonoCut":
                raise ValueError(f"is a {kind}; only a MonoCut is a stretch of one recording and channel; {ADVICE}")
            try:
                cut = _Cut.model_validate(row)
            except ValidationError as error:
                faults = [f"{'.'.join(map(str, one['loc']))}: {one['msg']}" for one in error.errors()]
                raise ValueError(f"is not a cut: {'; '.join(faults[:3])}") from None
            _take(cut, place, intake)


def _take(cut: _Cut, place: str, intake: Intake) -> None:
    if cut.recording is None:
        raise ValueError(f"the cut {cut.id!r} has no recording, only features perhaps; the audio is needed")
    source = _source(cut.recording, cut.channel)
    audio = intake.audio(str(source.source or ""))
    if not cut.supervisions:
        intake.drop(cut.id, "a cut without supervision")
    for one in cut.supervisions:
        name = cut.id if len(cut.supervisions) == 1 else f"{cut.id}-{one.id}"
        begin, end = one.start, one.start + one.duration
        if begin < -EDGE_SECONDS or end > cut.duration + EDGE_SECONDS:
            intake.drop(name, "a supervision that reaches beyond its cut")
            continue
        begin, end = max(0.0, begin), min(cut.duration, end)
        rest = {key: value for key, value in (one.model_extra or {}).items() if value is not None}
        intake.add(
            Record(
                place,
                audio,
                text=one.text,
                duration=end - begin,
                offset=cut.start + begin,
                id=name,
                speaker=one.speaker,
                recording=cut.recording.id,
                fields=apart({**(cut.custom or {}), **(one.custom or {}), **rest}, "custom"),
                # A file with one of the recording's channels is read as it is.
                channel=cut.channel if len(source.channels) > 1 else 0,
                one_channel=True,
            )
        )


def _source(recording: _Recording, channel: int) -> _Source:
    """The file that holds a channel of a recording. Raises ValueError."""
    for transform in recording.transforms or []:
        what = transform.get("name") if isinstance(transform, dict) else transform
        if what not in HARMLESS_TRANSFORMS:
            raise ValueError(f"the recording {recording.id!r} is changed by {what} when it is read; {ADVICE}")
    sources = [one for one in recording.sources if not one.channels or channel in one.channels]
    if not sources:
        raise ValueError(f"no source of the recording {recording.id!r} holds channel {channel}")
    if sources[0].type != "file":
        raise ValueError(f"the recording {recording.id!r} is of type {sources[0].type!r}, not a file; {ADVICE}")
    return sources[0]

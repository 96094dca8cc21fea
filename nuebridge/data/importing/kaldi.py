"""Kaldi data folders: wav.scp and, where they are there, segments, text, utt2spk, utt2dur and utt2lang."""

from __future__ import annotations

from pathlib import Path

from nuebridge.data.importing.records import Intake, Record, seconds, text_lines
from nuebridge.errors import DataError

READ = ("wav.scp", "segments", "text", "utt2spk", "utt2dur", "utt2lang")
LEFT_OUT = ("spk2utt", "spk2gender", "utt2num_frames", "frame_shift", "reco2dur", "feats.scp", "cmvn.scp", "vad.scp")
"""Files that say what others say, or what has no place in a manifest."""

Table = dict[str, tuple[str, str]]
"""Id to place and the rest of the line."""


def read(source: Path, intake: Intake) -> None:
    """Every utterance of ``segments``, or of ``wav.scp`` where there is none."""
    if not (source / "wav.scp").is_file():
        raise DataError(f"{source} has no wav.scp; name the Kaldi data folder that holds it")
    recordings = _table(source / "wav.scp", intake)
    segments, texts = _table(source / "segments", intake), _table(source / "text", intake)
    speakers, languages = _table(source / "utt2spk", intake), _table(source / "utt2lang", intake)
    durations = _table(source / "utt2dur", intake)
    others = sorted(file.name for file in source.iterdir() if file.is_file() and file.name not in (*READ, *LEFT_OUT))
    if others:
        intake.notes.append(f"not read, as they are no part of a data folder's utterances: {', '.join(others)}")

    files: dict[str, Path] = {}
    for name, (place, value) in recordings.items():
        with intake.at(place):
            files[name] = intake.audio(_checked(value))
    spans = (source / "segments").is_file()
    utterances = segments if spans else recordings
    has_texts = (source / "text").is_file()
    for name, (place, value) in utterances.items():
        recording, offset, duration = name, 0.0, None
        with intake.at(place):
            if spans:
                recording, offset, duration = _span(value)
                if recording not in recordings:
                    raise ValueError(f"the recording {recording!r} is not in {source / 'wav.scp'}")
            if recording not in files:
                if spans:
                    intake.drop(name, "its recording is faulty")
                continue
            if has_texts and name not in texts:
                intake.drop(name, "not in text")
                continue
            if duration is None and name in durations:
                where, length = durations[name]
                duration = seconds(length, f"duration ({where})")
            intake.add(
                Record(
                    place,
                    files[recording],
                    text=texts[name][1] if has_texts else None,
                    duration=duration,
                    offset=offset,
                    id=name,
                    speaker=speakers[name][1] or None if name in speakers else None,
                    recording=recording,
                    fields={"language": languages[name][1]} if name in languages else {},
                )
            )
    for name in texts:
        if name not in utterances:
            intake.drop(name, f"in text, not in {'segments' if spans else 'wav.scp'}")


def _table(path: Path, intake: Intake) -> Table:
    """A file of an id and a value a line; empty where there is none."""
    rows: Table = {}
    if not path.is_file():
        return rows
    for place, line in text_lines(path, intake):
        name, *rest = line.split(maxsplit=1)
        if name in rows:
            intake.fault(place, f"the id {name!r} is that of {rows[name][0]} already")
        else:
            rows[name] = (place, rest[0].strip() if rest else "")
    return rows


def _checked(value: str) -> str:
    """The plain path of a line of wav.scp. Raises ValueError for what is none."""
    if value.endswith("|"):
        raise ValueError(
            f"the recording is what a command prints ({value[:60]}{'...' if len(value) > 60 else ''}); commands "
            "from data files are not run: write its output to a file (wav-copy scp:wav.scp ...) and name that"
        )
    if not value or value == "-":
        raise ValueError("no recording is named")
    path, _, position = value.rpartition(":")
    if position.isdigit() and path:
        raise ValueError(f"{value!r} is a place in a Kaldi archive; copy the recordings to files and name those")
    return value


def _span(value: str) -> tuple[str, float, float | None]:
    """Recording, offset and duration of a line of segments. Raises ValueError."""
    cells = value.split()
    if len(cells) not in (3, 4):
        raise ValueError("a line must hold utterance, recording, start and end")
    if len(cells) == 4:
        raise ValueError(f"names channel {cells[3]} of its recording, which a manifest cannot; write it to a file")
    offset = seconds(cells[1], "start")
    # -1 is the recording's end.
    return cells[0], offset, None if float(cells[2]) == -1 else seconds(cells[2], "end") - offset

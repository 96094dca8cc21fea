"""Manifests from what others write: Lhotse, Kaldi, STM, tables, SLAM-LLM's lines and NeMo's manifests.

Each format has a module with a ``read(source, intake)``; what they find is measured and written here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from nuebridge.containers import LENGTH_TOLERANCE_SECONDS
from nuebridge.data.headers import AudioHeader, read_header
from nuebridge.data.importing import jsonl, kaldi, lhotse, stm, table
from nuebridge.data.importing.records import Dropped, ImportOptions, Intake, Record, by_reason, json_lines
from nuebridge.data.paths import PathsFrom
from nuebridge.data.threads import in_threads
from nuebridge.data.writing import check_new_file, write_manifest
from nuebridge.errors import AudioError, ConfigError, DataError

__all__ = ["READERS", "Dropped", "ImportOptions", "Imported", "by_reason", "detect", "import_data"]

READERS: Mapping[str, Callable[[Path, Intake], None]] = {
    "lhotse": lhotse.read,
    "kaldi": kaldi.read,
    "stm": stm.read,
    "table": table.read,
    "slam-llm": jsonl.read_key_source_target,
    "nemo": jsonl.read_nemo,
}
"""Reader by the name of its format."""

TABLE_OPTIONS = {"columns": "--column", "delimiter": "--delimiter", "header": "--header"}


@dataclass(frozen=True)
class Imported:
    """What became of a source."""

    format: str
    output: Path
    utterances: int
    seconds: float | None
    """All durations together; None where one is not known."""
    dropped: tuple[Dropped, ...]
    notes: tuple[str, ...]


def import_data(
    source: Path,
    output: Path,
    *,
    format: str | None = None,
    options: ImportOptions | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> Imported:
    """Writes the manifest ``output`` of what ``source`` describes.

    ``on_progress`` is told how many of how many recordings are measured. Raises ConfigError where
    the options do not fit, and DataError where the source cannot be read, for its faults (the first
    ten, each with file and line) and where the output exists. Then nothing is written.
    """
    options = options or ImportOptions()
    check_new_file(output)
    format = format or detect(source)
    if format not in READERS:
        raise ConfigError(f"there is no format {format!r}; there are {', '.join(READERS)}")
    if not source.exists():
        raise DataError(f"there is no {source}; give the file or folder to import")
    if format != "table":
        for name, option in TABLE_OPTIONS.items():
            if getattr(options, name):
                raise ConfigError(f"{option} is for tables (CSV, TSV); {source} is read as {format}")
    if options.audio_root is not None and not options.audio_root.is_dir():
        raise DataError(f"--audio-root {options.audio_root}: there is no such folder")
    intake = Intake(source, options)
    READERS[format](source, intake)
    if options.measure:
        _measure(intake, on_progress or (lambda done, total: None))
    else:
        _refuse_channels(intake)
    intake.settle()
    paths = PathsFrom(output.parent)
    write_manifest(output, (record.line(paths) for record in intake.records))
    known = [record.duration for record in intake.records if record.duration is not None]
    return Imported(
        format,
        output,
        len(intake.records),
        sum(known) if len(known) == len(intake.records) else None,
        tuple(intake.dropped),
        tuple(intake.notes),
    )


def detect(source: Path) -> str:
    """The format of a file or folder. Raises DataError where it could be several or is none of ours."""
    choices = f"name it with --format ({', '.join(READERS)})"
    if not source.exists():
        raise DataError(f"there is no {source}; give the file or folder to import")
    if source.is_dir():
        found = [
            name for name, is_it in (("kaldi", (source / "wav.scp").is_file()), ("stm", _has_stm(source))) if is_it
        ]
        if len(found) != 1:
            why = "both wav.scp and .stm files" if found else "neither wav.scp nor .stm files"
            raise DataError(
                f"the folder {source} holds {why}; name a file in it" + (f", or {choices}" if found else "")
            )
        return found[0]
    endings = [ending.lower() for ending in source.suffixes]
    for ending, name in ((".stm", "stm"), (".csv", "table"), (".tsv", "table")):
        if ending in endings:
            return name
    first = _first_object(source)
    if first is None:
        raise DataError(f"{source} is of no kind that is known by its name or its first line; {choices}")
    if "audio_filepath" in first:
        return "nemo"
    if {"key", "source", "target"} <= first.keys():
        return "slam-llm"
    if (
        first.get("type") in ("MonoCut", "MultiCut", "MixedCut", "PaddingCut")
        or {"supervisions", "start"} <= first.keys()
    ):
        return "lhotse"
    if "sampling_rate" in first or "recording_id" in first:
        raise DataError(
            f"{source} holds Lhotse recordings or supervisions, not cuts; join them first "
            "(lhotse cut simple -r recordings.jsonl.gz -s supervisions.jsonl.gz cuts.jsonl.gz)"
        )
    raise DataError(f"{source}: the fields of its first line ({', '.join(first)}) are those of no format; {choices}")


def _has_stm(folder: Path) -> bool:
    return next(folder.glob("*.stm"), None) is not None


def _first_object(source: Path) -> dict[str, object] | None:
    return next((row for _, row in json_lines(source, Intake(source, ImportOptions()))), None)


def _measure(intake: Intake, on_progress: Callable[[int, int], None]) -> None:
    """Opens each recording once: fills in durations and finds what is not there."""
    records: dict[Path, list[Record]] = {}
    for record in intake.records:
        records.setdefault(record.audio, []).append(record)
    kept: set[int] = set()
    headers = in_threads(_header, records, intake.options.workers)
    for done, (path, header) in enumerate(zip(records, headers, strict=True), 1):
        for record in records[path]:
            with intake.at(record.place):
                _fit(record, header)
                kept.add(id(record))
        on_progress(done, len(records))
    intake.records = [record for record in intake.records if id(record) in kept]


def _header(path: Path) -> AudioHeader | str:
    """A header, or what is wrong."""
    try:
        return read_header(path)
    except AudioError as error:
        return str(error)


def _fit(record: Record, header: AudioHeader | str) -> None:
    """Fills in the duration. Raises ValueError where the recording is not as the record says."""
    if isinstance(header, str):
        raise ValueError(header)
    if record.channel or (record.one_channel and header.channels > 1):
        raise ValueError(
            f"means channel {record.channel + 1} of {record.audio}, which has {header.channels}; "
            "a manifest cannot name one: write it to a file of its own"
        )
    left = header.seconds - record.offset
    if left <= 0 or (record.duration or 0.0) - left > LENGTH_TOLERANCE_SECONDS:
        end = record.offset + (record.duration or 0.0)
        raise ValueError(
            f"{record.audio} ends at {header.seconds:.3f} s, before the stretch {record.offset:g} to {end:g} s does"
        )
    if record.duration is None:
        record.duration = left


def _refuse_channels(intake: Intake) -> None:
    """Without a look at the recordings, only what the source says of their channels counts."""
    for record in intake.records:
        if record.channel:
            intake.fault(
                record.place, f"means channel {record.channel + 1} of {record.audio}: write it to a file first"
            )
    intake.records = [record for record in intake.records if not record.channel]

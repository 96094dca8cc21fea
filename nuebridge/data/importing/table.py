"""Tables: CSV and TSV files with a line of column names."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path

from nuebridge.data.importing.records import OWN_FIELDS, Intake, Record, apart, seconds, text_lines
from nuebridge.errors import ConfigError, DataError

GUESSES = {
    "audio_filepath": "audio_filepath audio_file audio_path audio path file file_path file_name filename wav "
    "wav_path wav_file wav_filename".split(),
    "text": "text sentence transcript transcription".split(),
    "duration": "duration duration_s duration_seconds seconds".split(),
    "offset": "offset start start_time begin".split(),
    "end": "end end_time stop".split(),
    "id": "id utt_id utterance_id utterance key".split(),
    "speaker": "speaker speaker_id spk spk_id client_id".split(),
    "recording": "recording recording_id".split(),
    "language": "language lang locale".split(),
}
"""Our field (and ``end``, from which a duration is made) to the columns that it is found in, whatever their case."""


def read(source: Path, intake: Intake) -> None:
    """Every row. Raises ConfigError where a column is missing or could be either of two."""
    rows = _rows(source, intake)
    names = list(intake.options.header)
    if not names:
        first = next(rows, None)
        if first is None:
            raise DataError(f"{source} is empty")
        names = [name.strip() for name in first[1]]
    if len(set(names)) != len(names):
        raise DataError(f"{source}: two columns have one name: {', '.join(names)}; name them with --header")
    columns = _columns(names, intake)
    for place, cells in rows:
        with intake.at(place):
            if len(cells) != len(names):
                raise ValueError(f"has {len(cells)} cells for {len(names)} columns ({', '.join(names)})")
            _row(dict(zip(names, cells, strict=True)), columns, place, intake)


def _rows(source: Path, intake: Intake) -> Iterator[tuple[str, list[str]]]:
    """Place and cells of every row that is not blank."""
    delimiter = intake.options.delimiter or ("\t" if ".tsv" in source.suffixes else ",")
    # In tab-separated files a quotation mark is a letter of the text, as a rule.
    quotes = None if delimiter == "\t" else '"'
    place = f"{source}:1"

    def lines() -> Iterator[str]:
        nonlocal place
        for place_now, line in text_lines(source, intake):
            place = place_now
            yield line + "\n"

    try:
        for cells in csv.reader(lines(), delimiter=delimiter, quotechar=quotes, strict=True):
            if any(cells):
                yield place, cells
    except csv.Error as error:
        intake.fault(place, f"{error}; the rest of the file is not read")


def _columns(names: list[str], intake: Intake) -> dict[str, str]:
    """Our field to column. Raises ConfigError."""
    given = dict(intake.options.columns)
    for ours, name in given.items():
        if name not in names:
            raise ConfigError(f"--column {ours}={name}: the table has the columns {', '.join(names)}")
    columns = dict(given)
    for ours, guesses in GUESSES.items():
        found = [name for name in names if name.casefold() in guesses and name not in given.values()]
        exact = [name for name in found if name == ours]
        if ours in given or not found:
            continue
        if len(found) > 1 and not exact:
            raise ConfigError(
                f"{' and '.join(found)} could both be {ours}; say which: --column {ours}={found[0]} "
                f"(the columns are {', '.join(names)})"
            )
        columns[ours] = (exact or found)[0]
    if "audio_filepath" not in columns:
        raise ConfigError(
            f"no column looks like the path of a recording: {', '.join(names)}; say which: --column audio_filepath=NAME"
        )
    return columns


def _row(row: dict[str, str], columns: dict[str, str], place: str, intake: Intake) -> None:
    value = {ours: row[name].strip() for ours, name in columns.items()}
    offset = seconds(value["offset"], "offset") if value.get("offset") else 0.0
    duration = seconds(value["duration"], "duration") if value.get("duration") else None
    if duration is None and value.get("end"):
        duration = seconds(value["end"], "end") - offset
    own = ("audio_filepath", "text", "duration", "offset", "end", "id", "speaker", "recording")
    renamed = {ours: cell for ours, cell in value.items() if ours not in own and cell}
    rest = {name: cell for name, cell in row.items() if name not in columns.values() and cell}
    intake.add(
        Record(
            place,
            intake.audio(value["audio_filepath"]),
            text=value.get("text"),
            duration=duration,
            offset=offset,
            id=value.get("id") or None,
            speaker=value.get("speaker") or None,
            recording=value.get("recording") or None,
            fields={**apart(rest, "column", (*OWN_FIELDS, *renamed)), **renamed},
        )
    )

"""Data sets of the ``datasets`` library: Arrow and Parquet in local folders, or on the hub, at once or streamed.

The library reads rows; audio is decoded by us, from the bytes or the path that a row holds. It is
imported only where such a source is used.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import count, repeat
from pathlib import Path
from typing import Any, BinaryIO

from nuebridge.data.columns import find_columns
from nuebridge.data.manifest import Utterance, make_utterance, raise_faults
from nuebridge.errors import AudioError, ConfigError, DataError

TABLE_FILES = {".parquet": "parquet", ".arrow": "arrow"}
"""Endings of files that are tables, and what the library calls them."""


@dataclass(frozen=True)
class Table:
    """A data set on the hub, in a folder or in files, and how it is read."""

    path: str
    subset: str | None
    split: str
    streaming: bool
    columns: Mapping[str, str]


def read_table(table: Table, *, need_text: bool = False) -> list[Utterance]:
    """The utterances of a data set in the order of its rows; recordings stay where they are.

    Raises ConfigError where ``datasets`` is not installed, DataError for a data set that cannot be
    read, columns that are not there and faulty rows (the first ten).
    """
    rows = _open(table)
    columns = _columns(table, list(rows.column_names))
    audio = _undecoded(rows, columns["audio"]).select_columns([columns["audio"]])
    described = [ours for ours in columns if ours != "audio"]
    # What describes the rows is read in large pieces, and without their audio.
    values = rows.select_columns([columns[ours] for ours in described]).with_format(None) if described else repeat({})
    utterances, faults = [], []
    for index, row in zip(range(len(rows)), values, strict=False):
        try:
            stored = Row(audio, index, columns["audio"])
            utterances.append(_utterance(table, _record(row, columns), index, stored, need_text=need_text))
        except ValueError as error:
            faults.append(f"{table.path}: row {index}: {error}")
    raise_faults(faults)
    if not utterances:
        raise DataError(f"the split {table.split} of {table.path} has no rows")
    return utterances


class TableStream:
    """A data set that is read on and on; nothing but what is being used is downloaded.

    Raises ConfigError and DataError as :func:`read_table` does, for faulty rows when they come.
    """

    def __init__(self, table: Table, *, need_text: bool = False) -> None:
        self.table = table
        self._need_text = need_text
        rows = _open(table)
        names = rows.column_names
        if names is None:  # known only once a row has come
            names = list(_first_row(table, rows))
        self._columns = _columns(table, list(names))
        self._rows = _undecoded(rows, self._columns["audio"])

    @property
    def rows_promised(self) -> int | None:
        """How many rows the data set says it has; None where it says nothing."""
        splits = self._rows.info.splits or {}
        return splits[self.table.split].num_examples if self.table.split in splits else None

    def __iter__(self) -> Iterator[Utterance | str]:
        """The utterances of one pass; of a faulty row, what is wrong with it."""
        rows = iter(self._rows)
        for index in count():
            try:
                row = next(rows, None)
            except Exception as error:  # the library and what it downloads with raise many kinds
                raise DataError(f"{self.table.path}: reading on after {index} rows failed: {_reason(error)}") from error
            if row is None:
                return
            try:
                stored = Held(row[self._columns["audio"]])
                yield _utterance(self.table, _record(row, self._columns), index, stored, need_text=self._need_text)
            except ValueError as error:
                yield f"row {index}: {error}"


@dataclass(frozen=True)
class Held:
    """A recording as a row holds it: its bytes, or where they are."""

    value: Any

    def open(self) -> BinaryIO:
        """The recording in memory. Raises AudioError."""
        return _open_audio(self.value)


@dataclass(frozen=True)
class Row:
    """The recording of a row of a table."""

    rows: Any
    index: int
    column: str

    def open(self) -> BinaryIO:
        """The recording in memory. Raises AudioError."""
        try:
            value = self.rows[self.index][self.column]
        except Exception as error:  # Arrow's own kinds, where a file has changed or is damaged
            raise AudioError(f"row {self.index} cannot be read: {_reason(error)}") from error
        return _open_audio(value)


def _open_audio(value: Any) -> BinaryIO:
    """What a cell holds, as a file: bytes, a path or an address, or both by name. Raises AudioError."""
    content, path = value, None
    if isinstance(value, Mapping):
        content, path = value.get("bytes"), value.get("path")
    elif isinstance(value, str):
        content, path = None, value
    if isinstance(content, bytes | bytearray):
        return io.BytesIO(content)
    if not path:
        raise AudioError(f"the row holds no recording but {type(value).__name__}")
    import fsspec  # comes with `datasets`; opens local files, hub addresses and files within archives

    try:
        with fsspec.open(path, "rb") as file:
            return io.BytesIO(file.read())
    except Exception as error:  # every file system has its own kinds
        raise AudioError(f"{path}: cannot be read ({_reason(error)})") from error


def _open(table: Table) -> Any:
    """The rows, as the library gives them."""
    try:
        import datasets
    except ImportError:
        raise ConfigError(
            f"{table.path} is a data set, which takes the package datasets: pip install 'nuebridge[datasets]'"
        ) from None
    folder = Path(table.path)
    try:
        if (folder / "state.json").is_file() or (folder / "dataset_dict.json").is_file():
            rows = datasets.load_from_disk(table.path)
            if isinstance(rows, datasets.DatasetDict):
                if table.split not in rows:
                    raise DataError(f"{table.path} has no split {table.split!r}, but {', '.join(rows)}")
                rows = rows[table.split]
            return rows.to_iterable_dataset() if table.streaming else rows
        options: dict[str, Any] = {"split": table.split, "streaming": table.streaming}
        kind = TABLE_FILES.get(folder.suffix)
        if kind is not None:
            return datasets.load_dataset(kind, data_files={table.split: table.path}, **options)
        return datasets.load_dataset(table.path, table.subset, **options)
    except DataError:
        raise
    except Exception as error:  # the library raises many kinds
        raise DataError(f"the data set {table.path} cannot be opened: {_reason(error)}") from error


def _columns(table: Table, names: list[str]) -> dict[str, str]:
    """Our fields to the table's columns. Raises DataError for one that is not there."""
    columns = find_columns(table.columns, names)
    there = f"{table.path} has the columns {', '.join(names)}"
    for ours, theirs in columns.items():
        if theirs not in names:
            raise DataError(f"{there}, and no {theirs!r}; change columns.{ours}")
    if "audio" not in columns:
        raise DataError(f"{there}; say which holds the audio, with columns: {{audio: NAME}}")
    return columns


def _undecoded(rows: Any, audio: str) -> Any:
    """The same rows with audio as it is stored."""
    import datasets

    feature = (rows.features or {}).get(audio)
    return rows.cast_column(audio, datasets.Audio(decode=False)) if isinstance(feature, datasets.Audio) else rows


def _first_row(table: Table, rows: Any) -> dict[str, Any]:
    try:
        return next(iter(rows), {})
    except Exception as error:
        raise DataError(f"the data set {table.path} cannot be read: {_reason(error)}") from error


def _record(row: Mapping[str, Any], columns: Mapping[str, str]) -> dict[str, Any]:
    """The fields of a row by our names."""
    named = {ours: row[theirs] for ours, theirs in columns.items() if ours != "audio" and theirs in row}
    return {name: value for name, value in named.items() if value is not None}


def _utterance(table: Table, record: Mapping[str, Any], index: int, stored: Any, *, need_text: bool) -> Utterance:
    name = f"{table.split}/{index}"
    default_id = f"{Path(table.path).stem}/{name}"
    return make_utterance(record, Path(table.path) / name, default_id, stored=stored, need_text=need_text)


def _reason(error: BaseException) -> str:
    """An error of the library in one line."""
    text = " ".join(str(error).split())
    return text[:300] if text else type(error).__name__

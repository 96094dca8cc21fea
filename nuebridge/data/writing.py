"""Manifests are written here: whole or not at all, and with paths that survive a move of the folder."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from nuebridge.data.manifest import Utterance
from nuebridge.data.paths import PathsFrom
from nuebridge.errors import DataError

RESERVED = ("audio_filepath", "text", "duration", "offset", "id")
"""Fields of a manifest's line that have a meaning of their own."""


def to_line(utterance: Utterance, paths: PathsFrom) -> dict[str, Any]:
    """The line of a manifest that says the same as an utterance.

    An id that was made of file name and line number stays, so that an utterance keeps its name in every manifest.
    """
    line: dict[str, Any] = {"audio_filepath": paths.shown(utterance.audio_filepath)}
    if utterance.text is not None:
        line["text"] = utterance.text
    if utterance.duration is not None:
        line["duration"] = utterance.duration
    if utterance.offset:
        line["offset"] = utterance.offset
    return {**line, "id": utterance.id, **utterance.fields}


def check_new_file(path: Path) -> None:
    """Raises DataError where a manifest cannot be written to a path: there is something, or no folder can be."""
    if os.path.lexists(path):
        raise DataError(f"{path} exists already; remove it or choose another name")
    _make_folder(path.parent)


def check_new_folder(path: Path) -> None:
    """Raises DataError where manifests cannot be written to a folder: it exists and is not empty."""
    try:
        taken = os.path.lexists(path) and (not path.is_dir() or any(path.iterdir()))
    except OSError as error:
        raise DataError(f"the folder {path} cannot be read ({error.strerror}); choose another") from None
    if taken:
        raise DataError(f"{path} exists already and is not an empty folder; remove it or choose another")
    _make_folder(path.parent)


def write_manifest(path: Path, lines: Iterable[Mapping[str, Any]]) -> None:
    """Writes a new manifest; a crash at any moment leaves none or all of it. Raises DataError."""
    check_new_file(path)
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        _write(aside, lines)
        aside.replace(path)
        _flush_folder(path.parent)
    except OSError as error:
        raise DataError(f"cannot write {path} ({error.strerror})") from None
    finally:
        aside.unlink(missing_ok=True)


def write_manifests(folder: Path, manifests: Mapping[str, Iterable[Mapping[str, Any]]]) -> None:
    """Writes a new folder of manifests by file name; a crash leaves none or all of them. Raises DataError."""
    check_new_folder(folder)
    aside = None
    try:
        aside = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
        for name, lines in manifests.items():
            _write(aside / name, lines)
        aside.chmod(0o777 & ~_umask())
        _flush_folder(aside)
        aside.replace(folder)
        _flush_folder(folder.parent)
    except OSError as error:
        raise DataError(f"cannot write {folder} ({error.strerror})") from None
    finally:
        if aside is not None:
            shutil.rmtree(aside, ignore_errors=True)


def _write(file: Path, lines: Iterable[Mapping[str, Any]]) -> None:
    with open(file, "w", encoding="utf-8", newline="\n") as out:
        for line in lines:
            out.write(json.dumps(line, ensure_ascii=False) + "\n")
        out.flush()
        os.fsync(out.fileno())


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(f"cannot make the folder {folder} ({error.strerror}); choose another") from None


def _flush_folder(folder: Path) -> None:
    """Makes the names in a folder as lasting as the files; not every file system can."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError:
        pass
    finally:
        os.close(descriptor)


def _umask() -> int:
    """What the user takes from the rights of new files; reading it is setting it."""
    mask = os.umask(0o077)
    os.umask(mask)
    return mask

"""Folders that appear whole or not at all, and that a crash at any moment leaves so.

    NAME             whole, and on the disk
    .NAME.tmp        being written
    .NAME.replaced   what NAME was, until the new one is on the disk under its name
    .NAME.old        being removed

After a crash :func:`tidy` puts a replaced folder back where nothing has taken its place, and removes the rest.
"""

from __future__ import annotations

import logging
import shutil
from pathlib import Path

from nuebridge.tensors import flush, flush_folder

log = logging.getLogger(__name__)


def make_folder(folder: Path) -> None:
    """Makes a folder and those above it such that a crash of the machine does not lose their names. Raises OSError."""
    if not folder.is_dir():
        make_folder(folder.parent)
        folder.mkdir(exist_ok=True)
        flush(folder.parent)


def aside(target: Path) -> Path:
    """The path, of nothing yet, under which to write what will be ``target``. Raises OSError."""
    make_folder(target.parent)
    path = target.with_name(f".{target.name}.tmp")
    if path.exists():
        shutil.rmtree(path)
    return path


def put_in_place(written: Path, target: Path) -> None:
    """Flushes a folder and gives it its name; what had the name goes once that is on the disk. Raises OSError."""
    flush_folder(written)
    replaced = target.with_name(f".{target.name}.replaced")
    if target.exists():
        target.rename(replaced)
    try:
        written.rename(target)
        flush(target.parent)
    except OSError:
        if replaced.exists() and not target.exists():
            replaced.rename(target)
        raise
    if replaced.exists():
        discard(replaced)


def discard(folder: Path) -> None:
    """Removes a folder such that it is never seen in part; where that fails, says so and leaves it."""
    try:
        shutil.rmtree(folder.rename(folder.with_name(f".{folder.name.lstrip('.')}.old")))
    except OSError as error:
        log.warning("cannot remove %s, which is no longer needed: %s", folder, error)


def give_up(written: Path) -> None:
    """Gives back the room of what could not be written whole."""
    shutil.rmtree(written, ignore_errors=True)


def tidy(folder: Path, names: str) -> None:
    """Brings to an end what a process that died left undone with folders of the pattern ``names``. Raises OSError."""
    for replaced in sorted(folder.glob(f".{names}.replaced")):
        target = folder / replaced.name.removeprefix(".").removesuffix(".replaced")
        if not target.exists():
            replaced.rename(target)
            flush(folder)
    # The second are those of a folder that was itself written aside before it was written aside to.
    for leftover in sorted([*folder.glob(f".{names}.*"), *folder.glob(f"..{names}.*")]):
        shutil.rmtree(leftover)

"""Paths of recordings, many in few folders: which are the same file, and how a manifest writes them."""

from __future__ import annotations

import os
from pathlib import Path


class RealPaths:
    """Where recordings really lie: equal for two paths of one file. A folder is looked up once."""

    def __init__(self) -> None:
        self._folders: dict[str, str] = {}

    def of(self, path: Path) -> str:
        """The path without links and detours; the file need not be there."""
        folder, name = os.path.split(path)
        if folder not in self._folders:
            self._folders[folder] = os.path.realpath(folder)
        real = os.path.join(self._folders[folder], name)
        return os.path.realpath(real) if name == ".." or os.path.islink(real) else real


class PathsFrom:
    """How a manifest in a folder writes the paths of recordings.

    Relative where folder and recording have anything but the root in common, else absolute.
    """

    def __init__(self, folder: Path) -> None:
        self._base, self._real_base = os.path.abspath(folder), os.path.realpath(folder)
        self._folders: dict[str, str] = {}

    def shown(self, audio: Path) -> str:
        """The path to write."""
        folder, name = os.path.split(audio)
        if folder not in self._folders:
            self._folders[folder] = self._shown_folder(folder)
        return os.path.join(self._folders[folder], name)

    def _shown_folder(self, folder: str) -> str:
        # Past a link, `..` leads elsewhere than it reads.
        real = os.path.realpath(folder)
        target = real if os.pardir in folder.split(os.sep) else os.path.abspath(folder)
        if target == self._base or target.startswith(self._base.rstrip(os.sep) + os.sep):
            return target[len(self._base) :].lstrip(os.sep)
        common = self._real_base.split(os.sep)[1:2] == real.split(os.sep)[1:2]
        return os.path.relpath(real, self._real_base) if common else target

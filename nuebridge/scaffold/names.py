"""The names of a new package, and whether they can be had."""

from __future__ import annotations

import importlib.util
import keyword
import re
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from importlib import metadata

from nuebridge.config import suggestion
from nuebridge.errors import ConfigError
from nuebridge.hookspecs import PROJECT
from nuebridge.plugins import PluginManager

MAX_LENGTH = 32
"""Longest name, in characters: lines that hold it are to stay within a line."""

_NAME = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*")
_TAKEN = ("build", "dist", "docs", "src", "test", "tests")
"""Folders of a project, which its package cannot be called."""


@dataclass(frozen=True)
class PackageNames:
    """A package by its three names; they follow from the first."""

    distribution: str
    """What ``pip install`` takes: lower-case words joined by hyphens, as PyPI writes it."""

    @classmethod
    def parse(cls, name: str) -> PackageNames:
        """Raises ConfigError for a name that a package, a module or a plugin cannot have."""
        if not _NAME.fullmatch(name):
            normal = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-0123456789")
            hint = f"; {normal!r} would do" if _NAME.fullmatch(normal) and len(normal) <= MAX_LENGTH else ""
            raise ConfigError(
                f"a plugin cannot be called {name!r}: write lower-case words joined by hyphens, the first character "
                f"a letter{hint}"
            )
        if len(name) > MAX_LENGTH:
            raise ConfigError(f"the name {name!r} has {len(name)} characters; take one of at most {MAX_LENGTH}")
        names = cls(name)
        for word, what in ((names.plugin, "plugin"), (names.module, "module")):
            if word in (PROJECT, f"{PROJECT}_"):
                raise ConfigError(f"the name {name!r} leaves {word!r} for the {what}, which is nuebridge's own")
        if keyword.iskeyword(names.module) or names.module in _TAKEN:
            raise ConfigError(f"a module cannot be called {names.module!r}; try {f'{PROJECT}-{name}'!r}")
        if names.module in sys.stdlib_module_names:
            raise ConfigError(f"{names.module!r} is a module of Python's standard library; try {f'{PROJECT}-{name}'!r}")
        return names

    @property
    def module(self) -> str:
        """What is imported."""
        return self.distribution.replace("-", "_")

    @property
    def plugin(self) -> str:
        """The first half of its components' ids: the distribution without ``nuebridge-``."""
        return self.distribution.removeprefix(f"{PROJECT}-")


def check_free(names: PackageNames, manager: PluginManager) -> None:
    """Raises ConfigError where something that is installed here has one of the names already."""
    for report in manager.reports():
        if report.name == names.plugin:
            raise ConfigError(
                f"a plugin {names.plugin!r} is installed already, by {report.distribution} {report.version}; choose "
                f"another name, or run `pip uninstall {report.distribution}`"
            )
    installed = {_normal(name) for name in _distributions()}
    if names.distribution in installed:
        raise ConfigError(
            f"{names.distribution!r} is installed already; choose another name, or run "
            f"`pip uninstall {names.distribution}`"
        )
    if _is_importable(names.module):
        raise ConfigError(
            f"there is a module {names.module!r} already; choose another name"
            + suggestion(names.distribution, [f"{PROJECT}-{names.distribution}"], "for instance")
        )


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def _distributions() -> Iterable[str]:
    for distribution in metadata.distributions():
        name = distribution.metadata["Name"]
        if name:  # a damaged installation has none
            yield name


def _is_importable(module: str) -> bool:
    try:
        spec = importlib.util.find_spec(module)
    except (ImportError, ValueError):
        return False
    # A folder without __init__.py is a "module" too; the one to be written is often just that.
    return spec is not None and spec.origin is not None

"""Typed configuration from YAML: every mistake of a file at once, each with its line.

The file is read into plain data plus the line of every key; pydantic says what is wrong, this
module says where, what would be allowed and which allowed word is nearest. It knows no particular
configuration and imports the YAML parser only when a file is read.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from nuebridge.config.document import Document, M
from nuebridge.config.problems import Location, Problem, nearest, raise_problems, suggestion
from nuebridge.config.reader import Reader
from nuebridge.errors import ConfigError

__all__ = [
    "Document",
    "Location",
    "Problem",
    "config_folder",
    "load_yaml",
    "nearest",
    "parse_set_values",
    "parse_yaml",
    "raise_problems",
    "suggestion",
    "validate",
]


def load_yaml(path: Path, model: type[M], *, set_values: Mapping[str, Any] | None = None) -> M:
    """Reads and validates a YAML file.

    ``set_values`` maps dotted keys to values that replace or add to the file's, as
    :func:`parse_set_values` makes them. Raises ConfigError with all errors of the file.
    """
    return Document.read(path, set_values=set_values).validate(model)


def parse_yaml(text: str, model: type[M], name: str, *, set_values: Mapping[str, Any] | None = None) -> M:
    """Validates YAML text; ``name`` stands for the file in messages. Raises ConfigError."""
    return Document.parse(text, name, set_values=set_values).validate(model)


def validate(data: Mapping[str, Any], model: type[M], name: str) -> M:
    """Validates plain data; ``name`` says in messages what it is. Raises ConfigError."""
    return Document(name=name, data=dict(data)).validate(model)


def parse_set_values(assignments: Sequence[str]) -> dict[str, Any]:
    """``["optimizer.lr=1e-4"]`` to ``{"optimizer.lr": 0.0001}``; the right-hand side is YAML.

    Raises ConfigError for an assignment without ``=``, for a value that is not YAML and for a key given twice.
    """
    values: dict[str, Any] = {}
    for assignment in assignments:
        key, equals, text = assignment.partition("=")
        key = key.strip()
        if not equals or not key:
            raise ConfigError(f"--set {assignment}: write KEY=VALUE, for instance --set seed=1")
        if key in values:
            raise ConfigError(f"--set {key}: given twice")
        reader = Reader(f"--set {key}")
        value = reader.read(text)
        raise_problems(reader.problems)
        values[key] = value
    return values


def config_folder(environ: Mapping[str, str] | None = None) -> Path:
    """The folder of the user's own configuration; it need not exist.

    ``NUEBRIDGE_CONFIG_DIR``, else ``XDG_CONFIG_HOME/nuebridge``, else the platform's usual place.
    """
    environ = os.environ if environ is None else environ
    if environ.get("NUEBRIDGE_CONFIG_DIR"):
        return Path(environ["NUEBRIDGE_CONFIG_DIR"])
    if environ.get("XDG_CONFIG_HOME"):
        return Path(environ["XDG_CONFIG_HOME"]) / "nuebridge"
    if sys.platform == "win32" and environ.get("APPDATA"):
        return Path(environ["APPDATA"]) / "nuebridge"
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Application Support" / "nuebridge"
    return Path.home() / ".config" / "nuebridge"

"""What is wrong in a file, in words: where, what would be allowed, and the nearest allowed word."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Literal

from nuebridge.errors import ConfigError

Location = tuple[str | int, ...]
"""The way from the top of a document to a value: keys and list indices."""


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong, or merely doubtful, in a file."""

    file: str
    """The file as it was named, or ``--set`` for an overridden value."""
    line: int | None
    """Counted from 1; None where the value does not come from a line of a file."""
    key: str
    """Dotted way to the value, empty for the file as a whole."""
    message: str
    severity: Literal["error", "warning"] = "error"

    def __str__(self) -> str:
        place = self.file if self.line is None else f"{self.file}:{self.line}"
        return ": ".join(part for part in (place, self.key, self.message) if part)


def raise_problems(problems: Sequence[Problem], error: type[ConfigError] = ConfigError) -> None:
    """Raises one error that lists every problem; does nothing when there is none."""
    if len(problems) == 1:
        raise error(str(problems[0]))
    if problems:
        raise error("\n  ".join([f"{len(problems)} errors", *map(str, problems)]))


def nearest(word: str, allowed: Collection[str]) -> str | None:
    """The allowed word most like ``word``, or None where none is near."""
    matches = difflib.get_close_matches(word, list(allowed), n=1, cutoff=0.6)
    return matches[0] if matches else None


def suggestion(word: str, allowed: Collection[str], label: str = "allowed") -> str:
    """``" (allowed: a, b; did you mean 'a'?)"``, to be appended to a message."""
    near = nearest(word, allowed)
    parts = [f"{label}: {', '.join(allowed) or 'none'}"]
    if near is not None:
        parts.append(f"did you mean {near!r}?")
    return f" ({'; '.join(parts)})"

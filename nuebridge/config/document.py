"""One file: its data, the lines of its keys, and its validation with all errors at once."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from nuebridge.config.messages import describe, short, types_at
from nuebridge.config.problems import Location, Problem, raise_problems
from nuebridge.config.reader import Reader
from nuebridge.errors import ConfigError

# pydantic is imported where a document is validated: not every command validates one, and it is slow.
if TYPE_CHECKING:
    from pydantic import BaseModel, ValidationError
    from pydantic_core import ErrorDetails

M = TypeVar("M", bound="BaseModel")


@dataclass
class Document:
    """Plain data of one file with the lines its keys stand on."""

    name: str
    """The file as messages name it."""
    data: Any = field(default_factory=dict)
    """What the YAML says; a mapping unless ``problems`` has something."""
    lines: dict[Location, int] = field(default_factory=dict)
    """Location to line, from 1."""
    problems: list[Problem] = field(default_factory=list)
    """What is wrong with the YAML itself: syntax, keys given twice, unknown tags."""
    overridden: set[Location] = field(default_factory=set)
    """Locations that do not come from the file but from ``set_values``."""

    @classmethod
    def read(cls, path: Path, *, set_values: Mapping[str, Any] | None = None) -> Document:
        """Reads a file. Raises ConfigError where it cannot be read at all."""
        try:
            text = Path(path).read_text(encoding="utf-8")
        except FileNotFoundError:
            raise ConfigError(f"{path}: no such file") from None
        except IsADirectoryError:
            raise ConfigError(f"{path}: this is a folder; name a YAML file") from None
        except UnicodeDecodeError as error:
            raise ConfigError(f"{path}: not a text file in UTF-8 (byte {error.start})") from None
        except OSError as error:
            raise ConfigError(f"{path}: cannot be read: {error.strerror}") from None
        return cls.parse(text, str(path), set_values=set_values)

    @classmethod
    def parse(cls, text: str, name: str, *, set_values: Mapping[str, Any] | None = None) -> Document:
        """Parses YAML text. What is wrong with it is kept in ``problems``."""
        reader = Reader(name)
        data = reader.read(text)
        if data is None:
            data = {}
        if not isinstance(data, dict):
            reader.problems.append(Problem(name, 1, "", f"should be a mapping of keys, not {short(data)}"))
            data = {}
        document = cls(name, data, reader.lines, reader.problems)
        for key, value in (set_values or {}).items():
            document._set(key, value)
        return document

    def validate(self, model: type[M]) -> M:
        """The document as a ``model``. Raises ConfigError with everything that is wrong."""
        value, problems = self.check(model)
        raise_problems(problems)
        assert value is not None
        return value

    def check(self, model: type[M]) -> tuple[M | None, list[Problem]]:
        """The document as a ``model`` where nothing is wrong, and all problems in order of their lines."""
        from pydantic import ValidationError

        problems = list(self.problems)
        value: M | None = None
        try:
            value = model.model_validate(self.data)
        except ValidationError as error:
            # A file that is no YAML has no keys either; to call them missing as well would mislead.
            if not (self.problems and not self.data):
                problems += self.explain(error, model)
        problems.sort(key=lambda problem: problem.line or 0)
        return (None, problems) if problems else (value, problems)

    def check_rest(self, model: type[M]) -> M | None:
        """What is right of a faulty document as a ``model``, for further checks; None where that is no whole.

        Values that are wrong and keys that are unknown are taken for not written.
        """
        from pydantic import ValidationError

        rest = Document(self.name, copy.deepcopy(self.data))
        while True:
            try:
                return model.model_validate(rest.data)
            except ValidationError as error:
                wrong = {rest._inside((), details) for details in error.errors(include_url=False)}
            dropped = [rest._drop(location) for location in wrong]
            if not any(dropped):
                return None

    def _drop(self, location: Location) -> bool:
        """Takes out a value, or the nearest key around it; False where there is none."""
        here: Any = self.data
        keys: list[tuple[dict[str, Any], str]] = []
        for step in location:
            if isinstance(here, dict) and step in here:
                keys.append((here, str(step)))
            elif not (isinstance(here, list) and isinstance(step, int) and step < len(here)):
                break
            here = here[step]
        if not keys:
            return False
        holder, key = keys[-1]
        del holder[key]
        return True

    def line(self, location: Location) -> int | None:
        """The line of a location, or of the nearest thing around it."""
        for size in range(len(location), 0, -1):
            if location[:size] in self.overridden:
                return None
            if location[:size] in self.lines:
                return self.lines[location[:size]]
        return None

    def problem(self, location: Location, message: str, severity: Literal["error", "warning"] = "error") -> Problem:
        """A problem at a location of this document."""
        overridden = any(location[:size] in self.overridden for size in range(1, len(location) + 1))
        file = "--set" if overridden else self.name
        return Problem(file, self.line(location), ".".join(map(str, location)), message, severity)

    def explain(self, error: ValidationError, model: type[BaseModel], at: Location = ()) -> list[Problem]:
        """pydantic's errors on the part of the document at ``at`` as problems with lines."""
        problems = []
        for details in error.errors(include_url=False):
            location = at + self._inside(at, details)
            problems.append(self.problem(location, describe(details, types_at([model], details["loc"]))))
        # The branches of a union repeat each other.
        return list(dict.fromkeys(problems))

    def _inside(self, at: Location, details: ErrorDetails) -> Location:
        """pydantic's location without what is not in the data (the names of a union's branches)."""
        value: Any = self.data
        for part in at:
            # What was left to its default is not in the data.
            value = value.get(part, {}) if isinstance(value, Mapping) else value[part]
        kept: list[str | int] = []
        for position, part in enumerate(details["loc"]):
            if isinstance(value, Mapping) and part in value:
                value = value[part]
            elif isinstance(value, Sequence) and not isinstance(value, str) and isinstance(part, int):
                if part >= len(value):
                    continue
                value = value[part]
            elif not (details["type"] == "missing" and position == len(details["loc"]) - 1):
                continue
            kept.append(part)
        return tuple(kept)

    def _set(self, key: str, value: Any) -> None:
        """Puts a value at a dotted key; mappings on the way are made, anything else in the way is a problem."""
        parts = key.split(".")
        here: Any = self.data
        location: Location = ()
        for position, part in enumerate(parts):
            last = position == len(parts) - 1
            if isinstance(here, list) and part.isdecimal() and int(part) < len(here):
                step: str | int = int(part)
            elif isinstance(here, dict):
                step = part
            else:
                way = ".".join(parts[:position])
                what = f"a list of {len(here)}" if isinstance(here, list) else short(here)
                self.problems.append(Problem("--set", None, key, f"{way} is {what} and has no {part!r}"))
                return
            location = (*location, step)
            if last:
                here[step] = value
            elif isinstance(here, dict) and here.get(part) is None:
                here[part] = {}
            here = here[step]
        self.overridden.add(location)

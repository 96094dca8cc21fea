"""A rule of the contracts, the function that checks it, and how a breach is told."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from nuebridge.errors import NuebridgeError

S = TypeVar("S")


class Broken(AssertionError):
    """A component does not keep a rule; the message has the rule's sentence and what was found instead."""

    def __init__(self, sentence: str, found: str) -> None:
        super().__init__(f"{found}\nThe contract: {sentence}")
        self.sentence = sentence
        self.found = found


class Breach(Exception):
    """What a check found instead of what it looked for."""


class NotApplicable(Exception):
    """A component offers nothing that a rule is about; the message says what."""


@dataclass(frozen=True)
class Check(Generic[S]):
    """One rule: calling it with a subject checks it. Raises Broken, or NotApplicable."""

    name: str
    """Of the test, without ``test_``."""
    sentence: str
    """The rule as the contract has it."""
    run: Callable[[S], None]

    def __call__(self, subject: S) -> None:
        try:
            self.run(subject)
        except Breach as breach:
            raise Broken(self.sentence, str(breach)) from breach.__cause__
        except NotApplicable:
            raise
        except Exception as error:
            raise Broken(self.sentence, f"{type(error).__name__}: {error}") from error


class Checks(Generic[S]):
    """The rules of one kind of component, in order."""

    def __init__(self) -> None:
        self.all: list[Check[S]] = []

    def rule(self, run: Callable[[S], None]) -> Check[S]:
        """Makes a function the check of a rule; the function's own docstring is the rule."""
        check = Check(run.__name__, " ".join((run.__doc__ or "").split()), run)
        self.all.append(check)
        return check


def need(condition: object, found: str) -> None:
    """Raises Breach with what was found, unless the condition holds."""
    if not condition:
        raise Breach(found)


@contextmanager
def refused(what: str, kind: type[NuebridgeError] = NuebridgeError) -> Iterator[None]:
    """A block that must raise an error of a kind; ``what`` is refused, for the message."""
    try:
        yield
    except kind as error:
        need(str(error).strip(), f"{what} raised {type(error).__name__} without a message")
    except NotApplicable:
        raise
    except Exception as error:
        raise Breach(f"{what} raised {type(error).__name__} ({error}), not {kind.__name__}") from error
    else:
        raise Breach(f"{what} raised nothing; {kind.__name__} was expected")


def of_tensor(value: Any) -> str:
    """Shape and dtype, for messages."""
    return f"{list(value.shape)} {value.dtype}" if hasattr(value, "shape") else repr(value)

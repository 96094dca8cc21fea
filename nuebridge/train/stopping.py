"""Leaving a run early and well: by a signal, or by the clock."""

from __future__ import annotations

import math
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from nuebridge.errors import TrainingError


class TrainingStopped(TrainingError):
    """The run was asked to stop, has saved itself, and can be resumed."""

    exit_status = 75


class Stopping:
    """Whether this process was asked to stop."""

    def __init__(self, minutes: float | None) -> None:
        self._signalled = False
        self._ends = math.inf if minutes is None else time.monotonic() + minutes * 60

    @property
    def asked(self) -> bool:
        """True from a signal on, or when the time is up."""
        return self._signalled or time.monotonic() >= self._ends

    def ask(self) -> None:
        """Asks to stop after the current step."""
        self._signalled = True


@contextmanager
def stopping_on_signals(minutes: float | None) -> Iterator[Stopping]:
    """Within the block, SIGTERM and SIGINT ask for a stop after the current step; a second one ends at once."""
    stopping = Stopping(minutes)
    if threading.current_thread() is not threading.main_thread():  # which alone receives signals
        yield stopping
        return

    def ask(number: int, frame: FrameType | None) -> None:
        stopping.ask()
        signal.signal(number, before[signal.Signals(number)])

    before = {number: signal.signal(number, ask) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield stopping
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)

"""Ranks and their launcher: none lives on without it, and one that is left by the others says so."""

from __future__ import annotations

import ctypes
import os
import re
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from nuebridge.errors import TrainingError
from nuebridge.train.stopping import TrainingStopped

_PR_SET_PDEATHSIG = 1
"""From linux/prctl.h."""
_WATCH = "nuebridge-launcher"


def die_with_launcher() -> None:
    """From here on this process ends when the torchrun that started it does, even if that is killed.

    Without a torchrun nothing is done: a run that was started by hand outlives its terminal. On
    Linux the kernel sees to it at once; elsewhere a thread looks every second.
    """
    if "TORCHELASTIC_RUN_ID" not in os.environ or any(thread.name == _WATCH for thread in threading.enumerate()):
        return
    launcher = os.getppid()
    if sys.platform == "linux":
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0) != 0:
            _watch(launcher)
    else:
        _watch(launcher)
    if os.getppid() != launcher:  # it died before the kernel was told
        os._exit(TrainingStopped.exit_status)


def _watch(launcher: int) -> None:
    def look() -> None:
        while os.getppid() == launcher:
            time.sleep(1)
        os._exit(TrainingStopped.exit_status)

    threading.Thread(target=look, name=_WATCH, daemon=True).start()


@contextmanager
def others_named(count: int) -> Iterator[None]:
    """What a back end says where another of ``count`` ranks has gone becomes one line. Raises TrainingError."""
    from torch.distributed import DistError

    try:
        yield
    except RuntimeError as error:
        if count == 1 or not (isinstance(error, DistError) or "gloo" in str(error).lower()):
            raise
        # Without the file of the back end's source that it begins with, and without its advice.
        said = re.sub(r"^\[[^]]*\] *", "", str(error).splitlines()[0]).split(". ")[0]
        raise TrainingError(
            "another process of this run has ended or cannot be reached; what it said itself tells why, and the same "
            f"command with --resume auto goes on from the last checkpoint ({said})"
        ) from error

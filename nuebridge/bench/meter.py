"""What a measurement measures: time, processor time, memory, and how much of what was computed was padding."""

from __future__ import annotations

import resource
import sys
import time
from pathlib import Path

import torch

_STATUS = Path("/proc/self/status")
_CLEAR = Path("/proc/self/clear_refs")


class Meter:
    """Measures between :meth:`begin` and :meth:`end`; made when the model is loaded and nothing was trained yet."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.loaded_bytes = _memory(device)
        """Memory with the model loaded, before anything is trained."""
        self.notes: dict[str, str] = {}
        self._wall = self._cpu = 0.0
        self._steps = self._samples = self._computed = 0
        self._measures = False
        self._since = "the measurement began"
        self._figures: dict[str, float | int | str] | None = None

    def note(self, name: str, value: object) -> None:
        """Something to be said of what is measured, such as the release of a library."""
        self.notes[name] = str(value)

    def begin(self) -> None:
        """Warming up is over. Raises RuntimeError where it was said before."""
        if self._measures or self._figures is not None:
            raise RuntimeError("the measurement has begun already")
        _wait(self.device)
        self._since = _forget_peak(self.device)
        self._measures = True
        self._wall, self._cpu = time.perf_counter(), _cpu_seconds()

    def count(self, samples: int, computed: int) -> None:
        """A batch: its audio samples, and those computed on, padding included. Not counted before it begins."""
        if self._measures:
            self._steps += 1
            self._samples += samples
            self._computed += computed

    def end(self) -> None:
        """All is trained. Raises RuntimeError where nothing was measured."""
        if not self._measures:
            raise RuntimeError("the measurement has not begun")
        _wait(self.device)
        wall, cpu = time.perf_counter() - self._wall, _cpu_seconds() - self._cpu
        self._measures = False
        self._figures = {
            "wall_seconds": wall,
            "cpu_seconds": cpu,
            "steps": self._steps,
            "samples": self._samples,
            "computed": self._computed,
            "peak_bytes": _peak(self.device),
            "loaded_bytes": self.loaded_bytes,
            "peak_since": self._since,
        }

    @property
    def figures(self) -> dict[str, float | int | str]:
        """What was measured. Raises RuntimeError where the measurement has not ended."""
        if self._figures is None:
            raise RuntimeError("the measurement has not ended")
        return dict(self._figures)


def _wait(device: torch.device) -> None:
    if device.type != "cpu":
        torch.get_device_module(device).synchronize(device)


def _cpu_seconds() -> float:
    """Of all threads of this process."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def _memory(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.memory_allocated(device)
    return _status("VmRSS") or _peak(device)


def _peak(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    # The system's own word for it has other units on macOS.
    return _status("VmHWM") or resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (
        1 if sys.platform == "darwin" else 1024
    )


def _forget_peak(device: torch.device) -> str:
    """Lets the peak begin anew where that can be had; says since when it is one."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return "the measurement began"
    try:
        _CLEAR.write_text("5")  # proc(5): the peak becomes what is resident now
    except OSError:
        return "the process began"
    return "the measurement began" if _status("VmHWM") else "the process began"


def _status(name: str) -> int | None:
    """A line of the kernel's account of this process, in bytes."""
    if _STATUS.is_file():
        for line in _STATUS.read_text().splitlines():
            key, _, value = line.partition(":")
            if key == name:
                return int(value.split()[0]) * 1024
    return None

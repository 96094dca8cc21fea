"""What a run computes on, and how much memory it takes."""

from __future__ import annotations

import platform
import resource
import sys
from pathlib import Path

import torch

_PROCESSORS = Path("/proc/cpuinfo")
_PAGES = Path("/proc/self/statm")


def memory_bytes(device: torch.device) -> int:
    """Memory of this process: CUDA, the most allocated so far; MPS, allocated now; CPU, resident now."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    if device.type == "mps":
        return torch.mps.current_allocated_memory()
    if _PAGES.is_file():
        return int(_PAGES.read_text().split()[1]) * resource.getpagesize()
    # Elsewhere only the most so far can be had, in units of the system's own.
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def describe(device: torch.device) -> str:
    """The device in words, and the release of torch."""
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        name = f"{properties.name}, {properties.total_memory / 2**30:.0f} GiB"
    elif device.type == "cpu":
        threads = torch.get_num_threads()
        name = f"{_processor()}, {threads} thread{'s' if threads > 1 else ''}"
    else:
        name = device.type
    return f"{name}; torch {torch.__version__}, Python {platform.python_version()}"


def _processor() -> str:
    if _PROCESSORS.is_file():
        for line in _PROCESSORS.read_text(errors="replace").splitlines():
            key, _, value = line.partition(":")
            if key.strip() == "model name":
                return value.strip()
    return platform.processor() or platform.machine()

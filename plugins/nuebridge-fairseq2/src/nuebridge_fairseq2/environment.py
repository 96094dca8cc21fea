"""Whether this environment can run fairseq2, told without importing it or torch."""

from __future__ import annotations

import ctypes
import platform
import re
from collections.abc import Callable
from importlib import metadata

SUPPORTED = "0.8"
"""The line of fairseq2 releases whose model classes and asset cards this plugin reads."""

MAKE_ONE = (
    "python3 -m venv .venv-fairseq2 && .venv-fairseq2/bin/pip install nuebridge-fairseq2` "
    "(in a checkout of nuebridge: `make fairseq2`)"
)
"""The command that makes an environment in which the plugin runs, its last backquote included."""

SNDFILE = "libsndfile.1.dylib" if platform.system() == "Darwin" else "libsndfile.so.1"


def installed_version(distribution: str) -> str | None:
    """Version of an installed distribution, or None."""
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


def required_torch() -> str | None:
    """The release of torch that the installed fairseq2n was built for, as its metadata says."""
    try:
        requirements = metadata.requires("fairseq2n") or []
    except metadata.PackageNotFoundError:
        return None
    for requirement in requirements:
        if found := re.fullmatch(r"torch\s*\(?==\s*([\w.]+)\)?", requirement.split(";")[0].strip()):
            return found[1]
    return None


def has_library(name: str) -> bool:
    """Whether the system's loader finds a shared library."""
    try:
        ctypes.CDLL(name)
    except OSError:
        return False
    return True


def fault(
    version: Callable[[str], str | None] = installed_version,
    torch_wanted: Callable[[], str | None] = required_torch,
    library: Callable[[str], bool] = has_library,
) -> str | None:
    """What keeps fairseq2 from running here, in one line that begins with what to do; None where nothing does."""
    found = version("fairseq2")
    if found is None:
        return f"run `{MAKE_ONE}: fairseq2 is not installed here, and it does not go with every torch"
    if not (found == SUPPORTED or found.startswith(f"{SUPPORTED}.")):
        return f"run `{MAKE_ONE}: this plugin reads fairseq2 {SUPPORTED}, and {found} is installed"
    torch, wanted = version("torch"), torch_wanted()
    if torch is None or (wanted is not None and torch.split("+")[0] != wanted):
        return f"run `{MAKE_ONE}: fairseq2 {found} needs torch {wanted}, and {torch or 'none'} is installed"
    if not library(SNDFILE):
        return f"run `apt-get install libsndfile1` (macOS: `brew install libsndfile`): fairseq2 needs {SNDFILE}"
    return None

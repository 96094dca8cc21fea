"""Processes whose launcher is killed do not live on."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from torch import distributed as dist

from nuebridge.errors import TrainingError
from nuebridge.train.launcher import others_named

RANK = """
import sys, time
sys.platform = sys.argv[1]
from nuebridge.train.launcher import die_with_launcher
die_with_launcher()
die_with_launcher()
print("in", flush=True)
time.sleep(60)
"""
LAUNCHER = """
import subprocess, sys
rank = subprocess.Popen([sys.executable, "-c", *sys.argv[1:]], start_new_session=True)
print(rank.pid, flush=True)
rank.wait()
"""


def lives(pid: int) -> bool:
    """Whether a process is there and not only waits to be buried."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


@pytest.mark.skipif(sys.platform != "linux", reason="looks at processes in /proc")
@pytest.mark.parametrize("platform", ["linux", "darwin"])
@pytest.mark.parametrize("torchrun", [True, False])
def test_a_rank_ends_with_its_launcher(platform: str, torchrun: bool) -> None:
    environ = {name: value for name, value in os.environ.items() if name != "TORCHELASTIC_RUN_ID"}
    if torchrun:
        environ["TORCHELASTIC_RUN_ID"] = "none"
    command = [sys.executable, "-c", LAUNCHER, RANK, platform]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environ) as launcher:
        assert launcher.stdout is not None
        said = {launcher.stdout.readline().strip() for _ in range(2)}
        (pid,) = (int(line) for line in said - {"in"})
        assert "in" in said and lives(pid)
        launcher.kill()
        launcher.wait()
        try:
            ends = time.monotonic() + (10 if torchrun else 1.5)
            while lives(pid) and time.monotonic() < ends:
                time.sleep(0.02)
            assert lives(pid) is not torchrun
        finally:
            if lives(pid):
                os.kill(pid, signal.SIGKILL)


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("[/pytorch/third_party/gloo/gloo/transport/tcp/pair.cc:534] Connection closed by peer\nmore"),
        dist.DistNetworkError("The client socket has failed to connect"),
    ],
)
def test_a_rank_that_is_left_says_so(error: RuntimeError) -> None:
    said = r"^another process of this run has ended or cannot be reached; .*--resume auto goes on .* \(\w[^()]*\)$"
    with pytest.raises(TrainingError, match=said), others_named(2):
        raise error
    with pytest.raises(RuntimeError) as caught, others_named(1):
        raise error
    assert caught.value is error


def test_other_errors_are_left_alone() -> None:
    for error in (RuntimeError("shapes do not fit"), ValueError("gloo")):
        with pytest.raises(type(error)) as caught, others_named(2):
            raise error
        assert caught.value is error

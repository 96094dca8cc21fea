"""Kills real runs, of one process or of two under torchrun, and goes on with them."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from tests.train.crashing import configuration, difference, environment, left

Who = Literal["process", "rank", "all", "launcher"]


@dataclass
class Killed:
    """What came of a run that was killed again and again."""

    steps: list[int] = field(default_factory=list)
    """The last step that was logged before each kill."""
    lingering_seconds: float = 0.0
    """The longest that a rank was there after a kill."""
    difference: float = 0.0
    """The largest difference of any figure of any step from the unbroken run."""
    said: list[str] = field(default_factory=list)
    """The errors that the ranks which were left ended with."""


@dataclass
class Runs:
    """Runs of one configuration in a folder."""

    folder: Path
    site: Path
    registry: Path
    corpus: Path
    steps: int

    def start(self, name: str, ranks: int) -> subprocess.Popen[str]:
        """Begins or goes on with a run, in ``ranks`` processes under torchrun where that is more than none."""
        config = {
            **configuration(self.corpus),
            "output": str(self.folder / name),
            "schedule": {"steps": self.steps, "shape": "constant"},
            "checkpoints": {"every_steps": 3, "keep": 2},
            "validation": {"every_steps": 25, "max_utterances": 2, "samples": 0, "audio_gain": False},
        }
        file = self.folder / f"{name}.yaml"
        file.write_text(json.dumps(config))
        verb = ["-m", "nuebridge.cli", "train", str(file), "--resume", "auto", "--registry", str(self.registry)]
        launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}"] if ranks else []
        return subprocess.Popen(
            [sys.executable, *launcher, *verb],
            env=environment(self.site),
            stdout=subprocess.DEVNULL,
            stderr=(self.folder / f"{name}.log").open("w"),
            text=True,
            cwd=self.folder,
        )

    def finish(self, name: str, ranks: int) -> Path:
        """Trains to the end; the run's folder."""
        status = self.start(name, ranks).wait()
        assert status == 0, self.said(name)
        return self.folder / name

    def killed(self, who: Who, times: int, seed: int, unbroken: Path) -> Killed:
        """Kills at moments that ``seed`` draws, goes on after each, and compares with the unbroken run."""
        rng, found, ranks = random.Random(f"{who}:{seed}"), Killed(), 0 if who == "process" else 2
        output = self.folder / who
        for step in sorted(rng.sample(range(2, self.steps - 10), times)):
            with self.start(who, ranks) as run:
                _wait(lambda step=step: _last_step(output) >= step or run.poll() is not None, 600)
                assert run.poll() is None, self.said(who)
                time.sleep(rng.uniform(0, 0.15))  # into whatever it is about to do
                doomed = self._targets(run, who, rng)
                for pid in doomed:
                    with suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL)
                ended = time.monotonic()
                _wait(lambda pid=run.pid: not set(self._processes(who)) - {pid}, 120)
                found.lingering_seconds = max(found.lingering_seconds, time.monotonic() - ended)
                run.wait(timeout=120)  # torchrun itself takes its time to leave
            found.steps.append(_last_step(output))
            found.said += [line for line in self.said(who).splitlines() if line.startswith("error:")]
            assert not left(output)
        self.finish(who, ranks)
        found.difference = difference(unbroken, output)
        return found

    def _targets(self, run: subprocess.Popen[str], who: Who, rng: random.Random) -> list[int]:
        ranks = [pid for pid in self._processes(who) if pid != run.pid]
        if who in ("process", "launcher"):
            return [run.pid]
        assert len(ranks) == 2
        return [rng.choice(ranks)] if who == "rank" else [run.pid, *ranks]

    def _processes(self, name: str) -> list[int]:
        """The processes of a run, launcher included."""
        file, found = os.fsencode(self.folder / f"{name}.yaml"), []
        for entry in Path("/proc").iterdir():
            with suppress(OSError):  # it may end meanwhile
                if entry.name.isdigit() and file in (entry / "cmdline").read_bytes().split(b"\0"):
                    found.append(int(entry.name))
        return sorted(found)

    def said(self, name: str) -> str:
        """What the last process of a run wrote to its standard error."""
        return (self.folder / f"{name}.log").read_text() or "(nothing)"


def _last_step(output: Path) -> int:
    with suppress(OSError, ValueError):
        text = (output / "metrics.jsonl").read_text()
        return max(
            (json.loads(line)["step"] for line in text.splitlines(keepends=True)[-3:] if line[-1] == "\n"), default=0
        )
    return 0


def _wait(until: Callable[[], bool], seconds: float) -> None:
    ends = time.monotonic() + seconds
    while not until():
        assert time.monotonic() < ends, "waited too long"
        time.sleep(0.002)

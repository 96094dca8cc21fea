"""Trains in processes of its own that end, or whose disk is full, at one chosen moment; and goes on with them.

Every open for writing, write (by halves), fsync, rename, mkdir, chmod and removal that a run does in
its output folder is a moment, numbered in order. For each one a process is forked, which trains until
that moment and is gone (``os._exit``: nothing is flushed, nothing is cleaned up), or whose system
call fails with ENOSPC. Then its folder is looked at, and a second process resumes it.

As a script it reads its task from standard input as JSON and writes what it found as JSON.
"""

from __future__ import annotations

import builtins
import errno
import io
import json
import os
import shutil
import subprocess
import sys
import traceback
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from tests.tones import write_corpus

ROOT = Path(__file__).parents[2]
CRASHED, REFUSED, BROKEN = 70, 2, 71
"""How a process that trains leaves: at the moment it was to, with a named error, or with any other."""


@dataclass
class Outcome:
    """One crash or full disk, and what came after it."""

    moment: str
    status: int
    said: str
    faults: list[str] = field(default_factory=list)
    difference: float = 0.0
    """The largest difference of any figure of any step from the unbroken run."""


class Moments:
    """Counts what is done to a folder's files, and at the chosen moment ends the process or fails."""

    def __init__(self, folder: Path, at: int | None, kind: str) -> None:
        self.folder, self.at, self.kind = str(folder), at, kind
        self.seen: list[str] = []

    def install(self) -> None:
        """For the rest of this process."""
        self._open, self._fsync = io.open, os.fsync
        builtins.open = io.open = self._opened  # type: ignore[assignment]
        os.fsync = self._fsynced
        sys.addaudithook(self._audit)
        from nuebridge import tensors

        self._save_file = tensors.save_file
        tensors.save_file = self._saved

    def happens(self, what: str, path: object, half: Callable[[], object] | None = None) -> None:
        """One moment: before what is named, or after ``half`` of it."""
        name = os.fsdecode(os.fspath(path)) if isinstance(path, str | bytes | os.PathLike) else ""
        if not name.startswith(self.folder):
            return
        self.seen.append(f"{what} {name[len(self.folder) + 1 :]}")
        if len(self.seen) - 1 != self.at:
            return
        if half is not None:
            half()
        if self.kind == "crash":
            os._exit(CRASHED)
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), name)

    def _audit(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open" and arguments[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
            self.happens("open", arguments[0])
        elif event in ("os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.chmod", "os.truncate"):
            path = arguments[0]
            if event in ("os.remove", "os.rmdir") and arguments[1] >= 0:
                path = os.path.join(os.readlink(f"/proc/self/fd/{arguments[1]}"), path)
            self.happens(event.removeprefix("os."), path)

    def _fsynced(self, descriptor: Any) -> None:
        number = descriptor if isinstance(descriptor, int) else descriptor.fileno()
        self.happens("fsync", os.readlink(f"/proc/self/fd/{number}"))
        self._fsync(number)

    def _opened(self, file: Any, mode: str = "r", *rest: Any, **options: Any) -> Any:
        stream = self._open(file, mode, *rest, **options)
        return _Torn(stream, file, self) if set(mode) & set("wax+") else stream

    def _saved(self, tensors: Any, filename: Any, metadata: Any = None) -> None:
        """safetensors writes by itself: before, half of the file, and all of it are what can be on the disk."""
        from safetensors import SafetensorError

        try:
            self.happens("write", filename)
            self._save_file(tensors, filename, metadata)
            self.happens("half write", filename, lambda: os.truncate(filename, os.path.getsize(filename) // 2))
        except OSError as error:
            raise SafetensorError(f"I/O error: {error.strerror} (os error {error.errno})") from error


class _Torn:
    """A file each of whose writes can end halfway."""

    def __init__(self, stream: Any, path: Any, moments: Moments) -> None:
        self._stream, self._path, self._moments = stream, path, moments

    def write(self, data: Any) -> int:
        def half() -> None:
            self._stream.write(data[: len(data) // 2])
            self._stream.flush()

        self._moments.happens("write", self._path, half)
        return int(self._stream.write(data))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def __enter__(self) -> _Torn:
        return self

    def __exit__(self, *_: object) -> None:
        self._stream.close()

    def __iter__(self) -> Any:
        return iter(self._stream)


class Trainer:
    """Runs of one configuration, each in a forked process."""

    def __init__(self, task: dict[str, Any]) -> None:
        import torch

        from nuebridge.compose import Workshop
        from nuebridge.plugins import PluginManager
        from nuebridge.registry import Layer, Registry

        torch.set_num_threads(1)
        self.configuration: dict[str, Any] = task["configuration"]
        self.folder = Path(task["folder"])
        manager = PluginManager.discover({}, path=[task["site"]])
        self.workshop = Workshop(manager, Registry([Layer("option", Path(task["registry"]))]))

    def warm_up(self) -> None:
        """A run in this process, so that those forked from it need not import what a run imports at first use."""
        from nuebridge.config import validate
        from nuebridge.train.config import TrainConfig
        from nuebridge.train.loop import train

        output = self.folder / "warm"
        train(validate({**self.configuration, "output": str(output)}, TrainConfig, "crashing"), self.workshop)
        shutil.rmtree(output)

    def train(self, output: Path, at: int | None = None, kind: str = "crash") -> tuple[int, str, list[str]]:
        """Begins or goes on with a run in a forked process: how it left, what it said, the moments it went through."""
        receiver, sender = os.pipe()
        child = os.fork()
        if child == 0:
            os.close(receiver)
            status, said, moments = self._train(output, at, kind)
            with os.fdopen(sender, "w") as stream:
                json.dump([said, moments], stream)
            os._exit(status)
        os.close(sender)
        with os.fdopen(receiver) as stream:
            told = stream.read()
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        said, moments = json.loads(told) if told else ("", [])
        return status, said, moments

    def _train(self, output: Path, at: int | None, kind: str) -> tuple[int, str, list[str]]:
        from nuebridge.config import validate
        from nuebridge.errors import NuebridgeError
        from nuebridge.train.config import TrainConfig
        from nuebridge.train.loop import train

        moments = Moments(output, at, kind)
        status, said = BROKEN, ""
        try:
            config = validate({**self.configuration, "output": str(output)}, TrainConfig, "crashing")
            moments.install()
            train(config, self.workshop, resume="auto")
            status = 0
        except NuebridgeError as error:
            status, said = REFUSED, str(error)
        except BaseException:
            said = traceback.format_exc()
        return status, said, moments.seen

    def tried(self, at: int, moment: str, kind: str, unbroken: Path) -> Outcome:
        """One crash or full disk, what it left, and the resumed run against the unbroken one."""
        output = self.folder / f"{kind}-{at}"
        status, said, _ = self.train(output, at, kind)
        outcome = Outcome(moment, status, said)
        outcome.faults += left(output)
        resumed, reason, _ = self.train(output)
        if resumed != 0:
            outcome.faults.append(f"the resumed run left with {resumed}: {reason}")
            return outcome
        outcome.difference = difference(unbroken, output)
        if _listing(output) != _listing(unbroken):
            outcome.faults.append(f"files differ: {sorted(_listing(output) ^ _listing(unbroken))}")
        for name in ("final", "best"):
            if _weights(output / name) != _weights(unbroken / name):
                outcome.faults.append(f"{name} differs")
        shutil.rmtree(output)
        return outcome


def left(output: Path) -> list[str]:
    """What a crash left that somebody could take for whole and is not."""
    from nuebridge.errors import CheckpointError
    from nuebridge.train.state import checkpoints, read_checkpoint

    faults = []
    for _, path in checkpoints(output / "checkpoints"):
        try:
            read_checkpoint(path)
        except CheckpointError as error:
            faults.append(str(error))
    for name in ("final", "best"):
        folder = output / name
        if folder.is_dir() and not (folder / "config.json").is_file():
            faults.append(f"{folder} is not whole")
    return faults


def _listing(output: Path) -> set[str]:
    return {str(path.relative_to(output)) for path in output.rglob("*")}


def _weights(folder: Path) -> dict[str, bytes]:
    names = ("*.safetensors", "best.json")
    return {str(path.relative_to(folder)): path.read_bytes() for name in names for path in folder.rglob(name)}


def difference(unbroken: Path, output: Path) -> float:
    """The largest difference of the figures of any step; infinite where a step is missing or logged twice."""
    expected, found = _figures(unbroken), _figures(output)
    if [key for key, _ in expected] != [key for key, _ in found]:
        return float("inf")
    pairs = (zip(a, b, strict=True) for (_, a), (_, b) in zip(expected, found, strict=True))
    return max(abs(x - y) for pair in pairs for x, y in pair)


def _figures(output: Path) -> list[tuple[tuple[str, int], list[float]]]:
    lines = [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]
    names = ("loss", "ctc_loss", "gradient_norm", "wer", "cer", "ctc_cer")
    return [
        ((line["kind"], line["step"]), [line[name] for name in names if line.get(name) is not None])
        for line in lines
        if line["kind"] in ("train", "validation")
    ]


def chosen(moments: list[str], every: int) -> Iterable[tuple[int, str]]:
    """Every so many of the moments, and one of each kind at least."""
    kinds: set[str] = set()
    for number, moment in enumerate(moments):
        kind = moment.split()[0]
        if number % every == 0 or kind not in kinds:
            kinds.add(kind)
            yield number, moment


def configuration(corpus: Path) -> dict[str, Any]:
    """A run of everything that is kept, as short as it can be, with dropout and replaced tokens."""
    return {
        "model": "toys",
        "data": {"train": [str(corpus)], "validation": str(corpus), "batch_seconds": 3.0},
        "schedule": {"steps": 4, "warmup_steps": 2},
        "parts": {
            name: {"train": True, "learning_rate": 0.01} for name in ("encoder", "ctc_head", "bridge", "decoder")
        },
        "losses": {"ctc": 0.3, "token_replacement": 0.1},
        "checkpoints": {"every_steps": 2, "keep": 1},
        "validation": {"every_steps": 2, "max_utterances": 2, "samples": 0, "audio_gain": False},
        "log_every_steps": 1,
    }


def environment(site: Path) -> dict[str, str]:
    """Of a process that finds the toy plugin and this package."""
    own = [str(site), str(ROOT / "tests"), str(ROOT)]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(own), "OMP_NUM_THREADS": "1"}


def series(site: Path, registry: Path, folder: Path, every: dict[str, int]) -> dict[str, Any]:
    """Crashes (``crash``) and full disks (``full``) at every so many of a run's moments; the figures.

    Asserts what must hold after each: a resumed run that is the unbroken one, nothing half-written
    under a name that counts, no file left over, and a full disk named in one line.
    """
    (folder / "runs").mkdir()
    task = {
        "configuration": configuration(write_corpus(folder / "corpus", 12)),
        "folder": str(folder / "runs"),
        "site": str(site),
        "registry": str(registry),
        "every": every,
    }
    with (folder / "log.txt").open("w+") as log:
        done = subprocess.run(
            [sys.executable, "-m", "tests.train.crashing"],
            input=json.dumps(task),
            env=environment(site),
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            cwd=folder,
        )
        log.seek(0)
        assert done.returncode == 0, log.read()[-4000:]
    found = json.loads(done.stdout)
    outcomes = [Outcome(**outcome) for outcome in found["outcomes"]]
    for outcome in outcomes:
        assert outcome.status in (0, CRASHED, REFUSED), outcome
        assert not outcome.faults and outcome.difference < 1e-6, outcome
        if outcome.status == REFUSED:
            assert os.strerror(errno.ENOSPC) in outcome.said and "\n" not in outcome.said, outcome
    return {
        "moments": len(found["moments"]),
        "kinds": Counter(moment.split()[0] for moment in found["moments"]),
        "crashed": sum(outcome.status == CRASHED for outcome in outcomes),
        "refused": sum(outcome.status == REFUSED for outcome in outcomes),
        "went on": sum(outcome.status == 0 for outcome in outcomes),
        "difference": max(outcome.difference for outcome in outcomes),
    }


def main() -> None:
    task = json.load(sys.stdin)
    trainer = Trainer(task)
    trainer.warm_up()
    unbroken = trainer.folder / "unbroken"
    status, said, moments = trainer.train(unbroken)
    if status != 0:
        raise SystemExit(said)
    outcomes = []
    for kind, every in task["every"].items():
        for at, moment in chosen(moments, every):
            outcomes.append(asdict(trainer.tried(at, moment, kind, unbroken)))
            print(kind, at, "of", len(moments), outcomes[-1], file=sys.stderr, flush=True)
    json.dump({"moments": moments, "outcomes": outcomes}, sys.stdout)


if __name__ == "__main__":
    main()

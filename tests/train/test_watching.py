from __future__ import annotations

import io
import json
import logging
import os
import pty
import re
import subprocess
import sys
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console

from nuebridge.errors import TrainingError
from nuebridge.model import Integration
from nuebridge.train import loop
from nuebridge.train.config import TrainConfig
from nuebridge.train.progress import Progress
from nuebridge.train.ranks import Ranks
from nuebridge.train.record import append_line, read_lines
from nuebridge.train.step import Stepper, StepResult
from nuebridge.train.stopping import TrainingStopped
from nuebridge.train.trainable import trainable_groups
from nuebridge.train.validation import ValidationResult
from nuebridge.train.watching import Watcher, check_loggers, line_handler
from nuebridge.train.watching.hardware import describe, memory_bytes
from nuebridge.train.watching.loggers import scalars
from nuebridge.train.watching.terminal import Terminal
from tests.conftest import TESTS
from tests.train.runs import metrics

Configure = Callable[..., TrainConfig]
Run = Callable[..., Path]


@pytest.fixture
def said(caplog: pytest.LogCaptureFixture) -> Callable[[], list[str]]:
    """What was logged so far."""
    caplog.set_level(logging.INFO)
    return lambda: [record.getMessage() for record in caplog.records]


# --- the record ------------------------------------------------------------------------------------


def test_the_record_of_a_run(run: Run, corpus: Path) -> None:
    output = run(data__validation=str(corpus), validation={"every_steps": 4, "samples": 2})
    lines = read_lines(output)
    assert [line["kind"] for line in lines] == ["start", *["train"] * 4, "validation", *["train"] * 3, "validation"]
    start, train, validation = lines[0], lines[1], lines[5]
    assert all(line["stage"] == "train" and line["minutes"] >= 0 for line in lines)
    assert start["step"] == 0 and start["processes"] == 1 and start["utterances"] == 12
    assert start["parts"]["bridge"] == {"component": "toy.bridge", "parameters": 400, "trained": 400}
    assert train["memory_gigabytes"] > 0.01 and 0 <= train["data_wait_share"] <= 1
    assert train["audio_seconds_per_second"] > 0 and set(train["learning_rate"]) == set(start["parts"])
    assert validation["step"] == 4 and validation["audio_gain"] is not None and validation["loss"] > 0
    assert [reference for reference, _ in validation["samples"]] == ["low", "mid"]


def test_stages_and_what_they_leave_out(run: Run) -> None:
    stages = [
        {"name": "bridge", "schedule": {"steps": 2}, "max_audio_seconds": 0.5},
        {"name": "all", "schedule": {"steps": 1}},
    ]
    output = run(stages=stages, schedule=None)
    first, second = metrics(output, "start").values()
    assert (first["stage"], first["step"], second["stage"], second["step"]) == ("bridge", 0, "all", 2)
    assert first["left_out"] and "longer than 0.5 s" in first["left_out"][0] and second["left_out"] == []
    assert [line["stage"] for line in metrics(output).values()] == ["bridge", "bridge", "all"]


def test_a_line_cut_short_is_not_read(tmp_path: Path) -> None:
    assert read_lines(tmp_path) == []
    append_line(tmp_path, {"kind": "train", "step": 1, "text": "Füße\u2028"})
    with (tmp_path / "metrics.jsonl").open("a") as stream:
        stream.write('{"kind": "tra')
    assert read_lines(tmp_path) == [{"kind": "train", "step": 1, "text": "Füße\u2028"}]


def test_waiting_counts_and_validating_does_not(
    configure: Configure, toy_integration: Integration, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Steps of 2 s on 6 s of audio, 0.5 s of it spent waiting; 100 s pass between them."""
    clock = [0.0]
    monkeypatch.setattr("nuebridge.train.watching.watcher.time.monotonic", lambda: clock[0])
    config = configure()
    watcher, progress = watching(config, toy_integration)

    def batches() -> Iterator[Any]:
        while True:
            clock[0] += 0.5
            yield None

    waiting = batches()
    for _ in range(2):
        watcher.next_batch(waiting)
        clock[0] += 1.5
        progress.step += 1
        watcher.add(StepResult({"loss": 2.0 + progress.step}, 6000, False, unreadable=1), {"bridge": 0.1})
        clock[0] += 100
    watcher.report_training({"bridge": 0.1})
    (line,) = metrics(config.output).values()
    assert line["audio_seconds_per_second"] == 3 and line["data_wait_share"] == 0.25
    assert line["loss"] == 3.5 and line["unreadable"] == 2 and line["learning_rate"] == {"bridge": 0.1}


def watching(
    config: TrainConfig, integration: Integration, ranks: Ranks | None = None, terminal: Terminal | None = None
) -> tuple[Watcher, Progress]:
    """A watcher whose stage has begun."""
    config.output.mkdir(parents=True, exist_ok=True)
    progress = Progress()
    watcher = Watcher(config, 1000, progress, ranks or Ranks(), terminal=terminal)
    (stage,) = config.unrolled()
    watcher.begin_stage(stage, integration, trainable_groups(integration, config), utterances=12)
    return watcher, progress


def test_other_ranks_keep_quiet(
    configure: Configure, toy_integration: Integration, said: Callable[[], list[str]]
) -> None:
    config = configure(loggers=["tensorboard"])
    watcher, progress = watching(config, toy_integration, Ranks(1, 2))
    with watcher:
        progress.step = 1
        watcher.next_batch(iter([None]))  # type: ignore[list-item]
        watcher.add(StepResult({"loss": 1.0}, 1000, False), {})
        watcher.report_training({})
        watcher.report_validation(ValidationResult(0.5, 0.5, None, (("a", "b"),), 1.0, 0.0))
    assert list(config.output.iterdir()) == [] and said() == []


# --- log lines -------------------------------------------------------------------------------------


def test_log_lines(run: Run, corpus: Path, said: Callable[[], list[str]]) -> None:
    run(data__validation=str(corpus), validation={"every_steps": 7, "samples": 1}, parts__encoder__train=False)
    lines = said()
    total = r"training 10\.9 k of 12\.1 k parameters: encoder 0 of 1\.21 k, ctc_head 364 of 364, "
    assert [line for line in lines if re.match(total + r"bridge 400 of 400, decoder ", line)]
    assert [
        line for line in lines if re.match(r"train step 3/7  loss \d\.\d+  ctc_loss .*memory_gigabytes \d+\.\d+$", line)
    ]
    at = next(i for i, line in enumerate(lines) if re.match(r"validation step 7/7  wer .*loss .*audio_gain", line))
    assert lines[at + 1] == "  reference:  low" and lines[at + 2].startswith("  hypothesis: ")


@pytest.mark.parametrize(
    ("gain", "step", "warned"), [(0.01, 2, True), (0.01, 1, False), (2.0, 2, False), (None, 2, False)]
)
def test_a_decoder_that_does_not_listen_is_told_of_after_warm_up(
    configure: Configure,
    toy_integration: Integration,
    caplog: pytest.LogCaptureFixture,
    gain: float | None,
    step: int,
    warned: bool,
) -> None:
    config = configure(schedule={"steps": 7, "warmup_steps": 2})
    watcher, progress = watching(config, toy_integration)
    progress.step = step
    watcher.report_validation(ValidationResult(1.0, 1.0, None, (), 3.0, gain))
    warnings = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert [line.partition(":")[0] for line in warnings] == ["the decoder does not listen yet"] * warned
    assert all("\n" not in line for line in warnings)


def test_utterances_without_a_loss_are_told_of(
    configure: Configure, toy_integration: Integration, caplog: pytest.LogCaptureFixture
) -> None:
    watcher, _ = watching(configure(), toy_integration)
    watcher.report_validation(ValidationResult(1.0, 1.0, None, (), 3.0, 2.0, left_out=4))
    assert "4 validation utterances are too short or too long for the loss" in caplog.text


def test_warnings_say_that_they_are() -> None:
    handler = line_handler()
    records = [logging.LogRecord("x", level, "", 0, "%d of %d", (1, 2), None) for level in (20, 30, 40)]
    shown = [handler.format(record) for record in records]
    assert [line.partition(" ")[2] for line in shown] == ["1 of 2", "warning: 1 of 2", "error: 1 of 2"]
    assert handler.format(records[1]) == shown[1]


# --- the bar ---------------------------------------------------------------------------------------


def test_a_bar_on_a_terminal(configure: Configure, toy_integration: Integration, said: Callable[[], list[str]]) -> None:
    shown = io.StringIO()
    terminal = Terminal(Console(file=shown, force_terminal=True, width=110))
    watcher, progress = watching(configure(), toy_integration, terminal=terminal)
    with watcher:
        for step in range(1, 6):
            watcher.next_batch(iter([None]))  # type: ignore[list-item]
            progress.step = step
            result = StepResult({"loss": 1.5, "ctc_loss": 0.75, "gradient_norm": 9.0}, 3000, False)
            watcher.add(result, {"encoder": 0.001, "bridge": 0.002})
            watcher.report_training({"encoder": 0.001, "bridge": 0.002})
    last = plain(shown.getvalue()).rstrip().splitlines()[-2:]
    assert last[0].startswith("train ") and "5/7" in last[0] and last[0].rstrip().endswith("left")
    assert "loss 1.5  ctc loss 0.75  learning rate encoder 0.001 bridge 0.002  audio s/s" in last[1]
    assert re.search(r"memory GB \d+\.\d+", last[1]) and "gradient" not in last[1]
    assert not [line for line in said() if line.startswith("train step")]  # the bar says it
    assert len(metrics(watcher._config.output)) == 5


def test_one_learning_rate_where_all_are_the_same(configure: Configure, toy_integration: Integration) -> None:
    shown = io.StringIO()
    terminal = Terminal(Console(file=shown, force_terminal=True, width=110))
    watcher, _ = watching(configure(), toy_integration, terminal=terminal)
    logging.getLogger("nuebridge.train").setLevel(logging.INFO)
    try:
        with watcher:
            watcher.next_batch(iter([None]))  # type: ignore[list-item]
            watcher.add(StepResult({"loss": 1.5}, 3000, False), {"encoder": 0.001, "bridge": 0.001})
    finally:
        logging.getLogger("nuebridge.train").setLevel(logging.NOTSET)
    assert "learning rate 0.001  audio" in plain(shown.getvalue())


@pytest.mark.parametrize("console", [{"force_terminal": False}, {"force_terminal": True, "_environ": {"TERM": "dumb"}}])
def test_no_bar_elsewhere(configure: Configure, toy_integration: Integration, console: Any, caplog: Any) -> None:
    caplog.set_level(logging.INFO)
    shown = io.StringIO()
    terminal = Terminal(Console(file=shown, width=110, **console))
    watcher, _ = watching(configure(), toy_integration, terminal=terminal)
    with watcher:
        assert not terminal.has_bar
    assert shown.getvalue() == ""


def test_no_bar_where_nobody_asked_for_log_lines(configure: Configure, toy_integration: Integration) -> None:
    shown = io.StringIO()
    watcher, _ = watching(
        configure(), toy_integration, terminal=Terminal(Console(file=shown, force_terminal=True, width=110))
    )
    with watcher:
        pass
    assert shown.getvalue() == ""


WARNING_IN_A_STEP = """
import logging, sys, warnings
from nuebridge.cli import main
from nuebridge.train.step import Stepper

step = Stepper._step

def warning(self, *args):
    if args[1] == 5:
        logging.getLogger("elsewhere").warning("mind " + "the gap " * 20)
        warnings.warn("a library's own")
    return step(self, *args)

Stepper._step = warning
main(sys.argv[1:])
"""


def test_on_a_real_terminal(
    configure: Configure, corpus: Path, tmp_path: Path, toy_site: Path, toy_registry_file: Path
) -> None:
    """The command line on a pseudo-terminal of 80 columns: bar, warnings above it, and a clean end."""
    config = configure(data__validation=str(corpus), schedule={"steps": 40}, validation={"every_steps": 20})
    (tmp_path / "train.yaml").write_text(config.model_dump_json(exclude_unset=True))
    command = ["train", str(tmp_path / "train.yaml"), "--registry", str(toy_registry_file)]
    environ = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(map(str, (toy_site, TESTS, TESTS.parent))),
        "TERM": "xterm",
        "COLUMNS": "80",
        "NUEBRIDGE_CONFIG_DIR": str(tmp_path),
    }
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-c", WARNING_IN_A_STEP, *command], env=environ, stdout=subprocess.PIPE, stderr=theirs
    )
    os.close(theirs)
    shown = b"".join(iter(lambda: read(ours), b"")).decode()
    assert process.stdout is not None and process.stdout.read().decode().startswith("trained integration: ")
    assert process.wait() == 0, shown
    assert shown.rstrip().endswith("\x1b[?25h")  # the cursor is shown again
    text = plain(shown)
    assert "40/40" in text and "loss" in text and "train step" not in text
    (warning,) = re.findall(r"^(\d\d:\d\d:\d\d warning: mind.*?)$", text, re.MULTILINE)
    assert warning.startswith(warning[:9] + "warning: mind the gap the gap") and "left" not in warning
    assert "a library's own" in text and "validation step 20/40" in text and "  reference:  low" in text
    assert max(len(line) for line in text.splitlines()) <= 80


def read(descriptor: int) -> bytes:
    try:
        return os.read(descriptor, 1 << 16)
    except OSError:  # how a pseudo-terminal ends
        return b""


def plain(shown: str) -> str:
    """What is left when the terminal has done as it was told: erased lines are gone."""
    lines: list[str] = [""]
    row = 0
    for token in re.findall(r"\x1b\[[\d;?]*[A-Za-z]|\r\n?|\n|[^\x1b\r\n]+", shown):
        if token.endswith("\n"):
            row += 1
            lines += [""] * (row + 1 - len(lines))
        elif token == "\x1b[2K":
            lines[row] = ""
        elif token == "\x1b[1A":
            row -= 1
        elif not token.startswith(("\x1b", "\r")):
            lines[row] += token
    return "\n".join(lines)


def test_log_handlers_are_as_before(configure: Configure, toy_integration: Integration, caplog: Any) -> None:
    caplog.set_level(logging.INFO)
    handler, before = line_handler(), sys.stderr
    logging.getLogger().addHandler(handler)
    try:
        terminal = Terminal(Console(file=io.StringIO(), force_terminal=True, width=80))
        watcher, _ = watching(configure(), toy_integration, terminal=terminal)
        with pytest.raises(KeyboardInterrupt), watcher:
            assert handler.stream is sys.stderr is not before  # type: ignore[attr-defined]
            raise KeyboardInterrupt
        assert handler.stream is sys.stderr is before and not terminal.has_bar  # type: ignore[attr-defined]
    finally:
        logging.getLogger().removeHandler(handler)


# --- loggers ---------------------------------------------------------------------------------------


def events(output: Path) -> dict[str, list[tuple[int, float]]]:
    """What TensorBoard shows of a run."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    read = EventAccumulator(str(output / "tensorboard"))
    read.Reload()
    return {tag: [(event.step, event.value) for event in read.Scalars(tag)] for tag in read.Tags()["scalars"]}


def test_tensorboard_after_a_kill(run: Run, corpus: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No step twice, and what the record says."""

    class Killed(BaseException):
        pass

    settings: dict[str, Any] = {
        "loggers": ["tensorboard"],
        "data__validation": str(corpus),
        "validation": {"every_steps": 3},
        "checkpoints": {"every_steps": 4},
    }
    step = Stepper._step

    def killed(self: Any, *args: Any) -> Any:
        if args[1] == 6:
            raise Killed
        return step(self, *args)

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(Stepper, "_step", killed)
        run(**settings)
    output = run(resume="auto", **settings)
    shown = events(output)
    trained, validated = metrics(output), metrics(output, "validation")
    assert shown["train/loss"] == [(s, pytest.approx(line["loss"])) for s, line in trained.items()]
    assert [s for s, _ in shown["train/loss"]] == list(range(1, 8))
    rates = [(s, pytest.approx(line["learning_rate"]["bridge"])) for s, line in trained.items()]
    assert shown["train/learning_rate/bridge"] == rates
    assert shown["validation/audio_gain"] == [(s, pytest.approx(line["audio_gain"])) for s, line in validated.items()]
    assert [s for s, _ in shown["validation/wer"]] == [3, 6, 7]


def test_names_of_figures() -> None:
    line = {"kind": "validation", "step": 3, "stage": "x", "wer": None, "cer": 1, "samples": [["a", "b"]]}
    assert dict(scalars(line)) == {"validation/cer": 1.0}
    line = {"kind": "train", "step": 3, "stage": "x", "minutes": 2.0, "learning_rate": {"bridge": 0.5}}
    assert dict(scalars(line)) == {"train/minutes": 2.0, "train/learning_rate/bridge": 0.5}


@pytest.mark.parametrize(("name", "module"), [("tensorboard", "torch.utils.tensorboard"), ("wandb", "wandb")])
def test_a_logger_that_is_not_installed(
    run: Run, configure: Configure, monkeypatch: pytest.MonkeyPatch, name: str, module: str
) -> None:
    monkeypatch.setitem(sys.modules, module, None)  # how Python says that there is no such module
    monkeypatch.setattr(loop, "load", lambda *_, **__: pytest.fail("loaded"))
    with pytest.raises(TrainingError, match=rf'{name} cannot be imported .* run `pip install "nuebridge\[{name}\]"`'):
        run(loggers=[name])
    assert not (configure().output / "metrics.jsonl").exists()


def test_no_logger_needs_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    check_loggers([])


def test_weights_and_biases(run: Run, corpus: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Offline, and gone on with under the same id."""
    wandb = pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    settings: dict[str, Any] = {"loggers": ["wandb"], "data__validation": str(corpus)}
    runs = []
    init = wandb.init

    def noted(**options: Any) -> Any:
        runs.append(options)
        return init(**options)

    monkeypatch.setattr(wandb, "init", noted)
    with pytest.raises(TrainingStopped):
        run(stop_after_minutes=1e-9, **settings)
    output = run(resume="auto", **settings)
    assert len(runs) == 2 and runs[0]["id"] == runs[1]["id"] == (output / "wandb-id.txt").read_text().strip()
    assert runs[1]["resume"] == "allow" and runs[0]["config"]["schedule"]["steps"] == 7
    assert len(list((output / "wandb").glob("offline-run-*/*.wandb"))) == 2


def test_weights_and_biases_that_does_not_start(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    module = types.ModuleType("wandb")

    class Error(Exception):
        pass

    def init(**_: Any) -> Any:
        raise Error("no key")

    module.Error, module.init, module.Settings = Error, init, dict  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "wandb", module)
    with pytest.raises(TrainingError, match=r"wandb does not start \(no key\); run `wandb login`, set WANDB_MODE"):
        run(loggers=["wandb"])


# --- hardware --------------------------------------------------------------------------------------


def test_resident_memory_grows_with_what_is_held() -> None:
    device = torch.device("cpu")
    before = memory_bytes(device)
    held = torch.ones(64 << 20, dtype=torch.uint8)
    assert 48 << 20 < memory_bytes(device) - before < 128 << 20
    del held


def test_the_device_in_words() -> None:
    assert re.fullmatch(r".+, \d+ threads?; torch \d.*, Python 3\.\d+\.\d+", describe(torch.device("cpu")))


def test_the_record_is_json_of_one_line_each(run: Run) -> None:
    text = (run(schedule={"steps": 2}) / "metrics.jsonl").read_text()
    assert [json.loads(line)["step"] for line in text.splitlines()] == [0, 1, 2]

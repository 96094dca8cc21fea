"""``nuebridge transcribe`` from its arguments to its exit status, over the toy plugin's parts."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from nuebridge.cli import _transcribe, main
from nuebridge.plugins import PluginManager
from nuebridge.registry import Registry
from tests.recordings import burst, encode

RATE = 1_000
REGISTRY = """
encoders:
  toy-encoder: {component: toy.encoder, source: ./encoder}
bridges:
  toy-bridge: {component: toy.bridge}
decoders:
  toy-decoder: {component: toy.decoder, source: ./decoder}
integrations:
  toy-model:
    encoder: toy-encoder
    bridge: toy-bridge
    decoder: toy-decoder
    prompt: {prefix: "<s>{context}", defaults: {context: ""}}
    max_new_tokens: {per_second: 0, plus: 6}
    max_audio_seconds: 5.0
default_integration: toy-model
"""


@dataclass(frozen=True)
class Toy:
    """A folder on the path with the toy plugin installed, and a registry file."""

    folder: Path
    paths: tuple[str, str]

    @property
    def registry(self) -> str:
        return str(self.folder / "registry.yaml")


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Toy:
    folder = tmp_path_factory.mktemp("toy")
    information = folder / "site" / "toy_parts-1.0.dist-info"
    information.mkdir(parents=True)
    (information / "METADATA").write_text("Metadata-Version: 2.1\nName: toy-parts\nVersion: 1.0\n")
    (information / "entry_points.txt").write_text("[nuebridge]\ntoy = toy\n")
    paths = (str(folder / "site"), str(Path(__file__).parent))
    sys.path[:0] = paths
    try:
        from toy.parts import write_source

        write_source(folder / "encoder", "encoder", 8)
        write_source(folder / "decoder", "decoder", 8)
    finally:
        del sys.path[: len(paths)]
    (folder / "registry.yaml").write_text(REGISTRY)
    return Toy(folder, paths)


@pytest.fixture
def toy(installed: Toy, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Toy:
    for path in installed.paths:
        monkeypatch.syspath_prepend(path)
    monkeypatch.chdir(tmp_path)
    return installed


@dataclass(frozen=True)
class Done:
    status: int
    out: str
    err: str


Run = Callable[..., Done]


@pytest.fixture
def run(toy: Toy, capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs ``nuebridge transcribe`` in this process."""

    def call(*arguments: str | Path) -> Done:
        capsys.readouterr()
        with pytest.raises(SystemExit) as left:
            main(["transcribe", *map(str, arguments), "--registry", toy.registry])
        captured = capsys.readouterr()
        assert "Traceback" not in captured.err
        return Done(int(left.value.code or 0), captured.out, captured.err)

    return call


def recording(name: str, seconds: float = 2.0, level: float = 0.5) -> Path:
    path = Path(name)
    path.parent.mkdir(parents=True, exist_ok=True)
    return encode(path, burst(seconds, RATE, level=level), RATE)


# --- what is written ---


def test_one_recording_is_its_text(run: Run) -> None:
    done = run(recording("a.wav"))
    assert (done.status, done.out.count("\n")) == (0, 1) and len(done.out) > 1
    assert done.out == run("--data", manifest("m.jsonl", {"audio_filepath": "a.wav"})).out


def test_several_recordings_are_named_and_in_order(run: Run) -> None:
    names = [str(recording(f"{name}.wav", seconds)) for name, seconds in (("b", 1.0), ("a", 4.0), ("c", 2.0))]
    done = run(*names, "--batch-size", "2")
    assert [line.split(": ")[0] for line in done.out.splitlines()] == names
    alone = [run(name).out for name in names]
    assert done.out == "".join(f"{name}: {text}" for name, text in zip(names, alone, strict=True))


def test_jsonl_and_json_have_the_same_fields(run: Run) -> None:
    paths = [recording("a.wav"), recording("b.flac", 12.0)]
    lines = [json.loads(line) for line in run(*paths, "--format", "jsonl").out.splitlines()]
    assert [line["audio_filepath"] for line in lines] == ["a.wav", "b.flac"]
    assert [line["duration"] for line in lines] == [2.0, 12.0]
    assert lines[0]["token_ids"] and len(lines[1]["segments"]) >= 2
    for path, line in zip(paths, lines, strict=True):
        assert json.loads(run(path, "--format", "json").out) == line


def test_an_option_reaches_the_integration(run: Run) -> None:
    path = recording("a.wav")
    line = json.loads(run(path, "--format", "jsonl", "--max-new-tokens", "3").out)
    assert len(line["token_ids"]) <= 3
    assert run(path, "--context", "words").status == 0
    refused = run(path, recording("b.wav"), "--language", "en")
    assert refused.status == 2 and refused.out == ""
    assert refused.err.count("error: ") == 1 and "takes no 'language'" in refused.err


@pytest.mark.parametrize("format", ["txt", "json", "jsonl", "srt", "vtt"])
def test_a_folder_gets_a_file_for_each(run: Run, format: str) -> None:
    paths = [recording("x/a.wav"), recording("b.c.wav", 7.0)]
    done = run(*paths, "--format", format, "--output-dir", "new/texts")
    assert (done.status, done.out) == (0, "")
    assert sorted(path.name for path in Path("new/texts").iterdir()) == sorted([f"a.{format}", f"b.c.{format}"])
    for path, name in zip(paths, ("a", "b.c"), strict=True):
        assert Path(f"new/texts/{name}.{format}").read_bytes().decode() == run(path, "--format", format).out


def manifest(name: str, *lines: dict[str, object]) -> Path:
    Path(name).write_text("".join(json.dumps(line) + "\n" for line in lines))
    return Path(name)


def test_a_manifest_gives_stretches_named_by_their_ids(run: Run) -> None:
    recording("a.wav", 4.0)
    data = manifest(
        "m.jsonl",
        {"audio_filepath": "a.wav", "duration": 2.0, "id": "one/first"},
        {"audio_filepath": "a.wav", "offset": 2.0, "id": "two"},
    )
    done = run("--data", data, "--format", "json", "--output-dir", "out")
    assert done.status == 0
    first, second = (json.loads(Path(f"out/{name}.json").read_text()) for name in ("one_first", "two"))
    assert (first["segments"][0]["start"], second["segments"][0]["start"]) == (0.0, 2.0)
    assert [line.split(": ")[0] for line in run("--data", data).out.splitlines()] == [
        "a.wav (one/first)",
        "a.wav (two)",
    ]


# --- what goes wrong ---


def test_a_bad_recording_is_one_line_and_status_1(run: Run) -> None:
    good = recording("good.wav")
    Path("text.wav").write_text("no audio\n" * 100)
    done = run(good, "text.wav", "missing.wav", good)
    assert done.status == 1
    assert done.out.count("good.wav: ") == 2 and len(done.out.splitlines()) == 2
    assert [line for line in done.err.splitlines() if "cut at 6 tokens" not in line] == [
        "error: text.wav: is not audio, or of a kind that cannot be read",
        "error: missing.wav: no such file",
    ]


def test_warnings_are_seen(run: Run) -> None:
    silent = encode(Path("silent.wav"), np.zeros((2_000, 1)), RATE)
    short = recording("short.wav", 0.05)
    done = run(silent, short)
    assert done.status == 0 and done.out == "silent.wav: \nshort.wav: \n"
    assert [line.split(":")[:3] for line in done.err.splitlines()] == [
        ["warning", " silent.wav", " silent"],
        ["warning", " short.wav", " too short"],
    ]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "nothing to transcribe"),
        (["a.wav", "--data", "m.jsonl"], "not both"),
        (["--data", "missing.jsonl"], "missing.jsonl"),
        (["a.wav", "b.wav", "--format", "srt"], "--output-dir"),
        (["a.wav", "sub/a.wav", "--output-dir", "out"], "a.wav and sub/a.wav would both be written to out/a.txt"),
        (["a.wav", "A.flac", "--output-dir", "out"], "would both be written"),
        (["a.wav", "--output-dir", "file"], "cannot make the folder file"),
        (["a.json", "--format", "json", "--output-dir", "."], "over its own recording"),
        (["a.wav", "--model", "toy-modle"], "toy-model"),
        (["a.wav", "--device", "abacus"], "cannot compute on 'abacus'"),
        (["a.wav", "--dtype", "float12"], "float12"),
        (["a.wav", "--batch-size", "0"], "batch-size"),
        (["a.wav", "--format", "docx"], "docx"),
    ],
)
def test_usage_errors_are_status_2_before_any_work(run: Run, arguments: list[str], words: str) -> None:
    recording("a.wav")
    Path("file").touch()
    done = run(*arguments)
    assert (done.status, done.out) == (2, "") and words in done.err
    assert not Path("out").exists()


def test_two_stretches_without_ids_cannot_share_a_name(run: Run) -> None:
    recording("a.wav")
    line = {"audio_filepath": "a.wav"}
    done = run("--data", manifest("m.jsonl", line, line), "--output-dir", "out")
    assert done.status == 2 and "give the lines of the manifest an id" in done.err


def test_without_a_default_integration_the_next_line_is_named(
    toy: Toy, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    names = ",".join(report.name for report in PluginManager.discover().reports())
    monkeypatch.setenv("NUEBRIDGE_DISABLE", names)
    assert Registry.load(PluginManager.discover()).default_integration is None
    with pytest.raises(SystemExit) as left:
        main(["transcribe", str(recording("a.wav"))])
    assert left.value.code == 2 and 'pip install "nuebridge[all]"' in capsys.readouterr().err


def test_a_failed_write_leaves_nothing_half_written(run: Run) -> None:
    Path("out/a.txt").mkdir(parents=True)
    done = run(recording("a.wav"), "--output-dir", "out")
    assert done.status == 2 and "cannot write out/a.txt" in done.err
    assert [path.name for path in Path("out").iterdir()] == ["a.txt"]


# --- terminals and pipes ---


def test_long_work_has_a_bar_on_a_terminal_only(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_transcribe, "LONG_WORK_SECONDS", 0.0)
    monkeypatch.setenv("TERM", "xterm")
    paths = [recording(f"{n}.wav") for n in range(10)]
    plain = run(*paths, "--batch-size", "1")
    assert "transcribing" not in plain.err and len(plain.out.splitlines()) == 10
    ours, theirs = os.openpty()
    with os.fdopen(theirs, "w") as terminal:
        monkeypatch.setattr(sys, "stderr", terminal)
        assert run(*paths, "--batch-size", "1").out == plain.out
        terminal.flush()
        shown = os.read(ours, 1 << 16).decode()
    os.close(ours)
    assert "transcribing" in shown and "%" in shown


def command(toy: Toy, *arguments: str | Path) -> tuple[list[str], dict[str, str]]:
    line = [sys.executable, "-m", "nuebridge.cli", "transcribe", *map(str, arguments), "--registry", toy.registry]
    return line, {**os.environ, "PYTHONPATH": os.pathsep.join([*toy.paths, str(Path(__file__).parent.parent)])}


def test_a_reader_that_leaves_is_no_error(toy: Toy) -> None:
    line, environment = command(toy, *[recording("a.wav")] * 400, "--batch-size", "1")
    writer = subprocess.Popen(line, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert writer.stdout is not None and writer.stderr is not None
    assert writer.stdout.readline().startswith("a.wav: ")
    writer.stdout.close()
    errors = writer.stderr.read()
    assert writer.wait(60) == 141
    assert all("cut at 6 tokens" in line for line in errors.splitlines())


def test_interrupting_leaves_cleanly(toy: Toy) -> None:
    long = recording("a.wav", 600.0)
    line, environment = command(toy, *[recording("b.wav")] * 4, *[long] * 50, "--batch-size", "1")
    work = subprocess.Popen(line, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert work.stdout is not None
    work.stdout.readline()
    work.send_signal(signal.SIGINT)
    _, errors = work.communicate(timeout=60)
    assert work.returncode == 130
    assert errors.splitlines()[-1] == "interrupted" and "Traceback" not in errors

"""`nuebridge adapt`: options in, an adapter and a table out; and several processes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from nuebridge.cli import main
from nuebridge.lora import read_adapter
from tests.adapt.conftest import NEW_WORDS, write_tones
from tests.conftest import TESTS
from tests.tones import WORDS

Call = Callable[..., tuple[int, str, str]]

DATA = ("--model", "toys", "--data", "new/manifest.jsonl", "--only-warn", "overlap-text")
QUICK = ("--steps", "3", "--set", "data.batch_seconds=5", "--set", "validation.audio_gain=false", "--r", "2")


@pytest.fixture
def call(
    toy_site: Path,
    toy_registry_file: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Call:
    """Runs the verb in this process, beside manifests of both domains: exit status, standard output and error."""
    monkeypatch.syspath_prepend(str(toy_site))
    monkeypatch.setenv("NUEBRIDGE_CONFIG_DIR", str(tmp_path / "config"))
    monkeypatch.chdir(tmp_path)
    write_tones(tmp_path / "new", NEW_WORDS, 24, seed=1, speakers=12)
    write_tones(tmp_path / "old", WORDS, 6, seed=2)
    write_tones(tmp_path / "old-test", WORDS, 3, seed=3)

    def call(*arguments: str) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as left:
            main(["adapt", *arguments, "--registry", str(toy_registry_file)])
        said = capsys.readouterr()
        return int(left.value.code or 0), said.out, said.err

    return call


def test_an_adapter_and_a_table(call: Call, tmp_path: Path) -> None:
    status, out, err = call(
        *(*DATA, *QUICK, "--output", "adapters/tones", "--replay", "old/manifest.jsonl", "--replay-share", "0.5"),
        *("--original-test", "old-test/manifest.jsonl", "--fillers", "um, you know", "--parts", "decoder"),
        *("--learning-rate", "0.001", "--name", "umming", "--group-by", "speaker"),
    )
    assert status == 0, err
    lines = [line.split() for line in out.splitlines()]
    assert lines[0] == ["before", "after"]
    heads = [line for line in out.splitlines() if "domain (" in line]
    assert heads[0].startswith("new domain (") and heads[1].startswith("original domain (3 utterances, 3 words, ")
    names = [line.split("  ")[1].strip() for line in out.splitlines() if line.startswith("  ") and line.strip()]
    assert [name for name in names if name in ("WER", "CER", "insertions", "fillers not said")] == [
        *("WER", "CER", "insertions", "fillers not said"),
        *("WER", "CER", "insertions", "fillers not said"),
    ]
    assert out.splitlines()[-1] == "adapter: adapters/tones" and "Fillers not said (um, you know): " in out
    saved = read_adapter(tmp_path / "adapters/tones")
    assert saved.name == "umming" and list(saved.parts) == ["decoder"] and saved.base.model == "toys"
    assert saved.parts["decoder"] is not None and saved.parts["decoder"].r == 2
    configuration = saved.training[0]["configuration"]
    assert configuration["data"]["train"][0]["weight"] == 1
    assert configuration["parts"]["decoder"]["learning_rate"] == 0.001


def test_json_and_no_original_test(call: Call, tmp_path: Path) -> None:
    status, out, err = call(*DATA, *QUICK, "--output", "tones", "--parts", "bridge", "--json")
    assert status == 0, err
    assert json.loads(out) == json.loads((tmp_path / "tones/results.json").read_text())
    assert json.loads(out)["original_domain"] is None
    status, out, _ = call(*DATA, *QUICK, "--output", "tones", "--parts", "bridge", "--resume", "auto")
    assert status == 0 and "original domain: not measured" in out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--parts", "bridge,ears"], "there is no part 'ears'"),
        (["--parts", ""], "parts"),
        (["--epochs", "2"], "give one of them"),
        (["--replay-share", "0.5"], "--replay-share is of the data of --replay; give that as well"),
        (["--replay", "old/manifest.jsonl", "--replay-share", "1"], "replay_share"),
        (["--data", "nothing.jsonl"], "there is no manifest nothing.jsonl; give the path of a JSON Lines file"),
        (["--original-test", "nothing.jsonl"], "there is no manifest nothing.jsonl"),
        (["--test", "new/manifest.jsonl"], "the test data cannot be used (overlap-audio)"),
        (["--model", "toyz"], "no integration 'toyz'"),
        (["--output", "new"], "new exists and holds something else than an adaptation"),
        (["--only-warn", "overlap"], "there is no overlap 'overlap'"),
        (["--set", "output=x"], "--set output: an adaptation sets this itself; use --output"),
        (["--set", "schedule.stepz=3"], "schedule.stepz: unknown key"),
        (["--target-modules", "nose"], "choose its layers with target_modules"),
        (["--name", "a/b"], "name"),
        (["--device", "cuda:77"], "cannot compute on 'cuda:77'"),
    ],
)
def test_mistakes_are_one_message(call: Call, arguments: list[str], said: str) -> None:
    status, out, err = call(*DATA, *QUICK, "--output", "out", *arguments)
    assert status == 2 and out == ""
    message = err[err.index("error: ") :]
    assert said in message and "Traceback" not in err


SIGTERM_AT = """
import os, signal, sys
from nuebridge.cli import main
from nuebridge.train.step import Stepper

step = Stepper._step

def signalled(self, *args):
    if args[1] == 4:
        os.kill(os.getpid(), signal.SIGTERM)
    return step(self, *args)

Stepper._step = signalled
main(sys.argv[1:])
"""


def several(count: int, command: list[str], folder: Path, site: Path) -> subprocess.CompletedProcess[str]:
    """A command in ``count`` processes under torchrun, or in one without."""
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={count}"] if count > 1 else []
    environ = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(map(str, (site, TESTS, TESTS.parent))),
        "OMP_NUM_THREADS": "1",
    }
    return subprocess.run(
        [sys.executable, *launcher, *command], cwd=folder, env=environ, capture_output=True, text=True
    )


@pytest.mark.slow
def test_stopped_by_a_signal_and_gone_on_with_in_two_processes(
    call: Call, toy_site: Path, toy_registry_file: Path, tmp_path: Path
) -> None:
    (tmp_path / "signalled.py").write_text(SIGTERM_AT)
    words = [*DATA, "--steps", "9", "--set", "data.batch_seconds=5", "--parts", "bridge,decoder", "--lora-dropout", "0"]
    command = ["adapt", *words, "--output", "out", "--resume", "auto", "--registry", str(toy_registry_file)]
    stopped = several(1, ["signalled.py", *command], tmp_path, toy_site)
    assert stopped.returncode == 75, stopped.stderr
    assert "stopped at step 5 of 9; the same command with --resume auto goes on" in stopped.stderr
    both = several(2, ["-m", "nuebridge.cli", *command], tmp_path, toy_site)
    assert both.returncode == 0, both.stderr
    assert both.stdout.count("adapter: out") == 1 and "resuming from step 5" in both.stderr
    status, _, err = call(*words, "--output", "alone")
    assert status == 0, err
    assert (
        json.loads((tmp_path / "out/results.json").read_text())["new_domain"]
        == (json.loads((tmp_path / "alone/results.json").read_text())["new_domain"])
    )

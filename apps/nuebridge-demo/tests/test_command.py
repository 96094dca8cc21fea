"""``nuebridge demo`` as a program."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from gradio_client import Client, handle_file

from nuebridge.cli import main

NUEBRIDGE = [sys.executable, "-m", "nuebridge.cli"]
TOYS = Path(__file__).parents[3] / "tests"


def environment(place) -> dict[str, str]:
    paths = [str(place.site), str(TOYS)]
    return {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(paths),
        "NUEBRIDGE_CONFIG_DIR": str(place.folder / "none"),
        "http_proxy": "http://127.0.0.1:9",
        "https_proxy": "http://127.0.0.1:9",
    }


def test_help_is_light(place) -> None:
    code = (
        "import sys, nuebridge.cli\n"
        "try: nuebridge.cli.main(['demo', '--help'])\n"
        "except SystemExit as done: assert not done.code, done\n"
        "print('heavy:', *(name for name in ('torch', 'gradio', 'numpy') if name in sys.modules))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment(place))
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "heavy:"
    for option in ("--model", "--port", "--host", "--device", "--registry"):
        assert option in done.stdout


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--model", "toy-trainde"], "did you mean 'toy-trained'?"),
        (["--device", "abacus"], "cannot compute on 'abacus'"),
        (["--registry", "no-such-file.yaml"], "no-such-file.yaml"),
    ],
)
def test_mistakes(place, options: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        main(["demo", "--registry", str(place.folder / "registry.yaml"), *options])
    assert left.value.code == 2
    line = capsys.readouterr().err.splitlines()[-1]
    assert line.startswith("error:") and said in line


def test_from_start_to_end(place, tmp_path: Path) -> None:
    """Serves the page, answers, and leaves nothing behind when it is interrupted."""
    temporary, working = tmp_path / "tmp", tmp_path / "work"
    temporary.mkdir()
    working.mkdir()
    options = ["--registry", str(place.folder / "registry.yaml"), "--model", str(place.folder / "trained")]
    program = subprocess.Popen(
        [*NUEBRIDGE, "demo", *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=working,
        env={**environment(place), "TMPDIR": str(temporary)},
    )
    try:
        assert program.stdout is not None
        line = program.stdout.readline()
        assert line.startswith("the demo is at http://127.0.0.1:"), line + program.stderr.read()
        client = Client(line.split()[4], verbose=False)
        audio = handle_file(place.folder / "sample.wav")
        assert client.predict(audio, "trained", 1, api_name="/transcribe")[1] == 3.0
        assert [folder.name.startswith("nuebridge-demo-") for folder in temporary.iterdir()] == [True]
        program.send_signal(signal.SIGINT)
        out, err = program.communicate(timeout=30)
    finally:
        program.kill()
    assert program.returncode == 0, err
    assert "Traceback" not in out + err
    assert list(temporary.iterdir()) == [] and list(working.iterdir()) == []

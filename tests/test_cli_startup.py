"""`nuebridge --help` answers at once, and even where torch is broken."""

from __future__ import annotations

import os
import resource
import statistics
import subprocess
import sys
from pathlib import Path

import pytest

from tests.distributions import Site

COMMAND = """
from nuebridge.hookspecs import CliCommand, hookimpl

@hookimpl
def nuebridge_cli_commands():
    return [CliCommand(name="hail", summary="Hails.", load=lambda: print)]
"""
ROOT = Path(__file__).parent.parent


def run(code: str, **environ: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env={**os.environ, **environ},
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout


@pytest.mark.parametrize("arguments", [["--help"], ["plugins"], ["registry", "list"], ["transcribe", "--help"]])
def test_torch_and_transformers_stay_away(arguments: list[str]) -> None:
    code = (
        "import sys, nuebridge.cli\n"
        f"try:\n    nuebridge.cli.main({arguments})\n"
        "finally:\n    print('loaded:', *(m for m in ('torch', 'transformers') if m in sys.modules))\n"
    )
    assert run(code).splitlines()[-1] == "loaded:"


def test_with_a_broken_torch(tmp_path: Path) -> None:
    (tmp_path / "torch.py").write_text("raise OSError('libtorch.so: wrong ELF class')\n")
    code = "import nuebridge.cli\nnuebridge.cli.main(['plugins'])"
    assert run(code, PYTHONPATH=str(tmp_path)) == run(code)


def test_plugins_without_commands_are_not_imported(tmp_path: Path) -> None:
    site = Site(tmp_path)
    site.plugin("loud-test", "print('imported')\n")
    site.plugin("hail-test", COMMAND)
    code = "import nuebridge.cli\nnuebridge.cli.main(['{}'])"
    help_text = run(code.format("--help"), PYTHONPATH=str(tmp_path))
    assert "Hails." in help_text and "imported" not in help_text
    assert "imported" in run(code.format("plugins"), PYTHONPATH=str(tmp_path))


def test_help_takes_at_most_three_times_as_long_as_importing_typer(tmp_path: Path) -> None:
    """With a plugin that adds a command. Processor time, which a busy machine changes less than the clock."""
    Site(tmp_path).plugin("hail-test", COMMAND)

    def seconds(code: str) -> float:
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        run(code, PYTHONPATH=str(tmp_path))
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

    codes = {"typer": "import typer", "help": "import nuebridge.cli; nuebridge.cli.main(['--help'])"}
    taken: dict[str, list[float]] = {name: [] for name in codes}
    for code in codes.values():
        seconds(code)  # writes the byte code
    for _ in range(9):
        for name, code in codes.items():
            taken[name].append(seconds(code))
    ratio = statistics.median(taken["help"]) / statistics.median(taken["typer"])
    assert ratio <= 3, f"{ratio:.2f} times: {taken}"

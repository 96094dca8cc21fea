"""Conformance as a user runs it: installed, from another folder, for every component that comes with nuebridge."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conformance.combinations import bridges, decoders, encoders, every_component, table


def test_every_component_passes_from_the_command_line(tmp_path: Path) -> None:
    components = every_component()
    assert components
    print()
    for component in components:
        command = [sys.executable, "-m", "pytest", "-q", "--pyargs", "nuebridge.testing", "--component", component]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=1800)
        assert done.returncode == 0, f"{component}\n{done.stdout[-4000:]}\n{done.stderr[-2000:]}"
        (counted,) = re.findall(r"^(\d+) passed", done.stdout, re.MULTILINE)
        assert int(counted) >= 15, component
        print(f"{component}: {counted} checks pass")


def test_the_table_is_as_large_as_promised() -> None:
    """The combinations themselves run with `make test-conformance`, which prints what passed."""
    found = table()
    pairs = len({(one.encoder, one.bridge) for one in found}), len({(one.bridge, one.decoder) for one in found})
    assert pairs == (len(encoders()) * len(bridges()), len(bridges()) * len(decoders()))
    assert len(found) >= 60
    print(f"\n{len(found)} combinations: {pairs[0]} encoder-bridge and {pairs[1]} bridge-decoder pairs, all of them")


@pytest.mark.parametrize(
    "words", [["--component", "bridges.no-such"], ["--component", "hf.causal-lm", "--source", "x"]]
)
def test_a_mistake_is_one_line(words: list[str], tmp_path: Path) -> None:
    command = [sys.executable, "-m", "pytest", "-q", "--pyargs", "nuebridge.testing", *words]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=600)
    assert done.returncode == 4
    assert "Traceback" not in done.stdout + done.stderr
    assert "ERROR: " in done.stderr

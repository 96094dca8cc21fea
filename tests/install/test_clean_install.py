"""Installation as users do it, into fresh environments, and plugins that come from elsewhere.

Takes some minutes: `make test-install`. The tests of this file go on from one another, in their order.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.docs.blocks import ROOT, write_titled

pytestmark = [pytest.mark.install, pytest.mark.timeout(1200)]

TINY = Path("plugins/nuebridge-tiny/src/nuebridge_tiny")


def clean_environment(home: Path) -> dict[str, str]:
    """This process's environment without what would let an installation lean on this checkout."""
    own = str(Path(sys.executable).parent)
    left_out = ("VIRTUAL_ENV", "PYTHONPATH", "VENV", "MAKEFLAGS", "MAKELEVEL", "MFLAGS")
    environment = {name: value for name, value in os.environ.items() if name not in left_out}
    environment["PATH"] = os.pathsep.join(p for p in environment["PATH"].split(os.pathsep) if p != own)
    environment |= {"HF_HUB_OFFLINE": "1", "HF_HOME": str(home / "hub"), "NUEBRIDGE_CONFIG_DIR": str(home / "config")}
    return environment


def copy_checkout(target: Path) -> Path:
    """What git would give a fresh clone, and what is not committed yet."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        check=True,
    )
    for name in listed.stdout.decode().split("\0"):
        if name and (ROOT / name).is_file():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, target / name)
    return target


def words(text: str) -> list[str]:
    return re.findall(r"[a-z']+", text.lower())


def sample_words() -> list[str]:
    return words((ROOT / TINY / "sample.txt").read_text(encoding="utf-8"))


@dataclass
class Machine:
    """A fresh environment, and a working directory that is not a checkout."""

    venv: Path
    folder: Path
    environment: dict[str, str]

    def run(self, *command: str | Path, status: int = 0) -> subprocess.CompletedProcess[str]:
        program, *arguments = map(str, command)
        done = subprocess.run(
            [str(self.venv / "bin" / program), *arguments],
            cwd=self.folder,
            env=self.environment,
            capture_output=True,
            text=True,
        )
        assert done.returncode == status, f"{command} left with {done.returncode}\n{done.stdout}\n{done.stderr}"
        assert "Traceback" not in done.stderr, done.stderr
        return done

    def pip(self, *arguments: str | Path) -> None:
        self.run("python", "-m", "pip", "--quiet", "--disable-pip-version-check", *arguments)

    def plugins(self) -> dict[str, list[dict[str, Any]]]:
        """What `nuebridge plugins` says, by plugin name."""
        by_name: dict[str, list[dict[str, Any]]] = {}
        for plugin in json.loads(self.run("nuebridge", "plugins", "--json").stdout):
            by_name.setdefault(plugin["name"], []).append(plugin)
        return by_name

    def hears_the_sample(self) -> bool:
        return words(self.run("nuebridge", "transcribe", "sample.wav").stdout) == sample_words()


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return copy_checkout(tmp_path_factory.mktemp("clone") / "nuebridge")


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    folder = tmp_path_factory.mktemp("machine")
    subprocess.run([sys.executable, "-m", "venv", folder / "venv"], check=True)
    (folder / "work").mkdir()
    shutil.copy(ROOT / TINY / "sample.wav", folder / "work")
    yield Machine(folder / "venv", folder / "work", clean_environment(folder))
    shutil.rmtree(folder)


def test_make_demo_in_a_fresh_clone(tmp_path: Path) -> None:
    clone = copy_checkout(tmp_path / "clone")
    done = subprocess.run(
        ["make", "demo"], cwd=clone, env=clean_environment(tmp_path), capture_output=True, text=True, timeout=1200
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert words(done.stdout.splitlines()[-1]) == sample_words()
    shutil.rmtree(clone)


def test_the_host_alone_says_what_to_install(machine: Machine, checkout: Path) -> None:
    machine.pip("install", "-c", checkout / "constraints.txt", checkout)
    assert machine.plugins() == {}
    failed = machine.run("nuebridge", "transcribe", "sample.wav", status=2)
    assert 'pip install "nuebridge[all]"' in failed.stderr


def test_everything_from_a_checkout_that_then_goes_away(machine: Machine, checkout: Path) -> None:
    machine.pip("install", "-c", checkout / "constraints.txt", f"{checkout}[all]")
    shutil.rmtree(checkout)
    states = {name: [plugin["state"] for plugin in found] for name, found in machine.plugins().items()}
    assert states == {name: ["loaded"] for name in ("bridges", "demo", "hf", "tiny")}
    machine.run("python", "-m", "pip", "check")
    assert machine.hears_the_sample()


def test_a_plugin_from_outside_is_seen_and_used(machine: Machine, tmp_path: Path) -> None:
    """The one of docs/plugin-guide.md, by its registry entry, with the parts of tiny-en as its neighbours."""
    write_titled(ROOT / "docs/plugin-guide.md", tmp_path / "nuebridge-stack")
    machine.pip("install", tmp_path / "nuebridge-stack")
    (plugin,) = machine.plugins()["stack"]
    assert (plugin["distribution"], plugin["version"], plugin["state"]) == ("nuebridge-stack", "1.0.0", "loaded")
    shutil.copy(tmp_path / "nuebridge-stack/registry.yaml", machine.folder)
    code = "import nuebridge_tiny; print(nuebridge_tiny.__path__[0])"
    tiny = Path(machine.run("python", "-c", code).stdout.strip()) / "model"
    parts = ["--encoder", f"hf.hubert:{tiny / 'encoder'}", "--decoder", f"hf.causal-lm:{tiny / 'decoder'}"]
    machine.run("nuebridge", "compose", *parts, "--bridge", "stack-8x", "--output", "stacked")
    machine.run("nuebridge", "transcribe", "sample.wav", "--model", "./stacked", "--max-new-tokens", "5")
    assert machine.hears_the_sample()


def test_it_can_be_uninstalled_again(machine: Machine) -> None:
    machine.pip("uninstall", "--yes", "nuebridge-stack")
    assert "stack" not in machine.plugins()
    failed = machine.run("nuebridge", "transcribe", "sample.wav", "--model", "./stacked", status=2)
    assert "pip install nuebridge-stack" in failed.stderr
    (machine.folder / "registry.yaml").unlink()
    assert machine.hears_the_sample()


BRIDGE = """
from nuebridge.hookspecs import BridgeComponent, hookimpl

@hookimpl
def nuebridge_bridges():
    {body}
    return [BridgeComponent(name="one", summary="One.", load=dict, contract_version={version})]
"""
OTHERS = {
    "broken-import": ("broken", "import a_library_that_is_not_there"),
    "broken-hook": ("raising", BRIDGE.format(body="raise RuntimeError('no luck today')", version=1)),
    "first-of-two": ("twin", BRIDGE.format(body="", version=1)),
    "second-of-two": ("twin", BRIDGE.format(body="", version=1)),
    "from-the-future": ("future", BRIDGE.format(body="", version=99)),
}
"""Distribution to plugin name and entry module."""


def test_plugins_that_cannot_be_used_stop_nothing(machine: Machine, tmp_path: Path) -> None:
    for distribution, (plugin, code) in OTHERS.items():
        module = distribution.replace("-", "_")
        folder = tmp_path / distribution
        folder.mkdir()
        (folder / f"{module}.py").write_text(code)
        (folder / "pyproject.toml").write_text(
            '[build-system]\nrequires = ["setuptools"]\nbuild-backend = "setuptools.build_meta"\n'
            f'[project]\nname = "{distribution}"\nversion = "1.0"\n'
            f'[project.entry-points.nuebridge]\n{plugin} = "{module}"\n'
            f'[tool.setuptools]\npy-modules = ["{module}"]\n'
        )
    machine.pip("install", *(tmp_path / distribution for distribution in OTHERS))

    found = machine.plugins()
    assert "a_library_that_is_not_there" in found["broken"][0]["reason"]
    assert "no luck today" in found["raising"][0]["reason"]
    assert [plugin["state"] for plugin in found["twin"]] == ["conflict", "conflict"]
    for distribution in ("first-of-two", "second-of-two"):
        assert f"pip uninstall {distribution}" in found["twin"][0]["reason"]
    assert found["future"][0]["state"] == "incompatible"
    assert "99" in found["future"][0]["reason"]
    states = {plugin["state"] for name in ("bridges", "demo", "hf", "tiny") for plugin in found[name]}
    assert states == {"loaded"}

    done = machine.run("nuebridge", "transcribe", "sample.wav")
    assert words(done.stdout) == sample_words()
    for plugin in ("broken", "raising", "twin", "future"):
        assert f"'{plugin}'" in done.stderr
    failed = machine.run("nuebridge", "compose", "--encoder", "hf.hubert:x", "--bridge", "broken.one",
                         "--decoder", "hf.causal-lm:x", "--output", "y", status=2)  # fmt: skip
    assert "a_library_that_is_not_there" in failed.stderr

    machine.pip("uninstall", "--yes", *OTHERS)
    assert set(machine.plugins()) == {"bridges", "demo", "hf", "tiny"}
    clean = machine.run("nuebridge", "transcribe", "sample.wav")
    assert words(clean.stdout) == sample_words()
    assert "plugin" not in clean.stderr


def test_a_new_plugin_from_nothing_to_a_transcript(machine: Machine, tmp_path: Path) -> None:
    """One script, which edits nothing: the package is written, installed, tested, named and used."""
    environment = machine.environment | {"PATH": f"{machine.venv / 'bin'}{os.pathsep}{machine.environment['PATH']}"}
    done = subprocess.run(
        ["bash", ROOT / "tests/install/new_plugin.sh", machine.folder / "sample.wav"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"\d+ passed", done.stdout)
    assert "first  (nuebridge-first 0.1.0)" in done.stdout
    machine.pip("uninstall", "--yes", "nuebridge-first")

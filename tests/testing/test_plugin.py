"""The suite as pytest runs it: from the command line with an installed plugin, and from a plugin's own tests."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from importlib.metadata import entry_points
from pathlib import Path

import pytest

from nuebridge.errors import ConfigError, PluginError
from nuebridge.plugins import PluginManager
from nuebridge.testing import conformance
from nuebridge.testing.subject import EncoderSubject
from nuebridge.testing.suite import subjects
from tests.testing.faults import write_encoder


@pytest.fixture
def run(
    toy_site: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, str]]:
    """pytest in another folder, in this process, with the toy plugin installed and no configuration of ours."""
    monkeypatch.syspath_prepend(str(toy_site))
    monkeypatch.setenv("NUEBRIDGE_DISABLE", "hf,bridges,tiny")
    monkeypatch.delenv("PYTEST_ADDOPTS", raising=False)
    monkeypatch.chdir(tmp_path)

    def run(*words: str) -> tuple[int, str]:
        # An environment that was made before the entry point was there loads the options by name.
        plugin = [] if announced() else ["-p", "nuebridge.testing.plugin"]
        capfd.readouterr()
        status = pytest.main(["-q", "-p", "no:cacheprovider", "-p", "no:randomly", *plugin, *words])
        return int(status), "".join(capfd.readouterr())

    return run


def announced() -> bool:
    return "nuebridge.testing.plugin" in {point.value for point in entry_points(group="pytest11")}


SUITE = ("--pyargs", "nuebridge.testing")


def test_from_the_command_line(run: Callable[..., tuple[int, str]], tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    write_encoder(source)
    status, said = run(*SUITE, "--component", "toy.encoder", "--source", "source", "-k", "lengths or options")
    assert (status, "4 passed" in said) == (0, True), said
    status, said = run(*SUITE, "--component", "toy.bridge", "-k", "padding")
    assert (status, "1 passed" in said) == (0, True), said


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--component", "toy.encodr"], "'toy.encodr' is no component that can be tested"),
        (["--component", "toy.encoder"], "toy.encoder has no examples to be tested with"),
        ([], "name what to test"),
        (["--component", "toy.bridge", "--options", '{"speed": 1}'], "speed"),
        (["--component", "toy.bridge", "--options", "{"], "--options is no JSON"),
    ],
)
def test_a_mistake_is_one_line(run: Callable[..., tuple[int, str]], words: list[str], message: str) -> None:
    status, said = run(*SUITE, *words)
    assert (status, "Traceback" in said, said.count("ERROR: ")) == (4, False, 1), said
    assert message in said


def test_from_the_tests_of_a_plugin(run: Callable[..., tuple[int, str]], tmp_path: Path) -> None:
    """A rule that is broken fails with the rule and what was found, without the suite's own lines."""
    (tmp_path / "test_mine.py").write_text(
        "from tests.testing.faults import LengthsThatRoundUp, write_encoder\n"
        "from nuebridge.testing import conformance\n\n"
        "import toy.parts\n\n"
        "kept = toy.parts.ToyEncoder\n"
        "toy.parts.ToyEncoder = LengthsThatRoundUp\n\n"
        "def teardown_module():\n    toy.parts.ToyEncoder = kept\n\n"
        "TestMine = conformance('toy.encoder', source=write_encoder)\n"
    )
    status, said = run("test_mine.py", "-k", "lengths")
    assert (status, "1 failed, 1 passed" in said) == (1, True), said
    assert "The contract: output_lengths is exact: as many frames as forward gives" in said
    assert "toy.encoder [source]: " in said and "output_lengths says" in said
    assert "nuebridge/testing/" not in said


def test_options_are_there_only_where_the_suite_is_asked_for(
    run: Callable[..., tuple[int, str]], tmp_path: Path
) -> None:
    (tmp_path / "conftest.py").write_text("def pytest_addoption(parser):\n    parser.addoption('--source')\n")
    (tmp_path / "test_it.py").write_text(
        "def test_it(request):\n    assert request.config.getoption('source') == 'x'\n"
    )
    status, said = run("test_it.py", "--source", "x")
    assert status == 0, said


def test_examples_are_subjects(toy_manager: PluginManager) -> None:
    assert [type(one) for one in subjects("toy.encoder", source=write_encoder, manager=toy_manager)] == [EncoderSubject]
    kept = conformance("toy.bridge", manager=toy_manager)
    assert sum(name.startswith("test_") for name in dir(kept)) > 20


def test_what_cannot_be_tested_is_said(toy_manager: PluginManager, tmp_path: Path) -> None:
    for component, arguments, error, message in (
        ("toy.encoder", {}, ConfigError, "has no examples"),
        ("toy.encoder", {"source": tmp_path / "nowhere"}, ConfigError, "is no folder"),
        ("toy.bridge", {"source": tmp_path}, ConfigError, "reads no source"),
        ("toy.bridge", {"options": {"speed": 1}}, ConfigError, "speed"),
        ("toy.coder", {}, PluginError, "toy.encoder, toy.bridge, toy.decoder"),
        ("boy.coder", {}, PluginError, "no plugin 'boy' is installed"),
    ):
        with pytest.raises(error, match=message):
            conformance(component, manager=toy_manager, **arguments)


def test_pytest_is_needed_to_run_and_said_so(monkeypatch: pytest.MonkeyPatch, toy_manager: PluginManager) -> None:
    monkeypatch.setitem(sys.modules, "pytest", None)
    with pytest.raises(ImportError, match="pip install pytest"):
        conformance("toy.bridge", manager=toy_manager)


def test_importing_it_imports_nothing_heavy() -> None:
    """pytest loads the plugin wherever nuebridge is installed."""
    code = (
        "import sys, nuebridge.testing.plugin; print(*(m for m in ('torch', 'pytest', 'pydantic') if m in sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []

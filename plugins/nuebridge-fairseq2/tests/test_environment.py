"""What a user is told where fairseq2 cannot run. These need no fairseq2 and run in every environment."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from nuebridge.errors import PluginError
from nuebridge.hookspecs import SpeechEncoderComponent
from nuebridge.plugins import PluginManager
from nuebridge_fairseq2.environment import SNDFILE, fault, has_library

SOURCE = Path(__file__).parents[1] / "src"
READY = {"fairseq2": "0.8.1", "torch": "2.9.1+cu128"}


def told(versions: dict[str, str], *, library: bool = True) -> str | None:
    return fault(versions.get, lambda: "2.9.1", lambda name: library)


def test_a_fitting_environment_has_no_fault() -> None:
    assert told(READY) is None


@pytest.mark.parametrize(
    ("versions", "words"),
    [
        ({"torch": "2.13.0"}, "fairseq2 is not installed here"),
        ({**READY, "torch": "2.13.0"}, "fairseq2 0.8.1 needs torch 2.9.1, and 2.13.0 is installed"),
        ({"fairseq2": "0.8.1"}, "needs torch 2.9.1, and none is installed"),
        ({**READY, "fairseq2": "0.7.0"}, "reads fairseq2 0.8, and 0.7.0 is installed"),
        ({**READY, "fairseq2": "0.80.0"}, "reads fairseq2 0.8, and 0.80.0 is installed"),
    ],
)
def test_a_fault_begins_with_the_command_that_makes_an_environment(versions: dict[str, str], words: str) -> None:
    line = told(versions)
    assert line is not None and "\n" not in line
    assert line.startswith("run `python3 -m venv .venv-fairseq2 && .venv-fairseq2/bin/pip install nuebridge-fairseq2`")
    assert "`make fairseq2`" in line and words in line


def test_a_missing_libsndfile_is_told_with_its_package() -> None:
    line = told(READY, library=False)
    assert line is not None and line.startswith("run `apt-get install libsndfile1`") and SNDFILE in line


def test_libraries_are_looked_for_by_the_loader() -> None:
    assert has_library("libc.so.6" if sys.platform == "linux" else "libSystem.dylib")
    assert not has_library("libthere-is-none.so.1")


@pytest.fixture
def manager(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> PluginManager:
    """The plugin alone, as pip would leave it, in whatever environment this is."""
    info = tmp_path / "nuebridge_fairseq2-0.1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: nuebridge-fairseq2\nVersion: 0.1.0\n")
    (info / "entry_points.txt").write_text("[nuebridge]\nfairseq2 = nuebridge_fairseq2.plugin\n")
    return PluginManager.discover({}, path=[str(tmp_path)])


def test_the_plugin_says_what_is_wrong_here_or_offers_its_encoders(manager: PluginManager) -> None:
    (report,) = manager.reports()
    reason = fault()
    if reason is None:
        assert [ref.id for ref in report.components] == ["fairseq2.wav2vec2", "fairseq2.w2v-bert"]
        return
    assert report.state == "failed" and report.reason is not None and reason in report.reason
    with pytest.raises(PluginError, match="run `"):
        manager.find(SpeechEncoderComponent, "fairseq2.wav2vec2")


def test_the_entry_module_imports_nothing_heavy() -> None:
    code = (
        f"import sys; sys.path.insert(0, {str(SOURCE)!r}); import nuebridge_fairseq2.plugin;"
        "print({'torch', 'transformers', 'fairseq2', 'fairseq2n'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.stdout.strip() == "set()", done.stderr

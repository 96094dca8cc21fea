"""The plugin that docs/plugins.md builds works as it stands there."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from nuebridge.contracts import Frames
from nuebridge.errors import AudioTooShortError, ConfigError
from nuebridge.hookspecs import BridgeComponent
from nuebridge.plugins import ComponentRef, PluginManager
from nuebridge.registry import Registry
from tests.docs.blocks import ROOT, blocks, write_titled

GUIDE = ROOT / "docs/plugins.md"


def announce(folder: Path, name: str, entry_point: str) -> None:
    """What pip writes beside an installed package, so that its entry point is found."""
    info = folder / f"{name.replace('-', '_')}-1.0.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0.0\n")
    (info / "entry_points.txt").write_text(f"[nuebridge]\n{entry_point}\n")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    write_titled(GUIDE, tmp_path)
    announce(tmp_path / "src", "nuebridge-stack", "stack = nuebridge_stack")
    monkeypatch.syspath_prepend(tmp_path / "src")
    yield tmp_path
    for name in [name for name in sys.modules if name.partition(".")[0] == "nuebridge_stack"]:
        del sys.modules[name]


@pytest.fixture
def component(folder: Path) -> ComponentRef[BridgeComponent]:
    return PluginManager.discover({"NUEBRIDGE_STRICT": "1"}).find(BridgeComponent, "stack.frames")


def test_it_is_found(component: ComponentRef[BridgeComponent]) -> None:
    assert (component.distribution, component.version) == ("nuebridge-stack", "1.0.0")
    assert component.record.summary == "Stacks neighbouring frames, then one linear layer."


def test_it_is_named_by_the_registry(folder: Path, component: ComponentRef[BridgeComponent]) -> None:
    registry = Registry.load(PluginManager.discover(), [folder / "registry.yaml"])
    entry = registry.bridge("stack-8x")
    assert entry.component == component.id
    assert component.parse_options(entry.options).model_dump() == {"factor": 8}
    with pytest.raises(ConfigError, match="factor"):
        component.parse_options({"factr": 8})


def test_it_keeps_the_contract(tmp_path: Path, component: ComponentRef[BridgeComponent]) -> None:
    options = component.parse_options({"factor": 3})
    bridge = component.load().build(5, 7, options)
    features = torch.randn(2, 10, 5)
    lengths = torch.tensor([10, 7])
    out = bridge(Frames(features, lengths).zero_padding())
    assert out.lengths.tolist() == bridge.output_lengths(lengths).tolist() == [3, 2]
    assert out.features.shape == (2, 3, 7)
    assert (out.features[1, 2:] == 0).all()
    alone = bridge(Frames(features[1:, :7], lengths[1:]))
    torch.testing.assert_close(alone.features[0], out.features[1, :2])
    with pytest.raises(AudioTooShortError, match="at least 3"):
        bridge(Frames(features, torch.tensor([10, 2])))

    saved = tmp_path / "saved"
    saved.mkdir()
    bridge.save(saved)
    again = component.load().load(saved, 5, 7, options)
    torch.testing.assert_close(again(Frames(features, lengths)).features, bridge(Frames(features, lengths)).features)


def test_the_command_of_the_guide(tmp_path: Path) -> None:
    (block,) = [block for block in blocks(GUIDE, "python") if "nuebridge_cli_commands" in block.text]
    (tmp_path / "greeting.py").write_text(block.text)
    announce(tmp_path, "nuebridge-greeting", "greeting = greeting")
    program = str(Path(sys.executable).parent / "nuebridge")
    environment = {**os.environ, "PYTHONPATH": str(tmp_path), "NUEBRIDGE_STRICT": "1"}
    done = subprocess.run([program, "hello", "reader"], env=environment, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "hello reader\n"), done.stderr
    listed = subprocess.run([program, "--help"], env=environment, capture_output=True, text=True)
    assert "Greets." in listed.stdout

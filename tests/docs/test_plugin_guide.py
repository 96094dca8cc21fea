"""The plugins that the documentation builds work as they stand there."""

from __future__ import annotations

import inspect
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from toy.parts import write_source

from nuebridge.checkpoint import load, outline
from nuebridge.compose import Workshop, compose
from nuebridge.contracts import Frames, SpeechEncoder
from nuebridge.errors import AudioTooShortError, CheckpointError, ConfigError
from nuebridge.hookspecs import BridgeComponent
from nuebridge.plugins import ComponentRef, PluginManager
from nuebridge.registry import Layer, Registry
from tests.distributions import temporary_site
from tests.docs.blocks import ROOT, blocks, write_titled

GUIDE = ROOT / "docs/plugin-guide.md"
ENSEMBLE = ROOT / "docs/examples/nuebridge-ensemble"


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
    (block,) = [block for block in blocks(ROOT / "docs/plugins.md", "python") if "nuebridge_cli_commands" in block.text]
    (tmp_path / "greeting.py").write_text(block.text)
    announce(tmp_path, "nuebridge-greeting", "greeting = greeting")
    program = str(Path(sys.executable).parent / "nuebridge")
    environment = {**os.environ, "PYTHONPATH": str(tmp_path), "NUEBRIDGE_STRICT": "1"}
    done = subprocess.run([program, "hello", "reader"], env=environment, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "hello reader\n"), done.stderr
    listed = subprocess.run([program, "--help"], env=environment, capture_output=True, text=True)
    assert "Greets." in listed.stdout


def own_tests(folder: Path) -> subprocess.CompletedProcess[str]:
    """Runs the tests of a package whose source folder is as good as installed."""
    path = os.pathsep.join([str(folder / "src"), *filter(None, [os.environ.get("PYTHONPATH")])])
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", "tests"]
    return subprocess.run(
        [*command, "--import-mode=importlib"],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
    )


def test_the_tests_of_the_guide_pass(folder: Path) -> None:
    done = own_tests(folder)
    assert done.returncode == 0, done.stdout + done.stderr
    assert int(re.findall(r"(\d+) passed", done.stdout)[0]) > 10  # the rules of the suite, and one


def test_the_guide_s_part_of_parts_is_one() -> None:
    (block,) = [block for block in blocks(GUIDE, "python") if "class Pair" in block.text]
    names: dict[str, Any] = {}
    exec(compile(block.text, str(block), "exec"), names)
    for name in ("load", "load_in"):
        given = inspect.signature(getattr(names["Pair"], name)).parameters
        assert list(given) == list(inspect.signature(getattr(SpeechEncoder, name)).parameters)


@pytest.fixture
def ensemble(tmp_path: Path) -> Path:
    """A copy of the example, so that nothing is written beside it."""
    shutil.copytree(ENSEMBLE, tmp_path / "ensemble", ignore=shutil.ignore_patterns(".*", "__pycache__"))
    announce(tmp_path / "ensemble/src", "nuebridge-ensemble", "ensemble = nuebridge_ensemble")
    return tmp_path / "ensemble"


def test_the_tests_of_the_ensemble_pass(ensemble: Path) -> None:
    done = own_tests(ensemble)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_ensemble_goes_all_the_way(
    ensemble: Path,
    toy_site: Path,
    toy_registry_file: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Two encoders of another plugin as one: composed, trained a step, looked at, saved whole and in part, loaded."""
    with temporary_site(ensemble / "src") as site:
        manager = PluginManager.discover({}, path=[*site.path, str(toy_site)])
        write_source(tmp_path / "other", "encoder", 8, seed=3)
        (tmp_path / "registry.yaml").write_text(
            "encoders:\n  both:\n    component: ensemble.encoders\n    source: ./\n"
            "    options: {encoders: [chunks, 'toy.encoder:./other']}\n"
        )
        files = [toy_registry_file, tmp_path / "registry.yaml"]
        workshop = Workshop(manager, Registry([Layer("option", file) for file in files]))
        given = {"manager": manager, "registry": workshop.registry}
        integration = compose("both", "pairs", "bytes", "letters", **given)
        assert integration.encoder.hidden_size == 20
        assert integration.part_info["encoder"].distribution == "nuebridge-ensemble"
        waveform = torch.randn(900, generator=torch.Generator().manual_seed(0))
        losses = integration(waveform[None], torch.tensor([900]), ["one"])
        losses.text.backward()
        assert all(parameter.grad is not None for parameter in integration.encoder.parameters())
        expected = integration.transcribe(waveform.numpy(), max_new_tokens=8)[0].token_ids
        integration.save(tmp_path / "all")
        integration.save(tmp_path / "trained", weights="trained")
        assert not (tmp_path / "trained/encoder").exists()
        outlined = outline(str(tmp_path / "all"), replace(workshop, outlines=True))
        assert outlined.encoder.hidden_size == 20
        assert {parameter.device.type for parameter in outlined.encoder.parameters()} == {"meta"}
        for name in ("all", "trained"):
            loaded = load(tmp_path / name, **given)
            assert loaded.weight_hash() == integration.weight_hash()
            assert loaded.transcribe(waveform.numpy(), max_new_tokens=8)[0].token_ids == expected
        shutil.rmtree(tmp_path / "other")
        assert load(tmp_path / "all", **given).weight_hash() == integration.weight_hash()
        with pytest.raises(CheckpointError, match="saved without its encoder"):
            load(tmp_path / "trained", **given)

"""Each bridge between the toy encoder and decoder of the host's tests: composed, trained, saved, listened with."""

from __future__ import annotations

import json
import math
import sys
import wave
from array import array
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from nuebridge.checkpoint import load, save
from nuebridge.compose import Workshop, compose
from nuebridge.config import validate
from nuebridge.errors import SizeMismatchError, TrainingError
from nuebridge.model import Integration
from nuebridge.plugins import PluginManager
from nuebridge.registry import Layer, Registry
from nuebridge.settings import PromptTemplate
from nuebridge.train.config import TrainConfig
from nuebridge.train.loop import train

RATE = 1000
CLIPS = {"one": 1.7, "two": 2.5, "": 1.4, "three": 2.1}
"""Texts, one of them empty, and seconds of the clips that they are learned from."""


@pytest.fixture(scope="session")
def workshop(tmp_path_factory: pytest.TempPathFactory, toys: Path, bridges: dict[str, Any]) -> Workshop:
    """The toy plugin beside this one, and a registry of the tiny bridges."""
    if str(toys) not in sys.path:
        sys.path.append(str(toys))
    from toy.parts import write_source

    folder = tmp_path_factory.mktemp("toys")
    info = folder / "site" / "nuebridge_toy-0.1.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: nuebridge-toy\nVersion: 0.1\n")
    (info / "entry_points.txt").write_text("[nuebridge]\ntoy = toy\n")
    write_source(folder / "encoder", "encoder", 12)
    write_source(folder / "decoder", "decoder", 10, seed=1)
    contents = {
        "encoders": {"chunks": {"component": "toy.encoder", "source": "./encoder"}},
        "bridges": {name: {"component": f"bridges.{kind}", "options": o} for name, (kind, o) in bridges.items()},
        "decoders": {"bytes": {"component": "toy.decoder", "source": "./decoder"}},
        "ctc_heads": {"letters": {"vocabulary": {"symbols": " abcdefghijklmnopqrstuvwxyz"}}},
    }
    (folder / "registry.yaml").write_text(json.dumps(contents))
    manager = PluginManager.discover({}, path=[str(folder / "site"), *sys.path])
    return Workshop(manager, Registry([Layer("option", folder / "registry.yaml")]))


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A manifest of noises."""
    folder = tmp_path_factory.mktemp("corpus")
    lines, generator = [], torch.Generator().manual_seed(0)
    for index, (text, seconds) in enumerate(CLIPS.items()):
        pitch = 0.3 + 0.4 * index
        samples = [round(9000 * math.sin(pitch * i)) for i in range(int(seconds * RATE))]
        noise = (torch.randn(len(samples), generator=generator) * 2000).int().tolist()
        with wave.open(str(folder / f"{index}.wav"), "wb") as file:
            file.setparams((1, 2, RATE, 0, "NONE", ""))
            file.writeframes(array("h", [a + b for a, b in zip(samples, noise, strict=True)]).tobytes())
        lines.append(json.dumps({"audio_filepath": f"{index}.wav", "text": text, "duration": seconds}))
    (folder / "manifest.jsonl").write_text("\n".join(lines) + "\n")
    return folder / "manifest.jsonl"


@pytest.fixture
def composed(workshop: Workshop) -> Callable[..., Integration]:
    def composed(name: str, ctc_head: str | None = "letters") -> Integration:
        return compose(
            "chunks",
            name,
            "bytes",
            ctc_head,
            prompt=PromptTemplate(prefix="<s>", suffix=":"),
            manager=workshop.manager,
            registry=workshop.registry,
        )

    return composed


@pytest.fixture
def run(composed: Callable[..., Integration], workshop: Workshop, corpus: Path, tmp_path: Path) -> Callable[..., Path]:
    """Trains a new integration on one batch again and again; returns the folder of the run."""

    def run(name: str, output: str = "run", steps: int = 6, **losses: Any) -> Path:
        start = tmp_path / f"start-{output}"
        save(composed(name), start)
        data = {
            "model": str(start),
            "output": str(tmp_path / output),
            "data": {"train": [str(corpus)], "batch_seconds": 100.0},
            "schedule": {"steps": steps, "shape": "constant"},
            "parts": {part: {"learning_rate": 0.005} for part in ("encoder", "ctc_head", "bridge", "decoder")},
            "losses": losses,
            "log_every_steps": 1,
        }
        for part in ("encoder", "decoder"):
            data["parts"][part]["train"] = True  # type: ignore[index]
        train(validate(data, TrainConfig, "test"), workshop)
        return tmp_path / output

    return run


def metrics(output: Path) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]
    return [line for line in lines if line["kind"] == "train"]


def test_it_trains_and_transcribes_in_a_batch_and_alone(
    name: str, run: Callable[..., Path], workshop: Workshop, corpus: Path
) -> None:
    output = run(name, ctc=0.3)
    steps = metrics(output)
    assert len(steps) == 6 and steps[-1]["loss"] < steps[0]["loss"]
    assert ("auxiliary_loss" in steps[0]) == name.startswith("cif")
    model = load(output / "final", manager=workshop.manager, registry=workshop.registry)
    clips = [corpus.parent / f"{i}.wav" for i in range(len(CLIPS))]
    together = model.transcribe(clips, batch_size=4, max_new_tokens=6)
    for clip, transcript in zip(clips, together, strict=True):
        (alone,) = model.transcribe(clip, max_new_tokens=6)
        assert alone.token_ids == transcript.token_ids


def test_composed_without_a_head_it_is_refused(name: str, composed: Callable[..., Integration]) -> None:
    if name.startswith("ctc"):
        with pytest.raises(SizeMismatchError, match="CtcBridge compresses by CTC and needs a CTC head; compose with"):
            composed(name, ctc_head=None)
    else:
        assert composed(name, ctc_head=None).ctc_head is None


@pytest.mark.parametrize(("bridge", "learns"), [("ctc-weighted", True), ("ctc-average", False)])
def test_the_text_loss_trains_the_head_through_posteriors_alone(
    bridge: str, learns: bool, composed: Callable[..., Integration]
) -> None:
    model = composed(bridge).train()
    # A head whose best symbol stays: runs of one frame have nothing to weigh.
    assert model.ctc_head is not None
    model.ctc_head.proj.bias.data[3] += 1
    waveforms = torch.randn(2, 2000, generator=torch.Generator().manual_seed(0))
    model(waveforms, torch.tensor([2000, 1700]), ["one", "two"]).text.backward()
    gradient = model.ctc_head.proj.weight.grad
    assert (gradient is not None and bool(gradient.any())) == learns
    assert any(parameter.grad is not None and parameter.grad.any() for parameter in model.encoder.parameters())


def test_the_quantity_loss_is_weighed_by_its_name(run: Callable[..., Path]) -> None:
    without, lightly, heavily = (
        metrics(run("cif", f"run-{weight}", 8, auxiliary={"quantity": weight})) for weight in (0, 1, 20)
    )
    assert without[0]["loss"] == lightly[0]["loss"] == heavily[0]["loss"]
    assert without[0]["auxiliary_loss"] == lightly[0]["auxiliary_loss"] > 1  # a clip: the weight is not in it
    assert without[0]["gradient_norm"] < lightly[0]["gradient_norm"] < heavily[0]["gradient_norm"]
    assert heavily[-1]["auxiliary_loss"] < without[-1]["auxiliary_loss"]


def test_the_weight_of_a_loss_that_nothing_adds_is_an_error(run: Callable[..., Path]) -> None:
    said = (
        r"losses.auxiliary weighs 'quantiti', but no part adds a loss of that name \(those that are added: quantity\)"
    )
    with pytest.raises(TrainingError, match=said):
        run("cif", auxiliary={"quantiti": 0.1})
    with pytest.raises(TrainingError, match=r"'quantity', but .* \(those that are added: none\)"):
        run("conv", "other", auxiliary={"quantity": 0.1})

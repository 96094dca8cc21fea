"""``from-encoder``: the CTC head that an encoder's checkpoint brings along, in compose, the registry and the CLI."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from pydantic import ValidationError
from toy.parts import write_ctc_head

from nuebridge import load
from nuebridge.compose import Workshop, compose
from nuebridge.ctc import CtcHead
from nuebridge.errors import CheckpointError, ConfigError
from nuebridge.registry import Layer, Registry
from nuebridge.settings import CtcVocabulary

UPPER = CtcVocabulary(symbols=("A", "B", " ", "<unk>"), silent=("<unk>",), lowercase=False, uppercase=True)


@pytest.fixture
def workshop(toy_workshop: Workshop, toy_registry_file: Path, tmp_path: Path) -> Workshop:
    """The toys' registry, with an encoder ``heard`` that brings a CTC head along."""
    folder = shutil.copytree(toy_registry_file.parent, tmp_path / "toys")
    shutil.copytree(folder / "encoder", folder / "heard")
    write_ctc_head(folder / "heard", UPPER, 12)
    file = folder / "registry.yaml"
    heard = "  heard: {component: toy.encoder, source: ./heard, license: mit}\n"
    text = file.read_text().replace("bridges:\n", heard + "bridges:\n")
    file.write_text(text + "  with-head: {encoder: heard, bridge: pairs, decoder: bytes, ctc_head: from-encoder}\n")
    return Workshop(toy_workshop.manager, Registry([Layer("option", file)]))


def test_weights_and_vocabulary_come_along(workshop: Workshop, tmp_path: Path) -> None:
    manager, registry = workshop.manager, workshop.registry
    assert [problem for problem in registry.check(manager) if problem.severity == "error"] == []
    model = load("with-head", manager=manager, registry=registry)
    head, encoder = model.ctc_head, model.encoder
    own = type(encoder).own_ctc_head(registry.encoder("heard").source, encoder.options)  # type: ignore[arg-type]
    assert head is not None and own is not None and head.vocabulary == UPPER
    assert torch.equal(head.proj.weight, own.weight) and torch.equal(head.proj.bias, own.bias)
    info = model.part_info["ctc_head"]
    assert (info.component, info.license) == ("ctc-head", "mit") and info.source == model.part_info["encoder"].source
    model.save(tmp_path / "saved")
    again = load(tmp_path / "saved", manager=manager, registry=registry)
    assert again.weight_hash() == model.weight_hash() and again.ctc_head is not None
    assert again.ctc_head.vocabulary == UPPER
    named = compose("heard", "pairs", "bytes", "from-encoder", manager=manager, registry=registry)
    assert named.weight_hash() == model.weight_hash()


def test_an_outline_has_it_too(workshop: Workshop) -> None:
    from nuebridge.checkpoint import outline

    model = outline("with-head", workshop)
    assert model.ctc_head is not None and model.ctc_head.vocabulary == UPPER
    assert model.ctc_head.proj.weight.is_meta


def test_an_encoder_without_one_is_refused(workshop: Workshop) -> None:
    with pytest.raises(CheckpointError, match="brings no CTC head along.*name a CTC head of the registry"):
        compose("chunks", "pairs", "bytes", "from-encoder", manager=workshop.manager, registry=workshop.registry)


def test_weights_of_a_registry_entry_keep_the_head_they_were_trained_with(workshop: Workshop, tmp_path: Path) -> None:
    manager, registry = workshop.manager, workshop.registry
    for name, ctc_head in (("with", "from-encoder"), ("without", None)):
        compose("heard", "pairs", "bytes", ctc_head, manager=manager, registry=registry).save(tmp_path / name)
    file = tmp_path / "more.yaml"
    file.write_text(
        "integrations:\n"
        f"  good: {{ctc_head: from-encoder, weights: {{source: {tmp_path / 'with'}}}}}\n"
        f"  bad: {{ctc_head: from-encoder, weights: {{source: {tmp_path / 'without'}}}}}\n"
    )
    registry = Registry([Layer("option", file)])
    assert load("good", manager=manager, registry=registry).ctc_head is not None
    with pytest.raises(ConfigError, match="ctc_head 'from-encoder', but the weights .* \\(none\\)"):
        load("bad", manager=manager, registry=registry)


def test_no_entry_takes_its_name(workshop: Workshop, tmp_path: Path) -> None:
    file = tmp_path / "r.yaml"
    file.write_text("ctc_heads:\n  from-encoder: {vocabulary: {symbols: abc}}\n")
    problems = Registry([Layer("option", file)]).errors
    assert len(problems) == 1 and "stands for the CTC head of an encoder's checkpoint" in problems[0].message


def test_the_longest_clip_is_the_encoders(workshop: Workshop, monkeypatch: pytest.MonkeyPatch) -> None:
    from toy.parts import ToyEncoder

    def seconds(asked: float | None) -> float | None:
        return compose(
            "chunks",
            "pairs",
            "bytes",
            max_audio_seconds=asked,
            manager=workshop.manager,
            registry=workshop.registry,
        ).max_audio_seconds

    assert seconds(None) is None and seconds(90) == 90
    monkeypatch.setattr(ToyEncoder, "max_audio_seconds", 30.0)
    assert seconds(None) == 30 and seconds(20) == 20
    with pytest.raises(ConfigError, match="max_audio_seconds is 31, but the encoder reads at most 30 s"):
        seconds(31)


def test_symbols_that_stand_for_no_text() -> None:
    head = CtcHead(4, UPPER)
    assert head.encode("ab a<unk>") == [1, 2, 3, 1]
    assert head.decode([1, 4, 1, 0, 2]) == "AAB"
    assert head.unknown("ac") == "C"
    for wrong, message in (
        ({"symbols": "ab", "uppercase": True}, "set one of lowercase and uppercase to false"),
        ({"symbols": "ab", "silent": ("c",)}, "'c' is said to be silent"),
        ({"symbols": "a", "silent": ("a",)}, "every symbol is silent"),
    ):
        with pytest.raises(ValidationError, match=message):
            CtcVocabulary(**wrong)  # type: ignore[arg-type]


def test_published_sizes_do_not_ask_a_hub_for_a_head(workshop: Workshop, tmp_path: Path) -> None:
    from nuebridge.compose import compose_entry
    from nuebridge.registry import IntegrationEntry

    entry = IntegrationEntry(encoder="toy.encoder:org/name", bridge="pairs", decoder="bytes", ctc_head="from-encoder")
    with pytest.raises(CheckpointError, match="the CTC head comes with the checkpoint org/name"):
        compose_entry(entry, replace(workshop, outlines=True, published=True))

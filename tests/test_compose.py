from __future__ import annotations

from pathlib import Path

import pytest
import torch
from toy.parts import ToyBridge, ToyDecoder, ToyEncoder

from nuebridge.compose import Workshop, compose, compose_entry, default_prompt
from nuebridge.contracts import RecognitionOptions
from nuebridge.errors import CheckpointError, PluginError, RegistryError
from nuebridge.model import Integration
from nuebridge.registry import IntegrationEntry, Layer, Registry
from nuebridge.settings import GenerationSettings, PromptTemplate, TokenBudget
from nuebridge.tensors import weight_hash


def make(
    workshop: Workshop, encoder: str = "chunks", bridge: str = "pairs", decoder: str = "bytes", **more: object
) -> Integration:
    return compose(encoder, bridge, decoder, manager=workshop.manager, registry=workshop.registry, **more)  # type: ignore[arg-type]


def test_by_registry_name(toy_workshop: Workshop, toy_registry_file: Path) -> None:
    model = make(toy_workshop, ctc_head="letters", max_audio_seconds=20, language="en")
    assert isinstance(model.encoder, ToyEncoder) and isinstance(model.decoder, ToyDecoder)
    assert isinstance(model.bridge, ToyBridge)
    assert (model.bridge.input_size, model.bridge.output_size) == (12, 16)
    assert model.ctc_head is not None and model.ctc_head.proj.out_features == 28
    assert model.max_audio_seconds == 20 and model.language == "en"
    info = model.part_info["encoder"]
    assert (info.component, info.distribution, info.version) == ("toy.encoder", "nuebridge-toy", "0.1")
    assert info.source == str(toy_registry_file.parent / "encoder") and info.license == "apache-2.0"
    assert info.source_hash == weight_hash({"part": model.encoder})
    assert model.part_info["bridge"].component == "toy.bridge" and model.part_info["bridge"].source is None
    assert model.part_info["ctc_head"].component == "ctc-head"
    assert model.part_info["ctc_head"].distribution == "nuebridge"


@pytest.mark.parametrize("spelling", ["{folder}/{part}", "toy.{part}:{folder}/{part}"])
def test_by_folder_and_by_component(toy_workshop: Workshop, toy_registry_file: Path, spelling: str) -> None:
    named = make(toy_workshop)
    encoder, decoder = (spelling.format(folder=toy_registry_file.parent, part=part) for part in ("encoder", "decoder"))
    model = make(toy_workshop, encoder, "toy.bridge", decoder)
    assert model.weight_hash() == named.weight_hash()
    assert model.part_info["encoder"].source == named.part_info["encoder"].source


def test_the_seed_decides_what_is_new(toy_workshop: Workshop) -> None:
    torch.manual_seed(1)
    first = make(toy_workshop, ctc_head="letters", seed=7)
    torch.manual_seed(2)
    again = make(toy_workshop, ctc_head="letters", seed=7)
    assert again.weight_hash() == first.weight_hash()
    other = make(toy_workshop, ctc_head="letters", seed=8)
    for part in ("bridge", "ctc_head"):
        assert weight_hash({"part": other.parts[part]}) != weight_hash({"part": first.parts[part]})
    for part in ("encoder", "decoder"):
        assert weight_hash({"part": other.parts[part]}) == weight_hash({"part": first.parts[part]})
    without = make(toy_workshop, seed=7)
    assert weight_hash({"part": without.bridge}) == weight_hash({"part": first.bridge})


def test_it_is_ready_to_use(toy_workshop: Workshop) -> None:
    """Dropout is off, so that it gives the same twice."""
    model = make(toy_workshop)
    assert not any(module.training for module in model.modules())
    waveform = torch.randn(700)
    first, second = (model.recognize([waveform], RecognitionOptions())[0] for _ in range(2))
    assert (first.token_ids, first.avg_logprob) == (second.token_ids, second.avg_logprob)


def test_half_precision_parts_are_widened(toy_workshop: Workshop, monkeypatch: pytest.MonkeyPatch) -> None:
    load = ToyDecoder.load
    monkeypatch.setattr(ToyDecoder, "load", lambda *args, **kwargs: load(*args, **kwargs).half())
    model = make(toy_workshop)
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    model.recognize([torch.randn(500)], RecognitionOptions())


def test_without_a_prompt_the_begin_token_opens_it(toy_workshop: Workshop) -> None:
    assert make(toy_workshop).prompt == PromptTemplate(prefix="<s>")
    given = PromptTemplate(prefix="x", suffix="y")
    assert make(toy_workshop, prompt=given).prompt == given


@pytest.mark.parametrize(("token", "prefix"), [(None, ""), ("<s>", "<s>"), ("{b}", "{b}")])
def test_default_prompt(monkeypatch: pytest.MonkeyPatch, token: str | None, prefix: str) -> None:
    decoder = ToyDecoder(8)
    monkeypatch.setattr(decoder, "bos_token_id", None if token is None else 256, raising=False)
    monkeypatch.setattr(decoder, "token", lambda token_id: token)
    assert default_prompt(decoder).prefix.format() == prefix


@pytest.mark.parametrize(
    ("parts", "error", "said"),
    [
        ({"encoder": "chunk"}, RegistryError, "did you mean 'chunks'"),
        ({"bridge": "pears"}, RegistryError, "did you mean 'pairs'"),
        ({"decoder": "byte"}, RegistryError, "did you mean 'bytes'"),
        ({"ctc_head": "leters"}, RegistryError, "did you mean 'letters'"),
        ({"encoder": "toy.encoders:./x"}, PluginError, "toy.encoder"),
        ({"encoder": "wav.chunks:./x"}, PluginError, "no plugin 'wav' is installed"),
        ({"decoder": "toy.encoder:./x"}, PluginError, "'toy.encoder' is a speech encoder, not a text decoder"),
        ({"encoder": "toy.encoder:./nowhere"}, CheckpointError, "config.json is missing"),
        ({"encoder": "./nowhere"}, RegistryError, "no such folder"),
    ],
)
def test_what_is_not_there(toy_workshop: Workshop, parts: dict[str, str], error: type[Exception], said: str) -> None:
    with pytest.raises(error, match=said):
        make(toy_workshop, **parts)  # type: ignore[arg-type]


def test_a_wrong_name_is_found_before_anything_is_loaded(
    toy_workshop: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ToyEncoder, "load", lambda *args, **kwargs: pytest.fail("loaded"))
    for parts in ({"bridge": "pears"}, {"ctc_head": "leters"}):
        with pytest.raises(RegistryError):
            make(toy_workshop, **parts)


def test_an_encoder_where_a_decoder_should_be(toy_workshop: Workshop, toy_registry_file: Path) -> None:
    with pytest.raises(PluginError, match="no installed text decoder claims checkpoints of model_type 'toy-encoder'"):
        make(toy_workshop, decoder=str(toy_registry_file.parent / "encoder"))


def test_an_entry_says_it_all(toy_workshop: Workshop) -> None:
    entry = IntegrationEntry(
        encoder="chunks",
        bridge="pairs",
        decoder="bytes",
        prompt=PromptTemplate(prefix="{language}:"),
        max_new_tokens=TokenBudget(per_second=2, plus=3),
        min_new_tokens=1,
        max_audio_seconds=5,
        language="ja",
    )
    model = compose_entry(entry, toy_workshop)
    assert model.generation == GenerationSettings(max_new_tokens=TokenBudget(per_second=2, plus=3), min_new_tokens=1)
    assert (model.prompt, model.max_audio_seconds, model.language) == (entry.prompt, 5.0, "ja")
    assert model.ctc_head is None


def test_swapping_a_part_is_one_line(toy_workshop: Workshop, toy_registry_file: Path, tmp_path: Path) -> None:
    from toy.parts import write_source

    write_source(tmp_path / "wide", "decoder", 24)
    text = toy_registry_file.read_text().replace("source: ./", f"source: {toy_registry_file.parent}/")
    (tmp_path / "registry.yaml").write_text(text.replace(f"{toy_registry_file.parent}/decoder", "./wide"))
    registry = Registry([Layer("option", tmp_path / "registry.yaml")])
    workshop = Workshop(toy_workshop.manager, registry)
    model = compose_entry(registry.integration("toys"), workshop)
    assert (model.bridge.output_size, model.decoder.hidden_size) == (24, 24)
    model.recognize([torch.randn(500)], RecognitionOptions())

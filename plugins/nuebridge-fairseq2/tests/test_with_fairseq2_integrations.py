"""An encoder of fairseq2's, a bridge and a language model of transformers': composed, trained, saved, loaded, heard."""

from __future__ import annotations

import json
import wave
from pathlib import Path

import pytest
import torch

from nuebridge.checkpoint import load, save
from nuebridge.cli import main
from nuebridge.compose import compose
from nuebridge.contracts import RecognitionOptions
from nuebridge.hookspecs import TextDecoderComponent
from nuebridge.lora import add_lora
from nuebridge.model import Integration
from nuebridge.plugins import PluginManager
from nuebridge.registry import Registry
from nuebridge.settings import LoraSettings
from nuebridge.testing.integrations import clips, need_batch_invariance, need_learning, need_round_trip
from nuebridge_fairseq2.examples import CARDS, write

COMPONENTS = {"base": "wav2vec2", "omnilingual": "wav2vec2", "w2v-bert": "w2v-bert"}


@pytest.fixture(scope="module")
def manager() -> PluginManager:
    return PluginManager.discover()


@pytest.fixture(scope="module")
def decoder(manager: PluginManager, tmp_path_factory: pytest.TempPathFactory) -> Path:
    examples = manager.find(TextDecoderComponent, "hf.causal-lm").record.examples
    assert examples is not None
    folder = tmp_path_factory.mktemp("llama")
    name = next(name for name in examples() if "llama" in name)
    examples()[name](folder)
    return folder


def composed(name: str, manager: PluginManager, decoder: Path, folder: Path) -> Integration:
    (folder / "encoder").mkdir()
    write(folder / "encoder", CARDS[name])
    encoder = f"fairseq2.{COMPONENTS[name]}:{folder / 'encoder'}"
    text = f"hf.causal-lm:{decoder}"
    return compose(encoder, "bridges.conv", text, manager=manager, registry=Registry([]))


@pytest.mark.parametrize("name", COMPONENTS)
def test_it_learns_is_saved_and_transcribes_the_same(
    name: str, manager: PluginManager, decoder: Path, tmp_path: Path
) -> None:
    integration = composed(name, manager, decoder, tmp_path)
    info = integration.part_info["encoder"]
    assert (info.component, info.distribution) == (f"fairseq2.{COMPONENTS[name]}", "nuebridge-fairseq2")
    before, after = need_learning(integration, trained={"encoder": True})
    assert after < before
    transcripts = need_batch_invariance(integration)
    for file in (tmp_path / "encoder").iterdir():
        file.unlink()
    loaded = need_round_trip(integration, tmp_path, manager, Registry([]))
    again = loaded.recognize(clips(loaded), RecognitionOptions(max_new_tokens=5))
    assert [one.token_ids for one in again] == [one.token_ids for one in transcripts]
    config = json.loads((tmp_path / "first" / "encoder" / "config.json").read_text())
    assert config["model_type"] == f"fairseq2-{COMPONENTS[name]}"
    assert integration.max_audio_seconds == (10.24 if name == "w2v-bert" else None)


def test_lora_goes_into_the_encoder(manager: PluginManager, decoder: Path, tmp_path: Path) -> None:
    integration = composed("base", manager, decoder, tmp_path)
    add_lora(integration, "encoder", LoraSettings(r=2), name="more", seed=1)
    names = [name for name, _ in integration.encoder.named_parameters() if "lora_A" in name]
    layers = [f"self_attn.{part}_proj" for part in ("q", "k", "v", "output")]
    for layer in [*layers, "ffn.inner_proj", "ffn.output_proj"]:
        assert sum(f".{layer}." in name for name in names) == 2, layer
    save(integration, tmp_path / "saved")
    loaded = load(tmp_path / "saved", manager=manager, registry=Registry([]))
    ours, theirs = (one.recognize(clips(one), RecognitionOptions(max_new_tokens=5)) for one in (integration, loaded))
    assert [one.token_ids for one in ours] == [one.token_ids for one in theirs]


def test_the_command_line(decoder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(tmp_path, CARDS["large-lv60k"])
    made = str(tmp_path / "made")
    arguments = ["--encoder", f"fairseq2.wav2vec2:{tmp_path / 'tiny.yaml'}", "--bridge", "bridges.conv"]
    finished(["compose", *arguments, "--decoder", f"hf.causal-lm:{decoder}", "--output", made])
    with wave.open(str(tmp_path / "clip.wav"), "wb") as file:
        file.setparams((1, 2, 16_000, 0, "NONE", ""))
        file.writeframes((3000 * torch.randn(16_000)).short().numpy().tobytes())
    capsys.readouterr()
    finished(["transcribe", str(tmp_path / "clip.wav"), "--model", made, "--format", "json"])
    assert json.loads(capsys.readouterr().out)["duration"] == 1.0


def finished(arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as left:
        main(arguments)
    assert left.value.code in (0, None)

"""`nuebridge compose --prompt chat`, and audio that does not fit into a decoder's positions."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch
from ruamel.yaml import YAML
from transformers import GPT2Config, GPT2LMHeadModel

import nuebridge
from nuebridge.cli import main
from nuebridge.compose import compose
from nuebridge.config import parse_yaml
from nuebridge.errors import PromptError
from nuebridge.registry.entries import RegistryContents
from nuebridge.settings import ChatPrompt
from nuebridge_hf.examples.decoders import byte_tokenizer
from nuebridge_hf.options import DecoderOptions
from nuebridge_hf.wav2vec_family import HubertEncoder

TEMPLATE = (
    "{% for m in messages %}<s>{{ m.role }}\n{{ m.content }}</s>{% endfor %}"
    "{% if add_generation_prompt %}<s>bot\n{% endif %}"
)


@pytest.fixture
def parts(make_speech_model, tmp_path, monkeypatch):
    torch.manual_seed(0)
    for name in ("encoder", "decoder"):
        (tmp_path / name).mkdir()
    HubertEncoder(make_speech_model("hubert", "layer")).save(tmp_path / "encoder")
    config = GPT2Config(vocab_size=320, n_embd=16, n_layer=1, n_head=2, n_positions=64, bos_token_id=1, eos_token_id=2)
    GPT2LMHeadModel(config).save_pretrained(tmp_path / "decoder")
    tokenizer = byte_tokenizer()
    tokenizer.chat_template = TEMPLATE
    tokenizer.save_pretrained(tmp_path / "decoder")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("NUEBRIDGE_CONFIG_DIR", str(tmp_path / "no-configuration"))
    return tmp_path


def run(*arguments: str) -> int:
    with pytest.raises(SystemExit) as left:
        main(["compose", "--encoder", "./encoder", "--bridge", "bridges.conv", "--decoder", "./decoder", *arguments])
    return int(left.value.code or 0)


def test_the_command_takes_the_decoders_own_template(parts):
    assert run("--output", "made", "--prompt", "chat", "--system", "Hear.", "--instruction", "Write {audio}") == 0
    config = json.loads((parts / "made" / "config.json").read_text())
    assert config["prompt"]["prefix"] == "<s>system\nHear.</s><s>user\nWrite "
    assert config["prompt"]["suffix"] == "</s><s>bot\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--prompt", "chat", "--prefix", "x"], "leave out --prefix"),
        (["--prompt", "chatty"], "--prompt is 'chatty'; it can be 'chat'"),
        (["--system", "Hear."], "--system goes with --prompt chat"),
        (["--prompt", "chat", "--instruction", "{who}"], "the field 'who'"),
        (["--weights", "some"], "--weights is 'some'; it can be: all, trained"),
    ],
)
def test_options_that_contradict_each_other_are_refused_before_anything_is_read(arguments, message, parts, capsys):
    (parts / "encoder" / "config.json").unlink()  # reading would fail
    assert run("--output", "made", *arguments) == 2
    assert message in " ".join(capsys.readouterr().err.split())
    assert not (parts / "made").exists()


def test_weights_can_be_left_with_their_sources(parts):
    assert run("--output", "made", "--weights", "trained", "--suffix", "</s>") == 0
    assert {path.name for path in (parts / "made").iterdir() if path.is_dir()} == {"bridge"}
    loaded = nuebridge.load(parts / "made")
    assert (loaded.prompt.prefix, loaded.prompt.suffix) == ("<s>", "</s>")


def test_audio_that_does_not_fit_is_refused_with_the_seconds_that_do(parts):
    model = compose("./encoder", "bridges.conv", "./decoder", prompt=ChatPrompt(instruction=""))
    tokens = len(model.decoder.encode(model.prompt.prefix)) + len(model.decoder.encode(model.prompt.suffix))
    fit = model.seconds_that_fit(64 - tokens - 1)
    noise = 0.1 * torch.randn(16_000 * 60)
    most = round(fit * 16_000)
    (transcript,) = model.transcribe(noise[:most])
    assert transcript.segments[0].truncated  # there was room for one token
    with pytest.raises(
        PromptError, match=rf"leaves {64 - tokens - 1}: at most {fit:.1f} s of audio fit.*max_audio_seconds"
    ):
        model.transcribe(noise[: most + 1])
    calls = []
    model.encoder.register_forward_hook(lambda *_: calls.append(1))
    with pytest.raises(PromptError, match="a clip of 60.0 s takes .* positions"):
        model.transcribe(noise)
    assert not calls  # told from the lengths alone
    model.max_audio_seconds = fit  # what the message says helps
    assert model.transcribe(noise[: 3 * most])


def test_a_prompt_that_fills_the_decoder_leaves_no_seconds(parts):
    model = compose("./encoder", "bridges.conv", "./decoder", prompt=ChatPrompt(instruction="x" * 70))
    with pytest.raises(PromptError, match="leaves 0: at most 0.0 s"):
        model.transcribe(0.1 * torch.randn(16_000))


def test_the_examples_of_the_page_on_decoders_are_valid():
    page = (Path(__file__).parents[3] / "docs" / "decoders.md").read_text(encoding="utf-8")
    examples = re.findall(r"```yaml\n(.*?)```", page, flags=re.DOTALL)
    assert len(examples) == 2
    chat, quantized = (parse_yaml(text, RegistryContents, "decoders.md") for text in examples)
    assert chat.integrations["my-chat"].prompt == ChatPrompt()
    DecoderOptions.model_validate(quantized.decoders["my-decoder-4bit"].options)
    for prompt in re.findall(r"`prompt: (\{template.*?\"\})`", page):
        assert ChatPrompt.model_validate(YAML(typ="safe").load(prompt)).instruction == "Transcribe the speech."

"""Chat prompts: a tokenizer's own template becomes a plain prefix and suffix with the audio in the user's turn."""

from __future__ import annotations

import json

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

import nuebridge
from nuebridge.contracts import GenerationOptions
from nuebridge.errors import ConfigError, PromptError, RegistryError
from nuebridge.prompt import render, settled
from nuebridge.settings import ChatPrompt, PromptTemplate
from nuebridge_hf.causal_lm import CausalLm
from nuebridge_hf.examples.decoders import byte_tokenizer, write_pieces
from nuebridge_hf.options import DecoderOptions
from nuebridge_hf.tokenizers import SentencePieceTokenizer

CHATML = """
{%- for message in messages %}
{{- '<|im_start|>' + message.role + '\n' + message.content + '<|im_end|>' + '\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
{{- '<|im_start|>assistant\n' }}
{%- if enable_thinking is defined and enable_thinking is false %}
{{- '<think>\n\n</think>\n\n' }}
{%- endif %}
{%- endif %}
"""
HEADERS = """
{{- bos_token }}
{%- if messages[0].role == 'system' %}
{%- set system = messages[0].content | trim %}{%- set messages = messages[1:] %}
{%- else %}{%- set system = '' %}{%- endif %}
{{- '<|start_header_id|>system<|end_header_id|>\n\nToday is a day.\n\n' + system + '<|eot_id|>' }}
{%- for message in messages %}
{{- '<|start_header_id|>' + message.role + '<|end_header_id|>\n\n' + message.content | trim + '<|eot_id|>' }}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{%- endif %}
"""
TURNS = """
{{- bos_token }}
{%- if messages[0].role == 'system' %}{{ raise_exception('System role not supported') }}{%- endif %}
{%- for message in messages %}
{%- set role = 'model' if message.role == 'assistant' else message.role %}
{{- '<start_of_turn>' + role + '\n' + message.content | trim + '\n<end_of_turn>\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<start_of_turn>model\n' }}{%- endif %}
"""
STYLES = {
    "chatml": (CHATML, ["<|im_start|>", "<|im_end|>"], "<|im_end|>"),
    "headers": (HEADERS, ["<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"], "<|eot_id|>"),
    "turns": (TURNS, ["<start_of_turn>", "<end_of_turn>"], "<end_of_turn>"),
}
EXPECTED = {
    "chatml": (
        "<|im_start|>user\n",
        "\nTranscribe the speech.<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n",
    ),
    "headers": (
        "<s><|start_header_id|>system<|end_header_id|>\n\nToday is a day.\n\n<|eot_id|>"
        "<|start_header_id|>user<|end_header_id|>\n\n",
        "\nTranscribe the speech.<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n",
    ),
    "turns": (
        "<s><start_of_turn>user\n",
        "\nTranscribe the speech.\n<end_of_turn>\n<start_of_turn>model\n",
    ),
}
every_style = pytest.mark.parametrize("style", STYLES)


def model():
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=320, hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2
    )
    return LlamaForCausalLM(config).eval()


def tokenizer_of(style: str):
    template, special, _ = STYLES[style]
    tokenizer = byte_tokenizer()
    tokenizer.add_special_tokens({"additional_special_tokens": special})
    tokenizer.chat_template = template
    return tokenizer


@pytest.fixture
def folder(tmp_path):
    def write(style: str) -> str:
        path = tmp_path / style
        CausalLm(model(), tokenizer_of(style)).model.save_pretrained(path)
        tokenizer_of(style).save_pretrained(path)
        return str(path)

    return write


def load(folder: str) -> CausalLm:
    return CausalLm.load(folder, DecoderOptions()).eval()


@every_style
def test_the_audio_stands_inside_the_users_turn(style, folder):
    prompt = settled(ChatPrompt(), load(folder(style)))
    assert (prompt.prefix, prompt.suffix) == EXPECTED[style]
    assert prompt.fields == ()


@every_style
def test_ids_are_those_of_the_librarys_own_rendering_with_one_begin_token(style, folder):
    decoder = load(folder(style))
    instruction = "What is said? {audio} Write it down."
    prefix, suffix = render(settled(ChatPrompt(instruction=instruction), decoder), {})
    said = instruction.format(audio="AUDIO")
    own = tokenizer_of(style).apply_chat_template(
        [{"role": "user", "content": said}], add_generation_prompt=True, enable_thinking=False, return_dict=False
    )
    assert decoder.encode(prefix + "AUDIO" + suffix) == own
    assert own.count(1) == decoder.encode(prefix).count(1) == (0 if style == "chatml" else 1)


@every_style
def test_the_end_of_a_turn_ends_a_text_and_is_what_training_teaches(style, folder, tmp_path):
    decoder = load(folder(style))
    token = STYLES[style][2]
    (token_id,) = decoder.encode(token)
    assert decoder.eos_token_ids == (2,)
    settled(ChatPrompt(), decoder)
    assert decoder.eos_token_ids == (token_id, 2)
    assert decoder.options.end_tokens == (token,)
    settled(ChatPrompt(), decoder)  # once more changes nothing
    assert decoder.eos_token_ids == (token_id, 2) and decoder.options.end_tokens == (token,)
    head = decoder.model.lm_head
    head.bias = torch.nn.Parameter(torch.zeros(decoder.vocab_size))
    head.bias.data[[token_id, 40]] = torch.tensor([1000.0, 900.0])
    embeds = decoder.embed(torch.tensor([[5, 6]])).detach()
    (found,) = decoder.generate(embeds, torch.ones(1, 2, dtype=torch.int64), GenerationOptions([6], 2))
    assert (found.token_ids, found.truncated) == ([40, 40, token_id], False)
    assert decoder.decode(found.token_ids) == decoder.decode([40, 40])
    # and so does what is made again from what a checkpoint keeps
    decoder.model.lm_head.bias = None
    saved = tmp_path / "saved"
    saved.mkdir()
    decoder.save(saved)
    again = CausalLm.load(str(saved), DecoderOptions.model_validate(decoder.options.model_dump(mode="json")))
    assert again.eos_token_ids == (token_id, 2)


def test_system_texts_and_fields_find_their_places(folder):
    chat = ChatPrompt(
        system="Write {{plain}} {language}.", instruction="Hints: {context}\n{audio}", defaults={"context": "none"}
    )
    prompt = settled(chat, load(folder("chatml")))
    assert prompt.fields == ("language", "context")
    assert render(prompt, {"language": "German"}) == (
        "<|im_start|>system\nWrite {plain} German.<|im_end|>\n<|im_start|>user\nHints: none\n",
        "<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n",
    )


def test_what_a_template_refuses_is_an_error_in_one_line(folder):
    decoder = load(folder("turns"))
    with pytest.raises(
        PromptError, match=r"takes no conversation of system, user \(System role not supported\)"
    ) as caught:
        settled(ChatPrompt(system="Be brief."), decoder)
    assert "\n" not in str(caught.value) and decoder.eos_token_ids == (2,)


def test_a_template_that_drops_what_the_user_says_is_refused():
    tokenizer = byte_tokenizer()
    tokenizer.chat_template = "{{ bos_token }}{% for m in messages %}{{ m.role }}{% endfor %}"
    with pytest.raises(PromptError, match="the audio has no place in it"):
        settled(ChatPrompt(), CausalLm(model(), tokenizer))
    tokenizer.chat_template = "{% for m in messages %}{{ m.content.no.such }}{% endfor %}"
    with pytest.raises(PromptError, match="takes no conversation of user"):
        settled(ChatPrompt(), CausalLm(model(), tokenizer))


def test_a_tokenizer_without_a_template_is_an_error_that_says_what_to_do():
    with pytest.raises(PromptError, match="has no chat template: .* write the prompt's prefix and suffix"):
        settled(ChatPrompt(), CausalLm(model(), byte_tokenizer()))


def test_a_template_without_a_special_end_leaves_the_decoders_own():
    tokenizer = byte_tokenizer()
    tokenizer.chat_template = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
    decoder = CausalLm(model(), tokenizer)
    prompt = settled(ChatPrompt(instruction="Write."), decoder)
    assert (prompt.prefix, prompt.suffix) == ("user: ", "\nWrite.\n")
    assert decoder.eos_token_ids == (2,)


def test_the_default_of_several_templates_is_used():
    tokenizer = byte_tokenizer()
    tokenizer.chat_template = {"rag": "{{ nothing.at.all }}", "default": "{{ messages[0].content }}</s>"}
    decoder = CausalLm(model(), tokenizer)
    assert decoder.chat("hello") == "hello</s>"


@pytest.mark.parametrize("beside", [True, False], ids=["jinja-file", "tokenizer-config"])
def test_templates_of_sentencepiece_tokenizers(beside, tmp_path):
    template = TURNS.replace("<start_of_turn>", "<s>").replace("<end_of_turn>", "</s>")
    write_pieces(tmp_path, **({} if beside else {"chat_template": template}))
    if beside:
        (tmp_path / "chat_template.jinja").write_text(template)
    model().save_pretrained(tmp_path)
    decoder = load(str(tmp_path))
    assert isinstance(decoder.tokenizer, SentencePieceTokenizer)
    assert decoder.chat("hello") == "<s><s>user\nhello\n</s>\n<s>model\n"
    settled(ChatPrompt(), decoder)
    assert decoder.eos_token_ids == (2,)


def test_end_tokens_that_are_none_are_refused(folder):
    with pytest.raises(ConfigError, match="end_tokens has 'never', which is no single token here but 4"):
        CausalLm.load(folder("chatml"), DecoderOptions(end_tokens=("never",)))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"instruction": "{audio} and {audio}"}, "{audio} twice"),
        ({"instruction": "{speaker}"}, "the field 'speaker'"),
        ({"system": "in {audio}"}, "the field 'audio'"),
        ({"instruction": "{"}, "unmatched brace"),
        ({"template": "jinja"}, "chat"),
        ({"defaults": {"task": "x"}}, "does not declare"),
    ],
)
def test_chat_prompts_that_make_no_sense_are_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        ChatPrompt.model_validate(fields)


@pytest.fixture
def parts(make_speech_model, folder, tmp_path, monkeypatch):
    """A registry with a chat integration, in the working folder."""
    from nuebridge_hf.wav2vec_family import HubertEncoder

    (tmp_path / "encoder").mkdir()
    HubertEncoder(make_speech_model("hubert", "layer")).save(tmp_path / "encoder")
    folder("chatml")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write_registry(path, prompt: str):
    path.joinpath("registry.yaml").write_text(
        "integrations:\n  mine:\n    encoder: ./encoder\n    bridge: bridges.conv\n    decoder: ./chatml\n"
        f"    prompt: {prompt}\n"
    )


def test_a_registry_entry_asks_for_it_and_the_checkpoint_keeps_plain_text(parts):
    write_registry(parts, "{template: chat, system: 'Listen.'}")
    first = nuebridge.load("mine")
    assert first.prompt.prefix == "<|im_start|>system\nListen.<|im_end|>\n<|im_start|>user\n"
    write_registry(parts, "chat")
    second = nuebridge.load("mine")
    assert (second.prompt.prefix, second.prompt.suffix) == EXPECTED["chatml"]
    nuebridge.save(second, parts / "saved")
    config = json.loads((parts / "saved" / "config.json").read_text())
    assert config["prompt"] == {"prefix": second.prompt.prefix, "suffix": second.prompt.suffix, "defaults": {}}
    loaded = nuebridge.load(parts / "saved")
    assert type(loaded.prompt) is PromptTemplate and loaded.prompt == second.prompt
    assert loaded.decoder.eos_token_ids == second.decoder.eos_token_ids
    assert loaded.targets(["hi"]).tokens[0][-1] == loaded.decoder.encode("<|im_end|>")[0]


@pytest.mark.parametrize(
    ("prompt", "message"),
    [
        ("chatt", "should be a mapping of keys, not 'chatt'"),
        ("{template: chat, sytem: x}", "unknown key .*did you mean 'system'"),
        ("{template: chatty}", "'chatty' is not known .*chat"),
    ],
)
def test_a_misstated_prompt_is_named_with_its_line(prompt, message, parts):
    write_registry(parts, prompt)
    with pytest.raises(RegistryError, match=f"registry.yaml:6: integrations.mine.prompt.*{message}"):
        nuebridge.load("mine")

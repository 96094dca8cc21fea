"""CTC heads that checkpoints bring along: the library's logits and texts, and vocabularies of every kind."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

import nuebridge
from nuebridge.compose import compose
from nuebridge.ctc import CtcHead
from nuebridge.errors import CheckpointError, ConfigError
from nuebridge.plugins import PluginManager
from nuebridge.registry import Layer, Registry
from nuebridge_hf.examples.encoders import ENCODERS, LOWERCASE, UPPERCASE, write_tokenizer

WITH_HEAD = ["hubert-ctc", "wav2vec2-ctc", "wavlm-ctc", "data2vec-ctc", "w2v-bert-ctc"]
NO_HEAD = ["hubert-group-norm", "wav2vec2-pretraining", "w2v-bert", "whisper"]


def own_head(cases, name: str, folder: Path | None = None, **options):
    source = str(folder or cases.folder(name))
    return cases.part_class(name).own_ctc_head(source, cases.options(name, **options))


@pytest.mark.parametrize("name", WITH_HEAD)
def test_logits_and_texts_are_the_librarys(name, cases, make_clips):
    encoder, own = cases.load(name), own_head(cases, name)
    head = CtcHead.of_checkpoint(own)
    model = cases.theirs(name, head="ForCTC")
    tokenizer = transformers.Wav2Vec2CTCTokenizer.from_pretrained(cases.folder(name))
    blank = model.config.pad_token_id
    assert blank == (0 if "<pad>" in ENCODERS[name].vocabulary else len(LOWERCASE) - 1)
    order = [blank, *(row for row in range(len(ENCODERS[name].vocabulary)) if row != blank)]
    clips, lengths = make_clips([16_001, 48_111])
    with torch.no_grad():
        frames = head(encoder(clips, lengths))
        for row, length in enumerate(lengths.tolist()):
            expected = model(**cases.inputs(name, clips[row, :length])).logits[0]
            count = int(frames.lengths[row])
            torch.testing.assert_close(frames.ctc_logits[row, :count], expected[:count][:, order], atol=2e-5, rtol=1e-5)
            # Its skip_special_tokens drops the blanks before it joins repeats.
            text = tokenizer.decode(expected[:count].argmax(-1))
            for silent in own.vocabulary.silent:
                text = text.replace(silent, "")
            assert head.greedy(frames)[row] == " ".join(text.split())
            assert text


@pytest.mark.parametrize("name", ["wavlm-ctc", "wav2vec2-ctc"])
def test_texts_are_spelled_as_the_tokenizer_does(name, cases):
    head = CtcHead.of_checkpoint(own_head(cases, name))
    tokenizer = transformers.Wav2Vec2CTCTokenizer.from_pretrained(cases.folder(name))
    uppercase = name == "wavlm-ctc"
    assert (head.vocabulary.uppercase, head.vocabulary.lowercase) == (uppercase, not uppercase)
    text = "it's a test"
    blank = tokenizer.pad_token_id
    order = [blank, *(row for row in range(len(ENCODERS[name].vocabulary)) if row != blank)]
    ids = tokenizer(text.upper() if uppercase else text).input_ids
    assert [order[index] for index in head.encode(text)] == ids
    assert head.decode(head.encode(text)) == (text.upper() if uppercase else text)
    special = {"<s>", "</s>", "<unk>"} if uppercase else {"[UNK]"}
    assert set(head.vocabulary.silent) == special
    assert head.decode([head.vocabulary.symbols.index(symbol) + 1 for symbol in special]) == ""
    assert head.encode("<unk>[UNK]é") == (head.encode("unkunk"))


@pytest.mark.parametrize("name", NO_HEAD)
def test_a_checkpoint_without_one_has_none(name, cases):
    assert own_head(cases, name) is None


def test_a_head_reads_the_last_layer(cases):
    assert own_head(cases, "hubert-ctc", layer=-1) is not None
    for layer in (1, "weighted"):
        with pytest.raises(ConfigError, match=f"reads the last layer, but the option layer is {layer}"):
            own_head(cases, "hubert-ctc", layer=layer)


def test_a_pickled_head_is_read_where_that_is_allowed(cases, tmp_path):
    folder = cases.copy("hubert-ctc", tmp_path / "copy")
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match="allow_pickle"):
        own_head(cases, "hubert-ctc", folder)
    found, expected = own_head(cases, "hubert-ctc", folder, allow_pickle=True), own_head(cases, "hubert-ctc")
    assert torch.equal(found.weight, expected.weight) and found.vocabulary == expected.vocabulary


def test_what_cannot_be_read_is_an_error_in_one_line(cases, tmp_path):
    folder = cases.copy("hubert-ctc", tmp_path / "copy")

    def error() -> str:
        with pytest.raises(CheckpointError) as caught:
            own_head(cases, "hubert-ctc", folder)
        assert "\n" not in str(caught.value) and str(folder) in str(caught.value)
        return str(caught.value)

    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "pad_token_id": 5}))
    assert "gives the CTC blank as row 5 (pad_token_id), but its tokenizer has '<pad>' at 0" in error()
    (folder / "config.json").write_text(json.dumps({**config, "pad_token_id": 99}))
    assert "pad_token_id 99" in error() and f"{len(UPPERCASE)} rows" in error()
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "vocab.json").write_text('{"a": "b"}')
    assert "does not map tokens to numbers" in error()
    (folder / "vocab.json").unlink()
    assert "no vocab.json" in error()


def test_rows_without_a_token_and_a_second_space_spell_nothing(cases, tmp_path):
    folder = cases.copy("hubert-ctc", tmp_path / "copy")
    vocabulary = {token: row for row, token in enumerate(UPPERCASE) if token not in "QZ"}
    vocabulary |= {" ": UPPERCASE.index("Q")}
    write_tokenizer(folder, vocabulary)
    own = own_head(cases, "hubert-ctc", folder)
    assert len(own.vocabulary.symbols) == len(UPPERCASE) - 1
    row = UPPERCASE.index("Z")
    assert own.vocabulary.symbols[row - 1] == f"<{row}>"
    assert {f"<{row}>", "<space>"} < set(own.vocabulary.silent)
    assert own.vocabulary.symbols.count(" ") == 1


@pytest.mark.parametrize("letters", ["あいうえお", "aBcD"], ids=["no-case", "both-cases"])
def test_a_vocabulary_without_one_case_leaves_texts_as_they_are(letters, cases, tmp_path):
    folder = cases.copy("hubert-ctc", tmp_path / "copy")
    write_tokenizer(folder, {token: row for row, token in enumerate([*UPPERCASE[:5], *letters])})
    head = CtcHead.of_checkpoint(own_head(cases, "hubert-ctc", folder))
    assert not head.vocabulary.lowercase and not head.vocabulary.uppercase
    assert head.decode(head.encode(letters)) == letters


def test_each_language_has_its_adapters_and_its_head(cases, make_clips, tmp_path):
    name = "wav2vec2-languages"
    clips = make_clips([16_001])
    logits = {}
    for language in (None, "eng", "fra"):
        model = transformers.Wav2Vec2ForCTC.from_pretrained(
            cases.folder(name), target_lang=language, ignore_mismatched_sizes=True
        ).eval()
        options = {} if language is None else {"language": language}
        encoder = cases.load(name, **options)
        own = own_head(cases, name, **options)
        assert ("é" in own.vocabulary.symbols) == (language == "fra")
        with torch.no_grad():
            frames = CtcHead.of_checkpoint(own)(encoder(*clips))
            expected = model(**cases.inputs(name, clips[0][0])).logits
        torch.testing.assert_close(frames.ctc_logits, expected, atol=5e-5, rtol=1e-5)
        logits[language] = frames.ctc_logits
        # saved, it knows whose adapters it has
        saved = tmp_path / str(language)
        saved.mkdir()
        encoder.save(saved)
        with torch.no_grad():
            assert torch.equal(cases.load(name, saved, **options)(*clips).features, frames.features)
        if language == "fra":
            with pytest.raises(CheckpointError, match="holds the adapters of 'fra' alone, not those of 'eng'"):
                cases.load(name, saved, language="eng")
            assert cases.load(name, saved).language_adapters.language == "fra"
    assert torch.equal(logits[None], logits["eng"])
    assert logits["fra"].shape != logits["eng"].shape or not torch.allclose(logits["fra"], logits["eng"], atol=0.1)


def test_languages_that_are_not_there_are_refused(cases, tmp_path):
    name = "wav2vec2-languages"
    with pytest.raises(CheckpointError, match=r"no adapters for the language 'deu'.*there are: eng, fra"):
        cases.load(name, language="deu")
    with pytest.raises(CheckpointError, match="adapter_attn_dim is not set"):
        cases.load("wav2vec2-ctc", language="eng")
    folder = cases.copy(name, tmp_path / "copy")
    state = load_file(folder / "adapter.fra.safetensors")
    state.pop(next(key for key in state if "adapter_layer" in key))
    save_file(state, folder / "adapter.fra.safetensors", metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match="does not fit the encoder"):
        cases.load(name, folder, language="fra")
    torch.save(load_file(folder / "adapter.eng.safetensors"), folder / "adapter.fra.bin")
    (folder / "adapter.fra.safetensors").unlink()
    with pytest.raises(CheckpointError, match="no adapters for the language 'fra'"):
        cases.load(name, folder, language="fra")
    assert cases.load(name, folder, language="fra", allow_pickle=True).language_adapters.language == "fra"
    tokenizer = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps({**tokenizer, "target_lang": None}))
    with pytest.raises(CheckpointError, match=r"each of 2 languages, and none was chosen.*eng, fra"):
        own_head(cases, name, folder)


def test_an_integration_takes_the_head_along(cases, make_clips, make_text_model, tokenizer, tmp_path):
    pytest.importorskip("nuebridge_bridges")
    from nuebridge_hf.causal_lm import CausalLm

    (tmp_path / "decoder").mkdir()
    CausalLm(make_text_model("gpt_neox"), tokenizer).save(tmp_path / "decoder")
    manager = PluginManager.discover()
    shutil.copytree(cases.folder("wav2vec2-ctc"), tmp_path / "encoder")
    (tmp_path / "registry.yaml").write_text(
        "encoders:\n  ears: {component: hf.wav2vec2, source: ./encoder}\n"
        "decoders:\n  pen: {component: hf.causal-lm, source: ./decoder}\n"
        "bridges:\n  pairs: {component: bridges.stacking}\n"
        "integrations:\n  whole: {encoder: ears, bridge: pairs, decoder: pen, ctc_head: from-encoder}\n"
    )
    registry = Registry([Layer("option", tmp_path / "registry.yaml")])
    assert [problem for problem in registry.check(manager) if problem.severity == "error"] == []
    model = nuebridge.load("whole", manager=manager, registry=registry)
    own = own_head(cases, "wav2vec2-ctc")
    assert model.ctc_head.vocabulary == own.vocabulary and torch.equal(model.ctc_head.proj.weight, own.weight)
    assert model.part_info["ctc_head"].source == model.part_info["encoder"].source
    model.save(tmp_path / "saved")
    again = nuebridge.load(tmp_path / "saved", manager=manager, registry=registry)
    clips = make_clips([16_001])
    with torch.no_grad():
        assert torch.equal(again.encode_audio(*clips).ctc_logits, model.encode_audio(*clips).ctc_logits)
    whisper = compose(
        f"hf.whisper:{cases.folder('whisper')}", "bridges.stacking", "pen", manager=manager, registry=registry
    )
    assert whisper.max_audio_seconds == 30.0
    with pytest.raises(ConfigError, match="max_audio_seconds is 31, but the encoder reads no|at most 30 s"):
        compose(
            f"hf.whisper:{cases.folder('whisper')}",
            "bridges.stacking",
            "pen",
            max_audio_seconds=31,
            manager=manager,
            registry=registry,
        )

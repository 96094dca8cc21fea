"""Checkpoints in the published Nue-ASR format give the reference implementation's tokens."""

from __future__ import annotations

import json
import wave
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import GenerationConfig, GPTNeoXConfig, GPTNeoXForCausalLM, HubertConfig, HubertModel

import nuebridge
from nuebridge.contracts import RecognitionOptions
from nuebridge.errors import CheckpointError
from nuebridge.plugins import PluginManager
from nuebridge_hf.nue_asr import load_nue_asr


def read_wave(file: Path) -> Tensor:
    with wave.open(str(file)) as audio:
        samples = np.frombuffer(audio.readframes(audio.getnframes()), np.int16)
    return torch.from_numpy(samples.astype(np.float32) / 32768)


@pytest.fixture
def golden(reference):
    cases = json.loads((reference / "golden.json").read_text())["cases"]
    return [(read_wave(reference / case["wav"]), case) for case in cases]


def test_bridge_values_are_the_references(reference, golden):
    integration = load_nue_asr(reference, MANAGER)
    waves = [waveform for waveform, _ in golden]
    lengths = torch.tensor([len(waveform) for waveform in waves])
    with torch.no_grad():
        frames = integration.embed_audio(nn.utils.rnn.pad_sequence(waves, batch_first=True), lengths)
    for row, (_, case) in enumerate(golden):
        values = frames.features[row, : int(frames.lengths[row])]
        assert len(values) == case["frames"]
        torch.testing.assert_close(values.flatten()[:8], torch.tensor(case["bridge_first"]), rtol=1e-3, atol=1e-3)
        assert float(values.mean()) == pytest.approx(case["bridge_mean"], rel=1e-3)
        assert float(values.abs().max()) == pytest.approx(case["bridge_absmax"], rel=1e-3)


@pytest.mark.parametrize("together", [True, False], ids=["one-batch", "alone"])
def test_tokens_and_texts_are_the_references(together, reference, golden):
    integration = load_nue_asr(reference, MANAGER)
    waves = [waveform for waveform, _ in golden]
    for options, key in (
        (RecognitionOptions(), "tokens"),
        (RecognitionOptions(beam_size=4, max_new_tokens=12), "beam4"),
    ):
        if together:
            found = integration.recognize(waves, options)
        else:
            found = [integration.recognize([waveform], options)[0] for waveform in waves]
        for transcript, (_, case) in zip(found, golden, strict=True):
            assert list(transcript.token_ids) == case[key]
            if key == "tokens":
                assert transcript.text == case["text"]


def test_it_is_recognised_and_saves_in_nuebridges_own_format(reference, golden, tmp_path):
    integration = nuebridge.load(reference)
    nuebridge.save(integration, tmp_path / "own")
    again = nuebridge.load(tmp_path / "own")
    assert again.weight_hash() == integration.weight_hash()
    assert again.storage_dtype == torch.float16
    waveform, case = golden[0]
    assert list(again.recognize([waveform], RecognitionOptions())[0].token_ids) == case["tokens"]
    nuebridge.save(again, tmp_path / "twice")
    for file in (tmp_path / "own").rglob("*"):
        if file.is_file():
            assert file.read_bytes() == (tmp_path / "twice" / file.relative_to(tmp_path / "own")).read_bytes(), file


class Oracle(nn.Module):
    """The format spelled out with transformers' classes and torch's, one clip at a time, nothing cached."""

    def __init__(
        self, encoder: dict[str, Any], decoder: dict[str, Any], kernels: list[int], strides: list[int]
    ) -> None:
        super().__init__()
        torch.manual_seed(0)
        encoder = {"num_conv_pos_embeddings": 16, "num_conv_pos_embedding_groups": 4, **encoder}
        self.audio_encoder = HubertModel(HubertConfig(**encoder))
        width = self.audio_encoder.config.hidden_size
        self.bridge_convs = nn.ModuleList(nn.Conv1d(width, width, k, s) for k, s in zip(kernels, strides, strict=True))
        self.llm = GPTNeoXForCausalLM(GPTNeoXConfig(vocab_size=378, max_position_embeddings=256, **decoder))
        self.bridge_proj = nn.Linear(width, self.llm.config.hidden_size)
        self.kernels, self.strides = kernels, strides
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.add_(0.1 * torch.randn_like(parameter))
        self.eval()

    def prompt(self, waveform: Tensor) -> Tensor:
        hidden = self.audio_encoder(waveform[None]).last_hidden_state.transpose(1, 2)
        for conv in self.bridge_convs:
            hidden = F.gelu(conv(hidden))
        audio = self.bridge_proj(hidden.transpose(1, 2))
        embed = self.llm.get_input_embeddings()
        return torch.cat([embed(torch.tensor([[1]])), audio, embed(torch.tensor([[5]]))], dim=1)

    @torch.no_grad()
    def greedy(self, waveform: Tensor, limit: int, end: int = 2) -> list[int]:
        read, tokens = self.prompt(waveform), []
        while len(tokens) < limit and tokens[-1:] != [end]:
            logits = self.llm(inputs_embeds=read).logits[0, -1]
            if len(tokens) < 2:
                logits[end] = -torch.inf
            tokens.append(int(logits.argmax()))
            read = torch.cat([read, self.llm.get_input_embeddings()(torch.tensor([tokens[-1:]]))], dim=1)
        return tokens

    @torch.no_grad()
    def beam(self, waveform: Tensor, limit: int, pad: int, end: int = 2) -> list[int]:
        prompt = self.prompt(waveform)
        self.llm.generation_config = GenerationConfig()
        config = GenerationConfig(
            num_beams=4, min_new_tokens=2, max_new_tokens=limit, bos_token_id=1, eos_token_id=end, pad_token_id=pad
        )
        mask = torch.ones(prompt.shape[:2], dtype=torch.int64)
        tokens = self.llm.generate(inputs_embeds=prompt, attention_mask=mask, generation_config=config)[0].tolist()
        return tokens[: tokens.index(end) + 1] if end in tokens else tokens

    def teach_to_end(self, waveform: Tensor) -> None:
        """Makes the end token the best one as soon as it is allowed, for most prompts like this one."""
        with torch.no_grad():
            hidden = self.llm.gpt_neox(inputs_embeds=self.prompt(waveform)).last_hidden_state[0, -1]
            self.llm.get_output_embeddings().weight[2] = 4 * hidden / hidden.norm()

    def write(self, folder: Path, reference: Path, *, dtype: torch.dtype = torch.float32, old: bool = False) -> None:
        folder.mkdir()
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.copy_(parameter.to(dtype))
        state = {}
        for name in ("audio_encoder", "llm"):  # under the names that the library writes on disk
            part = getattr(self, name)
            part.save_pretrained(folder / name)
            state |= {f"{name}.{key}": tensor for key, tensor in load_file(folder / name / "model.safetensors").items()}
            for file in (folder / name).iterdir():
                file.unlink()
            (folder / name).rmdir()
        state |= {key: tensor for key, tensor in self.state_dict().items() if key.startswith("bridge_")}
        assert "llm.embed_out.weight" in state
        if old:
            for new, spelling in (("original0", "weight_g"), ("original1", "weight_v")):
                state = {key.replace(f"parametrizations.weight.{new}", spelling): t for key, t in state.items()}
            assert "audio_encoder.encoder.pos_conv_embed.conv.weight_g" in state
            for layer in range(self.llm.config.num_hidden_layers):
                attention = f"llm.gpt_neox.layers.{layer}.attention."
                state[attention + "bias"] = torch.ones(1, 1, 8, 8, dtype=torch.bool)
                state[attention + "masked_bias"] = torch.tensor(-1e9)
                state[attention + "rotary_emb.inv_freq"] = torch.ones(4)
        state = {key: (t.to(dtype) if t.is_floating_point() else t).clone().contiguous() for key, t in state.items()}
        save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
        config = {
            "model_type": "nue_asr",
            "audio_encoder_config": self.audio_encoder.config.to_dict(),
            "llm_config": self.llm.config.to_dict(),
            "bridge_conv_kernel_size": self.kernels,
            "bridge_conv_stride": self.strides,
        }
        (folder / "config.json").write_text(json.dumps(config))
        for name in ("spiece.model", "tokenizer_config.json"):
            (folder / name).write_bytes((reference / name).read_bytes())


MANAGER = PluginManager.discover()

SMALL = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
GROUP = {**SMALL, "conv_dim": (16,) * 7}
LAYER = {**SMALL, "conv_dim": (12,) * 7, "feat_extract_norm": "layer", "conv_bias": True, "do_stable_layer_norm": True}
OTHER_STEM = {**GROUP, "conv_dim": (8, 12, 16), "conv_kernel": (10, 8, 4), "conv_stride": (8, 8, 5)}
NEOX = {"hidden_size": 48, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 96}
SERIAL = {**NEOX, "use_parallel_residual": False, "rotary_pct": 1.0}
VARIANTS: dict[str, dict[str, Any]] = {
    "three-convolutions": {"kernels": [3, 5, 2], "strides": [1, 3, 2], "encoder": GROUP, "decoder": SERIAL},
    "layer-norm-encoder": {"kernels": [4, 4], "strides": [2, 2], "encoder": LAYER, "decoder": SERIAL},
    "other-front-end": {
        "kernels": [6],
        "strides": [4],
        "encoder": {**OTHER_STEM, "num_feat_extract_layers": 3},
        "decoder": {**NEOX, "rotary_pct": 0.25, "use_parallel_residual": True},
    },
    "half-precision": {
        "kernels": [4, 4],
        "strides": [2, 2],
        "encoder": GROUP,
        "decoder": SERIAL,
        "dtype": torch.float16,
    },
    "older-spellings": {"kernels": [4, 4], "strides": [2, 2], "encoder": GROUP, "decoder": NEOX, "old": True},
    "ends": {"kernels": [4, 4], "strides": [2, 2], "encoder": GROUP, "decoder": SERIAL, "ends": True},
    "pad-is-end": {
        "kernels": [4, 4],
        "strides": [2, 2],
        "encoder": GROUP,
        "decoder": NEOX,
        "ends": True,
        "pad": "</s>",
    },
}


@pytest.fixture
def waves():
    torch.manual_seed(5)
    return [0.1 * torch.randn(length) for length in (16_000, 9_999, 24_001)]


@pytest.mark.parametrize("name", VARIANTS)
def test_checkpoints_of_other_sizes_match_the_oracle(name, reference, waves, tmp_path):
    variant = dict(VARIANTS[name])
    dtype, old, ends = (
        variant.pop(key, default) for key, default in (("dtype", torch.float32), ("old", False), ("ends", False))
    )
    pad = variant.pop("pad", None)
    oracle = Oracle(**variant)
    if ends:
        oracle.teach_to_end(waves[0])
    folder = tmp_path / name
    oracle.write(folder, reference, dtype=dtype, old=old)
    if pad is not None:
        file = folder / "tokenizer_config.json"
        file.write_text(json.dumps({**json.loads(file.read_text()), "pad_token": pad}))
    integration = load_nue_asr(folder, MANAGER)
    assert integration.decoder.pad_token_id == (3 if pad is None else 2)
    assert (integration.storage_dtype == dtype) or old
    found = integration.recognize(waves, RecognitionOptions())
    expected = [oracle.greedy(waveform, int(4 * len(waveform) / 16_000 + 20.5)) for waveform in waves]
    assert [list(transcript.token_ids) for transcript in found] == expected
    assert any(tokens[-1] == 2 for tokens in expected) == ends
    found = integration.recognize(waves, RecognitionOptions(beam_size=4, max_new_tokens=9))
    expected = [oracle.beam(waveform, 9, integration.decoder.pad_token_id) for waveform in waves]
    assert [list(transcript.token_ids) for transcript in found] == expected


def test_shards_are_read_and_a_missing_one_is_an_error(reference, golden, tmp_path):
    for name in ("config.json", "spiece.model", "tokenizer_config.json"):
        (tmp_path / name).write_bytes((reference / name).read_bytes())
    state = load_file(reference / "model.safetensors")
    names = sorted(state)
    halves = {"a.safetensors": names[:50], "b.safetensors": names[50:]}
    for file, part in halves.items():
        save_file({name: state[name] for name in part}, tmp_path / file)
    index = {"metadata": {}, "weight_map": {name: file for file, part in halves.items() for name in part}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    waveform, case = golden[0]
    assert (
        list(load_nue_asr(tmp_path, MANAGER).recognize([waveform], RecognitionOptions())[0].token_ids) == case["tokens"]
    )
    (tmp_path / "b.safetensors").unlink()
    with pytest.raises(CheckpointError, match="b.safetensors is missing"):
        load_nue_asr(tmp_path, MANAGER)
    index["weight_map"]["bridge_proj.bias"] = "../elsewhere.safetensors"
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(CheckpointError, match="weight_map"):
        load_nue_asr(tmp_path, MANAGER)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda state: state.pop("bridge_convs.1.bias"), "bridge_convs.1.bias is missing"),
        (lambda state: state.pop("audio_encoder.encoder.layer_norm.bias"), "missing: encoder.layer_norm.bias"),
        (lambda state: state.pop("llm.gpt_neox.final_layer_norm.bias"), "missing: gpt_neox.final_layer_norm.bias"),
        (lambda state: state.update(extra=torch.zeros(1)), "'extra', which belongs to no part"),
        (lambda state: state.update({"bridge_convs.2.bias": torch.zeros(1)}), "bridge_convs.2.bias is not expected"),
        (lambda state: state.update({"bridge_proj.bias": torch.zeros(1)}), "bridge_proj.bias has shape"),
    ],
)
def test_weights_that_do_not_fit_are_an_error(change, message, reference, rewrite_weights, tmp_path):
    for name in ("config.json", "spiece.model", "tokenizer_config.json", "model.safetensors"):
        (tmp_path / name).write_bytes((reference / name).read_bytes())

    def apply(state: dict[str, Tensor]) -> dict[str, Tensor]:
        change(state)
        return state

    rewrite_weights(tmp_path, apply)
    with pytest.raises(CheckpointError, match=message):
        load_nue_asr(tmp_path, MANAGER)


def test_a_configuration_that_lacks_a_field_is_an_error(reference, tmp_path):
    config = json.loads((reference / "config.json").read_text())
    del config["bridge_conv_stride"]
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match="bridge_conv_stride"):
        load_nue_asr(tmp_path, MANAGER)


def test_bfloat16_runs_from_waveform_to_text(reference, golden):
    integration = load_nue_asr(reference, MANAGER).to(torch.bfloat16)
    waves = [waveform for waveform, _ in golden]
    for transcript in integration.recognize(waves, RecognitionOptions(max_new_tokens=5)):
        assert 2 <= len(transcript.token_ids) <= 5

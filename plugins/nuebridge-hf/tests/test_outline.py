"""Outlines: what a checkpoint would be once loaded, told without reading its weights."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from nuebridge.contracts import Bridge, Frames
from nuebridge.errors import CheckpointError
from nuebridge.hookspecs import NoOptions
from nuebridge.model import Integration
from nuebridge.train.estimates import Batch, memory
from nuebridge_hf.causal_lm import CausalLm
from nuebridge_hf.options import DecoderOptions, EncoderOptions
from nuebridge_hf.wav2vec_family import HubertEncoder, Wav2Vec2Encoder

ENCODERS = {"hubert": HubertEncoder, "wav2vec2": Wav2Vec2Encoder}


def layout(part):
    return [(group.name, [tuple(p.shape) for p in group.parameters]) for group in part.parameter_groups()]


@pytest.mark.parametrize("front_end", ["group", "group-stable", "layer"])
@pytest.mark.parametrize("family", ENCODERS)
def test_encoder(family, front_end, make_speech_model, tmp_path):
    kind = ENCODERS[family]
    kind(make_speech_model(family, front_end), normalize=True).save(tmp_path)
    loaded, outline = (read(str(tmp_path), EncoderOptions()) for read in (kind.load, kind.outline))
    assert layout(outline) == layout(loaded)
    assert any(parameter.is_meta for parameter in outline.parameters())
    assert (outline.hidden_size, outline.normalize) == (loaded.hidden_size, True)
    lengths = torch.arange(400, 20_000, 77)
    assert torch.equal(outline.output_lengths(lengths), loaded.output_lengths(lengths))


@pytest.mark.parametrize("family", ["gpt2", "gpt_neox", "qwen2", "gemma2", "opt"])
def test_decoder(family, make_text_model, tokenizer, tmp_path):
    CausalLm(make_text_model(family), tokenizer).save(tmp_path)
    loaded, outline = (read(str(tmp_path), DecoderOptions()) for read in (CausalLm.load, CausalLm.outline))
    assert layout(outline) == layout(loaded)
    assert all(parameter.is_meta for parameter in outline.parameters())
    for name in ("hidden_size", "vocab_size", "max_positions", "eos_token_ids", "bos_token_id", "pad_token_id"):
        assert getattr(outline, name) == getattr(loaded, name), name
    assert outline.encode("HELLO") == loaded.encode("HELLO")


def test_weights_are_looked_for_but_not_read(make_text_model, tokenizer, tmp_path):
    CausalLm(make_text_model("qwen2"), tokenizer).save(tmp_path)
    weights = tmp_path / "model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-1000])
    with pytest.raises(CheckpointError, match=r"model.safetensors is damaged"):
        CausalLm.outline(str(tmp_path), DecoderOptions())
    weights.write_bytes(whole[:-1000] + b"\xff" * 1000)  # a header that fits and weights that are not numbers
    CausalLm.outline(str(tmp_path), DecoderOptions())
    weights.unlink()
    with pytest.raises(CheckpointError, match=r"has no weights"):
        CausalLm.outline(str(tmp_path), DecoderOptions())


class Pairs(Bridge):
    def __init__(self, input_size, output_size):
        super().__init__()
        self.input_size, self.output_size, self.options = input_size, output_size, NoOptions()
        self.conv = nn.Conv1d(input_size, output_size, 2, 2)

    @classmethod
    def build(cls, input_size, output_size, options):
        return cls(input_size, output_size)

    @classmethod
    def load(cls, folder, input_size, output_size, options):
        raise NotImplementedError

    def save(self, folder):
        raise NotImplementedError

    def forward(self, frames, target_lengths=None):
        features = self.conv(frames.features.transpose(1, 2)).transpose(1, 2)
        return Frames(features, frames.lengths // 2)

    def output_lengths(self, lengths):
        return lengths // 2


@pytest.mark.parametrize("trained", [["bridge"], ["encoder", "bridge"], ["encoder", "bridge", "decoder"]], ids=str)
def test_memory_is_what_autograd_keeps(trained, make_speech_model, make_text_model, tokenizer, make_clips):
    """Within a factor of two, for a front end of convolutions and two transformers."""
    encoder = HubertEncoder(make_speech_model("hubert", "layer"))
    decoder = CausalLm(make_text_model("llama"), tokenizer)
    model = Integration(encoder, Pairs(encoder.hidden_size, decoder.hidden_size), decoder)
    for name, part in model.parts.items():
        part.requires_grad_(name in trained)
    model.train()
    clips, lengths = make_clips([16_000] * 3)
    own = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    kept: dict[int, int] = {}

    def keep(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        losses = model(clips, lengths, ["HELLO"] * 3)
    frames = int(encoder.output_lengths(torch.tensor([16_000])))
    batch = Batch(3, 16_000, frames, frames // 2 + 5, frames // 2, 3 * 6)
    assert losses.text_tokens == batch.text_tokens
    found = memory(model, batch, half=False, text_loss=True, checkpointing=False)
    assert found.total is not None
    estimated = found.of["activations"] + found.of["logits"]
    measured = sum(kept.values())
    if trained == ["bridge"]:  # what a frozen encoder needs for a moment is not kept
        assert measured < estimated
    else:
        assert measured / 2 < estimated < measured * 2

"""Decoders whose weights take fewer bits: what they still are, and what they refuse.

Where the quantizing library is not installed, only the error that names it can be tested.
"""

from __future__ import annotations

from importlib.util import find_spec

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

import nuebridge
from nuebridge.contracts import Bridge, Frames
from nuebridge.errors import CheckpointError, ConfigError, TrainingError
from nuebridge.hookspecs import NoOptions
from nuebridge.lora import add_lora, merge
from nuebridge.model import Integration, PartInfo, with_info
from nuebridge.settings import LoraSettings
from nuebridge.tensors import weight_hash
from nuebridge.train.config import TrainConfig
from nuebridge.train.trainable import trainable_groups
from nuebridge_hf.causal_lm import CausalLm
from nuebridge_hf.examples.decoders import byte_tokenizer
from nuebridge_hf.options import DecoderOptions, Quantization
from nuebridge_hf.wav2vec_family import HubertEncoder

METHODS = [("bitsandbytes", 4), ("bitsandbytes", 8), ("torchao", 4), ("torchao", 8)]
IDS = torch.tensor([[40, 97, 12, 26, 5, 77, 130]])


def installed(method: str):
    return find_spec(method) is not None and find_spec("accelerate") is not None


@pytest.fixture
def folder(tmp_path):
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=320,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=128,
    )
    path = tmp_path / "llama"
    LlamaForCausalLM(config).save_pretrained(path)
    byte_tokenizer().save_pretrained(path)
    return str(path)


def options(method: str, bits: int) -> DecoderOptions:
    return DecoderOptions.model_validate({"quantization": {"method": method, "bits": bits}})


@pytest.mark.parametrize("method", ["bitsandbytes", "torchao"])
def test_a_library_that_is_missing_is_named_with_the_command_that_installs_it(method, folder):
    if installed(method):
        pytest.skip(f"{method} is installed here")
    with pytest.raises(ConfigError, match=f"8-bit weights by {method} need .*run `pip install .*{method}"):
        CausalLm.load(folder, options(method, 8))


def test_other_methods_and_widths_are_refused():
    for wrong in ({"method": "magic"}, {"method": "torchao", "bits": 3}, {"method": "torchao", "bit": 4}):
        with pytest.raises(ValueError):
            Quantization.model_validate(wrong)


class Widening(Bridge):
    def __init__(self, input_size, output_size):
        super().__init__()
        self.input_size, self.output_size, self.options = input_size, output_size, NoOptions()
        self.linear = torch.nn.Linear(input_size, output_size)

    @classmethod
    def build(cls, input_size, output_size, options):
        return cls(input_size, output_size)

    @classmethod
    def load(cls, folder, input_size, output_size, options):
        raise NotImplementedError

    def save(self, folder):
        torch.save({}, folder / "nothing")

    def forward(self, frames, target_lengths=None):
        return Frames(self.linear(frames.features), frames.lengths)

    def output_lengths(self, lengths):
        return lengths


@pytest.fixture
def integrate(make_speech_model, folder):
    def make(decoder):
        encoder = HubertEncoder(make_speech_model("hubert", "layer"))
        bridge = Widening(encoder.hidden_size, decoder.hidden_size)
        info = {
            "encoder": PartInfo("hf.hubert", "nuebridge-hf", "0"),
            "bridge": PartInfo("test.widening", "test", "0"),
            "decoder": with_info(PartInfo("hf.causal-lm", "nuebridge-hf", "0", source=folder), decoder),
        }
        return Integration(encoder, bridge, decoder, part_info=info)

    return make


needs_library = [
    pytest.param(
        method,
        bits,
        marks=pytest.mark.skipif(not installed(method), reason=f"{method} is not installed"),
        id=f"{method}-{bits}",
    )
    for method, bits in METHODS
]


@pytest.mark.parametrize(("method", "bits"), needs_library)
def test_it_stays_near_the_model_and_is_the_same_each_time(method, bits, folder):
    full, held = CausalLm.load(folder, DecoderOptions()).eval(), CausalLm.load(folder, options(method, bits)).eval()
    mask = torch.ones_like(IDS)
    with torch.no_grad():
        expected, found = full(full.embed(IDS), mask), held(held.embed(IDS), mask)
    assert 0 < float((expected - found).abs().max()) < (0.3 if bits == 4 else 0.05) * float(expected.abs().max())
    assert weight_hash({"part": held}) == weight_hash({"part": CausalLm.load(folder, options(method, bits))})
    assert not any(parameter.requires_grad for parameter in held.parameters())


@pytest.mark.parametrize(("method", "bits"), needs_library)
def test_it_is_frozen_and_lora_beside_it_learns(method, bits, folder, integrate, make_clips):
    integration = integrate(CausalLm.load(folder, options(method, bits)))
    data = {"model": "x", "output": "y", "data": {"train": ["z"]}, "schedule": {"steps": 1}}
    with pytest.raises(TrainingError, match=f"parts.decoder.train: .* held in {bits} bits by {method}"):
        trainable_groups(integration, TrainConfig.model_validate({**data, "parts": {"decoder": {"train": True}}}))
    integration.freeze("encoder")
    assert not any(parameter.requires_grad for parameter in integration.decoder.parameters())
    added = add_lora(integration, "decoder", LoraSettings(r=2))
    clips, lengths = make_clips([8000, 6000])
    optimizer = torch.optim.Adam([*added, *integration.bridge.parameters()], lr=0.02)
    losses = []
    for _ in range(4):
        loss = integration(clips, lengths, ["one", "two"]).text
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < losses[0]
    with pytest.raises(ConfigError, match="cannot be merged"):
        merge(integration)


@pytest.mark.parametrize(("method", "bits"), needs_library)
def test_it_is_saved_by_naming_its_source(method, bits, folder, integrate, tmp_path):
    decoder = CausalLm.load(folder, options(method, bits))
    with pytest.raises(CheckpointError, match='cannot be written out: .* weights="trained"'):
        decoder.save(tmp_path)
    integration = integrate(decoder).float()
    with pytest.raises(CheckpointError, match="cannot be written out"):
        nuebridge.save(integration, tmp_path / "all")
    assert not (tmp_path / "all").exists()
    before = weight_hash({"part": decoder})
    nuebridge.save(integration, tmp_path / "trained", weights="trained", dtype="bfloat16")
    assert not (tmp_path / "trained" / "decoder").exists() and weight_hash({"part": decoder}) == before

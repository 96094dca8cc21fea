"""LoRA beside the layers of real model classes, and adapter folders that plain peft reads."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from transformers import AutoModel, AutoModelForCausalLM, PreTrainedTokenizerFast

from nuebridge.contracts import Bridge, Frames, Part
from nuebridge.errors import ConfigError
from nuebridge.hookspecs import NoOptions
from nuebridge.lora import (
    add_lora,
    load_adapter,
    lora_parameters,
    merge,
    save_adapter,
    set_adapters,
    to_dtype,
    without_lora,
)
from nuebridge.model import Integration, PartInfo
from nuebridge.settings import LoraSettings
from nuebridge.tensors import load_weights, save_weights, weight_hash
from nuebridge_hf.causal_lm import CausalLm
from nuebridge_hf.options import DecoderOptions, EncoderOptions
from nuebridge_hf.wav2vec_family import HubertEncoder, Wav2Vec2Encoder

SMALL = LoraSettings(r=4, lora_alpha=8, lora_dropout=0.0)
LAYERS = {
    "gpt2": {"attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj"},
    "gpt_neox": {"attention.query_key_value", "attention.dense", "mlp.dense_h_to_4h", "mlp.dense_4h_to_h"},
    "llama": {
        *(f"self_attn.{name}_proj" for name in "qkvo"),
        *(f"mlp.{name}_proj" for name in ("gate", "up", "down")),
    },
    "gemma2": {
        *(f"self_attn.{name}_proj" for name in "qkvo"),
        *(f"mlp.{name}_proj" for name in ("gate", "up", "down")),
    },
}
ENCODERS = {"hubert": HubertEncoder, "wav2vec2": Wav2Vec2Encoder}
Make = Callable[..., Any]


class Pairs(Bridge):
    """Two frames a position."""

    def __init__(self, input_size: int, output_size: int) -> None:
        super().__init__()
        self.input_size, self.output_size, self.options = input_size, output_size, NoOptions()
        self.conv = torch.nn.Conv1d(input_size, output_size, 2, 2)

    @classmethod
    def build(cls, input_size: int, output_size: int, options: Any) -> Pairs:
        return cls(input_size, output_size)

    @classmethod
    def load(cls, folder: Path, input_size: int, output_size: int, options: Any) -> Pairs:
        bridge = cls(input_size, output_size)
        load_weights(bridge, folder)
        return bridge

    def save(self, folder: Path) -> None:
        save_weights(self, folder)

    def forward(self, frames: Frames, target_lengths: torch.Tensor | None = None) -> Frames:
        features = self.conv(frames.features.transpose(1, 2)).transpose(1, 2)
        return Frames(features, frames.lengths // 2).zero_padding()

    def output_lengths(self, lengths: torch.Tensor) -> torch.Tensor:
        return lengths // 2


@pytest.fixture
def make(
    make_text_model: Make, make_speech_model: Make, tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> Callable[..., Integration]:
    """``make(decoder, encoder)``: an integration of tiny parts that were saved and loaded; their sources are known."""

    def make(decoder: str = "gpt_neox", encoder: str = "hubert") -> Integration:
        parts: dict[str, Any] = {}
        info = {}
        for name, part in (
            ("encoder", ENCODERS[encoder](make_speech_model(encoder))),
            ("decoder", CausalLm(make_text_model(decoder), tokenizer)),
        ):
            source = tmp_path / "sources" / f"{name}-{decoder}-{encoder}"
            if not source.exists():
                source.mkdir(parents=True)
                part.save(source)
            options = EncoderOptions() if name == "encoder" else DecoderOptions()
            parts[name] = type(part).load(str(source), options)
            info[name] = PartInfo(f"hf.{name}", "nuebridge-hf", "0", source=str(source))
        torch.manual_seed(4)
        bridge = Pairs(parts["encoder"].hidden_size, parts["decoder"].hidden_size)
        info["bridge"] = PartInfo("test.pairs", "test", "0")
        return Integration(parts["encoder"], bridge, parts["decoder"], part_info=info).eval()

    return make


def trained(integration: Integration, *names: str) -> None:
    """Moves LoRA off the zeros it begins with."""
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for part in integration.parts.values():
            for name in names:
                for parameter in lora_parameters(part, name):
                    parameter += 0.1 * torch.randn(parameter.shape, generator=generator)


def logits(decoder: Any) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    embeds = torch.randn(2, 5, decoder.hidden_size, generator=generator)
    with torch.no_grad():
        return decoder(embeds, torch.ones(2, 5, dtype=torch.int64)).float()


def frames(encoder: Any) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        return encoder(torch.randn(2, 4000, generator=generator), torch.tensor([4000, 2500])).features.float()


def adapted_layers(part: Part) -> set[str]:
    """Names of the layers beside which there is LoRA, numbers and what stands before them left out."""
    names = {name.split(".lora_")[0] for name, _ in part.named_parameters() if ".lora_" in name}
    return {name.split(".", 1)[1] for name in (n.rsplit("layers.", 1)[-1].rsplit("h.", 1)[-1] for n in names)}


@pytest.mark.parametrize("family", sorted(LAYERS))
def test_every_linear_layer_but_the_head(
    make: Callable[..., Integration], digests: Callable[[Path], dict[str, str]], tmp_path: Path, family: str
) -> None:
    integration = make(family)
    decoder = integration.decoder
    before, digest = logits(decoder), weight_hash({"part": decoder})
    groups = [(group.name, [id(p) for p in group.parameters]) for group in decoder.parameter_groups()]
    flags = [p.requires_grad for p in decoder.parameters()]
    add_lora(integration, "decoder", SMALL, name="a")
    assert adapted_layers(decoder) == LAYERS[family]
    assert torch.equal(logits(decoder), before)
    trained(integration, "a")
    assert not torch.allclose(logits(decoder), before, atol=1e-2)
    with without_lora(decoder):
        assert torch.equal(logits(decoder), before) and weight_hash({"part": decoder}) == digest
        assert [(group.name, [id(p) for p in group.parameters]) for group in decoder.parameter_groups()] == groups
        assert [p.requires_grad for p in decoder.parameters()] == flags
        (tmp_path / "saved").mkdir()
        decoder.save(tmp_path / "saved")
    assert digests(tmp_path / "saved") == digests(Path(str(integration.part_info["decoder"].source)))
    set_adapters(integration, {})
    assert torch.equal(logits(decoder), before)


@pytest.mark.parametrize("family", sorted(LAYERS))
def test_merged_it_is_the_same_and_saves_as_a_plain_model(
    make: Callable[..., Integration], tmp_path: Path, family: str
) -> None:
    integration = make(family)
    plain = sorted(name for name, _ in integration.decoder.named_parameters())
    add_lora(integration, "decoder", SMALL, name="a")
    add_lora(integration, "decoder", LoraSettings(r=2), name="b", seed=5)
    trained(integration, "a", "b")
    set_adapters(integration, {"a": 0.7, "b": -0.4})
    expected = logits(integration.decoder)
    assert merge(integration) == ["a", "b"]
    torch.testing.assert_close(logits(integration.decoder), expected, atol=1e-4, rtol=1e-4)
    assert sorted(name for name, _ in integration.decoder.named_parameters()) == plain
    (tmp_path / "merged").mkdir()
    integration.decoder.save(tmp_path / "merged")
    again = CausalLm.load(str(tmp_path / "merged"), DecoderOptions()).eval()
    assert torch.equal(logits(again), logits(integration.decoder))
    assert not hasattr(integration.decoder.model, "peft_config")


@pytest.mark.parametrize("family", sorted(LAYERS))
def test_plain_peft_reads_the_decoders_folder(make: Callable[..., Integration], tmp_path: Path, family: str) -> None:
    integration = make(family)
    add_lora(integration, "decoder", SMALL, name="a")
    trained(integration, "a")
    save_adapter(integration, "a", tmp_path / "adapter")
    config = json.loads((tmp_path / "adapter/decoder/adapter_config.json").read_text())
    base = config["base_model_name_or_path"]
    assert base == integration.part_info["decoder"].source and config["task_type"] == "CAUSAL_LM"
    # 4.57's sdpa leaves out the soft-capping of attention that some models have.
    model = AutoModelForCausalLM.from_pretrained(base, attn_implementation="eager")
    with torch.no_grad():
        embeds = torch.randn(2, 5, integration.decoder.hidden_size, generator=torch.Generator().manual_seed(1))
        without = model(inputs_embeds=embeds).logits
        wrapped = peft.PeftModel.from_pretrained(model, str(tmp_path / "adapter/decoder")).eval()
        heard = wrapped(inputs_embeds=embeds).logits
        ours = integration.decoder.model(inputs_embeds=embeds).logits
    torch.testing.assert_close(heard, ours, atol=1e-6, rtol=1e-6)
    assert not torch.allclose(heard, without, atol=1e-2)
    assert peft.AutoPeftModelForCausalLM.from_pretrained(str(tmp_path / "adapter/decoder")) is not None


@pytest.mark.parametrize("family", sorted(ENCODERS))
def test_encoders(make: Callable[..., Integration], tmp_path: Path, family: str) -> None:
    integration = make("llama", family)
    encoder = integration.encoder
    before = frames(encoder)
    add_lora(integration, "encoder", LoraSettings(r=4, lora_dropout=0.0, target_modules=("q_proj", "k_proj")), name="a")
    assert adapted_layers(encoder) == {"attention.q_proj", "attention.k_proj"}
    add_lora(integration, "encoder", SMALL, name="all")
    assert adapted_layers(encoder) > {"attention.v_proj", "attention.out_proj", "feed_forward.intermediate_dense"}
    assert torch.equal(frames(encoder), before)
    trained(integration, "a", "all")
    set_adapters(integration, {"all": 1.0})
    adapted = frames(encoder)
    assert not torch.allclose(adapted, before, atol=1e-2)
    save_adapter(integration, "all", tmp_path / "adapter")
    base = AutoModel.from_pretrained(str(integration.part_info["encoder"].source))
    wrapped = peft.PeftModel.from_pretrained(base, str(tmp_path / "adapter/encoder")).eval()
    wave = torch.randn(1, 4000, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        theirs = wrapped(wave).last_hidden_state
        torch.testing.assert_close(
            integration.encoder(wave, torch.tensor([4000])).features, theirs, atol=1e-4, rtol=1e-4
        )
    merge(integration)
    torch.testing.assert_close(frames(encoder), adapted, atol=1e-4, rtol=1e-4)


def test_an_adapter_loads_onto_a_fresh_copy(make: Callable[..., Integration], tmp_path: Path) -> None:
    integration, other = make("gpt2"), make("gpt2")
    for part in ("encoder", "decoder"):
        add_lora(integration, part, SMALL, name="a")
    trained(integration, "a")
    save_adapter(integration, "a", tmp_path / "adapter")
    load_adapter(other, tmp_path / "adapter")
    assert torch.equal(logits(other.decoder), logits(integration.decoder))
    assert torch.equal(frames(other.encoder), frames(integration.encoder))
    save_adapter(other, "a", tmp_path / "again")
    for file in ("adapter.json", "decoder/adapter_config.json", "decoder/adapter_model.safetensors"):
        assert (tmp_path / "again" / file).read_bytes() == (tmp_path / "adapter" / file).read_bytes()


def test_tied_embeddings(make: Callable[..., Integration], tmp_path: Path) -> None:
    """LoRA beside a head that shares its weight with the embedding changes the head alone."""
    integration = make("gpt2")
    decoder = integration.decoder
    assert decoder.model.lm_head.weight is decoder.model.get_input_embeddings().weight
    embedded, before = decoder.embed(torch.tensor([5, 6])), logits(decoder)
    add_lora(integration, "decoder", LoraSettings(r=4, lora_dropout=0.0, target_modules=("lm_head",)), name="head")
    trained(integration, "head")
    assert torch.equal(decoder.embed(torch.tensor([5, 6])), embedded)
    assert not torch.allclose(logits(decoder), before, atol=1e-2)
    save_adapter(integration, "head", tmp_path / "head")
    other = make("gpt2")
    load_adapter(other, tmp_path / "head")
    assert torch.equal(logits(other.decoder), logits(decoder))
    with pytest.raises(ConfigError, match=r"shares its weights with model\.transformer\.wte\.weight of CausalLm"):
        merge(integration)
    with without_lora(decoder):
        assert torch.equal(logits(decoder), before)


def test_lora_beside_an_embedding(make: Callable[..., Integration], tmp_path: Path) -> None:
    integration = make("llama")
    decoder = integration.decoder
    before = decoder.embed(torch.tensor([5, 6]))
    add_lora(integration, "decoder", LoraSettings(r=4, target_modules=("embed_tokens", "q_proj")), name="a")
    trained(integration, "a")
    changed = decoder.embed(torch.tensor([5, 6]))
    assert not torch.equal(changed, before)
    save_adapter(integration, "a", tmp_path / "a")
    other = make("llama")
    load_adapter(other, tmp_path / "a")
    assert torch.equal(other.decoder.embed(torch.tensor([5, 6])), changed)
    merge(integration)
    torch.testing.assert_close(decoder.embed(torch.tensor([5, 6])), changed, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("family", sorted(LAYERS))
def test_training_beside_a_base_in_half_precision(make: Callable[..., Integration], family: str) -> None:
    integration = make(family)
    integration.freeze("encoder", "decoder")
    settings = LoraSettings(r=4, lora_dropout=0.1)
    new = [p for part in ("encoder", "decoder") for p in add_lora(integration, part, settings, name="a")]
    to_dtype(integration, torch.bfloat16)
    assert {p.dtype for p in new} == {torch.float32}
    assert {p.dtype for p in integration.parameters() if not p.requires_grad} == {torch.bfloat16}
    integration.train()
    optimizer = torch.optim.AdamW(new, lr=1e-2)
    losses = []
    for _ in range(8):
        loss = integration(torch.ones(1, 4000), torch.tensor([4000]), ["ABAB"]).text
        optimizer.zero_grad()
        loss.backward()
        assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in lora_parameters(integration.decoder))
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    integration.eval()
    assert integration.transcribe(torch.ones(4000).numpy(), max_new_tokens=4)[0].token_ids

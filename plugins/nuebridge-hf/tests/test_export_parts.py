"""Exported parts, read by transformers alone: adapters merged, the same frames, the same tokens."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoFeatureExtractor, AutoModel, AutoModelForCausalLM, AutoTokenizer

from nuebridge.compose import compose
from nuebridge.contracts import GenerationOptions
from nuebridge.export import export_part
from nuebridge.lora import add_lora, merge
from nuebridge.model import Integration
from nuebridge.settings import LoraSettings
from nuebridge_hf.examples.decoders import DECODERS
from nuebridge_hf.examples.encoders import ENCODERS
from nuebridge_hf.loading import quiet_transformers
from nuebridge_hf.wav2vec_family import normalized

pytest.importorskip("nuebridge_bridges")


def adapted(tmp_path: Path, encoder: str, decoder: str, part: str) -> Integration:
    """An integration of two tiny checkpoints whose LoRA in one part was merged."""
    for kind, write in (("encoder", ENCODERS[encoder]), ("decoder", DECODERS[decoder])):
        (tmp_path / kind).mkdir()
        write(tmp_path / kind)
    integration = compose(str(tmp_path / "encoder"), "bridges.conv", str(tmp_path / "decoder"))
    generator = torch.Generator().manual_seed(0)
    before = {name: tensor.clone() for name, tensor in integration.parts[part].state_dict().items()}
    for parameter in add_lora(integration, part, LoraSettings(r=2, lora_dropout=0.0)):
        with torch.no_grad():
            parameter += 0.3 * torch.randn(parameter.shape, generator=generator)
    merge(integration)
    after = integration.parts[part].state_dict()
    assert set(after) == set(before) and any(not torch.equal(after[name], before[name]) for name in before)
    return integration


@pytest.mark.parametrize("name", ["gpt2", "gpt-neox", "llama", "qwen3", "gemma3", "smollm"])
def test_a_decoder_gives_the_same_tokens(tmp_path: Path, name: str) -> None:
    integration = adapted(tmp_path, "hubert-group-norm", name, "decoder")
    export_part(integration, "decoder", tmp_path / "out")
    with quiet_transformers():
        model = AutoModelForCausalLM.from_pretrained(tmp_path / "out").eval()
        tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out")
    own: Any = integration.decoder
    text = "one two three"
    ids = own.encode(text)
    assert tokenizer(text, add_special_tokens=False).input_ids == ids
    prompt = torch.tensor([ids])
    mask = torch.ones_like(prompt)
    with torch.inference_mode():
        (ours,) = own.generate(own.embed(prompt), mask, GenerationOptions([20]))
        theirs = model.generate(prompt, attention_mask=mask, max_new_tokens=20, do_sample=False)[0, len(ids) :]
    assert theirs.tolist() == ours.token_ids
    assert tokenizer.decode(theirs, skip_special_tokens=True) == own.decode(ours.token_ids)


@pytest.mark.parametrize("name", ["hubert-group-norm", "wav2vec2-layer-norm", "wavlm-group-norm"])
def test_an_encoder_gives_the_same_frames(tmp_path: Path, name: str) -> None:
    integration = adapted(tmp_path, name, "gpt2", "encoder")
    export_part(integration, "encoder", tmp_path / "out")
    with quiet_transformers():
        model = AutoModel.from_pretrained(tmp_path / "out").eval()
        extractor = AutoFeatureExtractor.from_pretrained(tmp_path / "out")
    clip = 0.1 * torch.randn(8123, generator=torch.Generator().manual_seed(1))
    inputs = extractor(clip.numpy(), sampling_rate=16_000, return_tensors="pt")
    with torch.inference_mode():
        ours = integration.encoder(clip[None], torch.tensor([len(clip)])).features
        # The extractor scales clips in numpy, and what it rounds otherwise grows in the network: each is held alone.
        scaled = normalized(clip[None], torch.tensor([len(clip)])) if integration.encoder.normalize else clip[None]
        theirs = model(scaled).last_hidden_state
    assert torch.allclose(scaled, inputs.input_values, atol=1e-6)
    assert torch.allclose(ours, theirs, atol=1e-5)


def test_precision(tmp_path: Path) -> None:
    """As asked for in the file; as it was in memory."""
    integration = adapted(tmp_path, "hubert-group-norm", "llama", "decoder")
    export_part(integration, "decoder", tmp_path / "out", dtype="bfloat16")
    assert integration.decoder.dtype == torch.float32
    with quiet_transformers():
        model = AutoModelForCausalLM.from_pretrained(tmp_path / "out", dtype="auto")
    assert model.dtype == torch.bfloat16

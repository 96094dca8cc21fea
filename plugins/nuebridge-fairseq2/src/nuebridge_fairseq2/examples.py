"""Tiny random checkpoints of fairseq2's own model classes, for the conformance suite.

Each is a folder with an asset card and the whole model's weights, as a user would keep one, but in safetensors.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from fairseq2.models.w2vbert import get_w2vbert_model_hub
from fairseq2.models.wav2vec2 import get_wav2vec2_model_hub
from fairseq2.models.wav2vec2.asr import get_wav2vec2_asr_model_hub
from fairseq2.utils.yaml import YamlDumper
from torch import nn

from nuebridge.tensors import WEIGHTS_FILE, save_weights
from nuebridge_fairseq2.sources import service

_HUBS: Mapping[str, Callable[[], Any]] = {
    "wav2vec2": get_wav2vec2_model_hub,
    "wav2vec2_asr": get_wav2vec2_asr_model_hub,
    "w2vbert": get_w2vbert_model_hub,
}
_LAYERS = {
    "model_dim": 16,
    "num_encoder_layers": 2,
    "num_encoder_attn_heads": 2,
    "ffn_inner_dim": 32,
    "layer_drop_p": 0.0,
}
_CONVOLUTIONS = [[8, 10, 5], *[[8, 3, 2]] * 4, *[[8, 2, 2]] * 2]
_RAW = {
    **_LAYERS,
    "feature_dim": 8,
    "feature_extractor_layer_descs": _CONVOLUTIONS,
    "pos_conv_kernel_size": 16,
    "num_pos_conv_groups": 2,
}
_CONFORMER = {"use_conformer": True, "norm_order": "POST", "pos_encoder_type": "relative"}
_CONFORMER |= {"depthwise_conv_kernel_size": 5, "max_seq_len": 512}
_QUANTIZER = {"final_dim": 8, "quantized_dim": 8, "num_codebook_entries": 4}


def tiny_card(family: str, arch: str, **config: Any) -> dict[str, Any]:
    """The fields of a card: an architecture of fairseq2's, and what makes it tiny."""
    return {"model_family": family, "model_arch": arch, "model_config": config}


def write(folder: Path, card: Mapping[str, Any], *, name: str = "tiny", seed: int = 0) -> nn.Module:
    """Writes a card and a model's weights into a folder; gives the model, fairseq2's own, in eval mode."""
    model = make_model(card, name, seed)
    save_weights(model, folder)
    write_card(folder, {"name": name, **card, "checkpoint": WEIGHTS_FILE})
    return model


def make_model(card: Mapping[str, Any], name: str = "tiny", seed: int = 0) -> nn.Module:
    """The model that a card describes, with random weights, none of which is a mere zero or one."""
    from fairseq2.assets import AssetCard

    hub = _HUBS[card["model_family"]]()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model: nn.Module = hub.create_new_model(hub.get_model_config(AssetCard(name, dict(card))))
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(0.05 * torch.randn_like(parameter))
            for module in model.modules():
                if isinstance(module, nn.BatchNorm1d) and module.running_mean is not None:
                    module.running_mean.normal_(std=0.1)
                    assert module.running_var is not None
                    module.running_var.uniform_(0.5, 1.5)
    return model.eval()


def write_card(folder: Path, card: Mapping[str, Any]) -> None:
    """Writes one asset card."""
    service(YamlDumper).dump(dict(card), folder / f"{card['name']}.yaml")


def _write(card: Mapping[str, Any], folder: Path) -> None:
    write(folder, card)


CARDS: Mapping[str, Mapping[str, Any]] = {
    "base": tiny_card("wav2vec2", "base", encoder_config=_RAW, **_QUANTIZER),
    "large-lv60k": tiny_card("wav2vec2", "large_lv60k", encoder_config=_RAW, **_QUANTIZER),
    "stacked-positions": tiny_card("wav2vec2", "base", encoder_config={**_RAW, "pos_encoder_depth": 3}, **_QUANTIZER),
    "rotary": tiny_card("wav2vec2", "large_lv60k", encoder_config={**_RAW, "pos_encoder_type": "rotary"}, **_QUANTIZER),
    "conformer": tiny_card("wav2vec2", "base", encoder_config={**_RAW, **_CONFORMER}, **_QUANTIZER),
    "fine-tuned": tiny_card(
        "wav2vec2_asr", "base_10h", encoder_config=_RAW, target_vocab_size=12, spatial_mask_span_len=4
    ),
    "omnilingual": tiny_card(
        "wav2vec2_asr", "large_lv60k_10h", encoder_config=_RAW, target_vocab_size=12, use_masking=False
    ),
    "w2v-bert": tiny_card(
        "w2vbert",
        "300m",
        w2v2_config={
            "encoder_config": {**_LAYERS, "depthwise_conv_kernel_size": 5, "max_seq_len": 512},
            **_QUANTIZER,
        },
        num_bert_encoder_layers=1,
    ),
}
"""One card for every kind of front end, positions and layers that the encoders meet."""

W2V_BERT = {"w2v-bert": partial(_write, CARDS["w2v-bert"])}
WAV2VEC2 = {name: partial(_write, card) for name, card in CARDS.items() if name not in W2V_BERT}

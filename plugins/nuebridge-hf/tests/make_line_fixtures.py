"""Writes the tiny checkpoints in ``fixtures/line-N``: run it once under each line of transformers.

    python make_line_fixtures.py

Each part is saved by this plugin, with outputs beside it, for test_lines.py to load under the other line.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import torch
import transformers
from tokenizers import Tokenizer, decoders, models
from transformers import PreTrainedTokenizerFast

from nuebridge_hf.causal_lm import CausalLm
from nuebridge_hf.wav2vec_family import HubertEncoder, Wav2Vec2Encoder

LINE = transformers.__version__.split(".")[0]
SIZES = {
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
}
TEXT = {**SIZES, "vocab_size": 32, "max_position_embeddings": 64, "bos_token_id": 1, "eos_token_id": 2}


def rope(theta: float, **more: Any) -> dict[str, Any]:
    """Rotary settings as either line takes them."""
    if LINE == "4":
        part = {"partial_rotary_factor": more.pop("partial_rotary_factor")} if "partial_rotary_factor" in more else {}
        return {"rope_theta": theta, "rope_scaling": more or None, **part}
    return {"rope_parameters": {"rope_theta": theta, **({"rope_type": "default"} | more)}}


DECODERS = {
    "gpt_neox": ("GPTNeoX", {"rotary_pct": 0.5, "rotary_emb_base": 500, "use_parallel_residual": False}),
    "llama": ("Llama", rope(500.0, rope_type="linear", factor=2.0)),
    "gemma2": ("Gemma2", {"num_key_value_heads": 1, "head_dim": 8, **rope(500.0)}),
    "gpt2": ("GPT2", {}),
}
SPEECH = {**SIZES, "conv_dim": (8, 8), "conv_kernel": (20, 8), "conv_stride": (20, 16), "num_feat_extract_layers": 2}
SPEECH |= {"num_conv_pos_embeddings": 4, "num_conv_pos_embedding_groups": 2}
ENCODERS = {
    "hubert": (HubertEncoder, "Hubert", {"feat_extract_norm": "group"}),
    "wav2vec2": (Wav2Vec2Encoder, "Wav2Vec2", {"feat_extract_norm": "layer", "do_stable_layer_norm": True}),
}
IDS = torch.tensor([[5, 9, 3, 30, 12, 12, 7]])
CLIP = torch.sin(torch.arange(6400) ** 1.3 / 50)[None]


def output(part: Any) -> list[float]:
    """What a part makes of a fixed input, flat."""
    part.eval()
    with torch.no_grad():
        if isinstance(part, CausalLm):
            mask = torch.ones_like(IDS)
            result = part(part.embed(IDS), mask)
        else:
            result = part(CLIP, torch.tensor([CLIP.shape[1]])).features
    return [round(value, 6) for value in result.flatten().tolist()]


def make_tokenizer() -> PreTrainedTokenizerFast:
    """32 tokens: three special ones and characters."""
    tokens = ["<pad>", "<s>", "</s>", *map(chr, range(ord("a"), ord("a") + 26)), " ", ".", ","]
    backend = Tokenizer(models.BPE(vocab={token: index for index, token in enumerate(tokens)}, merges=[]))
    backend.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<s>", eos_token="</s>", pad_token="<pad>")


def main() -> None:
    """Replaces the fixtures of the installed line."""
    root = Path(__file__).parent / "fixtures" / f"line-{LINE}"
    shutil.rmtree(root, ignore_errors=True)
    torch.manual_seed(0)
    parts: dict[str, Any] = {}
    for name, (family, config) in DECODERS.items():
        model_class = getattr(transformers, family + ("LMHeadModel" if family == "GPT2" else "ForCausalLM"))
        model = model_class(getattr(transformers, f"{family}Config")(**TEXT, **config))
        parts[name] = CausalLm(model, make_tokenizer())
    for name, (part_class, family, config) in ENCODERS.items():
        model = getattr(transformers, f"{family}Model")(getattr(transformers, f"{family}Config")(**SPEECH, **config))
        parts[name] = part_class(model, normalize=True)
    for name, part in parts.items():
        with torch.no_grad():
            for parameter in part.parameters():
                parameter.add_(0.2 * torch.randn_like(parameter))
        folder = root / name
        folder.mkdir(parents=True)
        part.save(folder)
        (folder / "expected.json").write_text(json.dumps(output(part)) + "\n")


if __name__ == "__main__":
    main()

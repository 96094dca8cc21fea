"""Tiny random checkpoints of causal language models: each function of ``DECODERS`` writes one into a folder.

They are made with the library's own classes: two layers, at most 32 wide, seeded, with biases and gains moved off
zero and one, which hide mistakes; the same weights under every release of the library. Windows, caps and scales are
small enough to matter.
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import sentencepiece
import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from nuebridge_hf.loading import OLDER_THAN_5, quiet_transformers

VOCABULARY = 320
"""More than the tokens of either tokenizer: many models pad their embeddings."""

_SENTENCES = (
    "the quick brown fox jumps over the lazy dog",
    "a speech encoder hears and a language model writes",
    "Transcribe the speech.",
    "one two three four five six seven eight nine ten",
    "今日は良い天気です",
    "What is said here, word for word?",
)


@dataclass(frozen=True)
class Example:
    """A family or a variant of one."""

    model_class: str
    """Name of the class in transformers."""
    config_class: str
    config: Mapping[str, Any] = field(default_factory=dict)
    pieces: bool = False
    """A SentencePiece model instead of byte-level BPE."""

    def write(self, folder: Path) -> None:
        """Writes configuration, weights and tokenizer into a folder that exists."""
        with torch.random.fork_rng(devices=[]), quiet_transformers():
            config = getattr(transformers, self.config_class)(**self.config)
            model: Any = getattr(transformers, self.model_class)(config)
            torch.manual_seed(0)  # here, so that the weights do not depend on how a release initialises
            with torch.no_grad():
                for parameter in model.parameters():
                    noise = 0.15 * torch.randn(parameter.shape)
                    parameter.copy_(noise if parameter.dim() > 1 else parameter + noise)
            model.save_pretrained(folder)
        if self.pieces:
            write_pieces(folder)
        else:
            byte_tokenizer().save_pretrained(folder)


def byte_tokenizer(**roles: str) -> PreTrainedTokenizerFast:
    """Byte-level BPE with a few merges: ``<pad>`` 0, ``<s>`` 1, ``</s>`` 2, then the 256 bytes; ``roles`` adds more."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    merges = [("t", "h"), ("th", "e"), ("e", "r"), ("Ġ", "the"), ("i", "n"), ("a", "n")]
    tokens = ["<pad>", "<s>", "</s>", *alphabet, *(first + second for first, second in merges)]
    backend = Tokenizer(models.BPE(vocab={token: index for index, token in enumerate(tokens)}, merges=merges))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    special = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>"}
    return PreTrainedTokenizerFast(tokenizer_object=backend, **(special | roles))


def write_pieces(folder: Path, **config: Any) -> None:
    """A small SentencePiece model with byte fallback, as Llama's and Gemma's tokenizers have them."""
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(_SENTENCES),
        model_writer=model,
        vocab_size=310,
        model_type="bpe",
        byte_fallback=True,
        character_coverage=1.0,
        pad_id=3,
        hard_vocab_limit=False,
        num_threads=1,
        minloglevel=2,
    )
    (folder / "tokenizer.model").write_bytes(model.getvalue())
    roles = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>"}
    fields = {"tokenizer_class": "LlamaTokenizer", **roles, **config}
    (folder / "tokenizer_config.json").write_text(json.dumps(fields, indent=2) + "\n", encoding="utf-8")


def _rotary(theta: float) -> dict[str, Any]:
    """A base frequency as either line of the library takes it."""
    return {"rope_theta": theta} if OLDER_THAN_5 else {"rope_parameters": {"rope_type": "default", "rope_theta": theta}}


def _long_rope() -> dict[str, Any]:
    factors = {"short_factor": [1.0] * 4, "long_factor": [1.5, 2.0, 3.0, 4.0]}
    beyond = {"max_position_embeddings": 128, "original_max_position_embeddings": 64}
    if OLDER_THAN_5:
        return {**beyond, "rope_scaling": {"type": "longrope", **factors}}
    return {**beyond, "rope_parameters": {"rope_type": "longrope", "rope_theta": 10000.0, **factors, **beyond}}


_IDS = {"vocab_size": VOCABULARY, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
_SIZES = {
    **_IDS,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 128,
}
_GROUPED = {**_SIZES, "num_key_value_heads": 2, "head_dim": 8}
_TIED, _UNTIED = {"tie_word_embeddings": True}, {"tie_word_embeddings": False}
_OPT = {**_IDS, "num_hidden_layers": 2, "num_attention_heads": 4, "ffn_dim": 48, "max_position_embeddings": 128}
_WINDOW = {"sliding_window": 4}
_GEMMA2 = {"final_logit_softcapping": 2.0, "attn_logit_softcapping": 3.0, "query_pre_attn_scalar": 8}
_GEMMA3 = {"layer_types": ["sliding_attention", "full_attention"], "query_pre_attn_scalar": 8}
_VISION = {
    "hidden_size": 16,
    "intermediate_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "image_size": 16,
    "patch_size": 8,
}
_SCALES = {"embedding_multiplier": 4.0, "logits_scaling": 3.0, "residual_multiplier": 0.5, "attention_multiplier": 0.3}


def _causal(name: str, config: Mapping[str, Any], **more: Any) -> Example:
    return Example(f"{name}ForCausalLM", f"{name}Config", config, **more)


EXAMPLES: dict[str, Example] = {
    "bloom": _causal("Bloom", {**_IDS, "hidden_size": 32, "n_layer": 2, "n_head": 4}),
    "gemma": _causal("Gemma", {**_GROUPED, **_TIED}, pieces=True),
    "gemma2": _causal("Gemma2", {**_GROUPED, **_TIED, **_WINDOW, **_GEMMA2}, pieces=True),
    "gemma3": Example("Gemma3ForCausalLM", "Gemma3TextConfig", {**_GROUPED, **_TIED, **_WINDOW, **_GEMMA3}),
    "gemma3-of-several-senses": Example(
        "Gemma3ForConditionalGeneration",
        "Gemma3Config",
        {
            "text_config": {**_GROUPED, **_WINDOW, **_GEMMA3},
            "vision_config": _VISION,
            "mm_tokens_per_image": 4,
            "image_token_index": 300,
            "boi_token_index": 301,
            "eoi_token_index": 302,
        },
    ),
    "gpt-neox": _causal("GPTNeoX", {**_SIZES, **_UNTIED, "rotary_pct": 0.5}),
    "gpt-neox-serial": _causal("GPTNeoX", {**_SIZES, **_UNTIED, "use_parallel_residual": False}),
    "gpt2": Example("GPT2LMHeadModel", "GPT2Config", {**_SIZES, **_TIED}),
    "gpt2-untied": Example("GPT2LMHeadModel", "GPT2Config", {**_SIZES, **_UNTIED}),
    "granite": _causal("Granite", {**_SIZES, "num_key_value_heads": 2, **_SCALES, **_TIED}),
    "llama": _causal("Llama", {**_GROUPED, **_TIED, **_rotary(500.0)}),
    "llama-untied-sentencepiece": _causal("Llama", {**_SIZES, **_UNTIED}, pieces=True),
    "mistral": _causal("Mistral", {**_GROUPED, **_WINDOW, **_UNTIED}, pieces=True),
    "opt": _causal("OPT", {**_OPT, "hidden_size": 32, "word_embed_proj_dim": 32}),
    "opt-projected": _causal(
        "OPT", {**_OPT, "hidden_size": 32, "word_embed_proj_dim": 16, "do_layer_norm_before": False}
    ),
    "phi3": _causal("Phi3", {**_GROUPED, **_UNTIED, **_WINDOW}, pieces=True),
    "phi3-long": _causal("Phi3", {**_GROUPED, **_UNTIED, **_long_rope()}),
    "qwen2": _causal("Qwen2", {**_GROUPED, **_UNTIED}),
    "qwen2-sliding": _causal(
        "Qwen2", {**_GROUPED, **_TIED, **_WINDOW, "use_sliding_window": True, "max_window_layers": 1}
    ),
    "qwen3": _causal("Qwen3", {**_GROUPED, **_TIED}),
    "qwen3-untied": _causal("Qwen3", {**_GROUPED, **_UNTIED}),
    "smollm": _causal(
        "Llama", {**_SIZES, **_TIED, "hidden_size": 24, "num_attention_heads": 3, "num_key_value_heads": 1}
    ),
    "smollm3": _causal("SmolLM3", {**_GROUPED, **_TIED, "no_rope_layers": [1, 0]}),
}

DECODERS: dict[str, Callable[[Path], None]] = {name: partial(Example.write, one) for name, one in EXAMPLES.items()}
"""By name: writes the checkpoint into a folder that exists."""

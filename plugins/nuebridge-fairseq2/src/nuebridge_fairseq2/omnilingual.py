"""The architectures of Omnilingual ASR's encoders (arXiv 2511.09690), told as changes to fairseq2's own.

fairseq2 learns them from the package omnilingual-asr, which asks for an older fairseq2 than the one this plugin reads.
"""

from __future__ import annotations

from typing import Any

_XLS_R = {"final_dim": 1024, "quantized_dim": 1024}
_SIZES: dict[str, dict[str, Any]] = {
    "300m": {},
    "1b": {"model_dim": 1280, "num_encoder_layers": 48, "ffn_inner_dim": 5120, "first_pass_dropout_p": 0.1},
    "3b": {"model_dim": 2048, "num_encoder_layers": 60, "ffn_inner_dim": 8192, "first_pass_dropout_p": 0.1},
    "7b": {"model_dim": 2048, "num_encoder_layers": 128, "ffn_inner_dim": 8192, "first_pass_dropout_p": 0.1},
}
_SYMBOLS = {"": 9812, "_v2": 10288}
"""Size of the CTC vocabulary in the two releases of the fine-tuned models."""


def _pretrained(size: str) -> dict[str, Any]:
    return {"encoder_config": {**_SIZES[size], "attn_dropout_p": 0.0, "dropout_p": 0.0}, **_XLS_R}


def _finetuned(size: str, symbols: int) -> dict[str, Any]:
    return {
        "encoder_config": {**_SIZES[size], "feature_grad_scale": 0.1},
        "use_masking": False,
        "target_vocab_size": symbols,
    }


ARCHITECTURES: dict[str, dict[str, tuple[str, dict[str, Any]]]] = {
    "wav2vec2": {size: ("large_lv60k", _pretrained(size)) for size in ("1b", "3b", "7b")},
    "wav2vec2_asr": {
        f"{size}{release}": ("large_lv60k_10h", _finetuned(size, symbols))
        for size in _SIZES
        for release, symbols in _SYMBOLS.items()
    },
}
"""Family and name of an architecture to the one of fairseq2's that it changes, and the changes."""

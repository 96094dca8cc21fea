"""What well-known checkpoints say of their shapes, so that their sizes can be told where no hub can be reached.

Of each ``config.json`` only what decides sizes, rates and positions and is not the configuration class's own
default. No weights and no tokenizers are known here, and nothing that is not in the published configurations.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Published:
    """One checkpoint as it was published."""

    config: Mapping[str, Any]
    """``config.json``, as far as it decides shapes."""
    parameters: int
    """How many its authors say that it has: its model card or paper."""
    rounded_to: int
    """The last digit that they give: 1,000,000 for "95M"."""
    counted: str
    """The transformers class that the figure counts."""
    preprocessor: Mapping[str, Any] = field(default_factory=dict)
    """``preprocessor_config.json``, likewise."""
    remark: str = ""
    """Why the figure is more than one percent off what the class has; empty where it is not."""


_MILLION = 1_000_000
_BILLION = 1_000_000_000

_WAVEFORM = {"feature_extractor_type": "Wav2Vec2FeatureExtractor", "sampling_rate": 16_000}
_LAYER_NORM = {"feat_extract_norm": "layer", "do_stable_layer_norm": True, "conv_bias": True}
_LARGE = {"hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16, "intermediate_size": 4096}
_XLARGE = {"hidden_size": 1280, "num_hidden_layers": 48, "num_attention_heads": 16, "intermediate_size": 5120}
_2B = {"hidden_size": 1920, "num_hidden_layers": 48, "num_attention_heads": 16, "intermediate_size": 7680}


def _audio(model_type: str, counted: str, millions: int, **config: Any) -> Published:
    """HuBERT, wav2vec 2.0 and WavLM; the base sizes are their classes' defaults."""
    return Published({"model_type": model_type, **config}, millions * _MILLION, _MILLION, counted, _WAVEFORM)


def _whisper(width: int, layers: int, heads: int, millions: int, **other: Any) -> Published:
    remark = other.pop("remark", "")
    config = {
        "model_type": "whisper",
        "d_model": width,
        "encoder_layers": layers,
        "decoder_layers": layers,
        "encoder_attention_heads": heads,
        "decoder_attention_heads": heads,
        "encoder_ffn_dim": 4 * width,
        "decoder_ffn_dim": 4 * width,
        "vocab_size": 51_865,
        "num_mel_bins": 80,
        **other,
    }
    extractor = {
        "feature_extractor_type": "WhisperFeatureExtractor",
        "feature_size": config["num_mel_bins"],
        "sampling_rate": 16_000,
        "chunk_length": 30,
        "n_fft": 400,
        "hop_length": 160,
        "nb_max_frames": 3000,
        "n_samples": 480_000,
    }
    return Published(config, millions * _MILLION, _MILLION, "WhisperModel", extractor, remark)


_WHISPER_REMARK = "the model card says more than the {:.1f} M that the checkpoint's class has"

ENCODERS: Mapping[str, Published] = {
    "facebook/hubert-base-ls960": _audio("hubert", "HubertModel", 95),
    "facebook/hubert-large-ll60k": _audio("hubert", "HubertModel", 317, **_LARGE, **_LAYER_NORM),
    "facebook/hubert-xlarge-ll60k": _audio("hubert", "HubertModel", 964, **_XLARGE, **_LAYER_NORM),
    "rinna/japanese-hubert-base": _audio("hubert", "HubertModel", 95),
    "facebook/mms-300m": _audio("wav2vec2", "Wav2Vec2Model", 317, **_LARGE, **_LAYER_NORM),
    "facebook/mms-1b": _audio("wav2vec2", "Wav2Vec2Model", 965, **_XLARGE, **_LAYER_NORM),
    "facebook/wav2vec2-base": _audio("wav2vec2", "Wav2Vec2Model", 95),
    "facebook/wav2vec2-large": _audio("wav2vec2", "Wav2Vec2Model", 317, **_LARGE),
    "facebook/wav2vec2-large-lv60": _audio("wav2vec2", "Wav2Vec2Model", 317, **_LARGE, **_LAYER_NORM),
    "facebook/wav2vec2-xls-r-300m": _audio("wav2vec2", "Wav2Vec2Model", 317, **_LARGE, **_LAYER_NORM),
    "facebook/wav2vec2-xls-r-1b": _audio("wav2vec2", "Wav2Vec2Model", 965, **_XLARGE, **_LAYER_NORM),
    "facebook/wav2vec2-xls-r-2b": _audio("wav2vec2", "Wav2Vec2Model", 2162, **_2B, **_LAYER_NORM),
    "microsoft/wavlm-base-plus": _audio("wavlm", "WavLMModel", 95),
    "microsoft/wavlm-large": _audio(
        "wavlm", "WavLMModel", 317, **_LARGE, feat_extract_norm="layer", do_stable_layer_norm=True
    ),
    "facebook/w2v-bert-2.0": Published(
        {"model_type": "wav2vec2-bert"},
        580 * _MILLION,
        _MILLION,
        "Wav2Vec2BertModel",
        {
            "feature_extractor_type": "SeamlessM4TFeatureExtractor",
            "feature_size": 80,
            "num_mel_bins": 80,
            "stride": 2,
            "sampling_rate": 16_000,
        },
    ),
    "openai/whisper-tiny": _whisper(384, 4, 6, 39, remark=_WHISPER_REMARK.format(37.8)),
    "openai/whisper-base": _whisper(512, 6, 8, 74, remark=_WHISPER_REMARK.format(72.6)),
    "openai/whisper-small": _whisper(768, 12, 12, 244),
    "openai/whisper-medium": _whisper(1024, 24, 16, 769),
    "openai/whisper-large-v2": _whisper(1280, 32, 20, 1550),
    "openai/whisper-large-v3": _whisper(1280, 32, 20, 1550, num_mel_bins=128, vocab_size=51_866),
    "openai/whisper-large-v3-turbo": _whisper(1280, 32, 20, 809, num_mel_bins=128, vocab_size=51_866, decoder_layers=4),
}


def _gpt2(width: int, layers: int, heads: int, parameters: int) -> Published:
    config = {"model_type": "gpt2", "n_embd": width, "n_layer": layers, "n_head": heads, "n_positions": 1024}
    return Published(config, parameters * _MILLION, _MILLION, "GPT2LMHeadModel")


def _neox(
    width: int, layers: int, heads: int, vocabulary: int, parameters: int, rounded: int, **other: Any
) -> Published:
    config = {
        "model_type": "gpt_neox",
        "hidden_size": width,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "intermediate_size": 4 * width,
        "vocab_size": vocabulary,
        "max_position_embeddings": 2048,
        "bos_token_id": 0,
        "eos_token_id": 0,
        "tie_word_embeddings": False,
        **other,
    }
    return Published(config, parameters, rounded, "GPTNeoXForCausalLM")


def _grouped(
    model_type: str,
    counted: str,
    sizes: tuple[int, int, int, int, int, int],
    parameters: float,
    rounded: float,
    **other: Any,
) -> Published:
    """The Llama-like: width, layers, heads, key/value heads, width of a head, width between."""
    width, layers, heads, kv_heads, head, between = sizes
    config = {
        "model_type": model_type,
        "hidden_size": width,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "head_dim": head,
        "intermediate_size": between,
        **other,
    }
    return Published(config, round(parameters), round(rounded), counted)


def _llama(sizes: tuple[int, int, int, int, int, int], billions: float) -> Published:
    other = {"vocab_size": 128_256, "max_position_embeddings": 131_072, "bos_token_id": 128_000}
    other |= {"eos_token_id": 128_001, "tie_word_embeddings": True}
    return _grouped("llama", "LlamaForCausalLM", sizes, billions * _BILLION, _BILLION / 100, **other)


def _qwen3(sizes: tuple[int, int, int, int, int, int], billions: float, *, tied: bool) -> Published:
    other = {"vocab_size": 151_936, "max_position_embeddings": 40_960, "bos_token_id": 151_643}
    other |= {"eos_token_id": 151_645, "tie_word_embeddings": tied}
    return _grouped("qwen3", "Qwen3ForCausalLM", sizes, billions * _BILLION, _BILLION / 10, **other)


def _smollm2(sizes: tuple[int, int, int, int, int, int], parameters: float, rounded: float) -> Published:
    other = {"vocab_size": 49_152, "max_position_embeddings": 8192, "bos_token_id": 0, "eos_token_id": 0}
    return _grouped("llama", "LlamaForCausalLM", sizes, parameters, rounded, **other, tie_word_embeddings=True)


def _gemma3(sizes: tuple[int, int, int, int, int, int], parameters: float, rounded: float) -> Published:
    other = {"vocab_size": 262_144, "max_position_embeddings": 32_768, "bos_token_id": 2, "eos_token_id": 1}
    return _grouped("gemma3_text", "Gemma3ForCausalLM", sizes, parameters, rounded, **other, sliding_window=512)


DECODERS: Mapping[str, Published] = {
    "google/gemma-3-270m": _gemma3((640, 18, 4, 1, 256, 2048), 270 * _MILLION, 10 * _MILLION),
    "google/gemma-3-1b-pt": _gemma3((1152, 26, 4, 1, 256, 6912), _BILLION, _BILLION / 10),
    "openai-community/gpt2": _gpt2(768, 12, 12, 124),
    "openai-community/gpt2-medium": _gpt2(1024, 24, 16, 355),
    "openai-community/gpt2-large": _gpt2(1280, 36, 20, 774),
    "openai-community/gpt2-xl": _gpt2(1600, 48, 25, 1558),
    "rinna/japanese-gpt-neox-3.6b": _neox(
        *(2816, 36, 22, 32_000, 3_600_000_000, 100_000_000),
        rotary_pct=1.0,
        use_parallel_residual=False,
        bos_token_id=2,
        eos_token_id=3,
    ),
    "EleutherAI/pythia-70m": _neox(512, 6, 8, 50_304, 70_426_624, 1),
    "EleutherAI/pythia-160m": _neox(768, 12, 12, 50_304, 162_322_944, 1),
    "EleutherAI/pythia-410m": _neox(1024, 24, 16, 50_304, 405_334_016, 1),
    "EleutherAI/pythia-1b": _neox(2048, 16, 8, 50_304, 1_011_781_632, 1),
    "EleutherAI/pythia-1.4b": _neox(2048, 24, 16, 50_304, 1_414_647_808, 1),
    "EleutherAI/pythia-2.8b": _neox(2560, 32, 32, 50_304, 2_775_208_960, 1),
    "EleutherAI/pythia-6.9b": _neox(4096, 32, 32, 50_432, 6_857_302_016, 1),
    "EleutherAI/pythia-12b": _neox(5120, 36, 40, 50_688, 11_846_072_320, 1),
    "meta-llama/Llama-3.2-1B": _llama((2048, 16, 32, 8, 64, 8192), 1.23),
    "meta-llama/Llama-3.2-3B": _llama((3072, 28, 24, 8, 128, 8192), 3.21),
    "Qwen/Qwen3-0.6B": _qwen3((1024, 28, 16, 8, 128, 3072), 0.6, tied=True),
    "Qwen/Qwen3-1.7B": _qwen3((2048, 28, 16, 8, 128, 6144), 1.7, tied=True),
    "Qwen/Qwen3-4B": _qwen3((2560, 36, 32, 8, 128, 9728), 4.0, tied=True),
    "Qwen/Qwen3-8B": _qwen3((4096, 36, 32, 8, 128, 12_288), 8.2, tied=False),
    "Qwen/Qwen3-14B": _qwen3((5120, 40, 40, 8, 128, 17_408), 14.8, tied=False),
    "Qwen/Qwen3-32B": _qwen3((5120, 64, 64, 8, 128, 25_600), 32.8, tied=False),
    "HuggingFaceTB/SmolLM2-135M": _smollm2((576, 30, 9, 3, 64, 1536), 135 * _MILLION, _MILLION),
    "HuggingFaceTB/SmolLM2-360M": _smollm2((960, 32, 15, 5, 64, 2560), 360 * _MILLION, 10 * _MILLION),
    "HuggingFaceTB/SmolLM2-1.7B": _smollm2((2048, 24, 32, 32, 64, 8192), 1.7 * _BILLION, _BILLION / 10),
}

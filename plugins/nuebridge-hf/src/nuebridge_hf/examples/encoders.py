"""Tiny random checkpoints of speech encoders: each function of ``ENCODERS`` writes one into a folder.

They are made with the library's own classes, with the strides and lengths of the published ones: two layers, at most
32 wide, seeded, with biases and gains moved off zero and one, which hide mistakes; the same weights under every
release of the library.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors.torch import save_file

from nuebridge_hf.loading import quiet_transformers

_SIZES = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
_RAW = {**_SIZES, "conv_dim": (8,) * 7, "num_conv_pos_embeddings": 16, "num_conv_pos_embedding_groups": 4}
_LAYER_NORM = {"feat_extract_norm": "layer", "do_stable_layer_norm": True, "conv_bias": True}
_DATA2VEC = {**_RAW, "num_conv_pos_embeddings": 3, "conv_pos_kernel_size": 5}
_CONFORMER = {**_SIZES, "conv_depthwise_kernel_size": 7, "left_max_position_embeddings": 8}
_ADAPTER = {"add_adapter": True, "output_hidden_size": 24, "num_adapter_layers": 2}
_WHISPER = {
    "d_model": 32,
    "encoder_layers": 2,
    "decoder_layers": 1,
    "encoder_attention_heads": 2,
    "decoder_attention_heads": 2,
    "encoder_ffn_dim": 48,
    "decoder_ffn_dim": 48,
    "vocab_size": 64,
    "max_target_positions": 16,
    **dict.fromkeys(("pad_token_id", "bos_token_id", "eos_token_id", "decoder_start_token_id"), 1),
}

UPPERCASE = ["<pad>", "<s>", "</s>", "<unk>", "|", *"ETAONIHSRDLUMWCFGYPBVK'XJQZ"]
"""The vocabulary of the first CTC checkpoints, the blank first."""
LOWERCASE = [*"abcdefghijklmnopqrstuvwxyz'", "|", "[UNK]", "[PAD]"]
"""One as people make it for a fine-tuning of their own, the blank last."""
_LANGUAGES = {"eng": "abcdefghij", "fra": "abcdeéèêàùç"}


@dataclass(frozen=True)
class Example:
    """One tiny checkpoint: calling it writes it into a folder."""

    model_type: str
    family: str
    """Beginning of the names of the library's classes."""
    config: Mapping[str, Any]
    head: str = "Model"
    """End of the name of the library's class."""
    vocabulary: tuple[str, ...] = ()
    """Of a CTC head, one symbol a row."""
    extractor: Mapping[str, Any] = field(default_factory=dict)
    more: Callable[[Any, Path], None] | None = None
    """What else is written, given the model."""

    def __call__(self, folder: Path) -> None:
        config: dict[str, Any] = dict(self.config)
        if self.vocabulary:
            pad = next(index for index, token in enumerate(self.vocabulary) if "pad" in token.lower())
            config |= {"vocab_size": len(self.vocabulary), "pad_token_id": pad}
        with quiet_transformers():
            model = getattr(transformers, self.family + self.head)(
                getattr(transformers, f"{self.family}Config")(**config)
            )
            _draw(model)
            model.eval().save_pretrained(folder)
            _extractor(self.model_type, self.extractor).save_pretrained(folder)
            if self.vocabulary:
                write_tokenizer(folder, {token: index for index, token in enumerate(self.vocabulary)})
        if self.more is not None:
            self.more(model, folder)


def _draw(model: Any) -> None:
    """Weights by name, so that they do not depend on how and in which order a release draws them."""
    with torch.no_grad():
        for name, parameter in sorted(model.named_parameters()):
            if name.endswith("embed_positions.weight"):
                continue  # fixed sinusoids
            generator = torch.Generator().manual_seed(sum(map(ord, name)))
            noise = torch.randn(parameter.shape, generator=generator)
            if parameter.dim() > 1 and not name.endswith("original0"):
                parameter.copy_(noise / math.sqrt(parameter[0].numel()))
            else:
                gain = name.endswith(("weight", "original0", "gru_rel_pos_const"))
                parameter.copy_((1.0 if gain else 0.0) + 0.1 * noise)


def _extractor(model_type: str, settings: Mapping[str, Any]) -> Any:
    if model_type == "whisper":
        return transformers.WhisperFeatureExtractor(**settings)
    if model_type == "wav2vec2-bert":
        return transformers.SeamlessM4TFeatureExtractor(padding_value=1, **settings)
    return transformers.Wav2Vec2FeatureExtractor(**{"do_normalize": True, "return_attention_mask": True, **settings})


def write_tokenizer(folder: Path, vocabulary: Mapping[str, Any], **settings: Any) -> None:
    """vocab.json and tokenizer_config.json, as the library's CTC tokenizer writes them."""
    (folder / "vocab.json").write_text(json.dumps(vocabulary, ensure_ascii=False), encoding="utf-8")
    if "[PAD]" in vocabulary:
        settings |= {"pad_token": "[PAD]", "unk_token": "[UNK]"}
    transformers.Wav2Vec2CTCTokenizer(str(folder / "vocab.json"), **settings).save_pretrained(folder)


def _languages(model: Any, folder: Path) -> None:
    """Files of attention adapters and CTC heads for two languages; the main weights hold the first one's."""
    own = {name: tensor.detach() for name, tensor in model.named_parameters() if "adapter_layer" in name}
    vocabularies = {}
    for number, (language, letters) in enumerate(_LANGUAGES.items()):
        vocabulary = ["<pad>", "<s>", "</s>", "<unk>", "|", *letters]
        vocabularies[language] = {token: index for index, token in enumerate(vocabulary)}
        generator = torch.Generator().manual_seed(number)
        state = {f"lm_head.{name}": tensor.detach().clone() for name, tensor in model.lm_head.named_parameters()}
        state |= {name: tensor.clone() for name, tensor in own.items()}
        if number:
            state = {
                name: tensor + 0.3 * torch.randn(tensor.shape, generator=generator) for name, tensor in state.items()
            }
            shape = (len(vocabulary), model.config.hidden_size)
            state["lm_head.weight"] = torch.randn(shape, generator=generator)
            state["lm_head.bias"] = torch.randn(shape[:1], generator=generator)
        save_file(state, folder / f"adapter.{language}.safetensors", metadata={"format": "pt"})
    write_tokenizer(folder, vocabularies, target_lang=next(iter(_LANGUAGES)))


_hubert = partial(Example, "hubert", "Hubert")
_wav2vec2 = partial(Example, "wav2vec2", "Wav2Vec2")
_wavlm = partial(Example, "wavlm", "WavLM")
_data2vec = partial(Example, "data2vec-audio", "Data2VecAudio")
_w2v_bert = partial(Example, "wav2vec2-bert", "Wav2Vec2Bert")
_whisper = partial(Example, "whisper", "Whisper")

ENCODERS: Mapping[str, Example] = {
    "hubert-group-norm": _hubert(_RAW),
    "hubert-layer-norm": _hubert({**_RAW, **_LAYER_NORM}),
    "hubert-batch-norm": _hubert({**_RAW, "conv_pos_batch_norm": True}),
    "hubert-ctc": _hubert({**_RAW, **_LAYER_NORM}, head="ForCTC", vocabulary=tuple(UPPERCASE)),
    "wav2vec2-group-norm": _wav2vec2(_RAW),
    "wav2vec2-layer-norm": _wav2vec2({**_RAW, **_LAYER_NORM}),
    "wav2vec2-unnormalized": _wav2vec2(_RAW, extractor={"do_normalize": False}),
    "wav2vec2-pretraining": _wav2vec2(
        {**_RAW, "num_codevectors_per_group": 4, "codevector_dim": 8, "proj_codevector_dim": 8}, head="ForPreTraining"
    ),
    "wav2vec2-ctc": _wav2vec2({**_RAW, **_LAYER_NORM}, head="ForCTC", vocabulary=tuple(LOWERCASE)),
    "wav2vec2-adapter": _wav2vec2({**_RAW, **_ADAPTER}),
    "wav2vec2-languages": _wav2vec2(
        {**_RAW, **_LAYER_NORM, "adapter_attn_dim": 6, "vocab_size": 15, "pad_token_id": 0},
        head="ForCTC",
        more=_languages,
    ),
    "wavlm-group-norm": _wavlm(_RAW),
    "wavlm-layer-norm": _wavlm({**_RAW, **_LAYER_NORM}),
    "wavlm-ctc": _wavlm(_RAW, head="ForCTC", vocabulary=tuple(UPPERCASE)),
    "data2vec": _data2vec(_DATA2VEC),
    "data2vec-ctc": _data2vec(_DATA2VEC, head="ForCTC", vocabulary=tuple(UPPERCASE)),
    "w2v-bert": _w2v_bert(_CONFORMER),
    "w2v-bert-relative": _w2v_bert({**_CONFORMER, "position_embeddings_type": "relative", "max_source_positions": 64}),
    "w2v-bert-rotary": _w2v_bert({**_CONFORMER, "position_embeddings_type": "rotary"}),
    "w2v-bert-adapter": _w2v_bert({**_CONFORMER, **_ADAPTER, "use_intermediate_ffn_before_adapter": True}),
    "w2v-bert-ctc": _w2v_bert(_CONFORMER, head="ForCTC", vocabulary=tuple(LOWERCASE)),
    "whisper": _whisper(_WHISPER, head="ForConditionalGeneration"),
    "whisper-128-bins": _whisper(
        {**_WHISPER, "num_mel_bins": 128, "max_source_positions": 200},
        extractor={"feature_size": 128, "chunk_length": 4},
    ),
}
"""By name."""


def of_model_type(model_type: str) -> dict[str, Callable[[Path], None]]:
    """Those of one family."""
    return {name: example for name, example in ENCODERS.items() if example.model_type == model_type}

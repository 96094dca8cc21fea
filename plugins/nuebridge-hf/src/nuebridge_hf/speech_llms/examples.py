"""Tiny random checkpoints of published speech-language models, made with the library's own classes.

The templates are written for these checkpoints, in the shape of the published ones.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import CONFIG_MAPPING, PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

from nuebridge_hf.loading import quiet_transformers, save_model

TEXT = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 4096,
}

_QWEN_TEMPLATE = (
    "{%- set box = namespace(context='', audio='', answer=none) -%}"
    "{%- for message in messages -%}{%- for part in message.content -%}"
    "{%- if part.type == 'audio' -%}{%- set box.audio = '<|audio_start|><|audio_pad|><|audio_end|>' -%}"
    "{%- elif message.role == 'system' -%}{%- set box.context = part.text -%}"
    "{%- elif message.role == 'assistant' -%}{%- set box.answer = part.text -%}"
    "{%- endif -%}{%- endfor -%}{%- endfor -%}"
    "{{- '<|im_start|>system\\n' + box.context + '<|im_end|>\\n<|im_start|>user\\n' + box.audio + '<|im_end|>\\n' -}}"
    "{{- '<|im_start|>assistant\\n' -}}"
    "{%- if box.answer is not none -%}{{- box.answer + '<|im_end|>\\n' -}}{%- endif -%}"
)

_GRANITE_TEMPLATE = (
    "{%- for message in messages -%}"
    "{{- '<|start_of_role|>' + message.role + '<|end_of_role|>' + message.content + '<|end_of_text|>\n' -}}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{- '<|start_of_role|>assistant<|end_of_role|>' -}}{%- endif -%}"
)


def byte_tokenizer(special: Sequence[str], plain: Sequence[str] = (), **roles: Any) -> PreTrainedTokenizerFast:
    """One token a byte, then special tokens, then whole ones that are text."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    backend = Tokenizer(models.BPE(vocab={letter: index for index, letter in enumerate(letters)}, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens(list(special))
    backend.add_tokens(list(plain))
    return PreTrainedTokenizerFast(tokenizer_object=backend, **roles)


def shaken(model: Any, scale: float = 0.3) -> Any:
    """Moves every parameter off its initial value: biases of zero and gains of one hide mistakes."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(scale * torch.randn_like(parameter))
    return model.eval()


def qwen_tokenizer(**more: Any) -> PreTrainedTokenizerFast:
    """A tokenizer with the tokens of Qwen3-ASR."""
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|audio_start|>", "<|audio_end|>", "<|audio_pad|>"]
    return byte_tokenizer(special, ["<asr_text>"], eos_token="<|im_end|>", pad_token="<|endoftext|>", **more)


def write_qwen3_asr(folder: Path, *, seed: int = 0, **audio: Any) -> None:
    """Qwen3-ASR: 16 and 32 wide, two layers each."""
    from transformers.models.qwen3_asr.configuration_qwen3_asr import Qwen3ASRConfig
    from transformers.models.qwen3_asr.feature_extraction_qwen3_asr import Qwen3ASRFeatureExtractor
    from transformers.models.qwen3_asr.modeling_qwen3_asr import Qwen3ASRForConditionalGeneration
    from transformers.models.qwen3_asr.processing_qwen3_asr import Qwen3ASRProcessor

    torch.manual_seed(seed)
    names = {"audio_token": "<|audio_pad|>", "audio_bos_token": "<|audio_start|>", "audio_eos_token": "<|audio_end|>"}
    tokenizer = qwen_tokenizer(extra_special_tokens=names)
    ids = {token: tokenizer.convert_tokens_to_ids(token) for token in ("<|audio_pad|>", "<|endoftext|>", "<|im_end|>")}
    config = Qwen3ASRConfig(
        audio_config={
            "model_type": "qwen3_asr_encoder",
            "num_mel_bins": 16,
            "encoder_layers": 2,
            "encoder_attention_heads": 2,
            "encoder_ffn_dim": 32,
            "d_model": 16,
            "output_dim": 32,
            "downsample_hidden_size": 4,
            **audio,
        },
        text_config={"model_type": "qwen3", "vocab_size": len(tokenizer), "tie_word_embeddings": True, **TEXT},
        audio_token_id=ids["<|audio_pad|>"],
        pad_token_id=ids["<|endoftext|>"],
        eos_token_id=[ids["<|endoftext|>"], ids["<|im_end|>"]],
    )
    model = shaken(Qwen3ASRForConditionalGeneration(config))
    model.generation_config.eos_token_id = [ids["<|endoftext|>"], ids["<|im_end|>"]]
    model.generation_config.pad_token_id = ids["<|endoftext|>"]
    _write(folder, model)
    extractor = Qwen3ASRFeatureExtractor(feature_size=16)
    with quiet_transformers():
        Qwen3ASRProcessor(extractor, tokenizer, chat_template=_QWEN_TEMPLATE).save_pretrained(folder)


def write_tekken(file: Path) -> None:
    """Mistral's tokenizer file: bytes, a few pairs of them, and the special tokens of Voxtral."""
    special = ["<unk>", "<s>", "</s>", "[INST]", "[/INST]", "[AVAILABLE_TOOLS]", "[/AVAILABLE_TOOLS]"]
    special += ["[TOOL_RESULTS]", "[/TOOL_RESULTS]", "[TOOL_CALLS]", "[IMG]", "<pad>", "[IMG_BREAK]", "[IMG_END]"]
    special += ["[PREFIX]", "[MIDDLE]", "[SUFFIX]", "[SYSTEM_PROMPT]", "[/SYSTEM_PROMPT]", "[TOOL_CONTENT]"]
    special += [f"<SPECIAL_{index}>" for index in range(20, 24)]
    special += ["[AUDIO]", "[BEGIN_AUDIO]", *(f"<SPECIAL_{index}>" for index in range(26, 34)), "[TRANSCRIBE]"]
    pieces = [bytes([index]) for index in range(256)] + [b"th", b"he", b" a", b"the", b" th", b" the"]
    data = {
        "config": {
            "pattern": r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+",
            "num_vocab_tokens": len(pieces),
            "default_vocab_size": len(pieces) + len(special),
            "default_num_special_tokens": len(special),
            "version": "v7",
        },
        "vocab": [
            {"rank": rank, "token_bytes": base64.b64encode(piece).decode(), "token_str": None}
            for rank, piece in enumerate(pieces)
        ],
        "special_tokens": [
            {"rank": rank, "token_str": token, "is_control": True} for rank, token in enumerate(special)
        ],
        "audio": {
            "sampling_rate": 16000,
            "frame_rate": 12.5,
            "audio_encoding_config": {"num_mel_bins": 16, "hop_length": 160, "window_size": 400},
            "chunk_length_s": 30.0,
        },
    }
    file.write_text(json.dumps(data), encoding="utf-8")


def write_voxtral(folder: Path, *, seed: int = 0, seconds: int = 2) -> None:
    """Voxtral with windows of so many seconds: 16 and 32 wide, two layers each."""
    from transformers import VoxtralConfig, VoxtralForConditionalGeneration, WhisperFeatureExtractor

    torch.manual_seed(seed)
    config = VoxtralConfig(
        audio_config={
            "model_type": "voxtral_encoder",
            "num_mel_bins": 16,
            "hidden_size": 16,
            "intermediate_size": 64,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "max_source_positions": 50 * seconds,
        },
        text_config={
            "model_type": "llama",
            "vocab_size": 297,
            "bos_token_id": 1,
            "eos_token_id": 2,
            "pad_token_id": 11,
            "tie_word_embeddings": False,
            **TEXT,
        },
        audio_token_id=24,
    )
    model = shaken(VoxtralForConditionalGeneration(config))
    model.generation_config.eos_token_id = 2
    model.generation_config.pad_token_id = 11
    _write(folder, model)
    WhisperFeatureExtractor(feature_size=16, chunk_length=seconds).save_pretrained(folder)
    write_tekken(folder / "tekken.json")


def write_granite_speech(folder: Path, *, seed: int = 0, lora: bool = True) -> None:
    """Granite Speech: 16 and 32 wide, two layers each; LoRA for the language model beside it."""
    from transformers import GraniteSpeechConfig, GraniteSpeechForConditionalGeneration

    torch.manual_seed(seed)
    tokenizer = byte_tokenizer(
        ["<|end_of_text|>", "<|start_of_role|>", "<|end_of_role|>", "<|audio|>"],
        eos_token="<|end_of_text|>",
        pad_token="<|end_of_text|>",
    )
    tokenizer.chat_template = _GRANITE_TEMPLATE
    end = tokenizer.convert_tokens_to_ids("<|end_of_text|>")
    config = GraniteSpeechConfig(
        encoder_config={
            "model_type": "granite_speech_encoder",
            "input_dim": 32,
            "num_layers": 2,
            "hidden_dim": 16,
            "num_heads": 2,
            "output_dim": 6,
            "context_size": 20,
            "max_pos_emb": 32,
            "conv_kernel_size": 5,
        },
        projector_config={
            "model_type": "blip_2_qformer",
            "hidden_size": 16,
            "encoder_hidden_size": 16,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "intermediate_size": 32,
            "cross_attention_frequency": 1,
        },
        text_config={
            "model_type": "granite",
            "vocab_size": len(tokenizer),
            "bos_token_id": end,
            "eos_token_id": end,
            "pad_token_id": end,
            **{name: value for name, value in TEXT.items() if name != "head_dim"},
        },
        audio_token_index=tokenizer.convert_tokens_to_ids("<|audio|>"),
        has_lora_adapter=lora,
        tie_word_embeddings=False,
    )
    config.text_config.tie_word_embeddings = False
    model = shaken(GraniteSpeechForConditionalGeneration(config))
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm1d):
            module.running_mean.normal_(0, 0.3)
            module.running_var.uniform_(0.5, 1.5)
    model.generation_config.eos_token_id = end
    model.generation_config.pad_token_id = end
    _write(folder, model)
    numbers = {"sampling_rate": 16000, "n_fft": 512, "win_length": 400, "hop_length": 160, "n_mels": 16}
    kind = {"feature_extractor_type": "GraniteSpeechFeatureExtractor"}
    (folder / "preprocessor_config.json").write_text(json.dumps({**kind, **numbers}), encoding="utf-8")
    with quiet_transformers():
        tokenizer.save_pretrained(folder)
    if lora:
        _write_lora(folder, model, rank=4, alpha=8)


def _write_lora(folder: Path, model: Any, *, rank: int, alpha: int) -> None:
    state = {}
    for name, module in model.named_modules():
        if name.endswith(("q_proj", "v_proj")) and "language_model" in name:
            stem = f"base_model.model.{name}"
            state[f"{stem}.lora_A.weight"] = 0.3 * torch.randn(rank, module.in_features)
            state[f"{stem}.lora_B.weight"] = 0.3 * torch.randn(module.out_features, rank)
    save_file(state, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    config = {
        "peft_type": "LORA",
        "r": rank,
        "lora_alpha": alpha,
        "lora_dropout": 0.0,
        "target_modules": r".*language_model.*(q_proj|v_proj)",
        "bias": "none",
        "task_type": "CAUSAL_LM",
    }
    (folder / "adapter_config.json").write_text(json.dumps(config), encoding="utf-8")


def _write(folder: Path, model: Any) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    with quiet_transformers():
        model.save_pretrained(folder)


WHOLE: dict[str, Callable[..., None]] = {
    "qwen3_asr": write_qwen3_asr,
    "voxtral": write_voxtral,
    "granite_speech": write_granite_speech,
}
"""By ``model_type``: functions that write a whole tiny checkpoint into a folder."""


def encoder_examples(model_type: str) -> Mapping[str, Callable[[Path], None]]:
    """The encoder out of a whole checkpoint; none where the installed transformers does not know it."""
    known_by = {"granite_speech": "granite_speech_encoder"}.get(model_type, model_type)
    return {"tiny": WHOLE[model_type]} if known_by in CONFIG_MAPPING else {}


def write_marked_lm(folder: Path) -> None:
    """A language model with the tokens of Qwen3-ASR."""
    torch.manual_seed(0)
    tokenizer = qwen_tokenizer()
    end = tokenizer.convert_tokens_to_ids("<|im_end|>")
    model = shaken(Qwen3ForCausalLM(Qwen3Config(vocab_size=len(tokenizer), eos_token_id=end, **TEXT)))
    folder.mkdir(parents=True, exist_ok=True)
    save_model(model, folder)
    with quiet_transformers():
        tokenizer.save_pretrained(folder)


def marked_lm_examples() -> Mapping[str, Callable[[Path], None]]:
    """The language model of Qwen3-ASR alone."""
    return {"tiny": write_marked_lm}


def edit_json(file: Path, **changes: Any) -> None:
    """Changes what a JSON file says of some keys."""
    data = json.loads(file.read_text(encoding="utf-8"))
    file.write_text(json.dumps({**data, **changes}), encoding="utf-8")

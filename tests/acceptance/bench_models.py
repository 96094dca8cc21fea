"""An integration with random weights and a corpus of noise, to measure the throughput of training with."""

from __future__ import annotations

import json
import random
import wave
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import GPTNeoXConfig, GPTNeoXForCausalLM, HubertConfig, HubertModel, PreTrainedTokenizerFast

from nuebridge.checkpoint import save
from nuebridge.compose import compose
from nuebridge.settings import PromptTemplate

RATE = 16_000
WORDS_PER_SECOND = 3.3
"""Each is one token: about what subword vocabularies give for speech."""


def write_noise(folder: Path, count: int, *, shortest: float = 1.0, longest: float = 15.0, seed: int = 0) -> Path:
    """Clips of noise of evenly drawn lengths as 16-bit wav, with texts as long as speech has; returns the manifest."""
    draw, noise = random.Random(seed), np.random.default_rng(seed)
    folder.mkdir(parents=True, exist_ok=True)
    lines = []
    for index in range(count):
        samples = round(draw.uniform(shortest, longest) * RATE)
        with wave.open(str(folder / f"{index}.wav"), "wb") as file:
            file.setparams((1, 2, RATE, 0, "NONE", ""))
            file.writeframes((noise.standard_normal(samples) * 3000).clip(-32768, 32767).astype("<i2").tobytes())
        seconds = samples / RATE
        text = " ".join(f"w{draw.randrange(1000)}" for _ in range(max(1, round(seconds * WORDS_PER_SECOND))))
        lines.append({"audio_filepath": f"{index}.wav", "text": text, "duration": seconds})
    manifest = folder / "manifest.jsonl"
    manifest.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return manifest


def write_model(
    folder: Path, vocabulary: int, *, width: int = 256, layers: int = 4, conv: int = 96, norm: str = "group"
) -> Path:
    """HuBERT and GPT-NeoX of ``layers`` layers of ``width``, joined by a bridge; nothing is dropped or masked.

    The convolutions of the encoder's front end are as wide beside its layers as HuBERT base's are.
    """
    torch.manual_seed(0)
    heads = width // 64 or 1
    encoder = HubertModel(
        HubertConfig(
            hidden_size=width,
            num_hidden_layers=layers,
            num_attention_heads=heads,
            intermediate_size=4 * width,
            conv_dim=(conv,) * 7,
            num_conv_pos_embeddings=32,
            num_conv_pos_embedding_groups=8,
            feat_extract_norm=norm,
            do_stable_layer_norm=norm == "layer",
            apply_spec_augment=False,
            **dict.fromkeys(
                ("hidden_dropout", "activation_dropout", "attention_dropout", "feat_proj_dropout", "layerdrop"), 0.0
            ),
        )
    )
    encoder.save_pretrained(folder / "encoder")
    (folder / "encoder" / "preprocessor_config.json").write_text(json.dumps({"do_normalize": False}))
    special = ["<unk>", "<s>", "</s>", "<pad>"]
    tokens = [*special, *(f"w{index}" for index in range(vocabulary - len(special)))]
    backend = Tokenizer(models.WordLevel({token: index for index, token in enumerate(tokens)}, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, unk_token="<unk>", bos_token="<s>", eos_token="</s>", pad_token="<pad>"
    )
    decoder = GPTNeoXForCausalLM(
        GPTNeoXConfig(
            vocab_size=vocabulary,
            hidden_size=width,
            num_hidden_layers=layers,
            num_attention_heads=heads,
            intermediate_size=4 * width,
            max_position_embeddings=1024,
            bos_token_id=1,
            eos_token_id=2,
            pad_token_id=3,
        )
    )
    decoder.save_pretrained(folder / "decoder")
    tokenizer.save_pretrained(folder / "decoder")
    integration = compose(
        f"hf.hubert:{folder / 'encoder'}",
        "conv-4x",
        f"hf.causal-lm:{folder / 'decoder'}",
        prompt=PromptTemplate(prefix="<s>", suffix="</s>"),
    )
    save(integration, folder / "model")
    return folder / "model"

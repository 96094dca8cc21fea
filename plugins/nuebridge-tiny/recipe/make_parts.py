"""Makes the untrained parts of tiny-en: a HuBERT-style encoder and a GPT-NeoX decoder over characters.

    python make_parts.py --output parts

writes ``parts/encoder`` and ``parts/decoder`` as ordinary transformers folders, which
``nuebridge compose`` then joins with the bridge and the CTC head.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    HubertConfig,
    HubertModel,
    PreTrainedTokenizerFast,
    Wav2Vec2FeatureExtractor,
)

SPECIAL_TOKENS = ("[PAD]", "<s>", "</s>", "[SEP]", "[UNK]")
CHARACTERS = " abcdefghijklmnopqrstuvwxyz'"


def make_encoder() -> HubertModel:
    """3.6 M parameters; 480 samples (30 ms) a frame."""
    return HubertModel(
        HubertConfig(
            conv_dim=(64, 128, 192, 224),
            conv_kernel=(25, 8, 8, 5),
            conv_stride=(10, 4, 4, 3),
            num_feat_extract_layers=4,
            conv_bias=True,
            feat_extract_norm="group",
            hidden_size=224,
            num_hidden_layers=5,
            num_attention_heads=4,
            intermediate_size=896,
            do_stable_layer_norm=True,
            num_conv_pos_embeddings=32,
            num_conv_pos_embedding_groups=8,
            apply_spec_augment=False,
            layerdrop=0.0,
            hidden_dropout=0.0,
            attention_dropout=0.0,
            activation_dropout=0.0,
            feat_proj_dropout=0.0,
        )
    )


def make_tokenizer() -> PreTrainedTokenizerFast:
    """One token a character."""
    vocabulary = {token: index for index, token in enumerate((*SPECIAL_TOKENS, *CHARACTERS))}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split("", behavior="isolated")
    tokenizer.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="[PAD]",
        bos_token="<s>",
        eos_token="</s>",
        sep_token="[SEP]",
        unk_token="[UNK]",
        clean_up_tokenization_spaces=False,
    )


def make_decoder() -> GPTNeoXForCausalLM:
    """1.8 M parameters."""
    return GPTNeoXForCausalLM(
        GPTNeoXConfig(
            vocab_size=len(SPECIAL_TOKENS) + len(CHARACTERS),
            hidden_size=192,
            num_hidden_layers=4,
            num_attention_heads=4,
            intermediate_size=768,
            max_position_embeddings=1024,
            rotary_pct=0.25,
            use_parallel_residual=False,
            hidden_dropout=0.0,
            attention_dropout=0.0,
            pad_token_id=0,
            bos_token_id=1,
            eos_token_id=2,
            tie_word_embeddings=False,
        )
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    torch.manual_seed(arguments.seed)
    encoder, decoder = make_encoder(), make_decoder()
    encoder.save_pretrained(arguments.output / "encoder")
    Wav2Vec2FeatureExtractor(
        feature_size=1, sampling_rate=16000, padding_value=0.0, do_normalize=True, return_attention_mask=True
    ).save_pretrained(arguments.output / "encoder")
    decoder.save_pretrained(arguments.output / "decoder")
    make_tokenizer().save_pretrained(arguments.output / "decoder")
    for name, model in (("encoder", encoder), ("decoder", decoder)):
        print(f"{name}: {sum(p.numel() for p in model.parameters()) / 1e6:.2f} M parameters")


if __name__ == "__main__":
    main()

"""Tiny random models of transformers' own classes, shared by the tests of this plugin."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, decoders, models
from transformers import HubertConfig, HubertModel, PreTrainedTokenizerFast, Wav2Vec2Config, Wav2Vec2Model

from nuebridge.contracts import Bridge, Frames
from nuebridge.settings import NoOptions
from nuebridge.tensors import load_weights, save_weights
from nuebridge_hf import plugin
from nuebridge_hf.examples.encoders import ENCODERS as ENCODER_EXAMPLES
from nuebridge_hf.loading import quiet_transformers

REFERENCE = Path(__file__).parents[3] / "tests" / "fixtures" / "nue-asr-reference"

SIZES = {
    "vocab_size": 64,
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "max_position_embeddings": 64,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
FEW_HEADS = {"num_key_value_heads": 1, "head_dim": 8}
DECODERS: dict[str, tuple[str, dict[str, Any]]] = {
    "gpt2": ("GPT2", {**SIZES, "tie_word_embeddings": True}),
    "gpt_neox": ("GPTNeoX", {**SIZES, "tie_word_embeddings": False}),
    "llama": ("Llama", SIZES),
    "qwen2": ("Qwen2", {**SIZES, "num_key_value_heads": 1}),
    "qwen3": ("Qwen3", {**SIZES, **FEW_HEADS}),
    "mistral": ("Mistral", {**SIZES, **FEW_HEADS}),
    "gemma": ("Gemma", {**SIZES, **FEW_HEADS}),
    "gemma2": ("Gemma2", {**SIZES, **FEW_HEADS}),
    "opt": ("OPT", {**SIZES, "ffn_dim": 32, "word_embed_proj_dim": 8}),
    "bloom": ("Bloom", {**SIZES, "n_layer": 2, "n_head": 2}),
}
ENCODERS = {"hubert": (HubertConfig, HubertModel), "wav2vec2": (Wav2Vec2Config, Wav2Vec2Model)}
FRONT_ENDS: dict[str, dict[str, Any]] = {
    "group": {"feat_extract_norm": "group", "do_stable_layer_norm": False, "conv_bias": False},
    "group-stable": {"feat_extract_norm": "group", "do_stable_layer_norm": True, "conv_bias": True},
    "layer": {"feat_extract_norm": "layer", "do_stable_layer_norm": True, "conv_bias": True},
}


def _shake(model: Any, scale: float) -> Any:
    """Moves every parameter off its initial value: biases of zero and gains of one hide mistakes."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(scale * torch.randn_like(parameter))
    return model.eval()


@pytest.fixture
def reference() -> Path:
    return REFERENCE


@pytest.fixture
def make_speech_model() -> Callable[..., Any]:
    """``make(family, front_end, **config)``: a tiny HubertModel or Wav2Vec2Model."""

    def make(family: str, front_end: str = "group", **more: Any) -> Any:
        torch.manual_seed(0)
        config_class, model_class = ENCODERS[family]
        config = {
            "hidden_size": 32,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "intermediate_size": 64,
            "conv_dim": (16,) * 7,
            "num_conv_pos_embeddings": 16,
            "num_conv_pos_embedding_groups": 4,
            **FRONT_ENDS[front_end],
            **more,
        }
        return _shake(model_class(config_class(**config)), 0.05)

    return make


@pytest.fixture
def make_text_model() -> Callable[..., Any]:
    """``make(family, **config)``: a tiny causal language model over 64 tokens."""

    def make(family: str, **more: Any) -> Any:
        torch.manual_seed(0)
        name, config = DECODERS[family]
        suffix = "LMHeadModel" if name == "GPT2" else "ForCausalLM"
        model_class = getattr(transformers, name + suffix)
        return _shake(model_class(getattr(transformers, f"{name}Config")(**{**config, **more})), 0.2)

    return make


@pytest.fixture
def tokenizer() -> PreTrainedTokenizerFast:
    """One token a character: ids 3 to 63 are those from the space to the backslash."""
    tokens = ["<pad>", "<s>", "</s>", *map(chr, range(32, 93))]
    backend = Tokenizer(models.BPE(vocab={token: index for index, token in enumerate(tokens)}, merges=[]))
    backend.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<s>", eos_token="</s>", pad_token="<pad>")


@pytest.fixture
def make_clips() -> Callable[..., tuple[torch.Tensor, torch.Tensor]]:
    """``make(lengths)``: noise of those lengths (samples) in one padded batch, and the lengths."""

    def make(lengths: list[int]) -> tuple[torch.Tensor, torch.Tensor]:
        torch.manual_seed(1)
        batch = torch.zeros(len(lengths), max(lengths))
        for row, length in enumerate(lengths):
            batch[row, :length] = 0.1 * torch.randn(length) + 0.02
        return batch, torch.tensor(lengths)

    return make


@pytest.fixture
def digests() -> Callable[[Path], dict[str, str]]:
    """The SHA-256 of every file of a folder."""
    return lambda folder: {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(folder.iterdir())}


@pytest.fixture
def rewrite_weights() -> Callable[..., None]:
    """``rewrite(folder, change)``: replaces the weights of a saved model by ``change(weights)``."""

    def rewrite(folder: Path, change: Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]]) -> None:
        file = folder / "model.safetensors"
        state = {name: tensor.clone() for name, tensor in load_file(file).items()}
        save_file(change(state), file, metadata={"format": "pt"})

    return rewrite


class EncoderCases:
    """The tiny checkpoints of ``nuebridge_hf.examples.encoders``, each written once, and the library's own answers."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.components = {record.model_types[0]: record for record in plugin.nuebridge_speech_encoders()}

    def folder(self, name: str) -> Path:
        folder = self.root / name
        if not folder.exists():
            folder.mkdir()
            ENCODER_EXAMPLES[name](folder)
        return folder

    def copy(self, name: str, target: Path) -> Path:
        """A folder of its own, to be changed."""
        shutil.copytree(self.folder(name), target)
        return target

    def part_class(self, name: str) -> Any:
        return self.components[ENCODER_EXAMPLES[name].model_type].load()

    def options(self, name: str, **options: Any) -> Any:
        return self.components[ENCODER_EXAMPLES[name].model_type].options(**options)

    def load(self, name: str, folder: Path | None = None, **options: Any) -> Any:
        """The encoder of a checkpoint, in eval mode."""
        part = self.part_class(name).load(str(folder or self.folder(name)), self.options(name, **options))
        return part.eval()

    def theirs(self, name: str, folder: Path | None = None, head: str = "Model") -> Any:
        """The same checkpoint in the library's own class; of Whisper the encoder."""
        with quiet_transformers():
            model_class = getattr(transformers, ENCODER_EXAMPLES[name].family + head)
            model = model_class.from_pretrained(folder or self.folder(name)).eval()
        return model.encoder if ENCODER_EXAMPLES[name].model_type == "whisper" else model

    def inputs(self, name: str, clip: torch.Tensor) -> dict[str, torch.Tensor]:
        """What the library's feature extractor makes of one clip ``[S]``, which is not padded."""
        extractor = transformers.AutoFeatureExtractor.from_pretrained(self.folder(name))
        inputs = dict(extractor(clip.numpy(), sampling_rate=16_000, return_tensors="pt"))
        if ENCODER_EXAMPLES[name].model_type != "wav2vec2-bert":
            inputs.pop("attention_mask", None)
        return inputs


@pytest.fixture(scope="session")
def cases(tmp_path_factory: pytest.TempPathFactory) -> EncoderCases:
    return EncoderCases(tmp_path_factory.mktemp("encoders"))


class PairsBridge(Bridge):
    """Two frames a position."""

    def __init__(self, input_size: int, output_size: int) -> None:
        super().__init__()
        self.input_size, self.output_size, self.options = input_size, output_size, NoOptions()
        self.conv = torch.nn.Conv1d(input_size, output_size, 2, 2)

    @classmethod
    def build(cls, input_size: int, output_size: int, options: Any) -> PairsBridge:
        return cls(input_size, output_size)

    @classmethod
    def load(cls, folder: Path, input_size: int, output_size: int, options: Any) -> PairsBridge:
        bridge = cls(input_size, output_size)
        load_weights(bridge, folder)
        return bridge

    def save(self, folder: Path) -> None:
        save_weights(self, folder)

    def forward(self, frames: Frames, target_lengths: torch.Tensor | None = None) -> Frames:
        features = self.conv(frames.features.transpose(1, 2)).transpose(1, 2)
        return Frames(features, frames.lengths // 2).zero_padding()

    def output_lengths(self, lengths: torch.Tensor) -> torch.Tensor:
        return lengths // 2


@pytest.fixture(scope="session")
def pairs_bridge() -> type[PairsBridge]:
    return PairsBridge

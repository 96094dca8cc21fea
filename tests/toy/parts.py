"""The toy parts. Each is a few hundred weights that really learn."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

import torch
from pydantic import BaseModel
from torch import Tensor, nn

from nuebridge.contracts import (
    Bridge,
    CtcWeights,
    Frames,
    Generated,
    GenerationOptions,
    ParameterGroup,
    SpeechEncoder,
    TextDecoder,
    check_not_empty,
)
from nuebridge.hookspecs import NoOptions
from nuebridge.settings import CtcVocabulary
from nuebridge.tensors import load_weights, read_json, read_weights, save_weights, write_json

SPECIAL = {"<s>": 256, "</s>": 257}


def write_source(folder: Path, kind: str, hidden_size: int, seed: int = 0) -> Path:
    """A checkpoint of a toy encoder or decoder with random weights."""
    torch.manual_seed(seed)
    folder.mkdir(parents=True)
    part = (ToyEncoder if kind == "encoder" else ToyDecoder)(hidden_size)
    part.save(folder)
    return folder


def write_ctc_head(folder: Path, vocabulary: CtcVocabulary, hidden_size: int) -> None:
    """A random CTC head in the folder of a toy encoder."""
    torch.manual_seed(3)
    (folder / "ctc").mkdir()
    save_weights(nn.Linear(hidden_size, len(vocabulary.symbols) + 1), folder / "ctc")
    write_json(folder / "ctc" / "vocabulary.json", vocabulary.model_dump(mode="json"))


class _Sourced:
    @classmethod
    def load(cls, source: str, options: BaseModel, *, revision: str | None = None) -> Any:
        part: Any = cls(read_json(Path(source) / "config.json")["hidden_size"])  # type: ignore[call-arg]
        load_weights(part, Path(source))
        return part


class ToyEncoder(_Sourced, SpeechEncoder):
    """100 samples a frame, dropout in training."""

    sample_rate = 1000
    frame_rate = 10.0

    def __init__(self, hidden_size: int) -> None:
        super().__init__()
        self.hidden_size, self.options = hidden_size, NoOptions()
        self.proj = nn.Linear(100, hidden_size)
        self.dropout = nn.Dropout(0.1)

    def forward(self, waveforms: Tensor, lengths: Tensor) -> Frames:
        frames = self.output_lengths(lengths)
        check_not_empty(lengths, frames, 100, "samples", "the toy encoder")
        chunks = waveforms[:, : int(frames.max()) * 100].unflatten(1, (-1, 100))
        return Frames(self.dropout(torch.tanh(self.proj(chunks.to(self.dtype)))), frames).zero_padding()

    def output_lengths(self, lengths: Tensor) -> Tensor:
        return lengths // 100

    @classmethod
    def outline(cls, source: str, options: BaseModel, *, revision: str | None = None) -> Self:
        """The decoder has none, so that both kinds are tried."""
        with torch.device("meta"):
            return cls(read_json(Path(source) / "config.json")["hidden_size"])

    @classmethod
    def own_ctc_head(cls, source: str, options: BaseModel, *, revision: str | None = None) -> CtcWeights | None:
        """What :func:`write_ctc_head` left in the folder."""
        if not (Path(source) / "ctc" / "model.safetensors").is_file():
            return None
        state = read_weights(Path(source) / "ctc" / "model.safetensors")
        vocabulary = CtcVocabulary.model_validate(read_json(Path(source) / "ctc" / "vocabulary.json"))
        return CtcWeights(vocabulary, state["weight"], state["bias"])

    def parameter_groups(self) -> list[ParameterGroup]:
        names = ("weight", "bias")
        return [ParameterGroup(f"layers.{i}", (getattr(self.proj, name),)) for i, name in enumerate(names)]

    def save(self, folder: Path) -> None:
        save_weights(self, folder)
        write_json(folder / "config.json", {"model_type": "toy-encoder", "hidden_size": self.hidden_size})


class ToyBridge(Bridge):
    """Two frames a position."""

    def __init__(self, input_size: int, output_size: int) -> None:
        super().__init__()
        self.input_size, self.output_size, self.options = input_size, output_size, NoOptions()
        self.conv = nn.Conv1d(input_size, output_size, 2, 2)

    @classmethod
    def build(cls, input_size: int, output_size: int, options: BaseModel) -> Self:
        return cls(input_size, output_size)

    @classmethod
    def load(cls, folder: Path, input_size: int, output_size: int, options: BaseModel) -> Self:
        bridge = cls(input_size, output_size)
        load_weights(bridge, folder)
        return bridge

    def save(self, folder: Path) -> None:
        save_weights(self, folder)

    def forward(self, frames: Frames, target_lengths: Tensor | None = None) -> Frames:
        lengths = self.output_lengths(frames.lengths)
        check_not_empty(frames.lengths, lengths, 2, "frames", "the toy bridge")
        features = self.conv(frames.features.transpose(1, 2)).transpose(1, 2)
        return Frames(features, lengths, losses=frames.losses).zero_padding()

    def output_lengths(self, lengths: Tensor) -> Tensor:
        return lengths // 2


class ToyDecoder(_Sourced, TextDecoder):
    """A GRU over bytes and two special tokens; what it reads begins at a row's first real position."""

    vocab_size = 258
    max_positions = 200
    bos_token_id = 256
    eos_token_ids = (257,)
    pad_token_id = None

    def __init__(self, hidden_size: int) -> None:
        super().__init__()
        self.hidden_size, self.options = hidden_size, NoOptions()
        self.embedding = nn.Embedding(258, hidden_size)
        self.gru = nn.GRU(hidden_size, hidden_size, batch_first=True)
        self.head = nn.Linear(hidden_size, 258)

    def save(self, folder: Path) -> None:
        save_weights(self, folder)
        write_json(folder / "config.json", {"model_type": "toy-decoder", "hidden_size": self.hidden_size})

    def encode(self, text: str) -> list[int]:
        ids: list[int] = []
        while text:
            special = next((token for token in SPECIAL if text.startswith(token)), None)
            ids += [SPECIAL[special]] if special else list(text[0].encode())
            text = text[len(special) if special else 1 :]
        return ids

    def decode(self, token_ids: Sequence[int]) -> str:
        return bytes(i for i in token_ids if i < 256).decode(errors="replace")

    def token(self, token_id: int) -> str:
        return {v: k for k, v in SPECIAL.items()}.get(token_id, chr(token_id % 256))

    def embed(self, token_ids: Tensor) -> Tensor:
        return self.embedding(token_ids)

    def forward(self, inputs_embeds: Tensor, attention_mask: Tensor, num_logits: int | None = None) -> Tensor:
        # Every row is turned until its first real position comes first, and back again.
        size = inputs_embeds.shape[1]
        turn = torch.arange(size) + attention_mask.argmax(1, keepdim=True)
        back = torch.arange(size) - attention_mask.argmax(1, keepdim=True)
        turned = inputs_embeds.gather(1, (turn % size)[..., None].expand_as(inputs_embeds))
        hidden = self.gru(turned)[0]
        hidden = hidden.gather(1, (back % size)[..., None].expand_as(hidden))
        return self.head(hidden[:, -(num_logits or size) :])

    def generate(self, inputs_embeds: Tensor, attention_mask: Tensor, options: GenerationOptions) -> list[Generated]:
        return [
            self._greedy(inputs_embeds[row, mask], limit, options.min_new_tokens)
            for row, (mask, limit) in enumerate(zip(attention_mask.bool(), options.max_new_tokens, strict=True))
        ]

    def _greedy(self, embeds: Tensor, limit: int, least: int) -> Generated:
        ids: list[int] = []
        total = 0.0
        for _ in range(limit):
            logprobs = self.head(self.gru(embeds[None])[0][0, -1]).log_softmax(-1)
            if len(ids) < least:
                logprobs[257] = -torch.inf
            ids.append(int(logprobs.argmax()))
            total += float(logprobs.max())
            if ids[-1] == 257:
                break
            embeds = torch.cat([embeds, self.embedding(torch.tensor([ids[-1]]))])
        return Generated(ids, total / len(ids), ids[-1] != 257)

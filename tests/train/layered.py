"""An integration whose decoder keeps its layers in a list and drops at random, as real models do."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from toy.parts import ToyBridge, ToyDecoder, ToyEncoder

from nuebridge.contracts import Part
from nuebridge.ctc import CtcHead
from nuebridge.data import Utterance
from nuebridge.model import Integration
from nuebridge.settings import CtcVocabulary, PromptTemplate
from nuebridge.train.batches import Batch, Position
from nuebridge.train.config import TrainConfig
from nuebridge.train.engine import Engine
from nuebridge.train.ranks import Ranks
from nuebridge.train.step import Stepper


class Layer(nn.Module):
    def __init__(self, size: int, dropout: float) -> None:
        super().__init__()
        self.proj = nn.Linear(size, size)
        self.dropout = nn.Dropout(dropout)

    def forward(self, hidden: Tensor) -> Tensor:
        return hidden + self.dropout(torch.tanh(self.proj(hidden)))


class LayeredDecoder(ToyDecoder):
    def __init__(self, hidden_size: int, dropout: float = 0.0) -> None:
        super().__init__(hidden_size)
        self.layers = nn.ModuleList(Layer(hidden_size, dropout) for _ in range(2))

    def forward(self, inputs_embeds: Tensor, attention_mask: Tensor, num_logits: int | None = None) -> Tensor:
        for layer in self.layers:
            inputs_embeds = layer(inputs_embeds)
        return super().forward(inputs_embeds, attention_mask, num_logits)


def layered(*, dropout: float = 0.0, seed: int = 0) -> Integration:
    """12-wide frames, a CTC head, a 16-wide decoder of two layers; equal seeds give equal weights."""
    torch.manual_seed(seed)
    encoder = ToyEncoder(12)
    encoder.dropout.p = dropout
    return Integration(
        encoder,
        ToyBridge(12, 16),
        LayeredDecoder(16, dropout),
        ctc_head=CtcHead(12, CtcVocabulary(symbols="abcdefghij ")),
        prompt=PromptTemplate(prefix="<s>", suffix=":"),
    )


def config(**changes: Any) -> TrainConfig:
    """A configuration in which every part is trained; ``a__b=x`` sets ``a.b``."""
    data: dict[str, Any] = {
        "model": "unused",
        "output": "unused",
        "data": {"train": ["unused"]},
        "schedule": {"steps": 10, "shape": "constant"},
        "parts": {n: {"train": True, "learning_rate": 0.01} for n in ("encoder", "ctc_head", "bridge", "decoder")},
        "losses": {"ctc": 0.5},
    }
    for way, value in changes.items():
        here = data
        *before, last = way.split("__")
        for key in before:
            here = here.setdefault(key, {})
        here[last] = value
    return TrainConfig.model_validate(data)


def batch(number: int = 0, texts: tuple[str, ...] = ("abc", "fa", "jig bad", "hi", "deaf")) -> Batch:
    """Clips of 0.8 to 2 s with texts."""
    generator = torch.Generator().manual_seed(number)
    waveforms = [torch.randn(800 + 300 * i, generator=generator) for i in range(len(texts))]
    return Batch(
        nn.utils.rnn.pad_sequence(waveforms, batch_first=True),
        torch.tensor([len(waveform) for waveform in waveforms]),
        tuple(Utterance(f"u{number}-{i}", Path("u"), text) for i, text in enumerate(texts)),
        0,
        Position(),
    )


def stepper(integration: Integration, ranks: Ranks | None = None, **changes: Any) -> Stepper:
    (stage,) = config(**changes).unrolled()
    return Stepper(Engine(integration, stage, ranks or Ranks()), stage)


def steps(made: Stepper, count: int, first: int = 0) -> list[dict[str, float]]:
    """The figures of steps on different batches."""
    return [made.step(batch(number), number, lambda: False).figures for number in range(first, first + count)]


def weights(part: Part | Integration) -> dict[str, Tensor]:
    return {name: parameter.detach().clone() for name, parameter in part.named_parameters()}

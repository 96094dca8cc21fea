"""Real model classes under every way of computing a stage: their layers, tied weights and hooks are their own."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import PreTrainedTokenizerFast

from nuebridge.contracts import Bridge, Frames
from nuebridge.data import Utterance
from nuebridge.model import Integration
from nuebridge.train.batches import Batch, Position
from nuebridge.train.config import TrainConfig
from nuebridge.train.engine import Engine
from nuebridge.train.ranks import Ranks, joined
from nuebridge.train.reference import Reference
from nuebridge.train.step import Stepper
from nuebridge_hf.causal_lm import CausalLm
from nuebridge_hf.wav2vec_family import HubertEncoder


class Stacking(Bridge):
    """Four frames a position."""

    def __init__(self, input_size: int, output_size: int) -> None:
        super().__init__()
        self.input_size, self.output_size = input_size, output_size
        self.proj = nn.Linear(4 * input_size, output_size)

    @classmethod
    def build(cls, input_size: int, output_size: int, options: Any) -> Stacking:
        return cls(input_size, output_size)

    @classmethod
    def load(cls, folder: Path, input_size: int, output_size: int, options: Any) -> Stacking:
        raise NotImplementedError

    def save(self, folder: Path) -> None:
        raise NotImplementedError

    def forward(self, frames: Frames, target_lengths: Tensor | None = None) -> Frames:
        count = frames.features.shape[1] // 4
        stacked = frames.features[:, : 4 * count].unflatten(1, (count, 4)).flatten(2)
        return Frames(self.proj(stacked), self.output_lengths(frames.lengths)).zero_padding()

    def output_lengths(self, lengths: Tensor) -> Tensor:
        return lengths // 4


@pytest.fixture(scope="module")
def group() -> Iterator[Ranks]:
    with joined(as_group=True) as ranks:
        yield ranks


Make = Callable[[str], Integration]
DROPOUTS = ("hidden_dropout", "attention_dropout", "activation_dropout", "feat_proj_dropout")
"""Switched off: what is drawn differs where a batch is cut up."""


@pytest.fixture
def make(
    make_speech_model: Callable[..., Any], make_text_model: Callable[..., Any], tokenizer: PreTrainedTokenizerFast
) -> Make:
    def make(family: str) -> Integration:
        encoder = HubertEncoder(
            make_speech_model("hubert", layerdrop=0.0, apply_spec_augment=False, **dict.fromkeys(DROPOUTS, 0.0))
        )
        decoder = CausalLm(make_text_model(family), tokenizer)
        for module in decoder.modules():
            if isinstance(module, nn.Dropout):
                module.p = 0.0
        torch.manual_seed(4)
        return Integration(encoder, Stacking(32, decoder.hidden_size), decoder)

    return make


def batch(number: int) -> Batch:
    generator = torch.Generator().manual_seed(number)
    clips = [0.1 * torch.randn(size, generator=generator) for size in (3000, 4100, 5200)]
    return Batch(
        nn.utils.rnn.pad_sequence(clips, batch_first=True),
        torch.tensor([len(clip) for clip in clips]),
        tuple(Utterance(f"{number}-{i}", Path("u"), text) for i, text in enumerate(("AB C", "", "HELLO"))),
        0,
        Position(),
    )


def learn(
    integration: Integration, ranks: Ranks | None = None, **changes: Any
) -> tuple[list[dict[str, float]], dict[str, Tensor]]:
    """The figures of three steps and the weights after them."""
    parts = {name: {"train": True, "learning_rate": 0.003} for name in ("encoder", "bridge", "decoder")}
    told = {"model": "m", "output": "o", "data": {"train": "t"}, "schedule": {"steps": 5, "shape": "constant"}}
    (stage,) = TrainConfig.model_validate({**told, "parts": parts, **changes}).unrolled()
    reference = None
    if stage.config.losses.kl:
        reference = Reference(integration, copy.deepcopy(integration), stage.config)
    engine = Engine(integration, stage, ranks or Ranks())
    if reference is not None:
        reference.settle(engine)
    made = Stepper(engine, stage, reference)
    torch.manual_seed(3)
    figures = [made.step(batch(number), number, lambda: False).figures for number in range(3)]
    with engine.whole() as whole:
        return figures, {name: parameter.detach().clone() for name, parameter in whole.named_parameters()}


LORA = {
    "parts": {
        "encoder": {"train": False},
        "bridge": {"learning_rate": 0.01},
        "decoder": {"lora": {"r": 4, "lora_dropout": 0.0}, "learning_rate": 0.01},
    },
    "losses": {"kl": 0.5},
}


@pytest.mark.parametrize("family", ["gpt2", "llama", "gpt_neox"])
@pytest.mark.parametrize("what", [{}, LORA], ids=["whole", "LoRA"])
def test_every_way_learns_the_same(make: Make, group: Ranks, family: str, what: dict[str, Any]) -> None:
    expected, weights = learn(make(family), **what)
    ways: dict[str, dict[str, Any]] = {
        "pieces": {"data": {"train": "t", "device_batch_seconds": 0.5}},
        "again": {"gradient_checkpointing": True},
        "divided": {"ranks": group, "parallel": {"strategy": "shard"}},
        "all": {
            "ranks": group,
            "parallel": {"strategy": "shard", "cpu_offload": True},
            "gradient_checkpointing": True,
            "data": {"train": "t", "device_batch_seconds": 0.5},
        },
    }
    for way, how in ways.items():
        figures, found = learn(make(family), **how, **what)
        for ours, theirs in zip(figures, expected, strict=True):
            assert ours == pytest.approx(theirs, rel=1e-4, abs=1e-5), way
        # Not their values: where a gradient is zero but for rounding, the optimiser makes steps of the rounding.
        assert {name: tensor.shape for name, tensor in found.items()} == {n: t.shape for n, t in weights.items()}

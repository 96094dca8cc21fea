"""The baselines of ``nuebridge bench train`` do the same work as nuebridge's own training."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import PreTrainedTokenizerFast

from nuebridge.bench import Meter, TrainingWork
from nuebridge.bench.ours import train_ours
from nuebridge.contracts import Bridge, Frames
from nuebridge.ctc import CtcHead
from nuebridge.data import Utterance, read_manifest
from nuebridge.errors import PluginError
from nuebridge.hookspecs import BenchBaseline, NoOptions
from nuebridge.model import Integration
from nuebridge.plugins import PluginManager
from nuebridge.settings import CtcVocabulary, PromptTemplate
from nuebridge.train.batches import Batch, Position
from nuebridge.train.config import TrainConfig
from nuebridge.train.engine import Engine
from nuebridge.train.ranks import ALONE
from nuebridge.train.step import Stepper
from nuebridge_hf.causal_lm import CausalLm
from nuebridge_hf.trainer_baseline import Clips, WithLoss, collate, train, trainer_of
from nuebridge_hf.wav2vec_family import HubertEncoder

Make = Callable[..., Any]
NO_DROPOUT = dict.fromkeys(
    ("hidden_dropout", "activation_dropout", "attention_dropout", "feat_proj_dropout", "layerdrop"), 0.0
)


class Quarters(Bridge):
    """Four frames a position."""

    def __init__(self, input_size: int, output_size: int) -> None:
        super().__init__()
        self.input_size, self.output_size, self.options = input_size, output_size, NoOptions()
        self.conv = torch.nn.Conv1d(input_size, output_size, 4, 4)

    def forward(self, frames: Frames, target_lengths: torch.Tensor | None = None) -> Frames:
        features = self.conv(frames.features.transpose(1, 2)).transpose(1, 2)
        return Frames(features, frames.lengths // 4).zero_padding()

    def output_lengths(self, lengths: torch.Tensor) -> torch.Tensor:
        return lengths // 4

    build = load = save = None


@pytest.fixture
def make_integration(make_speech_model: Make, make_text_model: Make, tokenizer: PreTrainedTokenizerFast) -> Make:
    """``make(front_end, normalize)``: HuBERT and GPT-NeoX with a CTC head, nothing dropped at random."""

    def make(front_end: str = "layer", normalize: bool = True) -> Integration:
        model = make_speech_model("hubert", front_end, apply_spec_augment=False, **NO_DROPOUT)
        encoder = HubertEncoder(model, normalize=normalize)
        decoder = CausalLm(make_text_model("gpt_neox", hidden_dropout=0.0, attention_dropout=0.0), tokenizer)
        torch.manual_seed(3)
        return Integration(
            encoder,
            Quarters(encoder.hidden_size, decoder.hidden_size),
            decoder,
            ctc_head=CtcHead(encoder.hidden_size, CtcVocabulary(symbols=" ABC")),
            prompt=PromptTemplate(prefix="<s>", suffix=":"),
        ).eval()

    return make


@pytest.fixture
def utterances(tmp_path: Path) -> tuple[Utterance, ...]:
    """Nine clips of noise of 0.2 to 1 s with texts of letters."""
    import json
    import wave

    rng = np.random.default_rng(0)
    lines = []
    for index in range(9):
        samples = 3_200 + 1_600 * ((index * 4) % 9)
        with wave.open(str(tmp_path / f"{index}.wav"), "wb") as file:
            file.setparams((1, 2, 16_000, 0, "NONE", ""))
            file.writeframes((rng.standard_normal(samples) * 3000).astype("<i2").tobytes())
        text = "AB C"[: 1 + index % 4].strip()
        lines.append({"audio_filepath": f"{index}.wav", "text": text, "duration": samples / 16_000})
    (tmp_path / "m.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return tuple(read_manifest(tmp_path / "m.jsonl"))


@pytest.fixture
def make_work(make_integration: Make, utterances: tuple[Utterance, ...]) -> Callable[..., TrainingWork]:
    def make(parts: dict[str, Any] | None = None, integration: Integration | None = None, **keys: Any) -> TrainingWork:
        config = TrainConfig.model_validate(
            {
                "model": "m",
                "output": "o",
                "data": {"train": "m.jsonl", "batch_seconds": 2.0},
                "schedule": {"steps": 100, "shape": "constant"},
                "parts": parts or {"encoder": {"train": True}, "decoder": {"train": True}},
                "losses": {"ctc": 0.3, "label_smoothing": 0.1},
            }
        )
        device = torch.device("cpu")
        given = {"batch_size": 3, "passes": 1, "warmup_steps": 2, "device": device, "meter": Meter(device), **keys}
        whole = integration or make_integration()
        return TrainingWork(integration=whole, stage=next(config.unrolled()), utterances=utterances, **given)

    return make


def first_batch(work: TrainingWork, count: int = 4) -> tuple[Batch, dict[str, Any]]:
    """The same utterances as a batch of nuebridge's and as one of the Trainer's."""
    chosen = work.utterances[:count]
    losses = work.stage.config.losses
    theirs = collate([Clips(work.integration, chosen, losses)[index] for index in range(count)])
    return Batch(theirs["waveforms"], theirs["lengths"], chosen, 0, Position(0, 1)), theirs


@pytest.mark.parametrize(("front_end", "same_encoder"), [("layer", False), ("layer", True), ("group", True)])
def test_losses_and_gradients_of_a_batch_agree(
    make_work: Make, make_integration: Make, tmp_path: Path, front_end: str, same_encoder: bool
) -> None:
    ours, theirs = (make_work(integration=make_integration(front_end)) for _ in range(2))
    batch, _ = first_batch(ours)
    stepper = Stepper(Engine(ours.integration, ours.stage, ALONE), ours.stage)
    updated: list[dict[str, torch.Tensor]] = []
    update = stepper.engine.update
    stepper.engine.update = lambda: updated.append(  # type: ignore[method-assign]
        {n: p.grad.clone() for n, p in ours.integration.named_parameters() if p.grad is not None}
    )
    result = stepper.step(batch, 0, lambda: False)
    assert update is not None
    expected = result.figures["loss"] + 0.3 * result.figures["ctc_loss"]

    trainer = trainer_of(theirs, str(tmp_path), grouped=False, same_encoder=same_encoder)
    trainer.model.train()
    _, inputs = first_batch(theirs)
    loss = trainer.compute_loss(trainer.model, inputs)
    loss.backward()
    assert loss.item() == pytest.approx(expected, rel=1e-5)
    norm = torch.nn.utils.clip_grad_norm_(theirs.integration.parameters(), 1.0)
    assert norm.item() == pytest.approx(result.figures["gradient_norm"], rel=1e-4)
    found = {n: p.grad for n, p in theirs.integration.named_parameters() if p.grad is not None}
    # The library leaves the embedding of masked frames out where nothing is masked.
    for name, gradient in updated[0].items():
        torch.testing.assert_close(found[name], gradient, atol=1e-5, rtol=1e-3, msg=name)


@pytest.mark.parametrize("same_encoder", [False, True])
@pytest.mark.parametrize("grouped", [False, True])
def test_every_utterance_is_trained_on_once_a_pass(make_work: Make, grouped: bool, same_encoder: bool) -> None:
    work = make_work(passes=2)
    before = work.integration.bridge.conv.weight.detach().clone()
    train(work, grouped=grouped, same_encoder=same_encoder)
    figures = work.meter.figures
    assert figures["steps"] == 2 * 3
    assert figures["samples"] == 2 * sum(round(16_000 * (u.duration or 0)) for u in work.utterances)
    assert not torch.equal(before, work.integration.bridge.conv.weight)
    assert work.meter.notes["encoder run by"] == ("nuebridge" if same_encoder else "transformers")
    assert work.meter.notes["accelerate"]


def test_grouped_batches_have_less_padding(make_work: Make) -> None:
    def padding(grouped: bool) -> float:
        work = make_work(passes=4)
        train(work, grouped=grouped, same_encoder=True)
        return 1 - int(work.meter.figures["samples"]) / int(work.meter.figures["computed"])

    assert padding(True) < 0.5 * padding(False)


def test_the_same_parts_are_trained(make_work: Make) -> None:
    parts = {"encoder": {"train": ["layers.1"]}, "ctc_head": {"train": False}, "decoder": {"train": False}}
    ours, theirs = make_work(parts), make_work(parts)
    before = {name: p.detach().clone() for name, p in ours.integration.named_parameters()}
    train_ours(ours)
    train(theirs, grouped=False, same_encoder=False)

    def moved(work: TrainingWork) -> set[str]:
        return {n for n, p in work.integration.named_parameters() if not torch.equal(p.detach(), before[n])}

    assert moved(ours) == moved(theirs)
    assert any(name.startswith("bridge.") for name in moved(ours))
    assert all(name.startswith(("bridge.", "encoder.model.encoder.layers.1.")) for name in moved(ours))


def test_frozen_parts_stay_in_eval_mode(make_work: Make) -> None:
    work = make_work({"encoder": {"train": False}, "decoder": {"train": False}})
    for name, parameter in work.integration.named_parameters():
        parameter.requires_grad_(name.startswith("bridge."))
    wrapped = WithLoss(work.integration, work.stage.config.losses, work.meter, same_encoder=True).train()
    assert wrapped.training and work.integration.bridge.training
    assert not work.integration.encoder.training and not work.integration.decoder.training


def test_logits_are_computed_everywhere(make_work: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    work = make_work()
    shapes = []
    real = CausalLm.forward

    def forward(self: CausalLm, *arguments: Any, **more: Any) -> torch.Tensor:
        shapes.append(real(self, *arguments, **more))
        return shapes[-1]

    monkeypatch.setattr(CausalLm, "forward", forward)
    _, inputs = first_batch(work)
    WithLoss(work.integration, work.stage.config.losses, work.meter, same_encoder=True)(**inputs)
    longest = max(int(work.integration.encoder.output_lengths(inputs["lengths"]).max()) // 4, 1)
    assert shapes[0].shape[1] > longest


def test_without_accelerate_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    import importlib.util

    real = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *more: None if name == "accelerate" else real(name, *more)
    )
    ref = PluginManager.discover().find(BenchBaseline, "hf.plain-trainer")
    with pytest.raises(PluginError, match=r"pip install 'accelerate>=1\.1'"):
        ref.load()


def test_all_four_are_found() -> None:
    manager = PluginManager.discover()
    names = [ref.record.name for ref in manager.refs(BenchBaseline) if ref.plugin == "hf"]
    assert names == ["plain-trainer", "grouped-trainer", "plain-trainer-same-encoder", "grouped-trainer-same-encoder"]
    assert all(callable(ref.load()) for ref in manager.refs(BenchBaseline) if ref.plugin == "hf")

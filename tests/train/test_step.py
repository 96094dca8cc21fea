from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from toy.parts import ToyBridge, ToyDecoder, ToyEncoder

from nuebridge.contracts import Frames
from nuebridge.errors import TrainingError
from nuebridge.train.step import cut
from tests.train.layered import batch, layered, stepper, steps, weights

FROZEN = {"train": False}


def close(ours: dict[str, Tensor], theirs: dict[str, Tensor], tolerance: float = 1e-6) -> None:
    assert list(ours) == list(theirs)
    for name, tensor in ours.items():
        assert torch.allclose(tensor, theirs[name], rtol=0, atol=tolerance), name


# --- pieces ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("seconds", "pieces"), [(100.0, 1), (4.0, 3), (0.1, 5)])
def test_pieces_add_up_to_the_batch(seconds: float, pieces: int) -> None:
    whole, other = layered(), layered()
    expected = steps(stepper(whole), 3)
    made = stepper(other, data__device_batch_seconds=seconds)
    assert len(list(made._pieces(batch()))) == pieces
    for ours, theirs in zip(steps(made, 3), expected, strict=True):
        assert ours == pytest.approx(theirs, abs=1e-5)
    close(weights(other), weights(whole), 1e-4)


@given(st.lists(st.integers(1, 50), min_size=1, max_size=30), st.integers(1, 120))
def test_cutting(lengths: list[int], limit: int) -> None:
    rows = [lengths[piece] for piece in cut(lengths, limit)]
    assert [length for row in rows for length in row] == lengths
    assert all(len(row) == 1 or len(row) * max(row) <= limit for row in rows)
    assert all((len(row) + 1) * max([*row, following[0]]) > limit for row, following in itertools.pairwise(rows))


def test_what_is_counted_beforehand_is_what_the_losses_count() -> None:
    made = stepper(layered())
    given = batch(texts=("abc", "aa bb", "abcdefghij" * 5, "", "deaf"))  # one that its frames cannot spell, one empty
    (piece,) = made._pieces(given)
    counts, losses = made._counts(given, [piece]), made._losses(piece)
    assert (counts["text_tokens"], counts["ctc_symbols"]) == (losses.text_tokens, losses.ctc_symbols)
    assert counts["ctc_symbols"] == 3 + 5 + 0 + 1 + 4 and counts["text_tokens"] == 3 + 5 + 50 + 0 + 4 + 5
    # Of frames that were kept, the number is known and need not follow from a duration.
    kept = replace(piece, frames=Frames(torch.zeros(5, 2, 12), torch.tensor([2] * 5)))
    assert made._counts(given, [kept])["ctc_symbols"] == 0 + 0 + 0 + 1 + 0


def test_texts_are_tokenised_once(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []
    encode = ToyDecoder.encode
    monkeypatch.setattr(ToyDecoder, "encode", lambda self, text: seen.append(text) or encode(self, text))
    steps(stepper(layered(), data__device_batch_seconds=4.0), 1)
    assert sorted(text for text in seen if text not in ("<s>", ":")) == sorted(u.text for u in batch().utterances)


@pytest.mark.parametrize("kept", [False, True])
def test_a_filler_goes_through_what_the_others_go_through(monkeypatch: pytest.MonkeyPatch, kept: bool) -> None:
    """And counts for nothing."""
    integration = layered()
    made = stepper(integration, parts__encoder=FROZEN, cache_frozen=kept)
    runs: list[int] = []
    integration.encoder.register_forward_hook(lambda *_: runs.append(1))
    loss, figures = made._loss(made._filler(0), {"text_tokens": 9.0, "ctc_symbols": 9.0, "utterances": 2.0}, 0.0)
    assert loss.requires_grad and loss.item() == 0 and not figures.any() and len(runs) == (0 if kept else 1)
    loss.backward()
    gradients = [parameter.grad for parameter in integration.parameters() if parameter.requires_grad]
    assert all(gradient is not None and not gradient.any() for gradient in gradients)


def test_a_batch_of_nothing_moves_nothing() -> None:
    integration = layered()
    before = weights(integration)
    empty = replace(batch(), waveforms=torch.zeros(0, 0), lengths=torch.zeros(0, dtype=torch.int64), utterances=())
    result = stepper(integration).step(empty, 0, lambda: True)
    assert (result.figures, result.samples, result.asked_to_stop) == ({}, 0, True)
    close(weights(integration), before, 0)


# --- losses ----------------------------------------------------------------------------------------


def test_losses_and_their_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is minimised, term by term; the CTC weight goes from one value to another."""
    forward = ToyBridge.forward

    def with_losses(self: ToyBridge, frames: Any, target_lengths: Any = None) -> Any:
        audio = forward(self, frames)
        return replace(audio, losses={"size": audio.features.sum() * 0 + 30.0, "other": audio.features.sum() * 0 + 7.0})

    monkeypatch.setattr(ToyBridge, "forward", with_losses)
    made = stepper(layered(), losses={"text": 2.0, "ctc": 0.5, "ctc_final": 1.5, "auxiliary": {"size": 0.25}})
    (piece,) = made._pieces(batch())
    losses, counts = made._losses(piece), made._counts(batch(), [piece])
    rest = 2 * losses.text / losses.text_tokens + (0.25 * 30 + 7) / 5
    for progress, weight in ((0.0, 0.5), (0.5, 1.0), (1.0, 1.5)):
        expected = rest + weight * losses.ctc / losses.ctc_symbols
        assert made._total(losses, counts, progress).item() == pytest.approx(expected.item(), rel=1e-6)
    used: list[float] = []
    total = made._total
    monkeypatch.setattr(made, "_total", lambda *arguments: used.append(arguments[2]) or total(*arguments))
    figures = steps(made, 10)
    assert used == pytest.approx([number / 9 for number in range(10)])
    assert figures[0]["auxiliary_loss"] == pytest.approx(37 / 5)


def test_without_ctc_loss_there_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    made = stepper(layered(), losses={"ctc": 0.0})
    (piece,) = made._pieces(batch())
    assert made._losses(piece).ctc is None and set(steps(made, 1)[0]) == {"loss", "gradient_norm"}


class Spoil(torch.autograd.Function):
    """Whole forwards, broken backwards."""

    @staticmethod
    def forward(ctx: Any, value: Tensor) -> Tensor:
        return value.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return gradient * float("inf")


@pytest.mark.parametrize(("what", "change"), [("loss", lambda text: text * float("nan")), ("gradient", Spoil.apply)])
def test_what_is_not_finite_moves_no_weight(
    monkeypatch: pytest.MonkeyPatch, what: str, change: Callable[[Tensor], Tensor]
) -> None:
    integration = layered()
    made = stepper(integration, data__device_batch_seconds=4.0)
    steps(made, 1)
    before, losses = weights(integration), made._losses

    def spoiled(piece: Any) -> Any:
        found = losses(piece)
        return replace(found, text=change(found.text)) if piece.utterances[0].id == "u1-2" else found

    monkeypatch.setattr(made, "_losses", spoiled)
    with pytest.raises(TrainingError, match=rf"the {what} is (nan|inf) at step 2 on the batch u1-0, u1-1, u1-2, u1-3"):
        steps(made, 1, first=1)
    close(weights(integration), before, 0)


# --- what is trained -------------------------------------------------------------------------------


def test_nothing_is_kept_of_a_frozen_encoder_and_a_frozen_decoder_passes_gradients(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    integration = layered(dropout=0.5)
    made = stepper(integration, parts__encoder=FROZEN, parts__decoder=FROZEN)
    seen: list[bool] = []
    forward = ToyEncoder.forward

    def noting(self: ToyEncoder, waveforms: Tensor, lengths: Tensor) -> Any:
        seen.append(torch.is_grad_enabled())
        frames = forward(self, waveforms, lengths)
        assert frames.features.grad_fn is None
        return frames

    monkeypatch.setattr(ToyEncoder, "forward", noting)
    before = weights(integration)
    steps(made, 1)
    assert seen == [False]
    assert not integration.encoder.training and not integration.decoder.training and integration.bridge.training
    changed = {name for name, now in weights(integration).items() if not torch.equal(now, before[name])}
    assert changed == {"bridge.conv.weight", "bridge.conv.bias", "ctc_head.proj.weight", "ctc_head.proj.bias"}
    assert all(parameter.grad is None for parameter in integration.decoder.parameters())


def test_a_part_begins_at_its_step() -> None:
    integration = layered(dropout=0.5)
    made = stepper(
        integration,
        parts__decoder={"from_step": 2, "warmup_steps": 2, "learning_rate": 0.02},
        parts__encoder={"train": False, "lora": None},
    )
    before = weights(integration.decoder)
    steps(made, 2)
    close(weights(integration.decoder), before, 0)
    assert not integration.decoder.training and made.learning_rates["decoder"] == 0
    state = made.engine.optimizer_state()["state"]
    assert not [name for name in state if name.startswith("decoder")]
    steps(made, 1, first=2)
    assert integration.decoder.training and made.learning_rates["decoder"] == 0.01
    state = made.engine.optimizer_state()["state"]
    assert state["decoder.head.weight"]["step"] == 1 and state["bridge.conv.weight"]["step"] == 3
    assert not torch.equal(integration.decoder.head.weight, before["head.weight"])
    steps(made, 1, first=3)
    assert made.learning_rates["decoder"] == 0.02


def test_something_must_begin_at_once() -> None:
    parts = dict.fromkeys(("encoder", "ctc_head", "decoder"), FROZEN)
    with pytest.raises(TrainingError, match=r"nothing is trained before step 4; set parts\.bridge\.from_step to 0"):
        stepper(layered(), parts={**parts, "bridge": {"from_step": 4}})


# --- memory ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("frozen", [{}, {"parts__decoder": FROZEN}, {"parts__encoder": FROZEN}])
def test_computing_layers_again_changes_nothing(frozen: dict[str, Any]) -> None:
    """Dropout included; and layers are in fact computed twice where gradients pass."""
    found = []
    for again in (False, True):
        integration = layered(dropout=0.3)
        made = stepper(integration, gradient_checkpointing=again, **frozen)
        calls: list[int] = []
        integration.decoder.layers[0].proj.register_forward_hook(lambda *_, seen=calls: seen.append(1))
        names = list(weights(integration))
        torch.manual_seed(5)
        figures = steps(made, 3)
        assert len(calls) == (6 if again else 3)
        assert list(weights(integration)) == names and "forward" not in integration.decoder.layers[0].__dict__
        found.append((figures, weights(integration)))
    assert found[0][0] == found[1][0]
    close(found[0][1], found[1][1], 0)


def test_half_precision_keeps_weights_whole() -> None:
    integration = layered()
    exact = steps(stepper(layered()), 1)[0]
    half = steps(stepper(integration, precision="bfloat16"), 1)[0]
    assert half["loss"] == pytest.approx(exact["loss"], rel=0.02) and half["loss"] != exact["loss"]
    assert {parameter.dtype for parameter in integration.parameters()} == {torch.float32}

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from nuebridge.compose import Workshop, compose_entry
from nuebridge.config import validate
from nuebridge.data import Utterance, read_manifest
from nuebridge.errors import DataError
from nuebridge.model import Integration
from nuebridge.train.config import TrainConfig
from nuebridge.train.gain import LISTENS_FROM, SWAPPED_AMONG, derangement, measure, not_listening
from tests.tones import write_corpus


@pytest.fixture
def utterances(corpus: Path) -> list[Utterance]:
    return read_manifest(corpus)


@pytest.fixture
def hearing(toy_integration: Integration) -> Integration:
    """What is heard makes a difference to it."""
    with torch.no_grad():
        toy_integration.bridge.conv.weight *= 20
        toy_integration.decoder.head.weight *= 5
    return toy_integration.eval()


def loss(integration: Integration, audio: Utterance, text: str) -> tuple[float, int]:
    """The model's own, of one utterance."""
    waveform = torch.from_numpy(audio.load(1000))[None]
    with torch.no_grad():
        found = integration(waveform, torch.tensor([waveform.shape[1]]), [text])
    return float(found.text), found.text_tokens


# --- who swaps with whom ---------------------------------------------------------------------------


@given(st.lists(st.sampled_from("abcde"), min_size=2, max_size=12), st.integers(0, 99))
def test_everybody_gets_another_and_each_is_taken_once(texts: list[str], seed: int) -> None:
    swaps = derangement(texts, random.Random(seed))
    assert sorted(swaps) == list(range(len(texts)))
    assert all(index != swap for index, swap in enumerate(swaps))
    most = max(texts.count(text) for text in texts)
    same = sum(texts[index] == texts[swap] for index, swap in enumerate(swaps))
    assert same == (len(texts) if most == len(texts) else max(0, 2 * most - len(texts)))  # no fewer are possible


def test_the_seed_decides() -> None:
    texts = list("abcdefgh")
    swaps = {seed: tuple(derangement(texts, random.Random(seed))) for seed in range(20)}
    assert len(set(swaps.values())) > 10
    assert swaps[3] == tuple(derangement(texts, random.Random(3)))


def test_a_single_text_has_nobody_to_swap_with() -> None:
    assert derangement(["a"], random.Random(0)) == [0] and derangement([], random.Random(0)) == []


# --- the figures -----------------------------------------------------------------------------------


def test_loss_and_gain_by_hand(hearing: Integration, utterances: list[Utterance]) -> None:
    """Two utterances can only swap with each other."""
    low, mid = [
        replace(utterance, text=text) for utterance, text in zip(utterances[:2], ("low", "middle"), strict=True)
    ]
    right = [loss(hearing, low, "low"), loss(hearing, mid, "middle")]
    other = [loss(hearing, mid, "low"), loss(hearing, low, "middle")]
    tokens = sum(count for _, count in right)
    assert tokens == 4 + 7  # the end token is one of them
    found = measure(hearing, [low, mid], batch_size=2)
    assert found.loss == pytest.approx(sum(nats for nats, _ in right) / tokens, rel=1e-5)
    gain = (sum(nats for nats, _ in other) - sum(nats for nats, _ in right)) / tokens
    assert found.audio_gain == pytest.approx(gain, abs=1e-5) and abs(gain) > 1e-2


def test_a_deaf_decoder_gains_nothing(toy_integration: Integration, utterances: list[Utterance]) -> None:
    with torch.no_grad():
        toy_integration.bridge.conv.weight.zero_()
    same_length = [replace(utterance, duration=0.3) for utterance in utterances]
    assert measure(toy_integration, same_length, batch_size=4).audio_gain == pytest.approx(0, abs=1e-6)


def test_a_decoder_that_listens_gains_much(toy_workshop: Workshop, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = compose_entry(toy_workshop.registry.integration("toys"), toy_workshop)
    learned = read_manifest(write_corpus(tmp_path / "learned", 12))
    waveforms = [torch.from_numpy(utterance.load(1000)) for utterance in learned]
    padded, lengths = torch.nn.utils.rnn.pad_sequence(waveforms, batch_first=True), [len(one) for one in waveforms]
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.03)
    before = measure(model, learned, batch_size=12)
    for _ in range(60):
        losses = model(padded, torch.tensor(lengths), [utterance.text for utterance in learned])
        (losses.text / losses.text_tokens).backward()
        optimizer.step()
        optimizer.zero_grad()
    after = measure(model, read_manifest(write_corpus(tmp_path / "fresh", 12, seed=5)), batch_size=12)
    assert abs(before.audio_gain) < LISTENS_FROM < 1 < after.audio_gain
    assert after.loss < 0.5 < before.loss


def test_batches_make_no_difference(hearing: Integration, utterances: list[Utterance]) -> None:
    one, other = (measure(hearing, utterances, batch_size=size) for size in (1, 5))
    assert one.loss == pytest.approx(other.loss, rel=1e-5)
    assert one.audio_gain == pytest.approx(other.audio_gain, abs=1e-5)


def test_pairs_of_one_text_are_not_counted(hearing: Integration, utterances: list[Utterance]) -> None:
    """Three of four say the same: two of them meet another text, and so does the fourth."""
    four = [replace(u, text="low" if i else "high", duration=0.3) for i, u in enumerate(utterances[:4])]
    found = measure(hearing, four, batch_size=4)
    swaps = derangement([u.text for u in four], random.Random(0))
    kept = [(four[i], four[swap]) for i, swap in enumerate(swaps) if four[i].text != four[swap].text]
    assert len(kept) == 2
    right = sum(loss(hearing, own, own.text)[0] for own, _ in kept)
    other = sum(loss(hearing, heard, own.text)[0] for own, heard in kept)
    assert found.audio_gain == pytest.approx((other - right) / (5 + 4), abs=1e-5) and abs(found.audio_gain) > 1e-2


def test_nothing_to_swap_with(toy_integration: Integration, utterances: list[Utterance]) -> None:
    alone = measure(toy_integration, utterances[:1], batch_size=4)
    assert alone.loss is not None and alone.audio_gain is None
    alike = measure(toy_integration, [replace(u, text="low") for u in utterances], batch_size=4)
    assert alike.loss is not None and alike.audio_gain is None
    unasked = measure(toy_integration, utterances, batch_size=4, audio_gain=False)
    assert unasked.loss is not None and unasked.audio_gain is None


def test_the_last_one_is_not_left_alone(hearing: Integration, tmp_path: Path) -> None:
    """One more than a group takes: with a group of its own it could not swap."""
    many = read_manifest(write_corpus(tmp_path, SWAPPED_AMONG + 1))
    texts = [replace(utterance, text=f"text {index}") for index, utterance in enumerate(many)]
    all_of_them = measure(hearing, texts, batch_size=4)
    longest = max(texts, key=lambda utterance: utterance.duration)
    others = measure(hearing, [one for one in texts if one is not longest], batch_size=4)
    assert all_of_them.audio_gain != pytest.approx(others.audio_gain, rel=1e-6)


def test_what_does_not_fit_is_counted(toy_integration: Integration, utterances: list[Utterance]) -> None:
    whole = measure(toy_integration, utterances[:2], batch_size=4)
    short = replace(utterances[2], duration=0.15)
    wordy = replace(utterances[3], text="x" * 200)  # the decoder has 200 positions
    found = measure(toy_integration, [*utterances[:2], short, wordy], batch_size=4)
    assert found.left_out == 2 and found.loss == pytest.approx(whole.loss, rel=1e-5)
    toy_integration.max_audio_seconds = 0.2
    assert measure(toy_integration, utterances, batch_size=4).left_out == len(utterances)


def test_texts_up_to_the_last_position(toy_integration: Integration, utterances: list[Utterance]) -> None:
    audio = utterances[0]
    positions = int(audio.duration * 10) // 2 + 2  # with prefix and suffix
    most = replace(audio, text="x" * (200 - positions))
    assert measure(toy_integration, [most], batch_size=1).left_out == 0
    assert measure(toy_integration, [replace(most, text=most.text + "x")], batch_size=1).left_out == 1


def test_it_draws_nothing_and_leaves_no_gradients(toy_integration: Integration, utterances: list[Utterance]) -> None:
    toy_integration.train()
    before = torch.get_rng_state(), random.getstate()
    first = measure(toy_integration, utterances, batch_size=4)
    assert torch.equal(torch.get_rng_state(), before[0]) and random.getstate() == before[1]
    assert not toy_integration.encoder.dropout.training
    assert measure(toy_integration, utterances, batch_size=4) == first
    assert all(parameter.grad is None for parameter in toy_integration.parameters())


def test_audio_that_cannot_be_read_names_its_utterance(toy_integration: Integration, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"utterance lost: .*no such file"):
        measure(toy_integration, [Utterance("lost", tmp_path / "none.wav", "x", 1.0)], batch_size=2)


# --- what is said ----------------------------------------------------------------------------------


def test_advice_names_what_is_configured() -> None:
    data = {"model": "a", "output": "b", "data": {"train": "c", "max_audio_seconds": 12}, "schedule": {"steps": 1}}
    config = validate({**data, "losses": {"ctc": 0.3}}, TrainConfig, "test")
    said = not_listening(0.0123, config)
    assert said is not None and "\n" not in said
    assert "lowers its loss by 0.012 nats a token" in said
    assert "losses.ctc is 0.3" in said and "data.max_audio_seconds is 12" in said
    assert "losses.token_replacement is 0" in said
    assert not_listening(LISTENS_FROM, config) is None
    assert not_listening(-0.01, config) is not None

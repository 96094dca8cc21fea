from __future__ import annotations

import logging
import random
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nuebridge.data import Utterance, read_manifest
from nuebridge.data.sources import SourceConfig, Stream, open_sources
from nuebridge.errors import DataError
from nuebridge.model import Integration
from nuebridge.train import batches as batches_module
from nuebridge.train.batches import BUCKET_WINDOW, Batch, BatchLimits, Position, plan_epoch, plan_windows, stream
from nuebridge.train.config import DataConfig
from nuebridge.train.positions import PositionCounter
from nuebridge.train.ranks import Ranks
from nuebridge.train.selection import Limits, Pool, Selection, StreamedPool, select
from tests.tones import write_tone


def of_lengths(*seconds: float) -> list[Utterance]:
    return [Utterance(str(i), Path(f"{i}.wav"), "x", s) for i, s in enumerate(seconds)]


def names(batches: list[list[Utterance]]) -> list[list[str]]:
    return [[u.id for u in batch] for batch in batches]


def of_batches(batches: list[Batch]) -> list[list[str]]:
    return names([list(batch.utterances) for batch in batches])


def known(utterances: list[Utterance], weight: float = 1.0) -> Selection:
    return Selection((Pool(utterances, weight),))


def plan(utterances: list[Utterance], seconds: float, seed: int, epoch: int) -> list[list[Utterance]]:
    return plan_epoch(utterances, BatchLimits(seconds), seed, epoch)


# --- planning --------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(st.lists(st.floats(0.1, 30), min_size=1, max_size=60), st.floats(1, 60), st.integers(0, 99), st.integers(0, 99))
def test_every_utterance_once_within_the_cap(seconds: list[float], cap: float, seed: int, epoch: int) -> None:
    batches = plan(of_lengths(*seconds), cap, seed, epoch)
    assert Counter(u.id for batch in batches for u in batch) == Counter(map(str, range(len(seconds))))
    for batch in batches:
        assert len(batch) == 1 or len(batch) * max(u.duration for u in batch) <= cap


def test_the_order_is_that_of_seed_and_epoch() -> None:
    utterances = of_lengths(*[0.3 + (i * 7 % 50) / 10 for i in range(200)])
    first = names(plan(utterances, 20, 3, 1))
    assert names(plan(list(utterances), 20, 3, 1)) == first
    assert names(plan(utterances, 20, 3, 2)) != first
    assert names(plan(utterances, 20, 4, 1)) != first


def test_the_order_is_the_same_in_every_process() -> None:
    """It hangs on no salted hash."""
    assert names(plan(of_lengths(4, 3, 2, 1, 5), 5, 0, 0)) == [["1"], ["3", "2"], ["4"], ["0"]]


def test_like_lengths_share_a_batch() -> None:
    utterances = of_lengths(*[0.5 + (i * 37 % 400) / 20 for i in range(400)])
    batches = plan(utterances, 60, 0, 0)
    real = sum(u.duration for u in utterances)
    padded = sum(len(batch) * max(u.duration for u in batch) for batch in batches)
    assert padded < 1.05 * real
    longest = [max(u.duration for u in batch) for batch in batches]
    assert longest != sorted(longest)  # the batches themselves are shuffled


def test_lengths_are_mixed_beyond_a_window() -> None:
    """Two batches of one epoch may hold like lengths in different company in the next."""
    utterances = of_lengths(*[1.0 + i / 10_000 for i in range(BUCKET_WINDOW + 500)])
    together = [{frozenset(batch) for batch in names(plan(utterances, 10, 0, epoch))} for epoch in (0, 1)]
    assert len(together[0] & together[1]) < len(together[0]) / 10


# --- reading ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("workers", [1, 3])
def test_the_stream_follows_the_plan(corpus: Path, workers: int) -> None:
    utterances = read_manifest(corpus)
    config = DataConfig(train=(corpus,), batch_seconds=2, workers=workers)
    planned = names([*plan(utterances, 2, 5, 0), *plan(utterances, 2, 5, 1)])
    batches = list(islice(stream(known(utterances), config, 5, 1000, Position()), len(planned)))
    assert names([list(batch.utterances) for batch in batches]) == planned
    for batch in batches:
        assert batch.waveforms.dtype == torch.float32 and batch.lengths.dtype == torch.int64
        assert batch.lengths.tolist() == [round(u.duration * 1000) for u in batch.utterances]
        assert batch.waveforms.shape == (len(batch.utterances), int(batch.lengths.max()))
        for row, (length, utterance) in enumerate(zip(batch.lengths, batch.utterances, strict=True)):
            assert torch.equal(batch.waveforms[row, :length], torch.from_numpy(utterance.load(1000)))
            assert not batch.waveforms[row, length:].any()
        assert batch.texts == [u.text for u in batch.utterances]


def test_it_goes_on_from_any_position(corpus: Path) -> None:
    utterances = read_manifest(corpus)
    config = DataConfig(train=(corpus,), batch_seconds=2)
    whole = list(islice(stream(known(utterances), config, 5, 1000, Position()), 12))
    epochs = [batch.next_position.epoch for batch in whole]
    assert epochs[0] == 0 and epochs[-1] >= 1  # an epoch's end lies within
    for index in range(11):
        following = next(stream(known(utterances), config, 5, 1000, whole[index].next_position))
        assert following.utterances == whole[index + 1].utterances
        assert following.next_position == whole[index + 1].next_position


def test_audio_that_cannot_be_read_is_named_and_left_out(
    tmp_path: Path, corpus: Path, caplog: pytest.LogCaptureFixture
) -> None:
    good = read_manifest(corpus)
    bad = Utterance("the-bad-one", tmp_path / "bad.wav", "x", 0.5)
    long = Utterance("too-long", good[0].audio_filepath, "x", good[0].duration + 1)
    (tmp_path / "bad.wav").write_bytes(b"not audio at all")
    config = DataConfig(train=(corpus,), batch_seconds=100)
    with caplog.at_level(logging.WARNING):
        (batch,) = islice(stream(known([*good, bad, long]), config, 0, 1000, Position()), 1)
    assert sorted(batch.unreadable) == ["the-bad-one", "too-long"]
    assert sorted(u.id for u in batch.utterances) == sorted(u.id for u in good)
    assert len(batch.waveforms) == len(batch.lengths) == len(batch.texts) == len(good)
    assert "utterance the-bad-one cannot be read and is left out" in caplog.text
    assert "bad.wav: is not audio" in caplog.text
    assert "utterance too-long cannot be read" in caplog.text
    assert "the file is truncated or the duration is wrong" in caplog.text


def test_a_batch_of_which_nothing_can_be_read(corpus: Path) -> None:
    gone = Utterance("gone", Path("gone.wav"), "x", 0.5)
    batch = next(stream(known([gone]), DataConfig(train=(corpus,)), 0, 1000, Position()))
    assert batch.unreadable == ("gone",) and batch.utterances == () and len(batch.waveforms) == len(batch.lengths) == 0
    assert batch.next_position == Position(1, 0)


def test_ranks_share_a_batch(corpus: Path) -> None:
    gone = Utterance("gone", Path("gone.wav"), "x", 0.5)
    selection, config = known([*read_manifest(corpus), gone]), DataConfig(train=(corpus,), batch_seconds=3)
    streams = [stream(selection, config, 3, 1000, Position(), Ranks(rank, 2)) for rank in range(2)]
    alone = stream(selection, config, 3, 1000, Position())
    for _ in range(10):
        whole, *shares = next(alone), *(next(one) for one in streams)
        assert sorted(n for share in of_batches(shares) for n in share) == sorted(u.id for u in whole.utterances)
        assert [n for share in shares for n in share.unreadable] == list(whole.unreadable)
        assert {share.next_position for share in shares} == {whole.next_position}


def test_what_augments_gets_waveform_utterance_and_epoch(corpus: Path) -> None:
    seen: list[tuple[str, int]] = []

    def louder(waveform: Any, utterance: Utterance, epoch: int) -> Any:
        seen.append((utterance.id, epoch))
        return np.concatenate([waveform, waveform]) + np.float32(epoch)

    utterances = read_manifest(corpus)
    config = DataConfig(train=(corpus,), batch_seconds=100)
    found = list(islice(stream(known(utterances), config, 0, 1000, Position(), augment=louder), 2))
    assert {epoch for _, epoch in seen} >= {0, 1} and {name for name, _ in seen} == {u.id for u in utterances}
    for epoch, batch in enumerate(found):
        waveform = torch.from_numpy(batch.utterances[0].load(1000))
        assert torch.equal(batch.waveforms[0, : batch.lengths[0]], torch.cat([waveform, waveform]) + epoch)


def test_an_epoch_without_anything(corpus: Path) -> None:
    selection = known(read_manifest(corpus), weight=0.01)
    with pytest.raises(DataError, match="epoch 0 holds no utterance: widen the limits, or raise the weights"):
        next(stream(selection, DataConfig(train=(corpus,)), 0, 1000, Position()))


def test_weights_are_drawn_anew_every_epoch(corpus: Path) -> None:
    selection = known(read_manifest(corpus), weight=1.5)
    config = DataConfig(train=(corpus,), batch_seconds=1000)
    first, second = islice(stream(selection, config, 0, 1000, Position()), 2)
    twice = [sorted(u.id for u in batch.utterances if u.id.endswith("~2")) for batch in (first, second)]
    assert len(first.utterances) == 18 and len(twice[0]) == len(twice[1]) == 6 and twice[0] != twice[1]


def test_a_closed_stream_leaves_no_threads(corpus: Path) -> None:
    before = threading.active_count()
    batches = stream(known(read_manifest(corpus)), DataConfig(train=(corpus,), workers=4), 0, 1000, Position())
    next(batches)
    assert threading.active_count() > before
    batches.close()
    assert threading.active_count() == before


@pytest.mark.parametrize("slow", [True, False])
def test_reading_that_does_not_keep_up_is_said(
    corpus: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, slow: bool
) -> None:
    load = Utterance.load

    def slowly(self: Utterance, sample_rate: int) -> Any:
        time.sleep(0.03 if slow else 0.0)
        return load(self, sample_rate)

    monkeypatch.setattr(Utterance, "load", slowly)
    monkeypatch.setattr(batches_module, "WATCHED_SECONDS", 0.2)
    with caplog.at_level(logging.WARNING):
        for _ in islice(stream(known(read_manifest(corpus)), DataConfig(train=(corpus,)), 0, 1000, Position()), 6):
            time.sleep(0.05)
    assert ("of its time: raise data.workers (1 now)" in caplog.text) is slow


# --- decoder positions -----------------------------------------------------------------------------


def test_batches_are_capped_by_positions() -> None:
    utterances = [replace(u, text="x" * (i % 7)) for i, u in enumerate(of_lengths(*[1 + i % 5 for i in range(60)]))]

    def positions(utterance: Utterance) -> tuple[int, int]:
        return 2 + int(4 * utterance.duration), len(utterance.text)

    batches = plan_epoch(utterances, BatchLimits(1000, 100, positions), 0, 0)
    assert Counter(u.id for batch in batches for u in batch) == Counter(u.id for u in utterances)
    sizes = []
    for batch in batches:
        prompts, texts = zip(*map(positions, batch), strict=True)
        sizes.append(len(batch) * (max(prompts) + max(texts)))
    assert max(sizes) <= 100 and sum(sizes) / len(sizes) > 80
    assert all(len(batch) == 1 for batch in plan_epoch(utterances, BatchLimits(1000, 1, positions), 0, 0))


def test_positions_are_those_of_the_prompt(toy_integration: Integration, corpus: Path) -> None:
    counter = PositionCounter(toy_integration)
    for utterance in read_manifest(corpus)[:3]:
        waveform = torch.from_numpy(utterance.load(1000))
        audio = toy_integration.embed_audio(waveform[None], torch.tensor([len(waveform)]))
        fixed = len(toy_integration.decoder.encode("<s>")) + len(toy_integration.decoder.encode(":"))
        prompt, text = counter(replace(utterance, fields={"target": "six let", "task": "not in the prompt"}))
        assert prompt == fixed + int(audio.lengths) and text == 7
        assert PositionCounter(toy_integration, stretch=2.0)(utterance)[0] > counter(utterance)[0]


def test_positions_must_be_counted_by_somebody(corpus: Path) -> None:
    with pytest.raises(ValueError, match="batch_tokens is set"):
        next(stream(known([]), DataConfig(train=(corpus,), batch_tokens=9), 0, 1000, Position()))


def test_clips_that_augmentation_makes_longer() -> None:
    batches = plan_epoch(of_lengths(*[1.0] * 40), BatchLimits(10, stretch=1.25), 0, 0)
    assert {len(batch) for batch in batches} == {8}


# --- streams ---------------------------------------------------------------------------------------


class Tones:
    """Rows that come one after another: tones, of which some are too long and one is faulty."""

    rows_promised = None

    def __init__(self, folder: Path, count: int) -> None:
        self.count, self.passes = count, 0
        rng = random.Random(4)
        self.tones = [write_tone(folder / f"t{i}.wav", 50, 0.3 + i % 4 / 10, rng) for i in range(8)]

    def __iter__(self) -> Iterator[Utterance | str]:
        self.passes += 1
        for index in range(self.count):
            if index == 5:
                yield "row 5: text is missing"
            elif index % 10 == 9:
                yield Utterance(f"s{index}", Path("long.wav"), "x", 100.0)
            else:  # of no known duration
                yield Utterance(f"s{index}", self.tones[index % 8], f"text {index}")


def streamed(folder: Path, count: int, weight: float = 1.0, expected: int | None = None) -> StreamedPool:
    config = SourceConfig(path="rows", weight=weight, utterances=expected)
    return StreamedPool(Stream(config, Tones(folder, count)), Limits(DataConfig(train=("rows",)), 0.1, "so far"))


@pytest.fixture
def small_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batches_module, "BUCKET_WINDOW", 16)


@pytest.mark.usefixtures("small_windows")
def test_streams_are_shuffled_within_windows(tmp_path: Path) -> None:
    pool = streamed(tmp_path, 100)
    limits = BatchLimits(2.0)
    epochs = [list(plan_windows(Selection((), (pool,)), limits, 0, epoch)) for epoch in (0, 0, 1)]
    assert names(epochs[0]) == names(epochs[1]) != names(epochs[2])
    for batches in epochs:
        order = [int(u.id[1:]) for batch in batches for u in batch]
        assert sorted(order) == [i for i in range(100) if i != 5 and i % 10 != 9] != order
        for start in range(0, len(order), 16):  # 89 utterances in windows of 16
            assert max(order[start : start + 16]) < min(order[start + 16 :], default=100)
        assert all(len(b) * max(u.duration for u in b) <= 2.0 for b in batches)


@pytest.mark.usefixtures("small_windows")
def test_streams_are_mixed_with_what_is_known(tmp_path: Path) -> None:
    pool, others = streamed(tmp_path, 100, expected=90), [replace(u, id=f"k{u.id}") for u in of_lengths(*[0.5] * 45)]
    batches = list(plan_windows(Selection((Pool(others, 1.0),), (pool,)), BatchLimits(2.0), 0, 0))
    order = [u.id for batch in batches for u in batch]
    assert len(order) == len(set(order)) == 89 + 45
    halves = [sum(name[0] == "k" for name in half) for half in (order[:67], order[67:])]
    assert min(halves) >= 15


@pytest.mark.parametrize(("weight", "passes", "least", "most"), [(0.5, 1, 30, 60), (1, 1, 89, 89), (2.5, 3, 205, 240)])
def test_streams_have_weights(tmp_path: Path, weight: float, passes: int, least: int, most: int) -> None:
    pool = streamed(tmp_path, 100, weight)
    found = [u.id for u in pool.epoch(random.Random(0))]
    assert pool.stream.rows.passes == passes and least <= len(found) <= most and len(set(found)) == len(found)


def test_windows_hold_so_much_audio(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batches_module, "STREAM_WINDOW_SECONDS", 3.0)
    batches = list(plan_windows(Selection((), (streamed(tmp_path, 40),)), BatchLimits(1.0), 0, 0))
    order = [int(u.id[1:]) for batch in batches for u in batch]
    assert max(abs(place - index) for place, index in enumerate(order)) < 20


@pytest.mark.usefixtures("small_windows")
def test_a_stream_goes_on_from_any_position(tmp_path: Path) -> None:
    selection = Selection((Pool([], 1.0),), (streamed(tmp_path, 30),))
    config = DataConfig(train=("rows",), batch_seconds=2, workers=2)
    whole = list(islice(stream(selection, config, 5, 1000, Position()), 14))
    assert {batch.epoch for batch in whole} >= {0, 1}
    for index in (0, 2, 5, 12):
        rest = stream(selection, config, 5, 1000, whole[index].next_position)
        found = list(islice(rest, 13 - index))
        rest.close()
        for one, expected in zip(found, whole[index + 1 :], strict=True):
            assert of_batches([one]) == of_batches([expected]) and one.next_position == expected.next_position
            assert torch.equal(one.waveforms, expected.waveforms)


@pytest.mark.usefixtures("small_windows")
def test_what_comes_before_the_position_is_not_decoded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    selection, config = Selection((), (streamed(tmp_path, 200),)), DataConfig(train=("rows",), batch_seconds=2)
    before = list(islice(stream(selection, config, 5, 1000, Position()), 10))
    loaded: set[str] = set()
    load = Utterance.load

    def noting(self: Utterance, sample_rate: int) -> Any:
        loaded.add(self.id)
        return load(self, sample_rate)

    monkeypatch.setattr(Utterance, "load", noting)
    batch = next(stream(selection, config, 5, 1000, before[-1].next_position))
    assert loaded >= {u.id for u in batch.utterances}
    assert not loaded & {u.id for one in before for u in one.utterances}


def test_a_stream_that_breaks_off(tmp_path: Path) -> None:
    class Broken(Tones):
        def __iter__(self) -> Iterator[Utterance | str]:
            yield from islice(super().__iter__(), 3)
            raise DataError("rows: reading on after 3 rows failed: the line is dead")

    pool = streamed(tmp_path, 10)
    broken = replace(pool, stream=replace(pool.stream, rows=Broken(tmp_path, 10)))
    with pytest.raises(DataError, match="the line is dead"):
        next(stream(Selection((), (broken,)), DataConfig(train=("rows",)), 0, 1000, Position()))


def test_everything_together(corpus: Path) -> None:
    """From a configuration to batches."""
    config = DataConfig(train=({"path": str(corpus), "weight": 2}, str(corpus)), batch_seconds=100)
    batch = next(stream(select(open_sources(config.train), config), config, 0, 1000, Position()))
    assert len({u.id for u in batch.utterances}) == len(batch.utterances) == 36

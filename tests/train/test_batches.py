from __future__ import annotations

import json
from collections import Counter
from itertools import islice
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nuebridge.data import Utterance, read_manifest
from nuebridge.errors import DataError
from nuebridge.train.batches import BUCKET_WINDOW, Position, plan_epoch, select, stream
from nuebridge.train.config import DataConfig


def of_lengths(*seconds: float) -> list[Utterance]:
    return [Utterance(str(i), Path(f"{i}.wav"), "x", s) for i, s in enumerate(seconds)]


def names(batches: list[list[Utterance]]) -> list[list[str]]:
    return [[u.id for u in batch] for batch in batches]


# --- planning --------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(st.lists(st.floats(0.1, 30), min_size=1, max_size=60), st.floats(1, 60), st.integers(0, 99), st.integers(0, 99))
def test_every_utterance_once_within_the_cap(seconds: list[float], cap: float, seed: int, epoch: int) -> None:
    batches = plan_epoch(of_lengths(*seconds), cap, seed, epoch)
    assert Counter(u.id for batch in batches for u in batch) == Counter(map(str, range(len(seconds))))
    for batch in batches:
        assert len(batch) == 1 or len(batch) * max(u.duration for u in batch) <= cap


def test_the_order_is_that_of_seed_and_epoch() -> None:
    utterances = of_lengths(*[0.3 + (i * 7 % 50) / 10 for i in range(200)])
    first = names(plan_epoch(utterances, 20, 3, 1))
    assert names(plan_epoch(list(utterances), 20, 3, 1)) == first
    assert names(plan_epoch(utterances, 20, 3, 2)) != first
    assert names(plan_epoch(utterances, 20, 4, 1)) != first


def test_the_order_is_the_same_in_every_process() -> None:
    """It hangs on no salted hash."""
    assert names(plan_epoch(of_lengths(4, 3, 2, 1, 5), 5, 0, 0)) == [["1"], ["3", "2"], ["4"], ["0"]]


def test_like_lengths_share_a_batch() -> None:
    utterances = of_lengths(*[0.5 + (i * 37 % 400) / 20 for i in range(400)])
    batches = plan_epoch(utterances, 60, 0, 0)
    real = sum(u.duration for u in utterances)
    padded = sum(len(batch) * max(u.duration for u in batch) for batch in batches)
    assert padded < 1.05 * real
    longest = [max(u.duration for u in batch) for batch in batches]
    assert longest != sorted(longest)  # the batches themselves are shuffled


def test_lengths_are_mixed_beyond_a_window() -> None:
    """Two batches of one epoch may hold like lengths in different company in the next."""
    utterances = of_lengths(*[1.0 + i / 10_000 for i in range(BUCKET_WINDOW + 500)])
    together = [{frozenset(batch) for batch in names(plan_epoch(utterances, 10, 0, epoch))} for epoch in (0, 1)]
    assert len(together[0] & together[1]) < len(together[0]) / 10


# --- selecting -------------------------------------------------------------------------------------


def manifest(folder: Path, *seconds: float) -> Path:
    path = folder / "manifest.jsonl"
    lines = [{"audio_filepath": f"{i}.wav", "text": "x", "duration": s} for i, s in enumerate(seconds)]
    path.write_text("\n".join(map(json.dumps, lines)))
    return path


def test_what_is_left_out_is_counted(tmp_path: Path) -> None:
    path = manifest(tmp_path, 0.05, 0.2, 0.3, 5, 20, 20.1, 60)
    kept, said = select(DataConfig(train=(path,), min_audio_seconds=0.2, max_audio_seconds=20))
    assert [u.duration for u in kept] == [0.2, 0.3, 5, 20]
    assert said == [
        "left out 1 of 7 utterances shorter than 0.2 s",
        "left out 2 of 7 utterances longer than 20.0 s",
    ]
    assert select(DataConfig(train=(path,), min_audio_seconds=0, max_audio_seconds=100))[1] == []


def test_what_the_integration_cannot_hear_is_left_out(tmp_path: Path) -> None:
    path = manifest(tmp_path, 0.15, 0.2, 0.3)
    kept, said = select(DataConfig(train=(path,)), min_audio_seconds=0.2)
    assert [u.duration for u in kept] == [0.2, 0.3]
    assert said == ["left out 1 of 3 utterances shorter than 0.2 s"]


def test_nothing_left(tmp_path: Path) -> None:
    path = manifest(tmp_path, 30, 0.01)
    with pytest.raises(
        DataError, match=r"no utterance is left to train on \(left out 1 of 2 .* left out 1 of 2 .*widen"
    ):
        select(DataConfig(train=(path,)))


def test_several_manifests(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    paths = (manifest(tmp_path / "a", 1, 2), manifest(tmp_path / "b", 3))
    assert [u.duration for u in select(DataConfig(train=paths))[0]] == [1, 2, 3]


# --- reading ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("workers", [1, 3])
def test_the_stream_follows_the_plan(corpus: Path, workers: int) -> None:
    utterances = read_manifest(corpus)
    config = DataConfig(train=(corpus,), batch_seconds=2, workers=workers)
    planned = names([*plan_epoch(utterances, 2, 5, 0), *plan_epoch(utterances, 2, 5, 1)])
    batches = list(islice(stream(utterances, config, 5, 1000, Position()), len(planned)))
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
    whole = list(islice(stream(utterances, config, 5, 1000, Position()), 12))
    epochs = [batch.next_position.epoch for batch in whole]
    assert epochs[0] == 0 and epochs[-1] >= 1  # an epoch's end lies within
    for index in range(11):
        following = next(stream(utterances, config, 5, 1000, whole[index].next_position))
        assert following.utterances == whole[index + 1].utterances
        assert following.next_position == whole[index + 1].next_position


def test_audio_that_cannot_be_read_names_its_utterance(tmp_path: Path, corpus: Path) -> None:
    utterances = [*read_manifest(corpus), Utterance("the-bad-one", tmp_path / "bad.wav", "x", 0.5)]
    (tmp_path / "bad.wav").write_bytes(b"not audio at all")
    with pytest.raises(DataError, match=r"utterance the-bad-one: .*bad\.wav: is not audio"):
        list(islice(stream(utterances, DataConfig(train=(corpus,)), 0, 1000, Position()), 5))


def test_a_recording_shorter_than_its_line_says(corpus: Path) -> None:
    first = read_manifest(corpus)[0]
    longer = Utterance("long", first.audio_filepath, "x", first.duration + 1)
    with pytest.raises(DataError, match=r"utterance long: .*the file is truncated or the duration is wrong"):
        next(stream([longer], DataConfig(train=(corpus,)), 0, 1000, Position()))


def test_a_closed_stream_leaves_no_threads(corpus: Path) -> None:
    import threading

    before = threading.active_count()
    batches = stream(read_manifest(corpus), DataConfig(train=(corpus,), workers=4), 0, 1000, Position())
    next(batches)
    assert threading.active_count() > before
    batches.close()
    assert threading.active_count() == before

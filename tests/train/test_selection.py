from __future__ import annotations

import json
import logging
import random
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from nuebridge.data import Utterance
from nuebridge.data.sources import open_sources
from nuebridge.errors import DataError
from nuebridge.train.config import DataConfig
from nuebridge.train.selection import Limits, Pool, Selection, select, validation_set
from tests.tones import write_corpus, write_tone


def manifest(folder: Path, *lines: dict[str, Any]) -> Path:
    path = folder / "manifest.jsonl"
    folder.mkdir(exist_ok=True)
    given = [{"audio_filepath": f"{i}.wav", "text": "x", "duration": 1.0, **line} for i, line in enumerate(lines)]
    path.write_text("\n".join(json.dumps({k: v for k, v in line.items() if v is not None}) for line in given))
    return path


def lasting(folder: Path, *seconds: float) -> Path:
    return manifest(folder, *({"duration": s} for s in seconds))


def chosen(config: DataConfig, min_audio_seconds: float = 0.0) -> Selection:
    return select(open_sources(config.train), config, min_audio_seconds)


def test_what_is_left_out_is_counted(tmp_path: Path) -> None:
    path = lasting(tmp_path, 0.05, 0.2, 0.3, 5, 20, 20.1, 60)
    found = chosen(DataConfig(train=(path,), min_audio_seconds=0.2, max_audio_seconds=20))
    assert [u.duration for u in found.utterances] == [0.2, 0.3, 5, 20]
    assert found.report == (
        "left out 1 of 7 utterances shorter than 0.2 s (such as 0.wav:1: 0.050 s)",
        "left out 2 of 7 utterances longer than 20 s (such as 5.wav:6: 20.100 s)",
    )
    assert chosen(DataConfig(train=(path,), min_audio_seconds=0, max_audio_seconds=100)).report == ()


def test_what_the_integration_cannot_hear_is_left_out(tmp_path: Path) -> None:
    found = chosen(DataConfig(train=(lasting(tmp_path, 0.15, 0.2, 0.3),)), min_audio_seconds=0.2)
    assert [u.duration for u in found.utterances] == [0.2, 0.3]
    assert found.report[0].startswith("left out 1 of 3 utterances shorter than 0.2 s")


def test_texts(tmp_path: Path) -> None:
    path = manifest(
        tmp_path,
        {"text": ""},
        {"text": "ab"},
        {"text": "a b  c"},
        {"text": "much too long to be said in a second"},
        {"text": "this is it, for sure"},
        {"text": "", "target": "abc"},
        {"text": "rather long, but not what is learned at all", "target": "ja"},
    )
    config = DataConfig(
        train=(path,),
        min_text_characters=2,
        max_text_characters=20,
        max_characters_per_second=10,
        text_normalizer="spaces",
    )
    found = chosen(config)
    assert [u.target for u in found.utterances] == ["ab", "a b c", "abc", "ja"]
    assert found.utterances[3].text == "rather long, but not what is learned at all"
    assert found.report == (
        "left out 1 of 7 utterances with less text than 2 characters (such as 0.wav:1: 0)",
        "left out 1 of 7 utterances with more text than 20 characters (such as 3.wav:4: 36)",
        "left out 1 of 7 utterances with more than 10 characters a second (such as 4.wav:5: 20 in 1.000 s)",
    )
    assert len(chosen(DataConfig(train=(path,))).utterances) == 7  # silence may be taught


def test_texts_are_normalized(tmp_path: Path) -> None:
    path = manifest(tmp_path, {"text": "It IS, so."}, {"text": "Nein", "target": "No, No"})
    config = DataConfig(train=(path,), validation=str(path), text_normalizer="lower")
    for found in (chosen(config).utterances, validation_set(config, None)):
        assert [(u.text, u.target) for u in found] == [("it is, so.", "it is, so."), ("Nein", "no, no")]
    assert [u.text for u in validation_set(config, 1)] == ["it is, so."]
    assert validation_set(DataConfig(train=(path,)), None) == []


def test_nothing_left(tmp_path: Path) -> None:
    path = lasting(tmp_path, 30, 0.01)
    with pytest.raises(
        DataError, match=r"no utterance is left to train on \(left out 1 of 2 .*left out 1 of 2 .*widen"
    ):
        chosen(DataConfig(train=(path,)))


def test_durations_are_measured(tmp_path: Path) -> None:
    for name, seconds in (("0", 0.5), ("1", 30.0)):
        write_tone(tmp_path / f"{name}.wav", 50, seconds, random.Random(0))
    (tmp_path / "3.wav").write_bytes(b"nothing to hear")
    path = manifest(tmp_path, *[{"duration": None, "text": "x" * 100}] * 2, {"duration": 2.0}, {"duration": None})
    config = DataConfig(train=(path,), workers=2)
    sources = open_sources(config.train)
    found = select(sources, config)
    # What cannot be read is not left out here: whoever reads it counts it.
    assert [(u.id, u.duration) for u in found.utterances] == [("0.wav:1", 0.5), ("2.wav:3", 2.0), ("3.wav:4", 0.1)]
    assert found.report == (
        f"{path}: measured 2 durations that it does not give; 1 recordings could not be read",
        "left out 1 of 4 utterances longer than 20 s (such as 1.wav:2: 30.000 s)",
    )
    (tmp_path / "0.wav").unlink()
    (tmp_path / "1.wav").unlink()
    again = select(sources, config)  # as the next stage does
    assert [u.duration for u in again.utterances] == [0.5, 2.0, 0.1]


# --- weights ---------------------------------------------------------------------------------------


def pool(count: int, weight: float) -> Pool:
    return Pool([Utterance(str(i), Path(f"{i}.wav"), "x", 1.0) for i in range(count)], weight)


@pytest.mark.parametrize(
    ("weight", "counts"), [(1, {1: 10}), (3, {3: 10}), (0.5, {0: 5, 1: 5}), (2.3, {2: 7, 3: 3}), (0.04, {0: 10})]
)
def test_how_often_an_epoch_takes_each(weight: float, counts: dict[int, int]) -> None:
    found = pool(10, weight).epoch(random.Random(0))
    taken = Counter(u.audio_filepath.stem for u in found)
    assert Counter(taken[str(i)] for i in range(10)) == counts
    assert len({u.id for u in found}) == len(found)  # so that other things are drawn for each


def test_what_is_drawn_changes_with_the_epoch() -> None:
    half = pool(100, 0.5)
    draws = [[u.id for u in half.epoch(random.Random(seed))] for seed in (1, 1, 2)]
    assert draws[0] == draws[1] != draws[2] and set(draws[0]) <= {str(i) for i in range(100)}


def test_sources_keep_their_weights(tmp_path: Path) -> None:
    sources = [
        {"path": str(write_corpus(tmp_path / "a", 4)), "weight": 2},
        {"path": str(write_corpus(tmp_path / "b", 6)), "weight": 0.5},
    ]
    found = chosen(DataConfig(train=sources))
    assert [(len(one.utterances), one.weight) for one in found.pools] == [(4, 2), (6, 0.5)]
    assert len({u.id for u in found.utterances}) == 10


# --- streams ---------------------------------------------------------------------------------------


def test_what_a_stream_drops_is_said_as_it_goes(caplog: pytest.LogCaptureFixture) -> None:
    limits = Limits(DataConfig(train=("x",)), 0.1, "utterances so far of s", reports_as_it_goes=True)
    with caplog.at_level(logging.WARNING):
        for index in range(120):
            assert limits.admit(Utterance(str(index), Path("a.wav"), "x", 30.0 + index)) is None
            assert limits.admit(Utterance(str(index), Path("a.wav"), "x", 1.0)) is not None
        assert limits.admit("row 7: text is missing") is None
    assert [record.getMessage() for record in caplog.records] == [
        *[f"left out {n} utterances so far of s longer than 20 s (such as 0: 30.000 s)" for n in (1, 10, 100)],
        "left out 1 utterances so far of s that are faulty (such as row 7: text is missing)",
    ]

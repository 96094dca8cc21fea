"""Splits keep their promise (no common speaker, recording or file) and come near the sizes asked for."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nuebridge.data import read_manifest
from nuebridge.data.splitting import Size, split
from nuebridge.errors import ConfigError, DataError


def manifest(folder: Path, *lines: dict[str, Any], name: str = "all.jsonl") -> Path:
    (folder / name).write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return folder / name


def talks(speakers: int, each: int = 5, seed: int = 0) -> list[dict[str, Any]]:
    """Lines of so many speakers, each with recordings of two utterances, of 1 to 4 s."""
    rng = random.Random(seed)
    return [
        {
            "audio_filepath": f"audio/{speaker}-{index // 2}.wav",
            "text": f"{speaker} {index}",
            "duration": rng.uniform(1, 4),
            "offset": 5.0 * (index % 2),
            "speaker": f"s{speaker}",
        }
        for speaker in range(speakers)
        for index in range(each)
    ]


def sizes(**texts: str) -> dict[str, Size]:
    return {name: Size.parse(text) for name, text in texts.items()}


def parts(folder: Path) -> dict[str, list[Any]]:
    return {file.stem: read_manifest(file) for file in sorted(folder.iterdir())}


def shared(folder: Path, *fields: str) -> set[tuple[str, str]]:
    """Values of fields, or files, that two parts have in common."""
    seen: dict[tuple[str, str], str] = {}
    both = set()
    for part, utterances in parts(folder).items():
        for one in utterances:
            keys = [("file", str(one.audio_filepath.resolve()))]
            keys += [(name, str(one.fields[name])) for name in fields if name in one.fields]
            both |= {key for key in keys if seen.setdefault(key, part) != part}
    return both


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("0.1", Size(0.1, "share")),
        (".25", Size(0.25, "share")),
        ("5%", Size(0.05, "share")),
        ("2.5%", Size(0.025, "share")),
        ("500", Size(500, "utterances")),
        ("90s", Size(90, "seconds")),
        ("30m", Size(1800, "seconds")),
        ("1.5h", Size(5400, "seconds")),
        ("rest", Size(0, "rest")),
    ],
)
def test_sizes(text: str, size: Size) -> None:
    assert Size.parse(text) == size


@pytest.mark.parametrize("text", ["", "0", "-1", "1.0", "100%", "ten", "5 %", "2d", "0s", "nan"])
def test_sizes_that_are_none(text: str) -> None:
    with pytest.raises(ConfigError, match="write a share"):
        Size.parse(text)


@pytest.mark.parametrize(
    "asked",
    [
        {"train": "rest", "dev": "10%", "test": "10%"},
        {"train": "0.8", "dev": "0.1", "test": "0.1"},
        {"train": "rest", "dev": "25", "test": "60s"},
        {"train": "10m", "test": "100"},
    ],
    ids=str,
)
def test_sizes_are_reached_and_nothing_is_shared(tmp_path: Path, asked: dict[str, str]) -> None:
    lines = talks(100)
    path = manifest(tmp_path, *lines)
    done = split(path, tmp_path / "out", sizes(**asked))
    whole = sum(line["duration"] for line in lines)
    assert [part.name for part in done.parts] == list(asked)
    for part in done.parts:
        size = Size.parse(asked[part.name])
        assert part.seconds is not None
        if size.unit == "share":
            assert part.seconds == pytest.approx(size.value * whole, rel=0.05)
        elif size.unit != "rest":
            reached = part.utterances if size.unit == "utterances" else part.seconds
            assert reached == pytest.approx(size.value, rel=0.05)
        assert part.size == size
    assert shared(tmp_path / "out", "speaker") == set()
    ids = [one.id for those in parts(tmp_path / "out").values() for one in those]
    assert len(ids) == len(set(ids)) == 500 - done.left_out
    assert (done.left_out == 0) is any(Size.parse(text).value in (0, 0.8) for text in asked.values())


def test_lines_keep_what_they_say(tmp_path: Path) -> None:
    lines = talks(4)
    lines[3] |= {"extra": {"deep": [1, None]}, "language": "en"}
    del lines[4]["offset"]
    path = manifest(tmp_path, *lines)
    split(path, tmp_path / "deep/out", sizes(train="rest", test="25%"), tolerance=0.5)
    before = {one.id: one for one in read_manifest(path)}
    after = parts(tmp_path / "deep/out")
    for those in after.values():
        order = [list(before).index(one.id) for one in those]
        assert order == sorted(order)
        for one in those:
            assert one.audio_filepath.resolve() == before[one.id].audio_filepath.resolve()
            old = before[one.id]
            assert (one.text, one.duration, one.offset, one.fields) == (old.text, old.duration, old.offset, old.fields)
    raw = json.loads((tmp_path / "deep/out/train.jsonl").read_text().splitlines()[0])
    assert raw["audio_filepath"].startswith("../../audio/")


def test_a_manifest_in_a_linked_folder(tmp_path: Path) -> None:
    """`..` after a link leads to the parent of where the link leads."""
    (tmp_path / "there/below").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "there/below")
    lines = [{"audio_filepath": f"../../audio/{number}.wav", "id": str(number)} for number in range(4)]
    path = manifest(tmp_path / "link", *lines)
    for folder in (tmp_path / "out", tmp_path / "link/out", tmp_path / "there/out"):
        split(path, folder, sizes(train="rest", test="2"))
        for one in [one for those in parts(folder).values() for one in those]:
            assert one.audio_filepath.resolve() == tmp_path / f"audio/{one.id}.wav"


def test_the_seed_decides(tmp_path: Path) -> None:
    path = manifest(tmp_path, *talks(40))
    texts = []
    for number, seed in enumerate((1, 1, 2)):
        split(path, tmp_path / f"{number}", sizes(train="rest", test="20%"), seed=seed)
        texts.append((tmp_path / f"{number}/test.jsonl").read_text())
    assert texts[0] == texts[1] != texts[2]


def test_links_reach_through_others(tmp_path: Path) -> None:
    """a and b share a speaker, b and c a recording, c and d a file: all four go together."""
    chain = [
        {"audio_filepath": "a.wav", "speaker": "s1"},
        {"audio_filepath": "b.wav", "speaker": "s1", "recording": "r"},
        {"audio_filepath": "c.wav", "speaker": "s2", "recording": "r"},
        {"audio_filepath": "./x/../c.wav", "speaker": "s3", "offset": 1.0},
    ]
    (tmp_path / "x").mkdir()
    others = [{"audio_filepath": f"{i}.wav", "speaker": ""} for i in range(4)]
    path = manifest(tmp_path, *chain, *others)
    done = split(path, tmp_path / "out", sizes(train="rest", test="0.5"))
    assert done.without_speaker == 4
    assert sorted(part.utterances for part in done.parts) == [4, 4]
    assert 1 in [part.groups for part in done.parts]
    with pytest.raises(DataError, match="groups that must stay whole"):
        split(path, tmp_path / "out2", sizes(train="4", test="4", dev="2"), tolerance=0.4)
    # Only the file links the last two of the chain.
    done = split(path, tmp_path / "out3", sizes(train="rest", test="2"), group_by=["session"])
    assert done.parts[1].utterances == 2


def test_one_giant_speaker(tmp_path: Path) -> None:
    lines = talks(5)
    for line in lines[:20]:
        line["speaker"] = "narrator"
    path = manifest(tmp_path, *lines)
    with pytest.raises(DataError) as caught:
        split(path, tmp_path / "out", sizes(train="rest", dev="30%", test="30%"))
    message = str(caught.value)
    assert "the largest has 20 utterances" in message and "(speaker 'narrator')" in message
    assert "There are 2 groups" in message
    assert "--tolerance" in message and "--group-by" in message
    assert not (tmp_path / "out").exists()
    split(path, tmp_path / "out", sizes(train="rest", dev="30%", test="30%"), group_by=["recording"])
    assert shared(tmp_path / "out") == set() and shared(tmp_path / "out", "speaker")


def test_one_more_group_where_that_comes_nearer(tmp_path: Path) -> None:
    path = manifest(tmp_path, *talks(10, each=3))
    done = split(path, tmp_path / "out", sizes(train="rest", test="5", dev="4"), tolerance=0.3)
    assert [part.utterances for part in done.parts] == [21, 6, 3]


def test_a_single_group_leaves_nothing_for_train(tmp_path: Path) -> None:
    path = manifest(tmp_path, *talks(1))
    with pytest.raises(DataError, match="nothing would be left for train|test would get 0"):
        split(path, tmp_path / "out", sizes(train="rest", test="10%"))
    with pytest.raises(DataError, match="nothing would be left for train"):
        split(path, tmp_path / "out", sizes(train="rest", test="5"))


def test_shares_without_durations_are_of_utterances(tmp_path: Path) -> None:
    lines = talks(20)
    del lines[0]["duration"]
    path = manifest(tmp_path, *lines)
    done = split(path, tmp_path / "out", sizes(train="rest", test="20%"))
    assert done.parts[1].utterances == 20
    assert None in [part.seconds for part in done.parts]
    for asked in ({"test": "30s"}, {"test": "20%", "by": "seconds"}):
        by = asked.pop("by", None)
        with pytest.raises(DataError, match="1 of 100 lines give no duration; have them measured"):
            split(path, tmp_path / "out2", sizes(train="rest", **asked), by=by)


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"train": "rest"}, "give two parts"),
        ({"train": "rest", "dev": "rest"}, "give two parts"),
        ({"train": "rest", "dev": "rest", "test": "5"}, "only one part can take the rest"),
        ({"train": "0.8", "dev": "0.3"}, "take 110.0% of the data"),
        ({"train": "rest", "dev": "0.5", "test": "0.5"}, "take 100.0% of the data"),
    ],
)
def test_sizes_that_do_not_go_together(tmp_path: Path, asked: dict[str, str], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        split(manifest(tmp_path, *talks(3)), tmp_path / "out", sizes(**asked))


def test_nothing_is_overwritten_and_nothing_is_left_half_done(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = manifest(tmp_path, *talks(20))
    asked = sizes(train="rest", test="20%")
    (tmp_path / "full").mkdir()
    (tmp_path / "full/train.jsonl").write_text("mine")
    (tmp_path / "file").write_text("mine")
    for target in ("full", "file"):
        with pytest.raises(DataError, match="is not an empty folder"):
            split(path, tmp_path / target, asked)
    (tmp_path / "empty").mkdir()
    split(path, tmp_path / "empty", asked)
    assert sorted(parts(tmp_path / "empty")) == ["test", "train"]

    before = sorted(tmp_path.iterdir())
    calls = []

    def fail(source: Path, target: Path) -> None:
        calls.append(target)
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", fail)
    with pytest.raises(DataError, match="cannot write .*No space left"):
        split(path, tmp_path / "new", asked)
    assert calls == [tmp_path / "new"]
    assert sorted(tmp_path.iterdir()) == before


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(st.tuples(st.integers(0, 8), st.integers(0, 8), st.integers(0, 12)), min_size=2, max_size=40),
    st.floats(0.05, 0.6),
    st.integers(0, 5),
)
def test_whatever_the_links_nothing_is_shared(
    tmp_path: Path, links: list[tuple[int, int, int]], share: float, seed: int
) -> None:
    lines = [
        {"audio_filepath": f"{file}.wav", "id": str(index), "speaker": speaker, "recording": f"r{recording}"}
        for index, (speaker, recording, file) in enumerate(links)
    ]
    path = manifest(tmp_path, *lines)
    folder = tmp_path / f"out{len(list(tmp_path.iterdir()))}"
    try:
        done = split(path, folder, {"train": Size(0, "rest"), "test": Size(share, "share")}, seed=seed, tolerance=0.9)
    except DataError:
        assert not folder.exists()
        return
    assert shared(folder, "speaker", "recording") == set()
    assert sum(part.utterances for part in done.parts) == len(links)

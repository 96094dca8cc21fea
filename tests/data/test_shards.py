from __future__ import annotations

import gzip
import io
import json
import logging
import random
import tarfile
from pathlib import Path

import pytest

from nuebridge.data.shards import expand_braces, find_shards, read_shards
from nuebridge.errors import AudioError, DataError
from tests.tones import write_tone


def tone(folder: Path, hertz: float = 50, seconds: float = 0.5) -> bytes:
    return write_tone(folder / "tone.wav", hertz, seconds, random.Random(0)).read_bytes()


def shard(path: Path, members: list[tuple[str, bytes]]) -> Path:
    with tarfile.open(path, "w") as archive:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return path


def as_json(**fields: object) -> bytes:
    return json.dumps(fields).encode()


def test_members_become_utterances(tmp_path: Path) -> None:
    low, high = tone(tmp_path, 50), tone(tmp_path, 310, 0.8)
    shard(
        tmp_path / "a-0.tar",
        [
            ("clips/1.wav", low),
            ("clips/1.json", as_json(text="low", duration=0.5, language="en", speaker=7, audio_filepath="x.wav")),
            ("clips/2.mid.WAV", high),
            ("clips/2.txt", b"high\n"),
            ("._clips", b"a hidden file"),
            ("LICENSE", b"free"),
            ("clips/note.md", b"not of use"),
        ],
    )
    shard(tmp_path / "a-1.tar", [("1.cls", "うみ".encode()), ("1.wav", low), ("1.json", as_json(id="sea"))])
    found = read_shards(str(tmp_path / "a-{0..1}.tar"), {}, need_text=True)
    assert [(u.id, u.text, u.duration) for u in found] == [
        ("a-0/clips/1", "low", 0.5),
        ("a-0/clips/2", "high", None),
        ("sea", "うみ", None),
    ]
    assert dict(found[0].fields) == {"language": "en", "speaker": 7}
    assert found[1].audio_filepath == tmp_path / "a-0.tar/clips/2.mid.WAV"
    assert [len(u.load(1000)) for u in found] == [500, 800, 500]
    assert (found[0].load(1000) == found[2].load(1000)).all()
    assert found[1].measured().duration == 0.8


def test_columns(tmp_path: Path) -> None:
    low, high = tone(tmp_path, 50), tone(tmp_path, 310, 0.8)
    members = [("1.near.wav", low), ("1.far.wav", high), ("1.json", as_json(sentence="s", de="d")), ("1.lab", b"l")]
    path = str(shard(tmp_path / "a.tar", members))
    columns = {"audio": "far.wav", "target": "de"}
    (usual,) = read_shards(path, columns)
    assert (usual.text, usual.target, len(usual.load(1000))) == ("s", "d", 800)
    (other,) = read_shards(path, {**columns, "text": "lab"})
    assert other.text == "l"
    with pytest.raises(DataError, match=r"a\.tar: no utterance has fr; change columns"):
        read_shards(path, {**columns, "context": "fr"})
    with pytest.raises(
        DataError, match=r"a\.tar: 1: has 2 recordings \(near\.wav, far\.wav\).*columns: \{audio: ENDING"
    ):
        read_shards(path, {})


def test_every_faulty_utterance_is_named(tmp_path: Path) -> None:
    low = tone(tmp_path)
    members = [
        ("1.wav", low),
        *[("2.wav", low), ("2.txt", b"two")],
        ("3.txt", b"three"),
        *[("4.wav", low), ("4.json", b"{")],
        *[("5.wav", low), ("5.json", b"[1]")],
        *[("6.wav", low), ("6.json", as_json(text="x", duration="long"))],
    ]
    path = shard(tmp_path / "a.tar", members)
    with pytest.raises(DataError) as caught:
        read_shards(str(path), {}, need_text=True)
    faults = str(caught.value).splitlines()
    said = ["1: text is missing", "3: has no recording", "4: ", "5: its json must be an object", "6: duration must be"]
    assert len(faults) == len(said)
    for fault, text in zip(faults, said, strict=True):
        assert fault.startswith(f"{path}: {text}")


def test_shards_that_cannot_be_read(tmp_path: Path) -> None:
    low = tone(tmp_path)
    whole = shard(tmp_path / "whole.tar", [("1.wav", low), ("2.wav", low)])
    content = whole.read_bytes()
    (tmp_path / "packed.tar").write_bytes(gzip.compress(content))
    with pytest.raises(DataError, match=r"packed\.tar is compressed: .*unpack it first \(gunzip\)"):
        read_shards(str(tmp_path / "packed.tar"), {})
    (tmp_path / "cut.tar").write_bytes(content[:2700])
    with pytest.raises(DataError, match=r"cut\.tar is not a whole tar file \(unexpected end of data\)"):
        read_shards(str(tmp_path / "cut.tar"), {})
    (tmp_path / "text.tar").write_bytes(b"no archive at all" * 100)
    with pytest.raises(DataError, match=r"text\.tar is not a whole tar file"):
        read_shards(str(tmp_path / "text.tar"), {})
    with pytest.raises(DataError, match="holds no recordings"):
        read_shards(str(shard(tmp_path / "empty.tar", [("README.md", b"x")])), {})
    with pytest.raises(DataError, match=r"there is no shard .*none-0\.tar, nor 2 others of"):
        read_shards(str(tmp_path / "none-{0..2}.tar"), {})
    with pytest.raises(DataError, match=r"no file matches .*none\*\.tar"):
        read_shards(str(tmp_path / "none*.tar"), {})


def test_a_shard_without_its_end(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    low = tone(tmp_path)
    whole = shard(tmp_path / "a.tar", [("1.wav", low), ("2.wav", low)])
    with tarfile.open(whole) as archive:
        second = archive.getmembers()[1].offset
    assert len(read_shards(str(whole), {})) == 2 and caplog.text == ""
    (tmp_path / "b.tar").write_bytes(whole.read_bytes()[:second])
    with caplog.at_level(logging.WARNING):
        assert len(read_shards(str(tmp_path / "b.tar"), {})) == 1
    assert "b.tar has no end mark: it may have been cut off" in caplog.text


def test_a_shard_that_changes_later(tmp_path: Path) -> None:
    path = shard(tmp_path / "a.tar", [("1.wav", tone(tmp_path))])
    (utterance,) = read_shards(str(path), {})
    path.write_bytes(path.read_bytes()[:600])
    with pytest.raises(AudioError, match=r"a\.tar: has become shorter since it was indexed"):
        utterance.load(1000)
    path.unlink()
    with pytest.raises(AudioError, match=r"a\.tar: cannot be read \(No such file"):
        utterance.load(1000)


def test_patterns(tmp_path: Path) -> None:
    assert expand_braces("a-{08..11}-{x,y}.tar") == [f"a-{n}-{c}.tar" for n in ("08", "09", "10", "11") for c in "xy"]
    assert expand_braces("plain.tar") == ["plain.tar"] and expand_braces("{odd}-{0..1}") == ["{odd}-0", "{odd}-1"]
    with pytest.raises(DataError, match=r"the range \{3\.\.1\} runs backwards"):
        expand_braces("{3..1}.tar")
    for name in ("b.tar", "a.tar", "a[1].tar"):
        (tmp_path / name).touch()
    assert [path.name for path in find_shards(f"{tmp_path}/?.tar")] == ["a.tar", "b.tar"]
    assert [path.name for path in find_shards(f"{tmp_path}/{{b.tar,*.tar}}")] == ["b.tar", "a.tar", "a[1].tar"]
    assert [path.name for path in find_shards(f"{tmp_path}/a[1].tar")] == ["a[1].tar"]

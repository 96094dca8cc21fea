from __future__ import annotations

import io
import json
import random
import tarfile
from pathlib import Path

import pytest

from nuebridge.config import validate
from nuebridge.data.sources import Source, SourceConfig, Stream, kind_of, open_source, open_sources, read_some
from nuebridge.errors import ConfigError, DataError
from tests.tones import write_corpus, write_tone


def manifest(path: Path, *names: str, **fields: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(json.dumps({"audio_filepath": "a.wav", "text": n, "id": n, **fields}) for n in names))
    return path


def source(path: object, **settings: object) -> SourceConfig:
    return SourceConfig.model_validate({"path": str(path), **settings})


def test_a_path_alone() -> None:
    assert SourceConfig.model_validate("a.jsonl") == SourceConfig.model_validate(Path("a.jsonl")) == source("a.jsonl")


def test_columns_are_of_fields_that_exist() -> None:
    with pytest.raises(
        ConfigError, match=r"columns: there is no field 'txt' \(allowed: audio, .*did you mean 'text'\?\)"
    ):
        validate({"path": "a", "columns": {"txt": "sentence"}}, SourceConfig, "test")


def test_the_kind_is_told_from_the_path(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "list").write_text("")
    told = {
        "a.jsonl": "manifest",
        "some/where/a.json": "manifest",
        f"{tmp_path}/list": "manifest",
        "/no/such/thing": "manifest",
        "a-{000..010}.tar": "tar",
        "a.tar.gz": "tar",
        f"{tmp_path}/*.tar": "tar",
        f"{tmp_path}/folder": "dataset",
        "rows-*.parquet": "dataset",
        "rows.arrow": "dataset",
        "someone/speech-2.0": "dataset",
        "speech": "dataset",
    }
    assert {path: kind_of(path) for path in told} == told


def test_settings_of_other_kinds(tmp_path: Path) -> None:
    path = manifest(tmp_path / "a.jsonl", "x")
    with pytest.raises(ConfigError, match=r"streaming is for data sets, and .*a\.jsonl is a manifest; leave it out"):
        open_source(source(path, streaming=True))
    with pytest.raises(ConfigError, match=r"subset is for data sets, and .*\.tar is tar shards"):
        open_source(source("a.tar", subset="en"))
    with pytest.raises(ConfigError, match="columns are for data sets and shards"):
        open_source(source(path, columns={"text": "sentence"}))
    # What the path says is overruled.
    with pytest.raises(DataError, match=r"a\.jsonl is not a whole tar file"):
        open_source(source(path, kind="tar"))


def test_ids_are_different_across_sources(tmp_path: Path) -> None:
    paths = [
        manifest(tmp_path / "1/a.jsonl", "x", "y"),
        manifest(tmp_path / "2/a.jsonl", "y", "z", "3/y"),
        manifest(tmp_path / "3/a.jsonl", "y", "3/y"),
    ]
    opened = open_sources([source(path) for path in paths])
    ids = [[u.id for u in one.utterances] for one in opened if isinstance(one, Source)]
    assert ids == [["x", "y"], ["2/y", "z", "3/y"], ["3/3/y", "3/3/3/y"]]
    assert [[u.text for u in one.utterances] for one in opened if isinstance(one, Source)] == [
        ["x", "y"],
        ["y", "z", "3/y"],
        ["y", "3/y"],
    ]


def test_all_that_is_wrong_is_said(tmp_path: Path) -> None:
    good = manifest(tmp_path / "good.jsonl", "x")
    (tmp_path / "bad.jsonl").write_text("{}")
    with pytest.raises(DataError) as caught:
        open_sources([source(tmp_path / "none.jsonl"), source(good), source(tmp_path / "bad.jsonl")])
    first, second = str(caught.value).splitlines()
    assert first.startswith("there is no manifest") and second.endswith("bad.jsonl:1: audio_filepath is missing")


def test_shards(tmp_path: Path) -> None:
    audio = write_tone(tmp_path / "a.wav", 50, 0.5, random.Random(0)).read_bytes()
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        for name, content in (("1.wav", audio), ("1.txt", b"low")):
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    (found,) = read_some(source(tmp_path / "*.tar"), None)
    assert found.text == "low" and len(found.load(1000)) == 500


def test_reading_some(tmp_path: Path) -> None:
    corpus = source(write_corpus(tmp_path, 5))
    assert [u.text for u in read_some(corpus, 2)] == ["low", "mid"] and len(read_some(corpus, None)) == 5


def test_streams(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    datasets = pytest.importorskip("datasets", reason="the extra nuebridge[datasets] is not installed")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    wav = write_tone(tmp_path / "a.wav", 50, 0.5, random.Random(0)).read_bytes()
    rows = datasets.Dataset.from_dict({"audio": [wav] * 3, "text": ["a", None, "c"], "id": ["a", "b", "c"]})
    rows.to_parquet(tmp_path / "a.parquet")
    streamed = source(tmp_path / "a.parquet", streaming=True)
    (alone,) = open_sources([streamed])
    assert isinstance(alone, Stream) and alone.expected is None
    assert [u if isinstance(u, str) else u.id for u in alone] == ["a", "row 1: text is missing", "c"]
    assert [u.id for u in read_some(streamed, 1)] == ["a"] and [u.id for u in read_some(streamed, None)] == ["a", "c"]
    path = manifest(tmp_path / "a.jsonl", "a")
    with pytest.raises(DataError, match=r"a\.parquet is streamed and does not say how many.*utterances: NUMBER"):
        open_sources([source(path), streamed])
    counted = streamed.model_copy(update={"utterances": 3})
    known, mixed = open_sources([source(path), counted])
    assert isinstance(known, Source) and isinstance(mixed, Stream) and mixed.expected == 3
    assert [u.id for u in mixed if not isinstance(u, str)] == ["2/a", "2/c"]

from __future__ import annotations

import random
import sys
from pathlib import Path
from typing import Any

import pytest

from nuebridge.data.tables import Table, TableStream, read_table
from nuebridge.errors import AudioError, ConfigError, DataError
from tests.tones import WORDS, write_tone

datasets = pytest.importorskip("datasets", reason="the extra nuebridge[datasets] is not installed")

AUDIO = "bytes: binary, path: string"


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the library writes stays in the test's folder."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    datasets.disable_progress_bars()


def tones(folder: Path, *, embedded: bool = True, **columns: list[Any]) -> Any:
    """Three tones of 0.3, 0.4 and 0.5 s with their texts, as rows."""
    folder.mkdir(parents=True, exist_ok=True)
    files = [write_tone(folder / f"{w}.wav", WORDS[w], 0.3 + i / 10, random.Random(0)) for i, w in enumerate(WORDS)]
    audio = [{"bytes": f.read_bytes(), "path": f.name} if embedded else {"bytes": None, "path": str(f)} for f in files]
    columns = columns or {"sentence": list(WORDS)}
    feature = {"audio": {"bytes": datasets.Value("binary"), "path": datasets.Value("string")}}
    rows = datasets.Dataset.from_dict({"audio": audio, **columns})
    return rows.cast_column("audio", feature["audio"]).cast_column("audio", datasets.Audio())


def table(path: Path | str, *, split: str = "train", streaming: bool = False, **columns: str) -> Table:
    return Table(str(path), None, split, streaming, columns)


def check_tones(utterances: list[Any]) -> None:
    assert [u.text for u in utterances] == ["low", "mid", "high"]
    assert [len(u.load(1000)) for u in utterances] == [300, 400, 500]
    assert [u.measured().duration for u in utterances] == [0.3, 0.4, 0.5]


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("embedded", [False, True])
@pytest.mark.parametrize("kind", ["parquet file", "parquet folder", "saved", "saved splits"])
def test_local_tables(tmp_path: Path, kind: str, embedded: bool, streaming: bool) -> None:
    rows, folder = tones(tmp_path / "audio", embedded=embedded), tmp_path / "rows"
    folder.mkdir()
    path = folder
    if kind.startswith("parquet"):
        path = folder / "train.parquet" if kind.endswith("file") else folder
        rows.to_parquet(folder / "train.parquet")
    else:
        (rows if kind == "saved" else datasets.DatasetDict({"other": rows.take(1), "train": rows})).save_to_disk(folder)
    wanted = table(path, streaming=streaming)
    found = list(TableStream(wanted)) if streaming else read_table(wanted, need_text=True)
    check_tones(found)
    assert [u.id for u in found] == [f"{path.stem}/train/{i}" for i in range(3)]
    if streaming:
        assert [u.id for u in TableStream(wanted)] == [u.id for u in found]


def test_arrow_files(tmp_path: Path) -> None:
    tones(tmp_path / "audio").save_to_disk(tmp_path / "saved")
    (file,) = (tmp_path / "saved").glob("*.arrow")
    check_tones(read_table(table(file, split="validation")))


def test_audio_as_plain_columns(tmp_path: Path) -> None:
    """Bytes and paths that nobody declared to be audio."""
    rows = tones(tmp_path / "audio")
    files = [tmp_path / "audio" / f"{word}.wav" for word in WORDS]
    for name, values in (("bytes", [f.read_bytes() for f in files]), ("paths", [str(f) for f in files])):
        datasets.Dataset.from_dict({"recording": values, "text": rows["sentence"][:]}).to_parquet(tmp_path / name)
        (tmp_path / name).rename(tmp_path / f"{name}.parquet")
        check_tones(read_table(table(tmp_path / f"{name}.parquet", audio="recording")))


def test_columns(tmp_path: Path) -> None:
    rows = tones(
        tmp_path / "audio",
        text=["a", "b", "c"],
        de=["x", None, "z"],
        seconds=[0.3, 0.4, 0.5],
        key=[7, 8, 9],
        instruction=["Say it.", None, ""],
        other=[[1], [2], [3]],
    )
    rows.to_parquet(tmp_path / "a.parquet")
    found = read_table(table(tmp_path / "a.parquet", target="de", duration="seconds", id="key"), need_text=True)
    assert [(u.id, u.text, u.target, u.duration) for u in found] == [
        ("7", "a", "x", 0.3),
        ("8", "b", "b", 0.4),
        ("9", "c", "z", 0.5),
    ]
    assert found[0].prompt_fields == {"task": "Say it."} and "other" not in found[0].fields
    with pytest.raises(DataError, match=r"has the columns audio, text, de, .*, and no 'fr'; change columns\.target"):
        read_table(table(tmp_path / "a.parquet", target="fr"))
    rows.rename_column("audio", "speech").to_parquet(tmp_path / "b.parquet")
    with pytest.raises(DataError, match=r"say which holds the audio, with columns: \{audio: NAME\}"):
        read_table(table(tmp_path / "b.parquet"))


@pytest.mark.parametrize("streaming", [False, True])
def test_faulty_rows(tmp_path: Path, streaming: bool) -> None:
    tones(tmp_path / "audio", text=["a", None, "c"]).to_parquet(tmp_path / "a.parquet")
    wanted = table(tmp_path / "a.parquet", streaming=streaming)
    if streaming:
        found = list(TableStream(wanted, need_text=True))
        assert [u if isinstance(u, str) else u.text for u in found] == ["a", "row 1: text is missing", "c"]
    else:
        with pytest.raises(DataError, match=r"^.*a\.parquet: row 1: text is missing$"):
            read_table(wanted, need_text=True)
        assert [u.text for u in read_table(wanted)] == ["a", None, "c"]


def test_recordings_that_are_not_there(tmp_path: Path) -> None:
    tones(tmp_path / "audio", embedded=False).to_parquet(tmp_path / "a.parquet")
    (tmp_path / "audio/mid.wav").unlink()
    found = read_table(table(tmp_path / "a.parquet"))
    with pytest.raises(AudioError, match=r"mid\.wav: cannot be read"):
        found[1].load(1000)
    nothing = datasets.Dataset.from_dict({"audio": [None], "text": ["x"]}).cast_column(
        "audio", datasets.Value("string")
    )
    nothing.to_parquet(tmp_path / "b.parquet")
    with pytest.raises(AudioError, match="the row holds no recording"):
        read_table(table(tmp_path / "b.parquet"))[0].load(1000)


def test_data_sets_that_cannot_be_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tones(tmp_path / "audio").to_parquet(tmp_path / "rows/train.parquet")
    datasets.DatasetDict({"test": tones(tmp_path / "audio")}).save_to_disk(tmp_path / "saved")
    (tmp_path / "empty").mkdir()
    (tmp_path / "broken.parquet").write_bytes(b"PAR1 not really")
    with pytest.raises(DataError, match=r"the data set .*rows cannot be opened: .*test"):
        read_table(table(tmp_path / "rows", split="test"))
    with pytest.raises(DataError, match=r"saved has no split 'train', but test"):
        read_table(table(tmp_path / "saved"))
    for path in ("empty", "broken.parquet"):
        with pytest.raises(DataError, match=rf"the data set .*{path} cannot be opened: "):
            read_table(table(tmp_path / path))
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(ConfigError, match=r"takes the package datasets: pip install 'nuebridge\[datasets\]'"):
        read_table(table("someone/something"))

from __future__ import annotations

import io
import json
import random
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from nuebridge.data import Utterance, read_manifest
from nuebridge.errors import AudioError, DataError
from tests.recordings import burst, encode
from tests.tones import write_tone


def manifest(folder: Path, *lines: object, name: str = "manifest.jsonl") -> Path:
    path = folder / name
    path.write_text("\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines), encoding="utf-8")
    return path


def test_lines_become_utterances(tmp_path: Path) -> None:
    path = manifest(
        tmp_path,
        {"audio_filepath": "a/1.wav", "text": "one", "duration": 1, "speaker": "s1", "language": "en"},
        "",
        {"audio_filepath": "/abs/2.wav", "offset": 0.5, "id": 17, "context": None, "task": 3},
    )
    first, second = read_manifest(path)
    assert first == Utterance("1.wav:1", tmp_path / "a/1.wav", "one", 1, 0.0, {"speaker": "s1", "language": "en"})
    assert second == Utterance("17", Path("/abs/2.wav"), None, None, 0.5, {"context": None, "task": 3})
    assert first.prompt_fields == {"language": "en"} and second.prompt_fields == {"task": "3"}


def test_every_faulty_line_is_named(tmp_path: Path) -> None:
    good = {"audio_filepath": "a.wav", "text": "x", "duration": 1.0}
    path = manifest(
        tmp_path,
        good,
        "{not json",
        ["a.wav"],
        {**good, "audio_filepath": 3},
        {**good, "text": 3},
        {**good, "duration": -1},
        '{"audio_filepath": "a.wav", "text": "x", "duration": NaN}',
        {**good, "offset": True},
        {"audio_filepath": "a.wav"},
        {**good, "target": ["x"]},
    )
    with pytest.raises(DataError) as caught:
        read_manifest(path, need_text=True)
    faults = str(caught.value).splitlines()
    assert [fault.split(": ")[0] for fault in faults] == [f"{path}:{number}" for number in range(2, 11)]
    for fault, said in zip(
        faults,
        [
            "Expecting property name",
            "must be a JSON object",
            "audio_filepath is missing",
            "text must be a string, not 3",
            "duration must be seconds, not -1",
            "duration must be seconds, not nan",
            "offset must be seconds, not True",
            "text is missing",
            "target must be a string, not ['x']",
        ],
        strict=True,
    ):
        assert said in fault


def test_what_is_needed_depends_on_the_use(tmp_path: Path) -> None:
    path = manifest(tmp_path, {"audio_filepath": "a.wav", "text": "x"})
    assert read_manifest(path, need_text=True)[0].duration is None
    untold = manifest(tmp_path, {"audio_filepath": "a.wav"}, name="untold.jsonl")
    assert read_manifest(untold)[0].target is None
    with pytest.raises(DataError, match="text is missing"):
        read_manifest(untold, need_text=True)


def test_a_long_list_of_faults_is_cut(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"\(and 5 more\)$"):
        read_manifest(manifest(tmp_path, *["x"] * 15))


def test_two_lines_with_one_id(tmp_path: Path) -> None:
    line = {"audio_filepath": "a.wav", "id": "same"}
    with pytest.raises(DataError, match=r"manifest\.jsonl:3: the id 'same' is that of line 1 already"):
        read_manifest(manifest(tmp_path, line, {"audio_filepath": "b.wav"}, line))


def test_manifests_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="there is no manifest"):
        read_manifest(tmp_path / "none.jsonl")
    with pytest.raises(DataError, match="cannot be read"):
        read_manifest(tmp_path)
    with pytest.raises(DataError, match="holds no utterances"):
        read_manifest(manifest(tmp_path, "", " "))
    (tmp_path / "binary.jsonl").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DataError, match="cannot be read"):
        read_manifest(tmp_path / "binary.jsonl")


@pytest.mark.parametrize("separator", ["\u2028", "\u2029", "\x85", "\x0c"])
def test_separators_within_a_text_end_no_line(tmp_path: Path, separator: str) -> None:
    line = json.dumps({"audio_filepath": "a.wav", "text": f"a{separator}b"}, ensure_ascii=False)
    assert [u.text for u in read_manifest(manifest(tmp_path, line.replace("\\f", "\\f")))] == [f"a{separator}b"]


def test_windows_line_ends_and_byte_order_mark(tmp_path: Path) -> None:
    path = tmp_path / "manifest.jsonl"
    line = json.dumps({"audio_filepath": "a.wav"}).encode()
    path.write_bytes(b"\xef\xbb\xbf" + line + b"\r\n" + line + b"\r\n")
    assert [u.id for u in read_manifest(path)] == ["a.wav:1", "a.wav:2"]


def test_a_stretch_of_a_recording(tmp_path: Path) -> None:
    write_tone(tmp_path / "a.wav", 50, 1.0, random.Random(0))
    (whole, part) = read_manifest(
        manifest(tmp_path, {"audio_filepath": "a.wav"}, {"audio_filepath": "a.wav", "offset": 0.25, "duration": 0.5})
    )
    assert len(whole.load(1000)) == 1000
    assert (part.load(1000) == whole.load(1000)[250:750]).all()


def test_a_target_goes_before_the_text(tmp_path: Path) -> None:
    heard = {"audio_filepath": "a.wav", "text": "good morning", "language": "en"}
    path = manifest(tmp_path, {**heard, "target": "guten Morgen"}, heard, {"audio_filepath": "b.wav", "target": "ja"})
    translated, plain, untold = read_manifest(path, need_text=True)
    assert (translated.text, translated.target) == ("good morning", "guten Morgen")
    assert plain.target == "good morning" and (untold.text, untold.target) == (None, "ja")
    changed = translated.with_target("x"), plain.with_target("x")
    assert [(u.text, u.target) for u in changed] == [("good morning", "x"), ("x", "x")]
    assert changed[0].prompt_fields == {"language": "en"}


@pytest.mark.parametrize(
    ("fields", "task"),
    [
        ({"prompt": "Translate."}, "Translate."),
        ({"instruction": "Answer."}, "Answer."),
        ({"instruction": "Answer.", "prompt": "Translate."}, "Translate."),
        ({"task": "write", "prompt": "Translate."}, "write"),
        ({"task": None, "instruction": "Answer."}, "Answer."),
    ],
)
def test_what_the_model_is_told_to_do(tmp_path: Path, fields: dict[str, str], task: str) -> None:
    (utterance,) = read_manifest(manifest(tmp_path, {"audio_filepath": "a.wav", "context": "tea", **fields}))
    assert utterance.prompt_fields == {"task": task, "context": "tea"}


def test_measuring(tmp_path: Path) -> None:
    write_tone(tmp_path / "a.wav", 50, 1.25, random.Random(0))
    path = manifest(tmp_path, {"audio_filepath": "a.wav"}, {"audio_filepath": "a.wav", "offset": 0.25})
    whole, part = (utterance.measured() for utterance in read_manifest(path))
    assert (whole.duration, part.duration) == (1.25, 1.0) and whole.is_measured
    assert len(whole.load(1000)) == 1250 and (part.load(1000) == whole.load(1000)[250:]).all()
    with pytest.raises(AudioError, match=r"a\.wav: ends at 1\.250 s, before the offset 2\.000 s"):
        replace(part, offset=2.0).measured()


@dataclass(frozen=True)
class Memory:
    content: bytes

    def open(self) -> io.BytesIO:
        return io.BytesIO(self.content)


@pytest.mark.parametrize("ending", [".wav", ".flac", ".mp3", ".ogg", ".m4a"])
def test_a_recording_that_is_no_file(tmp_path: Path, ending: str) -> None:
    file = encode(tmp_path / f"a{ending}", burst(1.5), 16_000)
    stored = Utterance("one", Path("shard.tar/one"), stored=Memory(file.read_bytes()))
    in_a_file = Utterance("one", file)
    assert (stored.load(8000) == in_a_file.load(8000)).all()
    assert stored.measured().duration == in_a_file.measured().duration == pytest.approx(1.5, abs=0.1)
    stretch = replace(stored, offset=0.5, duration=0.25).load(8000)
    assert (stretch == replace(in_a_file, offset=0.5, duration=0.25).load(8000)).all() and len(stretch) == 2000


@pytest.mark.parametrize(
    ("content", "said"), [(b"", "is empty"), (b"nothing to hear", "is not audio"), (b"RIFF\0\0\0\0WAVE", "truncated")]
)
def test_a_stored_recording_that_is_none(content: bytes, said: str) -> None:
    stored = Utterance("one", Path("shard.tar/one"), stored=Memory(content))
    for read in (stored.measured, lambda: stored.load(16_000)):
        with pytest.raises(AudioError, match=rf"^shard\.tar/one: .*{said}"):
            read()

"""What a check of manifests finds. Every fault is made in a real recording."""

from __future__ import annotations

import json
import struct
import wave
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from nuebridge.data.checking import KINDS, Depth, Report, check
from nuebridge.data.checking.audio import CLIPPED_SHARE
from nuebridge.errors import ConfigError, DataError
from tests.recordings import burst, encode

RATE = 8000


def noise(seconds: float, seed: int, level: float = 0.2) -> NDArray[np.float64]:
    return np.random.default_rng(seed).uniform(-level, level, (round(seconds * RATE), 1))


def manifest(path: Path, *lines: dict[str, Any]) -> Path:
    path.write_text("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines), encoding="utf-8")
    return path


def clip(folder: Path, name: str, seconds: float = 1.0, seed: int | None = None, **more: Any) -> dict[str, Any]:
    """A recording of its own noise, and its line."""
    encode(folder / name, noise(seconds, zlib.crc32(name.encode()) if seed is None else seed), RATE)
    return {"audio_filepath": name, "text": f"words of {name}", "duration": seconds, "id": name, **more}


def found(report: Report) -> dict[str, list[str]]:
    """Ids by kind."""
    return {kind: [one.utterance for one in those] for kind, those in report.findings.items()}


DEPTHS: list[Depth] = ["none", "headers", "decode"]


class TestStatistics:
    def test_of_a_clean_set(self, tmp_path: Path) -> None:
        path = manifest(
            tmp_path / "m.jsonl",
            clip(tmp_path, "a.wav", 1.0, text="ab", speaker="s1", language="en"),
            clip(tmp_path, "b.flac", 2.0, text="abc d", speaker="s1", language="en", duration=None),
            clip(tmp_path, "c.wav", 3.0, text="ab", speaker=2, language="is"),
            clip(tmp_path, "d.wav", 4.0, text="é"),
        )
        report = check([path], depth="headers")
        assert report.faults == 0 and report.findings == {}
        figures = report.statistics
        assert figures["utterances"] == figures["files"] == 4
        assert figures["hours"] == pytest.approx(10 / 3600) and figures["without_duration"] == 0
        assert figures["durations"] == {"min": 1, "p5": 1.15, "median": 2.5, "p95": 3.85, "max": 4, "mean": 2.5}
        assert figures["sample_rates"] == {"8000": 4} and figures["channels"] == {"1": 4}
        assert figures["speakers"] == {"named": 2, "utterances_without": 1, "most": [("s1", 2), ("2", 1)]}
        assert figures["languages"]["en"] == {"utterances": 2, "hours": pytest.approx(3 / 3600)}
        assert figures["texts"]["repeated"] == [("ab", 2)]
        assert figures["texts"]["words"]["max"] == 2 and figures["texts"]["characters"]["max"] == 5
        assert figures["characters"] == {"a": 3, "b": 3, "c": 1, " ": 1, "d": 1, "é": 1}
        assert figures["characters_per_second"]["max"] == 2.5
        json.dumps(report.as_dict(), allow_nan=False)

    def test_without_a_look_at_the_recordings(self, tmp_path: Path) -> None:
        report = check([manifest(tmp_path / "m.jsonl", {"audio_filepath": "none.wav"})], depth="none")
        assert report.faults == 0
        assert (report.statistics["without_duration"], report.statistics["durations"]) == (1, None)
        json.dumps(report.as_dict(), allow_nan=False)


class TestFaults:
    @pytest.mark.parametrize("depth", ["headers", "decode"])
    def test_recordings_that_cannot_be_read(self, tmp_path: Path, depth: Depth) -> None:
        lines = [clip(tmp_path, name) for name in ("fine.wav", "short.wav", "empty.wav", "text.wav", "hollow.wav")]
        (tmp_path / "short.wav").write_bytes((tmp_path / "short.wav").read_bytes()[:-1000])
        (tmp_path / "empty.wav").write_bytes(b"")
        (tmp_path / "text.wav").write_text("not audio " * 50)
        encode(tmp_path / "hollow.wav", noise(0, 0), RATE)
        lines.append({"audio_filepath": "gone.wav", "text": "x", "id": "gone.wav"})
        report = check([manifest(tmp_path / "m.jsonl", *lines)], depth=depth)
        assert found(report) == {
            "missing-audio": ["gone.wav"],
            "unreadable-audio": ["short.wav", "empty.wav", "text.wav", "hollow.wav"],
        }
        said = [one.message for one in report.findings["unreadable-audio"]]
        for message, word in zip(
            said, ["truncated", "empty (0 bytes)", "is not audio", "holds no samples"], strict=True
        ):
            assert word in message
        assert report.faults == 5

    def test_damage_in_the_middle_is_found_by_decoding(self, tmp_path: Path) -> None:
        line = clip(tmp_path, "a.flac", 3.0)
        data = bytearray((tmp_path / "a.flac").read_bytes())
        data[len(data) // 2] ^= 0xFF
        (tmp_path / "a.flac").write_bytes(data)
        path = manifest(tmp_path / "m.jsonl", line)
        assert check([path], depth="headers").faults == 0
        assert found(check([path], depth="decode")) == {"unreadable-audio": ["a.flac"]}
        half = {**line, "duration": 1.4}
        pieces = manifest(tmp_path / "p.jsonl", {**half, "id": "1"}, {**half, "id": "2", "offset": 1.5})
        assert found(check([pieces], depth="decode")) == {"unreadable-audio": ["1", "2"]}

    @pytest.mark.parametrize("depth", ["headers", "decode"])
    def test_durations(self, tmp_path: Path, depth: Depth) -> None:
        clip(tmp_path, "talk.wav", 4.0)
        path = manifest(
            tmp_path / "m.jsonl",
            clip(tmp_path, "fits.wav", 1.0) | {"duration": 1.05},
            clip(tmp_path, "long.wav", 1.0) | {"duration": 1.5},
            clip(tmp_path, "part.wav", 2.0) | {"duration": 1.0},
            clip(tmp_path, "none.wav", 1.0) | {"duration": 0},
            {"audio_filepath": "talk.wav", "id": "1", "text": "x", "duration": 1.0, "offset": 0.5},
            {"audio_filepath": "talk.wav", "id": "2", "text": "y", "duration": 1.0, "offset": 3.5},
            {"audio_filepath": "talk.wav", "id": "3", "text": "z", "offset": 5.0},
        )
        report = check([path], depth=depth)
        assert {kind: ids for kind, ids in found(report).items() if kind != "unreadable-audio"} == {
            "span": ["long.wav", "none.wav", "2", "3"],
            "duration": ["part.wav", "none.wav"],
        }
        assert not report.is_fault("duration") and report.faults == 4

    def test_levels(self, tmp_path: Path) -> None:
        loud = np.clip(noise(1.0, 1, level=1.4), -1, 1)
        peak = noise(1.0, 2)
        peak[100] = 1.0
        samples = {"zero.wav": 0 * loud, "faint.wav": 0.001 * loud, "loud.wav": loud, "peak.wav": peak}
        lines = []
        for name, wav in [*samples.items(), ("meant.wav", 0 * loud[:50])]:
            encode(tmp_path / name, wav, RATE)
            lines.append({"audio_filepath": name, "id": name, "text": "" if name == "meant.wav" else name})
        assert np.mean(np.abs(loud) == 1) > 10 * CLIPPED_SHARE
        report = check([manifest(tmp_path / "m.jsonl", *lines)], depth="decode")
        assert found(report) == {"silent": ["zero.wav"], "clipped": ["loud.wav"]}

    def test_samples_that_are_no_numbers(self, tmp_path: Path) -> None:
        samples = noise(0.5, 0)
        samples[7] = np.nan
        encode(tmp_path / "a.wav", samples, RATE, "pcm_f32le")
        path = manifest(tmp_path / "m.jsonl", {"audio_filepath": "a.wav", "text": "x", "id": "a"})
        report = check([path], depth="decode")
        assert "not finite" in report.findings["unreadable-audio"][0].message

    def test_texts(self, tmp_path: Path) -> None:
        texts = {"a.wav": "fine", "b.wav": " ", "c.wav": None, "d.wav": "also"}
        lines = [clip(tmp_path, name) | {"text": text} for name, text in texts.items()]
        assert found(check([manifest(tmp_path / "m.jsonl", *lines)])) == {
            "missing-text": ["c.wav"],
            "empty-text": ["b.wav"],
        }
        bare = manifest(tmp_path / "bare.jsonl", *[{**line, "text": None} for line in lines])
        assert check([bare]).findings == {}

    def test_texts_that_do_not_fit_their_audio(self, tmp_path: Path) -> None:
        rates = [*np.random.default_rng(0).uniform(9, 16, 40), 1.5, 150]
        lines = [
            {"audio_filepath": f"{i}.wav", "duration": 10.0, "text": "x" * round(10 * rate), "id": str(i)}
            for i, rate in enumerate(rates)
        ]
        report = check([manifest(tmp_path / "m.jsonl", *lines)], depth="none")
        assert found(report) == {"speech-rate": ["40", "41"]}
        assert report.faults == 0
        few = manifest(tmp_path / "few.jsonl", *lines[-10:])
        assert check([few], depth="none").findings == {}

    @pytest.mark.parametrize("depth", ["headers", "decode"])
    def test_the_same_audio_twice(self, tmp_path: Path, depth: Depth) -> None:
        clip(tmp_path, "a.wav", 2.0, seed=1)
        for copy in ("b.wav", "c.wav"):
            (tmp_path / copy).write_bytes((tmp_path / "a.wav").read_bytes())
        clip(tmp_path, "other.wav", 2.0, seed=2)
        clip(tmp_path, "a.flac", 2.0, seed=1)
        path = manifest(
            tmp_path / "m.jsonl",
            {"audio_filepath": "a.wav", "text": "Yes, please.", "id": "a"},
            {"audio_filepath": "b.wav", "text": "yes please", "id": "b"},
            {"audio_filepath": "c.wav", "text": "no", "id": "c"},
            {"audio_filepath": "other.wav", "text": "no", "id": "other"},
            {"audio_filepath": "other.wav", "text": "part", "id": "part", "duration": 1.0},
            {"audio_filepath": "a.flac", "text": "yes please", "id": "flac"},
        )
        report = check([path], depth=depth)
        twice = ["b", "flac"] if depth == "decode" else ["b"]
        assert found(report) == {"duplicate-audio": twice, "contradiction": ["c"]}
        assert report.faults == 1

    def test_findings_that_only_warn(self, tmp_path: Path) -> None:
        path = manifest(tmp_path / "m.jsonl", clip(tmp_path, "a.wav") | {"text": ""}, clip(tmp_path, "b.wav"))
        assert check([path]).faults == 1
        report = check([path], only_warn=["empty-text"])
        assert report.faults == 0 and list(report.findings) == ["empty-text"]
        assert report.as_dict()["findings"][0]["fault"] is False
        with pytest.raises(ConfigError, match="there is no finding 'empty-txt'.*did you mean 'empty-text'"):
            check([path], only_warn=["empty-txt"])
        with pytest.raises(ConfigError, match="none, headers, decode, not 'all'"):
            check([path], depth="all")  # type: ignore[arg-type]
        with pytest.raises(DataError, match="there is no manifest"):
            check([tmp_path / "none.jsonl"])


class TestOverlap:
    @pytest.mark.parametrize("depth", DEPTHS)
    def test_nothing_is_shared(self, tmp_path: Path, depth: Depth) -> None:
        train = manifest(tmp_path / "a.jsonl", clip(tmp_path, "a.wav", seed=1, speaker="s1", recording="1"))
        test = manifest(tmp_path / "b.jsonl", clip(tmp_path, "b.wav", seed=2, speaker="s2", recording="2"))
        assert check([train], against=[test], depth=depth).findings == {}

    @pytest.mark.parametrize("depth", DEPTHS)
    def test_texts_and_speakers(self, tmp_path: Path, depth: Depth) -> None:
        train = manifest(
            tmp_path / "train.jsonl",
            clip(tmp_path, "a.wav", text="Good morning!", speaker="s1"),
            clip(tmp_path, "b.wav", text="", speaker="s2"),
        )
        test = manifest(
            tmp_path / "test.jsonl",
            clip(tmp_path, "c.wav", text="good  morning", speaker="s3"),
            clip(tmp_path, "d.wav", text="", speaker="s2"),
        )
        report = check([train], against=[test], depth=depth, only_warn=["empty-text"])
        assert found(report) == {"empty-text": ["b.wav"], "overlap-text": ["a.wav"], "overlap-speaker": ["b.wav"]}
        assert report.findings["overlap-text"][0].message == "its text 'good morning' is in test.jsonl (c.wav) too"
        assert report.faults == 2
        assert check([train], against=[test], depth=depth, only_warn=["empty-text", "overlap-text"]).faults == 1

    @pytest.mark.parametrize("depth", DEPTHS)
    def test_stretches_of_one_recording(self, tmp_path: Path, depth: Depth) -> None:
        clip(tmp_path, "talk.wav", 4.0)
        (tmp_path / "sub").mkdir()
        stretch = {"audio_filepath": "talk.wav", "duration": 1.0}
        train = manifest(
            tmp_path / "train.jsonl",
            {**stretch, "id": "apart", "offset": 0.0},
            {**stretch, "id": "touching", "offset": 1.0},
            {**stretch, "id": "within", "offset": 2.5},
        )
        test = manifest(tmp_path / "sub/test.jsonl", {**stretch, "audio_filepath": "../talk.wav", "offset": 2.0})
        assert found(check([train], against=[test], depth=depth)) == {
            "overlap-audio": ["within"],
            "overlap-recording": ["apart", "touching"],
        }

    @pytest.mark.parametrize("depth", DEPTHS)
    def test_copies_under_other_names(self, tmp_path: Path, depth: Depth) -> None:
        train = manifest(
            tmp_path / "train.jsonl",
            clip(tmp_path, "a.wav", seed=1),
            clip(tmp_path, "b.wav", seed=2),
            clip(tmp_path, "c.wav", seed=3, recording="r3"),
        )
        test = [
            clip(tmp_path, "x.wav", seed=1),
            clip(tmp_path, "y.flac", seed=2),
            clip(tmp_path, "z.wav", recording="r3"),
        ]
        report = check([train], against=[manifest(tmp_path / "test.jsonl", *test)], depth=depth)
        same = {"none": [], "headers": ["a.wav"], "decode": ["a.wav", "b.wav"]}[depth]
        assert found(report).get("overlap-audio", []) == same
        assert found(report)["overlap-recording"] == ["c.wav"]

    def test_silence_is_nobodys(self, tmp_path: Path) -> None:
        for name in ("a.wav", "b.wav"):
            with wave.open(str(tmp_path / name), "wb") as file:
                file.setparams((1, 2, RATE, 0, "NONE", ""))
                file.writeframes(struct.pack("<h", 0) * RATE)
        train, test = (
            manifest(tmp_path / f"{name}.jsonl", {"audio_filepath": f"{name}.wav", "text": ""}) for name in "ab"
        )
        assert check([train], against=[test], depth="decode").findings == {}

    def test_test_data_that_cannot_be_compared(self, tmp_path: Path) -> None:
        train = manifest(tmp_path / "train.jsonl", clip(tmp_path, "a.wav"))
        test = manifest(tmp_path / "test.jsonl", {"audio_filepath": "gone.wav", "id": "gone"})
        report = check([train], against=[test])
        assert found(report) == {"missing-audio": ["gone"]}
        assert report.findings["missing-audio"][0].manifest == test
        assert report.statistics["utterances"] == 1


def test_many_files_in_threads_come_out_in_order(tmp_path: Path) -> None:
    encode(tmp_path / "a.wav", burst(0.1, RATE), RATE)
    lines = []
    for index in range(300):
        (tmp_path / f"{index}.wav").symlink_to(tmp_path / ("a.wav" if index % 3 else "none.wav"))
        lines.append({"audio_filepath": f"{index}.wav", "id": str(index), "text": "x"})
    seen: list[tuple[int, int]] = []
    report = check(
        [manifest(tmp_path / "m.jsonl", *lines)], workers=2, on_progress=lambda done, total: seen.append((done, total))
    )
    assert found(report)["missing-audio"] == [str(index) for index in range(0, 300, 3)]
    assert seen == [(done, 300) for done in range(1, 301)]


def test_every_kind_has_a_test() -> None:
    text = Path(__file__).read_text(encoding="utf-8")
    assert [kind for kind in KINDS if f'"{kind}"' not in text] == []

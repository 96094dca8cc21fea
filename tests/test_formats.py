"""nuebridge.formats: every writer against what its format demands."""

from __future__ import annotations

import json
import re
from dataclasses import fields

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nuebridge.contracts import Segment, Transcript, Word
from nuebridge.formats import WRITERS, to_json, to_jsonl, to_srt, to_txt, to_vtt

EMPTY = Transcript("", 0.0)
SPOKEN = Transcript(
    "good morning\nfish & <chips> --> now",
    3725.5,
    (
        Segment(0.0, 1.2345, " good morning ", words=(Word("good", 0.0, 0.5, 0.9), Word("morning", 0.6, 1.2))),
        Segment(1.5, 2.0, "  "),
        Segment(3599.9996, 3725.5, "fish & <chips>\n--> now", avg_logprob=-0.5, truncated=True),
    ),
    language="en",
    avg_logprob=-0.25,
    warnings=("a warning",),
    token_ids=(1, 2, 3),
    audio_filepath="a/b.wav",
)


def test_txt() -> None:
    assert to_txt(SPOKEN) == "good morning fish & <chips> --> now\n"
    assert to_txt(EMPTY) == "\n"


def test_json_and_jsonl_hold_every_field() -> None:
    whole = json.loads(to_json(SPOKEN))
    assert json.loads(to_jsonl(SPOKEN)) == whole
    assert to_jsonl(SPOKEN).count("\n") == 1 and to_jsonl(SPOKEN).endswith("}\n")
    assert set(whole) == {field.name for field in fields(Transcript)}
    assert next(iter(whole)) == "audio_filepath" and whole["audio_filepath"] == "a/b.wav"
    assert whole["token_ids"] == [1, 2, 3] and whole["warnings"] == ["a warning"]
    assert whole["segments"][0]["words"][0] == {"word": "good", "start": 0.0, "end": 0.5, "probability": 0.9}
    assert set(whole["segments"][2]) == {field.name for field in fields(Segment)}


def test_json_is_valid_whatever_the_recogniser_gave() -> None:
    odd = Transcript("日本\u2028語\0", 1.0, (Segment(0, 1, "x", avg_logprob=float("nan")),), avg_logprob=float("-inf"))
    for writer in (to_json, to_jsonl):
        read = json.loads(writer(odd), parse_constant=lambda word: pytest.fail(f"{word} is not JSON"))
        assert read["avg_logprob"] is None and read["segments"][0]["avg_logprob"] is None
        assert read["text"] == "日本\u2028語\0"
    assert "日本" in to_json(odd)


def test_srt() -> None:
    assert to_srt(SPOKEN) == (
        "1\n00:00:00,000 --> 00:00:01,234\ngood morning\n\n2\n01:00:00,000 --> 01:02:05,500\nfish & <chips> --> now\n"
    )
    assert to_srt(EMPTY) == ""


def test_vtt() -> None:
    assert to_vtt(SPOKEN) == (
        "WEBVTT\n"
        "\n00:00:00.000 --> 00:00:01.234\ngood morning\n"
        "\n01:00:00.000 --> 01:02:05.500\nfish &amp; &lt;chips&gt; --&gt; now\n"
    )
    assert to_vtt(EMPTY) == "WEBVTT\n"


def test_a_transcript_without_segments_is_one_cue() -> None:
    assert to_srt(Transcript("hello", 2.0)) == "1\n00:00:00,000 --> 00:00:02,000\nhello\n"


def test_cues_are_in_order_and_never_empty_in_time() -> None:
    odd = Transcript(
        "a b c", 9.0, (Segment(5.0, 5.0, "b"), Segment(-0.1, 1.0, "a"), Segment(400_000.0, 400_001.0, "c"))
    )
    assert re.findall(r"(.*) --> (.*)\n(.)", to_srt(odd)) == [
        ("00:00:00,000", "00:00:01,000", "a"),
        ("00:00:05,000", "00:00:05,001", "b"),
        ("111:06:40,000", "111:06:41,000", "c"),
    ]


@given(st.floats(0, 1e6), st.floats(0.01, 100))
def test_time_stamps_are_right_to_the_millisecond(start: float, seconds: float) -> None:
    for writer, point in ((to_srt, ","), (to_vtt, ".")):
        document = writer(Transcript("a", 1.0, (Segment(start, start + seconds, "a"),)))
        stamps = re.findall(rf"(\d{{2,}}):([0-5]\d):([0-5]\d){re.escape(point)}(\d{{3}})", document)
        read = [int(h) * 3600 + int(m) * 60 + int(s) + int(ms) / 1000 for h, m, s, ms in stamps]
        assert read == pytest.approx([start, start + seconds], abs=0.00051)


@given(st.lists(st.text(), max_size=4))
def test_subtitles_keep_their_structure_whatever_the_text(texts: list[str]) -> None:
    transcript = Transcript(" ".join(texts), 4.0, tuple(Segment(i, i + 1, text) for i, text in enumerate(texts)))
    said = sum(any(line.strip() for line in text.splitlines()) for text in texts)
    for name in ("srt", "vtt"):
        blocks = [block.strip("\n").split("\n") for block in WRITERS[name](transcript).split("\n\n")]
        cues = [block for block in blocks if block not in ([""], ["WEBVTT"])]
        assert len(cues) == said
        assert all(len(cue) == (3 if name == "srt" else 2) and " --> " in cue[-2] for cue in cues)

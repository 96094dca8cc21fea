"""nuebridge.transcribe over a recogniser of the test's own, and the command over a toy integration."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor

from nuebridge.contracts import RecognitionOptions, Recognizer, Segment, Transcript, Word
from nuebridge.data import Utterance
from nuebridge.errors import AudioError, AudioTooShortError, NuebridgeError, NumericalError, PromptError
from nuebridge.transcribe import TranscribeResult, join_texts, transcribe
from tests.recordings import burst, encode

RATE = 1_000


@dataclass
class Meter(Recognizer):
    """Recognises how loud a clip is: its text is the peak in hundredths. Refuses what is at full scale."""

    max_audio_seconds: float | None = 10.0
    min_audio_seconds: float = 0.1
    sample_rate: int = RATE
    batches: list[list[int]] = field(default_factory=list)
    asked: list[RecognitionOptions] = field(default_factory=list)

    def recognize(self, waveforms: Sequence[Tensor], options: RecognitionOptions) -> list[Transcript]:
        self.batches.append([len(waveform) for waveform in waveforms])
        self.asked.append(options)
        assert all(w.dtype == torch.float32 and w.dim() == 1 for w in waveforms)
        if any(float(w.abs().max()) >= 1 for w in waveforms):
            raise NumericalError("too loud")
        return [self.measure(waveform, options) for waveform in waveforms]

    def measure(self, waveform: Tensor, options: RecognitionOptions) -> Transcript:
        seconds = len(waveform) / self.sample_rate
        text = f"{100 * float(waveform.abs().max()):.0f}"
        words = (Word(text, 0.0, seconds, 1.0),)
        return Transcript(
            text,
            seconds,
            (Segment(0.0, seconds, text, -1.0, words=words),),
            language=options.language,
            avg_logprob=-seconds,
            no_speech_prob=0.5,
            warnings=("loud",) if float(waveform.abs().max()) > 0.9 else (),
            token_ids=tuple(text.encode()),
        )


def tone(seconds: float, level: float = 0.5) -> NDArray[np.float32]:
    waveform = np.full(round(seconds * RATE), level, np.float32)
    waveform[::2] *= -1
    return waveform


def texts(results: Iterator[TranscribeResult]) -> list[str | None]:
    return [None if result.transcript is None else result.transcript.text for result in results]


def only(results: Iterator[TranscribeResult]) -> Transcript:
    (result,) = results
    assert result.error is None and result.transcript is not None
    return result.transcript


# --- what goes in ---


def test_files_of_every_kind(tmp_path: Path) -> None:
    paths = [
        encode(tmp_path / f"{rate}-{channels}{suffix}", burst(1.0, rate, channels, level=0.5), rate)
        for suffix in (".wav", ".flac", ".mp3", ".m4a", ".ogg", ".webm", ".mp4")
        for rate in (8_000, 48_000)
        for channels in (1, 2)
    ]
    results = list(transcribe(Meter(sample_rate=16_000), [str(paths[0]), *paths[1:]], batch_size=5))
    assert [str(result.source) for result in results] == [str(path) for path in paths]
    for path, result in zip(paths, results, strict=True):
        assert result.transcript is not None and result.error is None
        assert float(result.transcript.text) == pytest.approx(50, abs=8)
        assert result.transcript.duration == pytest.approx(1.0, abs=0.06)
        assert result.transcript.audio_filepath == str(path)


@pytest.mark.parametrize(
    "make",
    [
        lambda w: w,
        lambda w: w.astype(np.float64),
        torch.tensor,
        lambda w: torch.tensor(w).double(),
    ],
    ids=["float32", "float64", "tensor", "double tensor"],
)
def test_arrays(make: Callable[[NDArray[np.float32]], NDArray[np.float32] | Tensor]) -> None:
    waveform = tone(1.0, 0.25)
    waveform.flags.writeable = False
    transcript = only(transcribe(Meter(), [make(waveform)]))
    assert (transcript.text, transcript.duration, transcript.audio_filepath) == ("25", 1.0, None)


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (np.zeros(1_000, np.int16), "array 1: is int16 of shape [1000]"),
        (np.zeros((2, 500), np.float32), "array 1: is float32 of shape [2, 500]"),
        (torch.zeros(1_000, dtype=torch.int64), "array 1: is torch.int64 of shape [1000]"),
        (None, "array 1: is NoneType"),
        (np.full(1_000, np.nan, np.float32), "array 1: corrupt: holds samples that are not finite"),
        (np.full(1_000, 3e4, np.float32), "array 1: samples reach 30000 times full scale"),
    ],
)
def test_arrays_that_are_no_waveform(wrong: NDArray[np.float32], words: str) -> None:
    first, second, third = transcribe(Meter(), [tone(1.0), wrong, tone(1.0)])
    assert isinstance(second.error, AudioError) and str(second.error).startswith(words)
    assert second.transcript is None
    assert first.transcript == third.transcript != None  # noqa: E711


def test_utterances_have_their_stretch_their_fields_and_the_times_of_their_file(tmp_path: Path) -> None:
    path = encode(tmp_path / "a.wav", np.vstack([burst(2.0, RATE, level=0.2), burst(2.0, RATE, level=0.6)]), RATE)
    meter = Meter()
    one, two = transcribe(
        meter,
        [
            Utterance("one", path, offset=0.0, duration=2.0, fields={"language": "en", "speaker": 7}),
            Utterance("two", path, offset=2.0),
        ],
        options=RecognitionOptions(language="ja", context="words"),
    )
    assert one.transcript is not None and two.transcript is not None
    assert (one.transcript.text, two.transcript.text) == ("20", "60")
    assert (one.transcript.language, two.transcript.language) == ("en", "ja")
    assert {options.context for options in meter.asked} == {"words"}
    assert two.transcript.duration == 2.0 and two.transcript.audio_filepath == str(path)
    (segment,) = two.transcript.segments
    assert (segment.start, segment.end) == (2.0, 4.0)
    assert (segment.words[0].start, segment.words[0].end) == (2.0, 4.0)


def test_an_utterance_beyond_its_file_is_an_error(tmp_path: Path) -> None:
    path = encode(tmp_path / "a.wav", burst(2.0, RATE), RATE)
    (result,) = transcribe(Meter(), [Utterance("one", path, offset=1.0, duration=5.0)])
    assert "ends at 2.000 s" in str(result.error)


# --- what comes out ---


def test_one_bad_file_does_not_stop_the_rest(tmp_path: Path) -> None:
    good = encode(tmp_path / "good.wav", burst(1.0, RATE), RATE)
    text = tmp_path / "text.wav"
    text.write_text("not audio\n" * 100)
    sources = [good, text, tmp_path / "missing.wav", good, tmp_path, good]
    results = list(transcribe(Meter(), sources, batch_size=2, max_pending=2))
    assert texts(iter(results)) == ["50", None, None, "50", None, "50"]
    assert all(isinstance(r.error, AudioError) for r in results if r.transcript is None)


@pytest.mark.parametrize(
    ("waveform", "warning"),
    [
        (np.zeros(0, np.float32), "empty: the recording holds no samples"),
        (np.zeros(1_000, np.float32), "silent: nothing in the recording is louder than -90 dBFS"),
        (tone(1.0, 2.0**-15), "silent: nothing in the recording is louder than -90 dBFS"),
        (tone(0.05), "too short: 0.050 s of audio, the recogniser needs 0.100 s"),
    ],
    ids=["empty", "zeros", "dither", "short"],
)
def test_nothing_to_hear_is_an_empty_transcript_with_a_warning(waveform: NDArray[np.float32], warning: str) -> None:
    meter = Meter()
    transcript = only(transcribe(meter, [waveform]))
    assert transcript == Transcript("", len(waveform) / RATE, warnings=(warning,))
    assert meter.batches == []


def test_faint_sound_is_heard() -> None:
    assert only(transcribe(Meter(), [tone(1.0, 1e-4)])).warnings == ()


def test_long_recordings_are_cut_and_joined() -> None:
    loud, quiet = tone(7.0, 0.6), tone(1.0, 0.001)
    waveform = np.concatenate([loud, quiet, tone(8.0, 0.3), quiet, tone(5.0, 0.95)])
    meter = Meter()
    transcript = only(transcribe(meter, [waveform]))
    assert transcript.text == "60 30 95" and transcript.duration == 22.0
    assert sum(map(sum, meter.batches)) == 22_000 and max(map(max, meter.batches)) <= 10_000
    bounds = [(segment.start, segment.end) for segment in transcript.segments]
    assert bounds[0][0] == 0 and bounds[-1][1] == 22.0
    assert 7.0 < bounds[0][1] == bounds[1][0] < 8.0 and 16.0 < bounds[1][1] == bounds[2][0] < 17.0
    assert all(word.start == s.start and word.end == s.end for s in transcript.segments for word in s.words)
    assert bytes(transcript.token_ids) == b"603095"
    assert transcript.warnings == (f"{bounds[2][0]:.2f}-22.00 s: loud",)
    # Each piece has two tokens, so the mean is that of the pieces' own values.
    assert transcript.avg_logprob == pytest.approx(-22 / 3) and transcript.no_speech_prob == pytest.approx(0.5)


def test_a_silent_piece_is_left_out_and_named() -> None:
    waveform = np.concatenate([tone(9.0, 0.6), np.zeros(12_000, np.float32), tone(4.0, 0.3)])
    transcript = only(transcribe(Meter(), [waveform]))
    assert transcript.text == "60 30" and transcript.duration == 25.0
    assert len(transcript.warnings) == 1 and transcript.warnings[0].endswith(
        "s: silent: nothing is louder than -90 dBFS"
    )
    assert transcript.segments[-1].end == 25.0


def test_without_a_limit_nothing_is_cut() -> None:
    meter = Meter(max_audio_seconds=None)
    assert only(transcribe(meter, [tone(100.0)])).text == "50"
    assert meter.batches == [[100_000]]


class Bare(Meter):
    """Gives a text and nothing else, in the language of its loudness."""

    def measure(self, waveform: Tensor, options: RecognitionOptions) -> Transcript:
        loud = float(waveform.abs().max()) > 0.4
        return Transcript("こんにちは" if loud else "世界", 0.0, language="ja" if loud else "zh")


def test_a_recogniser_that_gives_text_only() -> None:
    quiet = tone(1.0, 0.001)
    transcript = only(transcribe(Bare(), [np.concatenate([tone(8.0), quiet, tone(8.0, 0.2)])]))
    assert transcript.text == "こんにちは世界"
    assert [segment.text for segment in transcript.segments] == ["こんにちは", "世界"]
    assert transcript.segments[0].end == transcript.segments[1].start and transcript.segments[1].end == 17.0
    assert (transcript.avg_logprob, transcript.no_speech_prob, transcript.token_ids) == (None, None, ())
    assert transcript.language == "ja"
    assert transcript.warnings == ("pieces were heard in several languages: ja, zh",)


@pytest.mark.parametrize(
    ("pieces", "joined"),
    [
        ([], ""),
        (["", " a ", "", "b"], "a b"),
        (["こんにちは。", "世界"], "こんにちは。世界"),
        (["안녕", "세계"], "안녕 세계"),
        (["日本", "ABC", "語"], "日本 ABC 語"),
    ],
)
def test_joining_texts(pieces: list[str], joined: str) -> None:
    assert join_texts(pieces) == joined


# --- refusals ---


def test_a_clip_that_the_recogniser_refuses_does_not_spoil_its_batch() -> None:
    results = list(transcribe(Meter(), [tone(1.0, 0.2), tone(1.0, 1.0), tone(1.0, 0.3)], batch_size=3))
    assert texts(iter(results)) == ["20", None, "30"]
    assert isinstance(results[1].error, NumericalError) and str(results[1].error) == "array 1: too loud"


def test_a_refused_piece_names_its_place_and_refuses_the_recording() -> None:
    waveform = np.concatenate([tone(9.0, 0.6), tone(9.0, 1.0)])
    (result,) = transcribe(Meter(), [waveform])
    assert result.transcript is None
    assert re.fullmatch(r"array 0: 7\.\d\d-1\d\.\d\d s: too loud", str(result.error))


@pytest.mark.parametrize("kind", [AudioTooShortError, PromptError])
def test_other_refusals(kind: type[NuebridgeError]) -> None:
    class Refusing(Meter):
        def measure(self, waveform: Tensor, options: RecognitionOptions) -> Transcript:
            raise kind("no")

    (result,) = transcribe(Refusing(), [tone(1.0)])
    assert type(result.error) is kind and str(result.error) == "array 0: no"


def test_a_fault_of_the_recogniser_is_not_hidden() -> None:
    class Faulty(Meter):
        def recognize(self, waveforms: Sequence[Tensor], options: RecognitionOptions) -> list[Transcript]:
            return super().recognize(waveforms, options)[:-1]

    with pytest.raises(RuntimeError, match=r"Faulty.recognize gave 1 transcripts for 2 waveforms"):
        list(transcribe(Faulty(), [tone(1.0), tone(1.0)]))


# --- batches ---


def test_batches_hold_similar_lengths_and_results_keep_their_order() -> None:
    seconds = [3.0, 0.5, 2.0, 0.2, 9.0, 1.0, 0.3, 4.0]
    meter = Meter()
    results = list(transcribe(meter, [tone(s, s / 10) for s in seconds], batch_size=2))
    assert texts(iter(results)) == [f"{10 * s:.0f}" for s in seconds]
    assert meter.batches == [[9_000, 4_000], [3_000, 2_000], [1_000, 500], [300, 200]]


def test_reading_ahead_is_bounded() -> None:
    read = 0

    def sources() -> Iterator[NDArray[np.float32]]:
        nonlocal read
        for _ in range(100):
            read += 1
            yield tone(1.0)

    results = transcribe(Meter(), sources(), batch_size=2, max_pending=6)
    next(results)
    assert read == 6
    for _ in range(6):
        next(results)
    assert read == 12
    # A long recording fills the window alone.
    meter = Meter()
    results = transcribe(meter, iter([tone(100.0), *[tone(1.0)] * 3]), batch_size=4, max_pending=2)
    next(results)
    assert sum(map(sum, meter.batches)) == 100_000


def test_utterances_with_other_fields_are_other_batches(tmp_path: Path) -> None:
    path = encode(tmp_path / "a.wav", burst(1.0, RATE), RATE)
    meter = Meter()
    languages = ["en", "ja", "en", "ja"]
    sources = [Utterance(str(n), path, fields={"language": name}) for n, name in enumerate(languages)]
    results = transcribe(meter, sources)
    assert [result.transcript.language for result in results if result.transcript] == languages
    assert [(len(batch), options.language) for batch, options in zip(meter.batches, meter.asked, strict=True)] == [
        (2, "en"),
        (2, "ja"),
    ]


def test_progress_counts_recordings_and_parts_of_long_ones(tmp_path: Path) -> None:
    seen: list[float] = []
    sources = [tone(1.0), np.concatenate([tone(9.0)] * 4), tmp_path / "missing.wav", np.zeros(1_000, np.float32)]
    list(transcribe(Meter(), sources, batch_size=1, max_pending=20, on_progress=seen.append))
    assert seen == sorted(seen) and seen[-1] == pytest.approx(4)
    assert len(seen) >= 5 and any(share % 1 for share in seen)


@pytest.mark.parametrize(("name", "value"), [("batch_size", 0), ("max_pending", 0), ("batch_size", -1)])
def test_impossible_sizes_are_refused_at_once(name: str, value: int) -> None:
    with pytest.raises(ValueError, match=f"{name} must be at least 1, not {value}"):
        transcribe(Meter(), [], **{name: value})


@settings(max_examples=25, deadline=None)
@given(
    clips=st.lists(st.tuples(st.floats(0.0, 25.0), st.sampled_from([0.0, 0.2, 0.5, 1.0])), max_size=12),
    batch_size=st.integers(1, 5),
    max_pending=st.integers(1, 9),
)
def test_results_do_not_depend_on_batches_or_windows(
    clips: list[tuple[float, float]], batch_size: int, max_pending: int
) -> None:
    waveforms = [tone(seconds, level) for seconds, level in clips]
    together = list(transcribe(Meter(), waveforms, batch_size=batch_size, max_pending=max_pending))
    alone = [next(transcribe(Meter(), [waveform], batch_size=1)) for waveform in waveforms]
    assert [r.transcript for r in together] == [r.transcript for r in alone]
    assert [r.error is None for r in together] == [r.error is None for r in alone]
    assert all(a.source is b for a, b in zip(together, waveforms, strict=True))


class Untold(Meter):
    """Takes a context and nothing else."""

    @property
    def prompt_fields(self) -> Sequence[str]:
        return ("context",)


def test_fields_that_the_recogniser_does_not_take_are_left_out_and_mentioned_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = encode(tmp_path / "a.wav", burst(1.0, RATE), RATE)
    lines = [Utterance(str(n), path, fields={"language": "en", "context": "tea"}) for n in range(3)]
    recognizer = Untold()
    results = list(transcribe(recognizer, lines))
    assert all(result.error is None for result in results)
    assert {(options.language, options.context) for options in recognizer.asked} == {(None, "tea")}
    assert caplog.text.count("the language of") == 1

"""Recordings of any length and any number through any recogniser.

Reads each recording, cuts what is too long, leaves out what is empty or silent, makes batches of
similar lengths, and joins the pieces' transcripts. Knows contracts, audio and manifests; no model.
"""

from __future__ import annotations

import logging
import os
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from nuebridge.audio import Waveform, check_samples, cut_at_quiet, load_audio
from nuebridge.contracts import RecognitionOptions, Recognizer, Segment, Transcript
from nuebridge.data import Utterance
from nuebridge.errors import AudioError, NuebridgeError, NumericalError, PromptError

log = logging.getLogger(__name__)

Source = str | os.PathLike[str] | Utterance | NDArray[Any] | Tensor
"""A recording: a file, a line of a manifest, or float samples ``[S]`` at the recogniser's sample rate."""

SILENCE_PEAK = 10 ** (-90 / 20)
"""Nothing louder than this (-90 dBFS; one step of 16-bit samples is -90.3) is nothing to hear."""

MAX_PENDING_SECONDS = 1800.0
"""Seconds of audio that wait at most before batches are run, unless one recording is longer: 115 MB at 16 kHz."""


@dataclass(frozen=True)
class TranscribeResult:
    """What became of one recording: a transcript or an error, never both."""

    source: Source
    transcript: Transcript | None = None
    error: NuebridgeError | None = None


def transcribe(
    recognizer: Recognizer,
    audio: Iterable[Source],
    *,
    options: RecognitionOptions | None = None,
    batch_size: int = 8,
    max_pending: int | None = None,
    on_progress: Callable[[float], None] | None = None,
) -> Iterator[TranscribeResult]:
    """Transcribes recordings and yields their results in order.

    A recording that cannot be read, or that the recogniser refuses, gives a result with an error;
    the others go on. One that is longer than ``recognizer.max_audio_seconds`` is cut at quiet
    places, and its pieces are joined. One that is empty, silent, or shorter than
    ``recognizer.min_audio_seconds`` gives an empty transcript with a warning.

    Times of segments count from the start of the file (or array): an utterance's ``offset`` is
    added. An utterance's own prompt fields go before those of ``options``; those that the
    recogniser does not take are left out, with one line in the log.

    ``max_pending`` clips (four batches unless given, and never much more than half an hour of
    audio) are read ahead and sorted by length, so that batches hold similar lengths.
    ``on_progress`` is called after each batch with the number of recordings done, a long one in parts.

    Raises ValueError for a batch size or ``max_pending`` below 1, and PromptError or ConfigError for
    options that the recogniser does not take.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, not {batch_size}")
    if max_pending is None:
        max_pending = 4 * batch_size
    if max_pending < 1:
        raise ValueError(f"max_pending must be at least 1, not {max_pending}")
    options = options or RecognitionOptions()
    recognizer.check_options(options)
    report = on_progress or (lambda done: None)
    return _results(recognizer, audio, options, batch_size, max_pending, report)


@dataclass
class _Piece:
    """A stretch of a recording that the recogniser takes at once."""

    waveform: Waveform
    start: float
    """Seconds from the start of the recording's waveform."""
    end: float
    transcript: Transcript | None = None
    error: NuebridgeError | None = None


@dataclass
class _Recording:
    """One source on its way."""

    source: Source
    name: str
    options: RecognitionOptions
    offset: float = 0.0
    """Seconds in the file before the waveform."""
    duration: float = 0.0
    pieces: list[_Piece] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    error: NuebridgeError | None = None


def _results(
    recognizer: Recognizer,
    audio: Iterable[Source],
    options: RecognitionOptions,
    batch_size: int,
    max_pending: int,
    report: Callable[[float], None],
) -> Iterator[TranscribeResult]:
    unused: set[str] = set()
    recordings = (_read(recognizer, source, index, options, unused) for index, source in enumerate(audio))
    done = 0
    while window := _window(recordings, max_pending):
        for share in _recognize(recognizer, window, batch_size):
            report(done + share)
        done += len(window)
        for recording in window:
            yield _result(recording)


def _window(recordings: Iterator[_Recording], max_pending: int) -> list[_Recording]:
    """The next recordings, until enough clips or seconds wait; empty where none are left."""
    window: list[_Recording] = []
    pieces, seconds = 0, 0.0
    while pieces < max_pending and seconds < MAX_PENDING_SECONDS:
        recording = next(recordings, None)
        if recording is None:
            break
        window.append(recording)
        pieces += max(1, len(recording.pieces))
        seconds += recording.duration
    return window


def _read(
    recognizer: Recognizer, source: Source, index: int, options: RecognitionOptions, unused: set[str]
) -> _Recording:
    """Reads a source and cuts it to pieces; what cannot be read or heard has none."""
    recording = _Recording(source, _name(source, index), options)
    if isinstance(source, Utterance):
        _take_fields(recording, source, recognizer, unused)
    try:
        waveform = _waveform(recording, recognizer.sample_rate)
    except AudioError as error:
        recording.error = error
        return recording
    recording.duration = len(waveform) / recognizer.sample_rate
    if not waveform.size:
        recording.warnings.append("empty: the recording holds no samples")
        return recording
    if _is_silent(waveform):
        recording.warnings.append("silent: nothing in the recording is louder than -90 dBFS")
        return recording
    bounds = [(0, len(waveform))]
    if recognizer.max_audio_seconds is not None:
        bounds = cut_at_quiet(waveform, recognizer.sample_rate, recognizer.max_audio_seconds)
    for first, last in bounds:
        start, end = first / recognizer.sample_rate, last / recognizer.sample_rate
        span = "" if len(bounds) == 1 else f"{recording.offset + start:.2f}-{recording.offset + end:.2f} s: "
        if end - start < recognizer.min_audio_seconds:
            needed = f"the recogniser needs {recognizer.min_audio_seconds:.3f} s"
            recording.warnings.append(f"{span}too short: {end - start:.3f} s of audio, {needed}")
        elif _is_silent(waveform[first:last]):
            recording.warnings.append(f"{span}silent: nothing is louder than -90 dBFS")
        else:
            recording.pieces.append(_Piece(waveform[first:last], start, end))
    return recording


def _name(source: Source, index: int) -> str:
    """What messages call a source."""
    if isinstance(source, Utterance):
        return f"{source.audio_filepath} ({source.id})"
    if isinstance(source, str | os.PathLike):
        return os.fspath(source)
    return f"array {index}"


def _take_fields(recording: _Recording, utterance: Utterance, recognizer: Recognizer, unused: set[str]) -> None:
    """The prompt fields of an utterance that the recogniser takes; the others are mentioned once each."""
    fields: dict[str, Any] = dict(utterance.prompt_fields)
    for name in [name for name in fields if name not in recognizer.prompt_fields]:
        if name not in unused:
            log.warning("the %s of %s (and of others) is not used: the prompt has no such field", name, recording.name)
            unused.add(name)
        del fields[name]
    recording.options = replace(recording.options, **fields)


def _waveform(recording: _Recording, sample_rate: int) -> Waveform:
    """The samples of a recording; fills in what its source says of it."""
    source = recording.source
    if isinstance(source, Utterance):
        recording.offset = source.offset
        return source.load(sample_rate)
    if isinstance(source, str | os.PathLike):
        return load_audio(source, sample_rate)
    samples: Any = source
    if isinstance(source, Tensor) and source.is_floating_point():
        samples = source.detach().float().cpu().numpy()
    if not isinstance(samples, np.ndarray) or samples.ndim != 1 or samples.dtype.kind != "f":
        kind = type(source).__name__
        if isinstance(source, np.ndarray | Tensor):
            kind = f"{source.dtype} of shape {list(source.shape)}"
        raise AudioError(
            f"{recording.name}: is {kind}; give a path, or float samples between -1 and 1 in one dimension "
            f"at {sample_rate} Hz"
        )
    waveform: Waveform = samples.astype(np.float32)
    check_samples(waveform, recording.name)
    return waveform


def _is_silent(waveform: Waveform) -> bool:
    return max(float(waveform.max()), -float(waveform.min())) < SILENCE_PEAK


def _recognize(recognizer: Recognizer, window: Sequence[_Recording], batch_size: int) -> Iterator[float]:
    """Fills in the pieces of a window, batch by batch, and yields how many recordings are done by then."""
    done = float(sum(1 for recording in window if not recording.pieces))
    waiting: dict[RecognitionOptions, list[tuple[_Piece, float]]] = {}
    for recording in window:
        for piece in recording.pieces:
            waiting.setdefault(recording.options, []).append((piece, 1 / len(recording.pieces)))
    for options, pieces in waiting.items():
        # The longest first: a batch that does not fit the memory fails at once, not after an hour.
        pieces.sort(key=lambda item: -len(item[0].waveform))
        for first in range(0, len(pieces), batch_size):
            batch = pieces[first : first + batch_size]
            _recognize_batch(recognizer, [piece for piece, _ in batch], options)
            done += sum(share for _, share in batch)
            yield done


def _recognize_batch(recognizer: Recognizer, pieces: Sequence[_Piece], options: RecognitionOptions) -> None:
    """Fills in the transcripts of pieces, or the errors of those that the recogniser refuses."""
    waveforms = [torch.tensor(piece.waveform) for piece in pieces]
    try:
        transcripts = recognizer.recognize(waveforms, options)
    except (AudioError, NumericalError, PromptError) as error:
        if len(pieces) == 1:
            pieces[0].error = error
            return
        # One of them is to blame; alone, each gives what it gives in a batch.
        for piece in pieces:
            _recognize_batch(recognizer, [piece], options)
        return
    if len(transcripts) != len(pieces):
        raise RuntimeError(
            f"{type(recognizer).__name__}.recognize gave {len(transcripts)} transcripts for {len(pieces)} waveforms"
        )
    for piece, transcript in zip(pieces, transcripts, strict=True):
        piece.transcript = transcript


def _result(recording: _Recording) -> TranscribeResult:
    error = recording.error
    for piece in recording.pieces:
        if error is None and piece.error is not None:
            span = "" if len(recording.pieces) == 1 else f"{piece.start:.2f}-{piece.end:.2f} s: "
            error = type(piece.error)(f"{recording.name}: {span}{piece.error}")
            error.__cause__ = piece.error
    if error is not None:
        return TranscribeResult(recording.source, error=error)
    return TranscribeResult(recording.source, transcript=_joined(recording))


def _joined(recording: _Recording) -> Transcript:
    """The transcripts of a recording's pieces as one."""
    heard = [(piece, piece.transcript) for piece in recording.pieces if piece.transcript is not None]
    cut = len(heard) > 1 or any(piece.end - piece.start < recording.duration for piece, _ in heard)
    warnings = list(recording.warnings)
    for piece, transcript in heard:
        begin, end = recording.offset + piece.start, recording.offset + piece.end
        warnings += [f"{begin:.2f}-{end:.2f} s: {text}" if cut else text for text in transcript.warnings]
    languages = list(dict.fromkeys(transcript.language for _, transcript in heard if transcript.language))
    if len(languages) > 1:
        warnings.append(f"pieces were heard in several languages: {', '.join(languages)}")
    source = recording.source
    path = source.audio_filepath if isinstance(source, Utterance) else source
    return Transcript(
        text=join_texts([transcript.text for _, transcript in heard]),
        duration=recording.duration,
        segments=tuple(segment for piece, t in heard for segment in _shifted(t, piece, recording.offset)),
        language=languages[0] if languages else None,
        avg_logprob=_mean([(t.avg_logprob, len(t.token_ids) or t.duration) for _, t in heard]),
        no_speech_prob=_mean([(t.no_speech_prob, t.duration) for _, t in heard]),
        warnings=tuple(warnings),
        token_ids=tuple(token for _, transcript in heard for token in transcript.token_ids),
        audio_filepath=os.fspath(path) if isinstance(path, str | os.PathLike) else None,
    )


def _shifted(transcript: Transcript, piece: _Piece, offset: float) -> Iterator[Segment]:
    """The segments of a piece with the recording's times; one for all where the recogniser gave none."""
    shift = offset + piece.start
    segments = transcript.segments
    if not segments and transcript.text.strip():
        segments = (Segment(0.0, piece.end - piece.start, transcript.text, transcript.avg_logprob),)
    for segment in segments:
        words = tuple(replace(word, start=word.start + shift, end=word.end + shift) for word in segment.words)
        yield replace(segment, start=segment.start + shift, end=segment.end + shift, words=words)


def _mean(weighted: Sequence[tuple[float | None, float]]) -> float | None:
    """The weighted mean; None where a value is missing or there is none."""
    values = [(value, weight) for value, weight in weighted if value is not None]
    total = sum(weight for _, weight in values)
    if len(values) < len(weighted) or total <= 0:
        return None
    return sum(value * weight for value, weight in values) / total


def join_texts(texts: Iterable[str]) -> str:
    """Texts of consecutive pieces as one: a space between them, none where wide scripts (Japanese, Chinese) meet."""
    joined = ""
    for text in (text.strip() for text in texts):
        if joined and text and not (_is_wide(joined[-1]) and _is_wide(text[0])):
            joined += " "
        joined += text
    return joined


def _is_wide(character: str) -> bool:
    """True in scripts written without spaces; Korean is as wide but has them."""
    wide = unicodedata.east_asian_width(character) in "WF"
    return wide and not unicodedata.name(character, "").startswith("HANGUL")

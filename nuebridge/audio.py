"""Recordings to waveforms, and long waveforms to pieces.

Decodes with PyAV (which brings its own ffmpeg) and resamples with soxr. Plain 16-bit wav files, the
bulk of every training set, are read directly. This module knows nothing of models, batches or text.

Shapes: S samples. A waveform is float32 ``[S]``, mono, within [-1, 1].
"""

from __future__ import annotations

import math
import os
import stat
import sys
from contextlib import AbstractContextManager, nullcontext
from typing import Any, BinaryIO

import av
import numpy as np
import soxr
from numpy.typing import NDArray

from nuebridge.containers import (
    LENGTH_TOLERANCE_SECONDS,
    SAMPLE_RATES_HZ,
    LengthCheck,
    WavHeader,
    check_ogg_is_whole,
    mp3_declares_length,
    name_by_magic,
    read_wav_header,
)
from nuebridge.errors import AudioError

Waveform = NDArray[np.float32]

DEMUXERS = (
    "wav,w64,flac,mp3,ogg,mov,mp4,m4a,3gp,matroska,webm,aac,aiff,au,caf,amr,asf,avi,flv,mpeg,mpegts,ac3,eac3,ape,wv,tta"
)
"""Containers that may be opened. Playlists (hls, concat, dash) are left out: they name other files to read."""

MAX_PEAK = 32.0
"""Float samples further out than this (30 dB above full scale) were never scaled to [-1, 1]."""

BLOCK_SAMPLES = 1 << 18
"""Decoded samples are gathered to blocks of this size before they are resampled."""


def load_audio(
    path: str | os.PathLike[str] | BinaryIO,
    sample_rate: int,
    *,
    offset: float = 0.0,
    duration: float | None = None,
    name: str | None = None,
) -> Waveform:
    """The first audio stream of a file as float32 ``[S]`` in [-1, 1] at ``sample_rate`` Hz, channels averaged.

    The file is a path or an open binary file that can seek, which stays open; ``name`` is what messages call it.
    ``offset`` and ``duration`` (seconds) choose a stretch of the recording; compressed files are
    decoded from their start up to its end. A recording without samples gives an empty array.

    Raises AudioError, with a one-line message that begins with the path, for a file that is
    missing, a folder, unreadable, empty, not audio, without an audio stream, corrupt, shorter than
    it declares or than the stretch asked for, or that holds samples that are not finite.
    """
    shown = _printable(name or path)
    if not (0 <= offset < math.inf) or (duration is not None and not 0 <= duration < math.inf):
        raise AudioError(f"{shown}: cannot read {duration} s from {offset} s on; neither may be negative")
    ended: float | None
    with _open(path, shown) as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(0)
        header = read_wav_header(file, size, shown)
        if header is not None and header.is_pcm16:
            waveform, ended = _read_pcm16(file, header, sample_rate, offset, duration)
        else:
            if header is None:
                check_ogg_is_whole(file, size, shown)
            waveform, ended = _decode(file, shown, sample_rate, offset, duration)
    if ended is not None:
        _check_stretch(shown, offset, duration, ended)
    return waveform


def check_samples(waveform: Waveform, shown: str) -> None:
    """Raises AudioError, naming ``shown``, where samples are not finite or were never scaled to [-1, 1]."""
    # Both ends without a copy; np.abs would make one. NaN is passed on by max and min alike.
    peak = max(float(waveform.max(initial=0.0)), -float(waveform.min(initial=0.0)))
    if not math.isfinite(peak):
        raise AudioError(f"{shown}: corrupt: holds samples that are not finite numbers")
    if peak > MAX_PEAK:
        raise AudioError(f"{shown}: samples reach {peak:.6g} times full scale; scale them to lie between -1 and 1")


def cut_at_quiet(waveform: Waveform, sample_rate: int, max_seconds: float) -> list[tuple[int, int]]:
    """Cuts a waveform ``[S]`` into pieces of at most ``max_seconds``: ``[(start, end), ...]`` in samples.

    The pieces follow each other without a gap and cover everything; none is empty. Each cut lies
    where the sound is quietest within the last third of what a piece may hold, judged over 0.2 s,
    in the middle of a silence where there is one. The last piece is not left needlessly short.

    Raises ValueError where ``max_seconds`` holds no sample.
    """
    longest = int(max_seconds * sample_rate)
    if longest < 1:
        raise ValueError(f"a piece of {max_seconds} s holds no sample at {sample_rate} Hz; allow longer pieces")
    pieces: list[tuple[int, int]] = []
    start, total = 0, len(waveform)
    while total - start > longest:
        remainder = min(longest // 3, sample_rate)
        earliest = start + max(1, longest - longest // 3)
        latest = max(earliest, min(start + longest, total - remainder))
        cut = earliest + _quietest(waveform[earliest:latest], sample_rate)
        pieces.append((start, cut))
        start = cut
    if total > start:
        pieces.append((start, total))
    return pieces


def _quietest(waveform: Waveform, sample_rate: int) -> int:
    """Index of the quietest place of a stretch: the middle of the longest run of its least energy."""
    hop = max(1, sample_rate // 100)
    count = len(waveform) // hop
    if count < 1:
        return len(waveform)
    energy = np.square(waveform[: count * hop], dtype=np.float64).reshape(count, hop).mean(axis=1)
    width = min(20, count)
    # Rounding keeps the running sums of a digital silence equal, whatever was summed before it.
    sums = np.round(np.convolve(energy, np.ones(width), mode="valid"), 12)
    quiet = np.flatnonzero(sums == sums.min())
    runs = np.split(quiet, np.flatnonzero(np.diff(quiet) > 1) + 1)
    run = max(reversed(runs), key=len)
    return int((run[0] + run[-1] + width) * hop // 2)


# --- opening -----------------------------------------------------------------------------------------------------


def _printable(path: str | os.PathLike[str] | BinaryIO) -> str:
    """A path as one line of text."""
    text = os.fspath(path) if isinstance(path, str | os.PathLike) else "an open file"
    return text if text.isprintable() else ascii(text)


def _open(path: str | os.PathLike[str] | BinaryIO, shown: str) -> AbstractContextManager[BinaryIO]:
    """Opens a regular, non-empty file; says in one line why it cannot."""
    if not isinstance(path, str | os.PathLike):
        if path.seek(0, os.SEEK_END) == 0:
            raise AudioError(f"{shown}: is empty (0 bytes)")
        return nullcontext(path)
    try:
        # Checked before opening, because opening a pipe waits for its writer.
        status = os.stat(path)
        if stat.S_ISDIR(status.st_mode):
            raise AudioError(f"{shown}: is a folder; name the files in it")
        if not stat.S_ISREG(status.st_mode):
            raise AudioError(f"{shown}: is not a regular file; save the stream to a file first")
        if status.st_size == 0:
            raise AudioError(f"{shown}: is empty (0 bytes)")
        return open(path, "rb")
    except FileNotFoundError:
        raise AudioError(f"{shown}: no such file") from None
    except PermissionError:
        raise AudioError(f"{shown}: permission denied; make the file readable") from None
    except OSError as error:
        raise AudioError(f"{shown}: cannot be opened ({error.strerror})") from None
    except ValueError:
        raise AudioError(f"{shown}: is not a valid path") from None


def _read_pcm16(
    file: BinaryIO, header: WavHeader, sample_rate: int, offset: float, duration: float | None
) -> tuple[Waveform, float]:
    """A stretch of 16-bit samples as a mono waveform, and where the recording ends (s)."""
    total = header.data_bytes // header.block_bytes
    first = min(total, round(offset * header.rate))
    last = total if duration is None else min(total, first + round(duration * header.rate))
    file.seek(header.data_start + first * header.block_bytes)
    data = file.read((last - first) * header.block_bytes)
    waveform = _mono(np.frombuffer(data, "<i2").reshape(-1, header.channels))
    if header.rate != sample_rate:
        waveform = np.clip(soxr.resample(waveform, header.rate, sample_rate, quality="HQ"), -1.0, 1.0)
    return waveform, total / header.rate


def _decode(
    file: BinaryIO, shown: str, sample_rate: int, offset: float, duration: float | None
) -> tuple[Waveform, float | None]:
    """A stretch as a waveform, and where the recording ends (s; None where its end was not reached)."""
    mp3_declares = mp3_declares_length(file)
    file.seek(0)
    try:
        container = av.open(file, mode="r", options={"format_whitelist": DEMUXERS})
    except (av.error.FFmpegError, ValueError):
        kind = name_by_magic(file)
        if kind is None:
            raise AudioError(f"{shown}: is not audio, or of a kind that cannot be read") from None
        raise AudioError(f"{shown}: truncated or corrupt: begins like {kind} but its header cannot be read") from None
    with container:
        if not container.streams.audio:
            raise AudioError(f"{shown}: has no audio stream")
        stream = container.streams.audio[0]
        # Where ffmpeg knows no decoder there is no context, whatever its type says.
        context: av.AudioCodecContext | None = stream.codec_context
        if context is None:
            raise AudioError(f"{shown}: its audio is coded in a way that cannot be read; convert it to wav or flac")
        # Without this, a damaged flac frame becomes noise; with it, the frame is missing and found missing.
        context.options = {"err_detect": "crccheck+explode"}
        length = LengthCheck(container, stream, mp3_declares)
        collected = _Collected(shown, sample_rate, offset, duration)
        try:
            for packet in container.demux():
                length.count(packet, shown)
                if packet.stream.index != stream.index:
                    continue
                for frame in context.decode(packet):
                    collected.add(frame)
                if collected.complete:
                    return collected.waveform(), None
        except av.error.FFmpegError as error:
            raise AudioError(
                f"{shown}: corrupt or truncated: decoding fails after {collected.seconds:.3f} s ({error.strerror})"
            ) from None
        if not collected.rate and name_by_magic(file) is None:
            # ffmpeg believed the file's name.
            raise AudioError(f"{shown}: is not audio, or of a kind that cannot be read")
        length.check(shown, collected.seconds)
        return collected.waveform(), collected.seconds


class _Collected:
    """Decoded frames as they come, cut to the stretch, mixed to mono and resampled block by block."""

    def __init__(self, shown: str, sample_rate: int, offset: float, duration: float | None) -> None:
        self.shown, self.sample_rate, self.offset, self.duration = shown, sample_rate, offset, duration
        self.rate = 0
        """Of the recording; 0 until its first frame is there."""
        self.position = 0
        """Decoded so far, in the recording's own samples; so are the bounds of the stretch."""
        self.start, self.end = 0, sys.maxsize
        self.resampler: soxr.ResampleStream | None = None
        self.waiting: list[Waveform] = []
        self.waiting_samples = 0
        self.done: list[Waveform] = []

    @property
    def seconds(self) -> float:
        """Decoded so far."""
        return self.position / self.rate if self.rate else 0.0

    @property
    def complete(self) -> bool:
        """True once the stretch asked for is decoded."""
        return self.position >= self.end

    def add(self, frame: av.AudioFrame) -> None:
        if not self.rate:
            self._begin(frame.rate)
        if frame.rate != self.rate:
            raise AudioError(
                f"{self.shown}: the sample rate changes from {self.rate} to {frame.rate} Hz "
                f"after {self.seconds:.3f} s; convert the file first"
            )
        samples: NDArray[Any] = frame.to_ndarray()
        samples = samples.T if frame.format.is_planar else samples.reshape(-1, frame.layout.nb_channels)
        first, last = max(0, self.start - self.position), min(len(samples), self.end - self.position)
        self.position += len(samples)
        if first < last:
            self.waiting.append(_mono(samples[first:last]))
            self.waiting_samples += last - first
            if self.waiting_samples >= BLOCK_SAMPLES:
                self._flush(last=False)

    def waveform(self) -> Waveform:
        """Everything collected."""
        self._flush(last=True)
        return np.concatenate(self.done)

    def _begin(self, rate: int) -> None:
        if rate not in SAMPLE_RATES_HZ:
            raise AudioError(f"{self.shown}: corrupt: the file declares {rate} Hz")
        self.rate = rate
        self.start = round(self.offset * rate)
        if self.duration is not None:
            self.end = self.start + round(self.duration * rate)
        if rate != self.sample_rate:
            self.resampler = soxr.ResampleStream(rate, self.sample_rate, 1, dtype="float32", quality="HQ")

    def _flush(self, *, last: bool) -> None:
        waveform: Waveform = np.concatenate([*self.waiting, np.zeros(0, np.float32)])
        self.waiting, self.waiting_samples = [], 0
        check_samples(waveform, self.shown)
        if self.resampler is not None:
            waveform = self.resampler.resample_chunk(waveform, last=last)
        self.done.append(np.clip(waveform, -1.0, 1.0))


def _mono(samples: NDArray[Any]) -> Waveform:
    """Samples ``[S, channels]`` of any type as the mean of their channels, float32 ``[S]``, full scale = 1."""
    scaled: Waveform = samples.astype(np.float32)
    if samples.dtype == np.uint8:
        scaled = (scaled - 128.0) * np.float32(2.0**-7)
    elif samples.dtype.kind == "i":
        scaled *= np.float32(2.0 ** (1 - 8 * samples.dtype.itemsize))
    return scaled[:, 0] if scaled.shape[1] == 1 else scaled.mean(axis=1, dtype=np.float32)


def _check_stretch(shown: str, offset: float, duration: float | None, ended: float) -> None:
    """Raises AudioError where a recording of ``ended`` seconds does not reach the stretch or its end."""
    if offset and offset >= ended:
        raise AudioError(f"{shown}: ends at {ended:.3f} s, before the offset {offset:.3f} s")
    if duration is not None and offset + duration - ended > LENGTH_TOLERANCE_SECONDS:
        raise AudioError(
            f"{shown}: ends at {ended:.3f} s, {duration:.3f} s from {offset:.3f} s on were asked for; "
            "the file is truncated or the duration is wrong"
        )

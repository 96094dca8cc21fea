"""What the recordings of utterances hold: whether they can be read, how loud they are, and which are the same."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np

from nuebridge.audio import Waveform, load_audio
from nuebridge.containers import LENGTH_TOLERANCE_SECONDS
from nuebridge.data.headers import AudioHeader, read_header
from nuebridge.data.manifest import Utterance
from nuebridge.data.paths import RealPaths
from nuebridge.data.threads import in_threads
from nuebridge.errors import AudioError

Depth = Literal["none", "headers", "decode"]
"""How much of the recordings is read."""

SILENT_PEAK = 10 ** (-90 / 20)
"""Nothing above it (-90 dBFS) is digital silence."""

FULL_SCALE = 0.999
CLIPPED_RUN = 3
"""So many samples at full scale in a row are clipped; a single one may be a peak that just fits."""
CLIPPED_SHARE = 0.001
"""A stretch of which this much is clipped was recorded or scaled too loud."""

WHOLE_SECONDS = 1800.0
"""Compressed recordings up to this long are decoded once for all their utterances."""


@dataclass
class Heard:
    """An utterance and what is known of its audio."""

    utterance: Utterance
    manifest: Path
    header: AudioHeader | None = None
    """None where it was not read or cannot be."""
    peak: float | None = None
    """1 = full scale; None where the audio was not decoded."""
    clipped_share: float = 0.0
    samples: str | None = None
    """Hash of the decoded samples; None where the audio was not decoded."""
    content: str = ""
    """Equal for equal files, whatever their names."""
    faults: list[tuple[str, str]] = field(default_factory=list)
    """Kind and message."""

    @property
    def text(self) -> str | None:
        """What is learned: the target where there is one."""
        return self.utterance.target

    @property
    def is_silent(self) -> bool:
        """True where the audio was decoded and is digital silence."""
        return self.peak is not None and self.peak <= SILENT_PEAK

    @property
    def seconds(self) -> float | None:
        """The manifest's duration, else what the header leaves after the offset."""
        if self.utterance.duration is not None:
            return self.utterance.duration
        return None if self.header is None else max(0.0, self.header.seconds - self.utterance.offset)

    @property
    def span(self) -> tuple[float, float]:
        """Start and end in the recording, seconds; the end is infinite where it is not known."""
        start = self.utterance.offset
        return start, start + (float("inf") if self.seconds is None else self.seconds)


def listen(heard: Sequence[Heard], depth: Depth, workers: int, on_progress: Callable[[int, int], None]) -> None:
    """Reads the recordings as deep as asked and fills in what is found; each file is opened once."""
    files: dict[Path, list[Heard]] = {}
    for one in heard:
        files.setdefault(one.utterance.audio_filepath, []).append(one)
    real = RealPaths()
    for path, those in files.items():
        for one in those:
            one.content = real.of(path)
    if depth == "none":
        return
    job = _decode_file if depth == "decode" else _read_file
    for done, _ in enumerate(in_threads(lambda path: job(path, files[path]), files, workers), 1):
        on_progress(done, len(files))
    _find_equal_files(files, workers)


def _read_file(path: Path, those: Sequence[Heard]) -> None:
    """Reads a header, and compares it with what the manifest says."""
    try:
        header = read_header(path)
    except AudioError as error:
        kind = "unreadable-audio" if path.exists() else "missing-audio"
        for one in those:
            one.faults.append((kind, str(error)))
        return
    for one in those:
        one.header = header
        offset, duration = one.utterance.offset, one.utterance.duration
        left = header.seconds - offset
        if left <= 0 or (duration or 0.0) - left > LENGTH_TOLERANCE_SECONDS:
            end = "on" if duration is None else f"to {offset + duration:.3f} s"
            one.faults.append(("span", f"{path} ends at {header.seconds:.3f} s; the stretch goes {offset:.3f} s {end}"))
        elif len(those) == 1 and not offset and duration is not None and left - duration > LENGTH_TOLERANCE_SECONDS:
            one.faults.append(("duration", f"{path} has {header.seconds:.3f} s, its duration says {duration:.3f} s"))
        if duration is not None and duration <= 0:
            one.faults.append(("span", f"{path}: the duration is {duration:g} s"))


def _decode_file(path: Path, those: Sequence[Heard]) -> None:
    """Reads a header, then decodes every utterance at the recording's own rate."""
    _read_file(path, those)
    sound = [one for one in those if not any(kind != "duration" for kind, _ in one.faults)]
    for one, waveform in _waveforms(path, sound):
        peak = max(float(waveform.max(initial=0.0)), -float(waveform.min(initial=0.0)))
        one.peak = peak
        one.samples = hashlib.blake2b(waveform.tobytes(), digest_size=16).hexdigest()
        one.clipped_share = _clipped_share(waveform)
        if one.is_silent and one.text != "":  # silence with an empty text is meant
            one.faults.append(("silent", f"{path} is silent (nothing above -90 dBFS)"))
        if one.clipped_share > CLIPPED_SHARE:
            one.faults.append(("clipped", f"{path} is clipped: {one.clipped_share:.1%} of it lies at full scale"))


def _waveforms(path: Path, those: Sequence[Heard]) -> Iterator[tuple[Heard, Waveform]]:
    """The samples of each utterance; those that cannot be decoded get their fault and are left out."""
    if not those:
        return
    header = those[0].header
    assert header is not None  # else they had a fault
    rate = header.sample_rate
    at_once = len(those) > 1 and not header.plain and header.seconds <= WHOLE_SECONDS
    whole = None
    try:
        if at_once:
            whole = load_audio(path, rate)
    except AudioError as error:
        for one in those:
            one.faults.append(("unreadable-audio", str(error)))
        return
    for one in those:
        start, end = one.span
        try:
            yield one, one.utterance.load(rate) if whole is None else whole[round(start * rate) : round(end * rate)]
        except AudioError as error:
            one.faults.append(("unreadable-audio", str(error)))


def _clipped_share(waveform: Waveform) -> float:
    at_limit = np.abs(waveform) >= FULL_SCALE
    if len(at_limit) < CLIPPED_RUN or not at_limit.any():
        return 0.0
    run = at_limit[: len(at_limit) - CLIPPED_RUN + 1].copy()
    for shift in range(1, CLIPPED_RUN):
        run &= at_limit[shift : len(at_limit) - CLIPPED_RUN + 1 + shift]
    return float(run.sum()) / len(at_limit)


def _find_equal_files(files: dict[Path, list[Heard]], workers: int) -> None:
    """Gives files that hold the same bytes the same content; only those of one size are read for it."""
    sizes: dict[int, dict[str, Path]] = {}
    for path, those in files.items():
        if those[0].header is not None:
            sizes.setdefault(those[0].header.size_bytes, {})[those[0].content] = path
    alike = [path for paths in sizes.values() if len(paths) > 1 for path in paths.values()]
    digests = dict(zip(alike, in_threads(_digest, alike, workers), strict=True))
    known = {files[path][0].content: digest for path, digest in digests.items()}
    for those in files.values():
        for one in those:
            one.content = known.get(one.content, one.content)


def _digest(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()

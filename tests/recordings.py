"""Real recordings for tests, encoded by PyAV."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from numpy.typing import NDArray

CODECS = {
    ".wav": "pcm_s16le",
    ".flac": "flac",
    ".mp3": "libmp3lame",
    ".ogg": "libopus",
    ".opus": "libopus",
    ".m4a": "aac",
    ".mp4": "aac",
    ".webm": "libopus",
    ".mkv": "aac",
    ".aiff": "pcm_s16be",
    ".au": "pcm_s16be",
}


def burst(seconds: float = 2.0, rate: int = 16_000, channels: int = 1, level: float = 0.5) -> NDArray[np.float64]:
    """A tone with a silence of a quarter of the time before and after it, ``[S, channels]``."""
    samples = round(seconds * rate)
    tone = level * np.sin(2 * np.pi * 440 * np.arange(samples) / rate)
    tone[: samples // 4] = 0
    tone[samples - samples // 4 :] = 0
    return np.repeat(tone[:, None], channels, axis=1)


def encode(
    path: Path, samples: NDArray[np.float64], rate: int, codec: str | None = None, *, video_seconds: float = 0.0
) -> Path:
    """Writes ``[S, channels]`` in [-1, 1] in the format of the path's ending, with a film of grey if asked for."""
    layout = {1: "mono", 2: "stereo"}[samples.shape[1]]
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec or CODECS[path.suffix], rate=rate, layout=layout)
        if video_seconds:
            _add_video(container, "vp8" if path.suffix in (".webm", ".mkv") else "mpeg4", video_seconds)
        container.start_encoding()  # so that a recording without samples has a header
        context = stream.codec_context
        resampler = av.AudioResampler(context.format, layout, rate, context.frame_size or 1024)
        frame = av.AudioFrame.from_ndarray(samples.astype(np.float32).reshape(1, -1), format="flt", layout=layout)
        frame.sample_rate, frame.pts, frame.time_base = rate, 0, Fraction(1, rate)
        for piece in [*resampler.resample(frame), *resampler.resample(None)] if len(samples) else []:
            container.mux(stream.encode(piece))
        container.mux(stream.encode(None))
    return path


def encode_video(path: Path, seconds: float = 1.0) -> Path:
    """A film without sound."""
    with av.open(str(path), "w") as container:
        _add_video(container, "mpeg4", seconds)
    return path


def _add_video(container: av.container.OutputContainer, codec: str, seconds: float) -> None:
    stream = container.add_stream(codec, rate=10)
    stream.width, stream.height, stream.pix_fmt = 32, 32, "yuv420p"
    for number in range(round(seconds * 10)):
        frame = av.VideoFrame.from_ndarray(np.full((48, 32), 128, np.uint8), format="yuv420p")
        frame.pts = number
        container.mux(stream.encode(frame))
    container.mux(stream.encode(None))

"""What a recording's header says of it: how long it is, without decoding it.

A header that promises more than the file holds is an error here where it can be seen without
decoding: in wav files and at the end of ogg files.
"""

from __future__ import annotations

import os
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import av

from nuebridge.audio import DEMUXERS, load_audio
from nuebridge.containers import LengthCheck, mp3_declares_length, read_wav_header
from nuebridge.errors import AudioError

PROBE_RATE_HZ = 16_000
"""Nothing is resampled to it: no samples are asked for."""

COUNTED_BY_BLOCK = (0x0001, 0x0003, 0x0006, 0x0007)
"""Wav formats (PCM, float, A-law, mu-law) in which a block is one sample of every channel."""

SECONDS_BY_DEMUXER = ("ogg", "wav", "w64", "caf", "asf", "avi", "wv", "tta", "ape")
"""Containers whose length ffmpeg finds exactly without reading everything."""


@dataclass(frozen=True)
class AudioHeader:
    """A recording as its file describes it."""

    seconds: float
    sample_rate: int
    """Hz."""
    channels: int
    size_bytes: int
    plain: bool = False
    """Samples lie as they are: a stretch can be read without what is before it."""


def read_header(path: Path | BinaryIO, name: str | None = None) -> AudioHeader:
    """The header of the first audio stream of a file: a path, or an open file that messages call ``name``.

    Streams that declare no length (raw aac, mp3 without a length) are read through, not decoded.
    Raises AudioError, as :func:`nuebridge.audio.load_audio` does, for a file that cannot be read,
    and for one without samples.
    """
    # Opens the file, reads its header and decodes a first frame: whatever is wrong with it is said in the same words.
    load_audio(path, PROBE_RATE_HZ, duration=0.0, name=name)
    shown = name or str(path)
    with open(path, "rb") if isinstance(path, Path) else nullcontext(path) as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(0)
        wav = read_wav_header(file, size, shown)
        if wav is not None and wav.tag in COUNTED_BY_BLOCK and wav.block_bytes:
            seconds = wav.data_bytes // wav.block_bytes / wav.rate
            header = AudioHeader(seconds, wav.rate, wav.channels, size, wav.is_pcm16)
        else:
            mp3_declares = mp3_declares_length(file)
            file.seek(0)
            header = _from_container(file, shown, size, mp3_declares)
    if header.seconds <= 0:
        raise AudioError(f"{shown}: holds no samples")
    return header


def _from_container(file: BinaryIO, shown: str, size: int, mp3_declares: bool) -> AudioHeader:
    try:
        with av.open(file, mode="r", options={"format_whitelist": DEMUXERS}) as container:
            stream = container.streams.audio[0]
            context = stream.codec_context
            rate, channels = context.sample_rate, context.channels
            time_base = float(stream.time_base or 0)
            length = LengthCheck(container, stream, mp3_declares)
            seconds = length.declared or 0.0
            if not seconds and length.kind in SECONDS_BY_DEMUXER:
                seconds = (stream.duration or 0) * time_base
            if not seconds:
                for packet in container.demux(stream):
                    length.count(packet, shown)
                seconds = length.held
    except av.error.FFmpegError as error:
        raise AudioError(f"{shown}: corrupt or truncated ({error.strerror})") from None
    if not seconds:  # neither the container nor its packets say how long they are
        seconds = len(load_audio(file, rate, name=shown)) / rate
    return AudioHeader(seconds, rate, channels, size)

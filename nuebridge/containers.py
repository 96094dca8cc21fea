"""What audio files declare of themselves, and whether they hold it.

ffmpeg decodes a truncated wav, mp3, webm, ogg or aiff file without an error, so the file's own words are
read here: the wav header, the length in the first frame of an mp3, the last page of an ogg, the
durations in the other containers. No samples are decoded here.
"""

from __future__ import annotations

import os
import struct
from dataclasses import dataclass
from typing import Any, BinaryIO

import av

from nuebridge.errors import AudioError

SAMPLE_RATES_HZ = range(1_000, 768_001)
"""Rates that a recording may declare; anything else is a damaged header, and upsampling it could fill the memory."""

LENGTH_TOLERANCE_SECONDS = 0.1
"""How much less than its container declares a compressed recording may hold: encoders pad, muxers round."""

MAGIC = {
    b"RIFF": "wav",
    b"RF64": "wav",
    b"fLaC": "flac",
    b"OggS": "ogg",
    b"ID3": "mp3",
    b"\x1aE\xdf\xa3": "webm or mkv",
    b"FORM": "aiff",
}
"""First bytes of a file and the kind they announce."""

PCM, EXTENSIBLE = 0x0001, 0xFFFE
WAV_SIZE_UNKNOWN = (0, 0x7FFFF000, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF)
"""Data sizes that programs write into a pipe, where they cannot go back to fill in the true one."""


@dataclass(frozen=True)
class WavHeader:
    """What a wav file says of itself, and where its samples lie."""

    tag: int
    channels: int
    rate: int
    block_bytes: int
    bits: int
    data_start: int
    data_bytes: int
    """Bytes of samples that are really there."""

    @property
    def is_pcm16(self) -> bool:
        """True where the samples can be read as they lie."""
        return self.tag == PCM and self.bits == 16 and self.block_bytes == 2 * self.channels > 0


def read_wav_header(file: BinaryIO, size: int, shown: str) -> WavHeader | None:
    """The header of a RIFF or RF64 wav file; None for any other file.

    Raises AudioError where the file ends before the samples that its header declares.
    """
    start = file.read(12)
    if start[:4] not in (b"RIFF", b"RF64") or start[8:12] != b"WAVE":
        return None
    riff_bytes = struct.unpack("<I", start[4:8])[0]
    form: tuple[int, ...] | None = None
    large_bytes: int | None = None
    while len(head := file.read(8)) == 8:
        name, declared = head[:4], struct.unpack("<I", head[4:])[0]
        if name == b"data":
            break
        body = file.read(min(declared, 64))
        if name == b"fmt " and len(body) >= 16:
            form = struct.unpack("<HHIIHH", body[:16])
            if form[0] == EXTENSIBLE and len(body) >= 26:
                form = (struct.unpack("<H", body[24:26])[0], *form[1:])
        elif name == b"ds64" and len(body) >= 16:
            large_bytes = struct.unpack("<Q", body[8:16])[0]
        # Chunks are padded to even sizes.
        file.seek(declared + declared % 2 - len(body), os.SEEK_CUR)
    else:
        raise AudioError(f"{shown}: corrupt or truncated: the wav header ends before any samples")
    if form is None:
        raise AudioError(f"{shown}: corrupt: the wav file does not declare its format")
    tag, channels, rate, bytes_per_second, block_bytes, bits = form
    if channels < 1 or rate not in SAMPLE_RATES_HZ:
        raise AudioError(f"{shown}: corrupt: the wav header declares {channels} channels at {rate} Hz")
    data_start = file.tell()
    held = size - data_start
    if large_bytes is not None and declared == 0xFFFFFFFF:
        declared = large_bytes
    elif declared in WAV_SIZE_UNKNOWN and (declared or riff_bytes + 8 != size):
        declared = held
    if declared > held:
        per_second = max(1, bytes_per_second)
        raise AudioError(
            f"{shown}: truncated: the header declares {declared / per_second:.3f} s of audio, "
            f"the file holds {held / per_second:.3f} s"
        )
    return WavHeader(tag, channels, rate, block_bytes, bits, data_start, declared)


class LengthCheck:
    """Compares what a file holds with what it declares, where its container declares anything.

    ffmpeg decodes a truncated mp3, webm, ogg or aiff without an error, so this is done here.
    """

    def __init__(self, container: av.container.InputContainer, stream: av.AudioStream, mp3_declares: bool) -> None:
        self.kind = container.format.name.split(",")[0]
        self.index = stream.index
        self.held = 0.0
        """Seconds of the audio stream's packets together."""
        self.first: float | None = None
        """Where the audio stream begins."""
        self.latest = 0.0
        """Where the last packet of any stream ends; a film may go on after its sound."""
        self.declared: float | None = None
        if self.kind == "matroska":
            self.declared = container.duration and container.duration / av.time_base
        elif self.kind in ("mov", "flac", "aiff", "au") or (self.kind == "mp3" and mp3_declares):
            self.declared = stream.duration and stream.duration * float(stream.time_base or 0)

    def count(self, packet: av.Packet[Any], shown: str) -> None:
        """Notes a packet as it passes."""
        # A wav file's own header has been compared already, and one of unknown size may end anywhere.
        if packet.is_corrupt and self.kind != "wav":
            raise AudioError(f"{shown}: truncated or corrupt after {self.latest:.3f} s")
        time_base = float(packet.time_base or 0)
        seconds = (packet.duration or 0) * time_base
        if packet.pts is not None:
            start = packet.pts * time_base
            self.latest = max(self.latest, start + seconds)
            if packet.stream.index == self.index and self.first is None:
                self.first = start
        if packet.stream.index == self.index:
            self.held += seconds

    def check(self, shown: str, decoded: float) -> None:
        """Raises AudioError where something is missing; ``decoded`` in seconds."""
        held = {"matroska": self.latest, "mov": self.held}.get(self.kind, decoded)
        tolerance = 1e-4 if self.kind == "flac" else LENGTH_TOLERANCE_SECONDS
        if self.declared and self.declared - held > tolerance:
            raise AudioError(
                f"{shown}: truncated or corrupt: the file declares {self.declared:.3f} s and holds {held:.3f} s"
            )
        # ffmpeg drops an ogg page whose checksum is wrong.
        if self.kind == "ogg" and self.first is not None:
            missing = self.latest - self.first - self.held
            if missing > LENGTH_TOLERANCE_SECONDS:
                raise AudioError(f"{shown}: corrupt: {missing:.3f} s in the middle of the file cannot be read")


def name_by_magic(file: BinaryIO) -> str | None:
    """The kind of audio that a file's first bytes announce; None where they announce none."""
    file.seek(0)
    start = file.read(12)
    if start[4:8] == b"ftyp":
        return "mp4 or m4a"
    return next((kind for magic, kind in MAGIC.items() if start.startswith(magic)), None)


def mp3_declares_length(file: BinaryIO) -> bool:
    """True where the first frame of an mp3 says how many follow; else ffmpeg estimates from the file's size."""
    file.seek(0)
    start = file.read(10)
    skip = 0
    if start[:3] == b"ID3" and len(start) == 10:
        skip = 10 + sum((byte & 0x7F) << shift for byte, shift in zip(start[6:10], (21, 14, 7, 0), strict=True))
    file.seek(skip)
    frame = file.read(2048)
    return any(tag in frame for tag in (b"Xing", b"Info", b"VBRI"))


def check_ogg_is_whole(file: BinaryIO, size: int, shown: str) -> None:
    """Raises AudioError where the last page of an ogg file is cut off. Ogg declares no length."""
    file.seek(0)
    if file.read(4) != b"OggS":
        return
    largest_page = 27 + 255 + 255 * 255
    file.seek(max(0, size - largest_page))
    data = file.read(largest_page)
    last = data.rfind(b"OggS\x00")
    page = data[last:]
    whole = last >= 0 and len(page) >= 27 and len(page) >= 27 + page[26]
    if not whole or len(page) < 27 + page[26] + sum(page[27 : 27 + page[26]]):
        raise AudioError(f"{shown}: truncated: its last ogg page is cut off")

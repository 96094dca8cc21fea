"""G.711 against two coders that are not ours: ffmpeg's, and Python's own where it still has one."""

from __future__ import annotations

import warnings
from fractions import Fraction

import av
import numpy as np
import pytest
from numpy.typing import NDArray

from nuebridge.data.g711 import Law, decode, encode

LAWS: list[Law] = ["mu", "a"]
EVERY_CODE = np.arange(256, dtype=np.uint8)
EVERY_SAMPLE = np.arange(-32768, 32768).astype(np.int16)
"""Of 16 bits."""
STEP = {"mu": 4, "a": 8}
"""One unit of the Recommendation's tables in those of 16 bits."""
SEGMENT_ENDS = {
    "mu": (31, 95, 223, 479, 991, 2015, 4063),
    "a": (64, 128, 256, 512, 1024, 2048),
}
"""Decision values between segments, as the Recommendation prints them (mu-law's last, 8159, ends the table)."""


def ffmpeg_codes(samples: NDArray[np.int16], law: str) -> NDArray[np.uint8]:
    coder = av.AudioCodecContext.create(f"pcm_{law}law", "w")
    coder.sample_rate, coder.format, coder.layout, coder.time_base = 8000, "s16", "mono", Fraction(1, 8000)
    frame = av.AudioFrame.from_ndarray(samples[None], format="s16", layout="mono")
    frame.sample_rate, frame.pts, frame.time_base = 8000, 0, Fraction(1, 8000)
    return np.frombuffer(b"".join(bytes(p) for p in [*coder.encode(frame), *coder.encode(None)]), np.uint8)


def ffmpeg_samples(codes: NDArray[np.uint8], law: str) -> NDArray[np.int16]:
    coder = av.AudioCodecContext.create(f"pcm_{law}law", "r")
    coder.sample_rate, coder.layout = 8000, "mono"
    frames = coder.decode(av.Packet(codes.tobytes()))
    return np.concatenate([frame.to_ndarray().reshape(-1) for frame in frames])


def waveform(samples: NDArray[np.int16]) -> NDArray[np.float32]:
    return samples.astype(np.float32) / 32768


@pytest.mark.parametrize("law", LAWS)
def test_every_code_stands_for_ffmpegs_sample(law: Law) -> None:
    decoded = decode(EVERY_CODE, law)
    assert decoded.dtype == np.float32
    assert (decoded * 32768 == ffmpeg_samples(EVERY_CODE, law)).all()
    back = encode(decoded, law)
    # mu-law has two zeros, and a number has no sign to tell them by.
    assert EVERY_CODE[back != EVERY_CODE].tolist() == ([0x7F] if law == "mu" else [])


@pytest.mark.parametrize("law", LAWS)
def test_every_whole_sample_gets_ffmpegs_code(law: Law) -> None:
    """But just above the end of a segment: ffmpeg decides half-way between two outputs, the Recommendation does not."""
    samples = EVERY_SAMPLE[EVERY_SAMPLE % STEP[law] == 0]
    ours, theirs = encode(waveform(samples), law), ffmpeg_codes(samples, law)
    differ = {abs(int(s)) // STEP[law] for s in samples[ours != theirs]}
    # The last step of a segment is 2, 4, 8 ... wide, and half-way is a quarter of that above its end.
    assert differ <= {v for i, end in enumerate(SEGMENT_ENDS[law]) for v in range(end, end + 2**i // 2 + 1)}
    flip = 0xFF if law == "mu" else 0x55  # which turns codes into steps that count upwards
    assert (((ours ^ flip).astype(int) - (theirs ^ flip))[ours != theirs] == 1).all()


@pytest.mark.parametrize("law", LAWS)
def test_codes_are_those_of_pythons_audioop(law: Law) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        audioop = pytest.importorskip("audioop", reason="Python 3.13 has it no more")
    coded = audioop.lin2ulaw if law == "mu" else audioop.lin2alaw
    positive = EVERY_SAMPLE[EVERY_SAMPLE >= 0]
    theirs = np.frombuffer(coded(positive.tobytes(), 2), np.uint8)
    assert (encode(waveform(positive), law) == theirs).all()
    # Below zero audioop rounds before it decides; half a unit inside each unit that cannot matter.
    inside = -positive[positive % STEP[law] == STEP[law] // 2]
    mirrored = np.frombuffer(coded((-inside).astype(np.int16).tobytes(), 2), np.uint8)
    assert (encode(waveform(inside), law) == mirrored ^ 0x80).all()


def test_known_codes() -> None:
    """From the Recommendation: zero, full scale, and the words of both laws that silence is sent as."""
    samples = np.array([0.0, -1e-6, 1.0, -1.0, 5.0, -5.0], np.float32)
    assert encode(samples, "mu").tolist() == [0xFF, 0x7F, 0x80, 0x00, 0x80, 0x00]
    assert encode(samples, "a").tolist() == [0xD5, 0x55, 0xAA, 0x2A, 0xAA, 0x2A]
    assert decode(np.array([0x80, 0x00, 0xFF], np.uint8), "mu").tolist() == [8031 / 8192, -8031 / 8192, 0.0]
    assert decode(np.array([0xAA, 0xD5], np.uint8), "a").tolist() == [4032 / 4096, 1 / 4096]


@pytest.mark.parametrize("law", LAWS)
def test_decision_values(law: Law) -> None:
    """A step begins at its decision value, not below."""
    full = 32768 // STEP[law]
    for end in SEGMENT_ENDS[law]:
        below, at = (
            int(c) for c in encode(np.array([end - 0.01, end], np.float32) / full, law) ^ (0x55 if law == "a" else 0xFF)
        )
        assert at == below + 1 and at % 16 == 0


@pytest.mark.parametrize("law", LAWS)
def test_nothing_is_nothing(law: Law) -> None:
    assert len(decode(encode(np.zeros(0, np.float32), law), law)) == 0

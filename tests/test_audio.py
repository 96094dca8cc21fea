"""nuebridge.audio and nuebridge.containers: every container, every way a file can be wrong, and the cutting."""

from __future__ import annotations

import os
import struct
import tracemalloc
import wave
from pathlib import Path

import av
import numpy as np
import pytest
import soxr
from hypothesis import given, settings
from hypothesis import strategies as st

from nuebridge.audio import BLOCK_SAMPLES, cut_at_quiet, load_audio
from nuebridge.errors import AudioError
from tests.recordings import burst, encode, encode_video

RATE = 16_000


def riff(data: bytes, *, declared: int | None = None, tag: int = 1, channels: int = 1, rate: int = RATE, bits: int = 16,
         before: bytes = b"", magic: bytes = b"RIFF", riff_size: int | None = None) -> bytes:  # fmt: skip
    """A wav file by hand."""
    block = channels * bits // 8
    form = struct.pack("<HHIIHH", tag, channels, rate, rate * block & 0xFFFFFFFF, block, bits)
    body = b"WAVE" + before + b"fmt " + struct.pack("<I", len(form)) + form
    body += b"data" + struct.pack("<I", len(data) if declared is None else declared) + data
    return magic + struct.pack("<I", len(body) if riff_size is None else riff_size) + body


def written(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


def message(path: Path, **window: float) -> str:
    """The error of a file: one line, beginning with the path, and plain words only."""
    with pytest.raises(AudioError) as caught:
        load_audio(path, RATE, **window)
    text = str(caught.value)
    assert text.startswith(f"{path}: ") and "\n" not in text
    assert "Traceback" not in text and "Errno" not in text and "avcodec" not in text
    return text


PCM = (burst(1.0)[:, 0] * 32767).astype("<i2")


# --- what can be read ---


@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("rate", [8_000, 16_000, 44_100, 48_000])
@pytest.mark.parametrize("suffix", [".wav", ".flac", ".mp3", ".ogg", ".opus", ".m4a", ".mp4", ".webm", ".mkv", ".aiff"])
def test_every_container_gives_the_same_sound(tmp_path: Path, suffix: str, rate: int, channels: int) -> None:
    if suffix in (".ogg", ".opus", ".webm") and rate == 44_100:
        rate = 24_000  # Opus has no 44.1 kHz
    waveform = load_audio(encode(tmp_path / f"a{suffix}", burst(2.0, rate, channels), rate), RATE)
    assert waveform.dtype == np.float32 and waveform.ndim == 1
    assert len(waveform) == pytest.approx(2 * RATE, abs=0.06 * RATE)
    assert np.abs(waveform).max() <= 1
    # The tone lies where it was put, at its level: from 0.5 s to 1.5 s, 0.5 / sqrt(2) in the mean square.
    loud = np.flatnonzero(np.abs(waveform) > 0.1) / RATE
    assert loud[0] == pytest.approx(0.5, abs=0.03) and loud[-1] == pytest.approx(1.5, abs=0.03)
    middle = waveform[int(0.6 * RATE) : int(1.4 * RATE)]
    assert np.sqrt(np.mean(middle**2)) == pytest.approx(0.5 / np.sqrt(2), rel=0.1)
    assert np.argmax(np.abs(np.fft.rfft(middle))) * RATE / len(middle) == pytest.approx(440, abs=2)


def test_channels_are_averaged(tmp_path: Path) -> None:
    left = burst(1.0)
    right = 0.25 * np.ones_like(left)
    expected = (left[:, 0] + 0.25) / 2
    for suffix in (".wav", ".flac"):
        waveform = load_audio(encode(tmp_path / f"a{suffix}", np.hstack([left, right]), RATE), RATE)
        np.testing.assert_allclose(waveform, expected, atol=1e-4)


@pytest.mark.parametrize(
    ("codec", "tolerance"),
    [("pcm_u8", 1e-2), ("pcm_s16le", 1e-4), ("pcm_s24le", 1e-6), ("pcm_s32le", 1e-6), ("pcm_f32le", 1e-6),
     ("pcm_f64le", 1e-6), ("pcm_mulaw", 3e-2)],
)  # fmt: skip
def test_every_kind_of_wav(tmp_path: Path, codec: str, tolerance: float) -> None:
    waveform = load_audio(encode(tmp_path / "a.wav", burst(1.0), RATE, codec), RATE)
    np.testing.assert_allclose(waveform, burst(1.0)[:, 0], atol=tolerance)


@pytest.mark.parametrize("channels", [1, 2, 6])
@pytest.mark.parametrize("rate", [RATE, 44_100])
def test_the_direct_way_for_16_bit_wav_equals_pyav(tmp_path: Path, channels: int, rate: int) -> None:
    samples = np.random.default_rng(0).integers(-32768, 32768, (5_000, channels)).astype("<i2")
    with wave.open(str(tmp_path / "a.wav"), "wb") as file:
        file.setparams((channels, 2, rate, 0, "NONE", ""))
        file.writeframes(samples.tobytes())
    with av.open(str(tmp_path / "a.wav")) as container:
        decoded = np.concatenate([frame.to_ndarray().reshape(-1, channels) for frame in container.decode(audio=0)])
    expected = (decoded.astype(np.float32) / 32768).mean(axis=1, dtype=np.float32)
    if rate != RATE:
        expected = np.clip(soxr.resample(expected, rate, RATE, quality="HQ"), -1, 1)
    np.testing.assert_array_equal(load_audio(tmp_path / "a.wav", RATE), expected)


def test_extensible_wav_is_read(tmp_path: Path) -> None:
    form = struct.pack("<HHIIHH", 0xFFFE, 1, RATE, 2 * RATE, 2, 16)
    form += struct.pack("<HHIH", 22, 16, 4, 1) + bytes.fromhex("000000001000800000aa00389b71")
    body = b"WAVEfmt " + struct.pack("<I", len(form)) + form
    body += b"data" + struct.pack("<I", PCM.nbytes) + PCM.tobytes()
    path = written(tmp_path / "a.wav", b"RIFF" + struct.pack("<I", len(body)) + body)
    np.testing.assert_array_equal(load_audio(path, RATE), PCM / np.float32(32768))


def test_chunks_around_the_samples_are_passed_over(tmp_path: Path) -> None:
    odd = b"LIST" + struct.pack("<I", 5) + b"abcde\0"
    path = written(tmp_path / "a.wav", riff(PCM.tobytes(), before=odd) + odd)
    assert len(load_audio(path, RATE)) == len(PCM)


@pytest.mark.parametrize("declared", [0, 0x7FFFF000, 0xFFFFFFFF])
def test_a_wav_written_into_a_pipe_is_read_to_its_end(tmp_path: Path, declared: int) -> None:
    path = written(tmp_path / "a.wav", riff(PCM.tobytes(), declared=declared, riff_size=0xFFFFFFFF))
    assert len(load_audio(path, RATE)) == len(PCM)


def test_a_large_wav_declares_its_size_elsewhere(tmp_path: Path) -> None:
    sizes = b"ds64" + struct.pack("<IQQQI", 28, 0, PCM.nbytes, len(PCM), 0)
    whole = riff(PCM.tobytes(), declared=0xFFFFFFFF, before=sizes, magic=b"RF64")
    assert len(load_audio(written(tmp_path / "a.wav", whole), RATE)) == len(PCM)
    assert "truncated" in message(written(tmp_path / "b.wav", whole[:-100]))


def test_long_recordings_are_resampled_in_blocks_without_a_seam(tmp_path: Path) -> None:
    samples = np.random.default_rng(0).uniform(-0.5, 0.5, (2 * BLOCK_SAMPLES + 777, 1))
    waveform = load_audio(encode(tmp_path / "a.wav", samples, 44_100, "pcm_f32le"), RATE)
    np.testing.assert_array_equal(waveform, soxr.resample(samples[:, 0].astype(np.float32), 44_100, RATE, quality="HQ"))


def test_a_film_longer_than_its_sound_is_whole(tmp_path: Path) -> None:
    for suffix in (".mp4", ".webm", ".mkv"):
        path = encode(tmp_path / f"a{suffix}", burst(1.0, 48_000), 48_000, video_seconds=3.0)
        assert len(load_audio(path, RATE)) == pytest.approx(RATE, abs=0.05 * RATE)


@pytest.mark.parametrize(("suffix", "codec"), [(".wav", "pcm_s16le"), (".wav", "pcm_f32le"), (".flac", "flac")])
def test_no_samples_give_an_empty_array(tmp_path: Path, suffix: str, codec: str) -> None:
    waveform = load_audio(encode(tmp_path / f"a{suffix}", burst(0.0, 48_000), 48_000, codec), RATE)
    assert waveform.shape == (0,) and waveform.dtype == np.float32


# --- a stretch of a recording ---


@pytest.mark.parametrize("suffix", [".wav", ".flac"])
def test_a_stretch_equals_the_same_stretch_of_the_whole(tmp_path: Path, suffix: str) -> None:
    path = encode(tmp_path / f"a{suffix}", burst(2.0), RATE)
    whole = load_audio(path, RATE)
    for offset, duration in ((0.0, 0.7), (0.4, 1.0), (1.25, 0.75), (0.3, 0.0)):
        stretch = load_audio(path, RATE, offset=offset, duration=duration)
        np.testing.assert_array_equal(stretch, whole[round(offset * RATE) : round((offset + duration) * RATE)])
    np.testing.assert_array_equal(load_audio(path, RATE, offset=1.5), whole[-RATE // 2 :])


@pytest.mark.parametrize("suffix", [".mp3", ".ogg", ".m4a", ".webm"])
def test_a_stretch_of_a_compressed_recording(tmp_path: Path, suffix: str) -> None:
    path = encode(tmp_path / f"a{suffix}", burst(2.0, 48_000), 48_000)
    stretch = load_audio(path, RATE, offset=0.4, duration=0.5)
    assert len(stretch) == RATE // 2
    assert np.flatnonzero(np.abs(stretch) > 0.1)[0] / RATE == pytest.approx(0.1, abs=0.03)


@pytest.mark.parametrize("suffix", [".wav", ".flac", ".mp3"])
def test_a_stretch_beyond_the_end_is_an_error(tmp_path: Path, suffix: str) -> None:
    path = encode(tmp_path / f"a{suffix}", burst(2.0), RATE)
    assert "ends at 2.0" in message(path, offset=3.0) and "before the offset 3.000 s" in message(path, offset=3.0)
    assert "3.000 s from 0.000 s on were asked for" in message(path, duration=3.0)
    assert "neither may be negative" in message(path, offset=-1.0)
    assert "neither may be negative" in message(path, duration=float("nan"))
    # Durations in manifests are rounded.
    assert len(load_audio(path, RATE, duration=2.05)) == pytest.approx(2 * RATE, abs=0.02 * RATE)


# --- what cannot be read ---


def test_what_is_no_recording(tmp_path: Path) -> None:
    assert message(tmp_path / "missing.wav").endswith("no such file")
    assert "is a folder" in message(tmp_path)
    assert "0 bytes" in message(written(tmp_path / "empty.wav", b""))
    assert "no audio stream" in message(encode_video(tmp_path / "film.mp4"))
    noise = np.random.default_rng(0).bytes(5_000)
    for name, data in (("text.txt", b"hello\n" * 500), ("text.wav", b"hello\n" * 500), ("one.mp3", b"x"),
                       ("noise.bin", noise), ("noise.flac", noise), ("noise.m4a", noise)):  # fmt: skip
        assert "is not audio" in message(written(tmp_path / name, data)), name
    os.mkfifo(tmp_path / "pipe.wav")
    assert "not a regular file" in message(tmp_path / "pipe.wav")


def test_names_that_the_system_refuses(tmp_path: Path) -> None:
    with pytest.raises(AudioError, match="cannot be opened"):
        load_audio(tmp_path / ("a" * 300), RATE)
    with pytest.raises(AudioError, match="not a valid path"):
        load_audio("a\0b.wav", RATE)
    with pytest.raises(AudioError, match=r"^'a\\nb.wav': no such file$"):
        load_audio("a\nb.wav", RATE)


def test_a_file_that_may_not_be_read(tmp_path: Path) -> None:
    path = encode(tmp_path / "a.wav", burst(0.1), RATE)
    path.chmod(0)
    user = os.geteuid()
    if user == 0:  # root may read everything
        for folder in (tmp_path, *tmp_path.parents[:3]):
            folder.chmod(0o755)
        os.seteuid(65534)
    try:
        assert "permission denied" in message(path)
    finally:
        os.seteuid(user)


def test_a_playlist_does_not_open_other_files(tmp_path: Path) -> None:
    encode(tmp_path / "a.wav", burst(0.5), RATE)
    for name, text in (
        ("list.m3u8", "#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:0.5,\na.wav\n#EXT-X-ENDLIST\n"),
        ("list.ffconcat", "ffconcat version 1.0\nfile a.wav\n"),
    ):
        assert "is not audio" in message(written(tmp_path / name, text.encode()))


@pytest.mark.parametrize("share", [0.95, 0.8, 0.5, 0.1])
@pytest.mark.parametrize(
    "suffix", [".wav", ".flac", ".mp3", ".ogg", ".opus", ".m4a", ".mp4", ".webm", ".mkv", ".aiff", ".au"]
)
def test_truncated_files_are_errors(tmp_path: Path, suffix: str, share: float) -> None:
    data = encode(tmp_path / f"whole{suffix}", burst(5.0, 48_000, level=0.9), 48_000).read_bytes()
    cut = written(tmp_path / f"cut{suffix}", data[: int(share * len(data))])
    assert "truncated" in message(cut)


def test_a_film_cut_short_is_an_error(tmp_path: Path) -> None:
    data = encode(tmp_path / "whole.webm", burst(5.0, 48_000), 48_000, video_seconds=5.0).read_bytes()
    assert "truncated" in message(written(tmp_path / "cut.webm", data[: len(data) * 3 // 4]))


def test_a_truncated_wav_names_both_durations(tmp_path: Path) -> None:
    path = written(tmp_path / "a.wav", riff(PCM.tobytes())[: 44 + RATE])
    assert message(path).endswith("declares 1.000 s of audio, the file holds 0.500 s")


@settings(max_examples=60, deadline=None)
@given(missing=st.integers(1, 44 + PCM.nbytes - 1))
def test_a_wav_cut_anywhere_is_an_error(tmp_path_factory: pytest.TempPathFactory, missing: int) -> None:
    path = written(tmp_path_factory.getbasetemp() / "cut.wav", riff(PCM.tobytes())[:-missing])
    message(path)


@pytest.mark.parametrize("suffix", [".flac", ".ogg"])
def test_damage_in_the_middle_is_an_error(tmp_path: Path, suffix: str) -> None:
    noise = np.random.default_rng(1).uniform(-0.5, 0.5, (5 * 48_000, 1))
    data = bytearray(encode(tmp_path / f"a{suffix}", noise, 48_000).read_bytes())
    middle = len(data) // 2
    data[middle : middle + 40] = np.random.default_rng(2).bytes(40)
    assert "corrupt" in message(written(tmp_path / f"b{suffix}", bytes(data)))


def test_headers_that_cannot_be_true(tmp_path: Path) -> None:
    data = PCM.tobytes()
    assert "does not declare its format" in message(
        written(tmp_path / "a.wav", b"RIFF\0\0\0\0WAVEdata" + struct.pack("<I", 4) + b"abcd")
    )
    assert "header ends before any samples" in message(written(tmp_path / "b.wav", riff(data)[:36]))
    for rate in (0, 1, 4_000_000_000):
        assert f"at {rate} Hz" in message(written(tmp_path / "c.wav", riff(data, rate=rate)))
    assert "0 channels" in message(written(tmp_path / "d.wav", riff(data, channels=0)))
    assert "coded in a way" in message(written(tmp_path / "e.wav", riff(data, tag=0x7777)))


def test_a_declared_length_is_not_allocated(tmp_path: Path) -> None:
    sizes = b"ds64" + struct.pack("<IQQQI", 28, 0, 1 << 60, 1 << 59, 0)
    huge = {
        "a.wav": riff(PCM.tobytes(), declared=0xFFFFFF00),
        "b.wav": riff(PCM.tobytes(), declared=0xFFFFFFFF, before=sizes, magic=b"RF64"),
        "c.wav": riff(PCM.tobytes(), declared=0xFFFFFF00, tag=3, bits=32),
    }
    tracemalloc.start()
    try:
        for name, data in huge.items():
            assert "truncated" in message(written(tmp_path / name, data))
        assert tracemalloc.get_traced_memory()[1] < 50_000_000
    finally:
        tracemalloc.stop()


def test_samples_that_are_not_numbers_or_not_scaled(tmp_path: Path) -> None:
    for value, words in ((np.nan, "not finite"), (np.inf, "not finite"), (-np.inf, "not finite"),
                         (-20_000.0, "20000 times full scale")):  # fmt: skip
        samples = burst(0.5)[:, 0].astype("<f4")
        samples[1_000] = value
        path = written(tmp_path / "a.wav", riff(samples.tobytes(), tag=3, bits=32))
        assert words in message(path)


def test_samples_a_little_too_loud_are_clipped(tmp_path: Path) -> None:
    loud = encode(tmp_path / "a.wav", burst(0.5, level=1.7), RATE, "pcm_f32le")
    assert np.abs(load_audio(loud, RATE)).max() == 1
    # Resampling a full-scale square wave overshoots.
    square = np.sign(burst(0.5, 44_100, level=1.0))
    assert np.abs(load_audio(encode(tmp_path / "b.wav", square, 44_100), RATE)).max() == 1


# --- cutting ---


def test_cuts_lie_in_the_pauses() -> None:
    rate = 1_000
    speech = np.random.default_rng(0).uniform(-0.5, 0.5, 25 * rate).astype(np.float32)
    pauses = [(8.0, 8.6), (15.2, 15.6)]
    for start, end in pauses:
        speech[int(start * rate) : int(end * rate)] *= 0.01
    pieces = cut_at_quiet(speech, rate, 10.0)
    cuts = [end / rate for _, end in pieces[:-1]]
    assert len(cuts) == 2
    assert all(start < cut < end for (start, end), cut in zip(pauses, cuts, strict=True))


def test_a_cut_in_digital_silence_lies_in_its_middle() -> None:
    speech = np.random.default_rng(0).uniform(-0.5, 0.5, 15_000).astype(np.float32)
    speech[7_000:9_000] = 0
    (_, cut), _ = cut_at_quiet(speech, 1_000, 10.0)
    assert cut == pytest.approx(8_000, abs=110)


def test_a_short_pause_between_sounds_is_not_taken_for_a_quiet_place() -> None:
    """A stop consonant is quieter than a pause with room noise, but shorter than 0.2 s."""
    speech = np.random.default_rng(0).uniform(-0.5, 0.5, 15_000).astype(np.float32)
    speech[7_500:7_530] = 0
    speech[8_500:9_000] *= 0.02
    (_, cut), _ = cut_at_quiet(speech, 1_000, 10.0)
    assert 8_500 < cut < 9_000


@settings(max_examples=100, deadline=None)
@given(
    samples=st.integers(0, 8_000),
    rate=st.sampled_from([10, 100, 1_000, 16_000]),
    max_seconds=st.floats(0.001, 30.0),
    seed=st.integers(0, 5),
    quiet=st.booleans(),
)
def test_pieces_cover_everything(samples: int, rate: int, max_seconds: float, seed: int, quiet: bool) -> None:
    waveform = np.random.default_rng(seed).uniform(-1, 1, samples).astype(np.float32) * (not quiet)
    longest = int(max_seconds * rate)
    if longest < 1:
        with pytest.raises(ValueError, match="holds no sample"):
            cut_at_quiet(waveform, rate, max_seconds)
        return
    pieces = cut_at_quiet(waveform, rate, max_seconds)
    assert [start for start, _ in pieces] == [0, *(end for _, end in pieces)][: len(pieces)]
    assert (pieces[-1][1] if pieces else 0) == samples
    assert all(0 < end - start <= longest for start, end in pieces)
    # No more pieces than the rule needs: all but the last two fill two thirds of what they may.
    assert all(3 * (end - start) >= 2 * longest - 3 for start, end in pieces[:-1])
    if len(pieces) > 1:
        assert pieces[-1][1] - pieces[-1][0] >= min(longest // 3, rate)
    assert cut_at_quiet(waveform.copy(), rate, max_seconds) == pieces

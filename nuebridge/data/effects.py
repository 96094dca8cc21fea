"""What can happen to a recording: other speed, noise, a room, a telephone line, gaps.

Pure functions of a waveform; what is random is drawn from the ``numpy.random.Generator`` given. They know
no settings and no files. A waveform is float32 ``[S]``, mono, and may come out beyond [-1, 1]:
:func:`within_full_scale` is for the end.
"""

from __future__ import annotations

import math
from typing import Literal

import numpy as np
import soxr

from nuebridge.audio import Waveform
from nuebridge.data import g711

NoiseColor = Literal["white", "pink", "brown"]

SLOPES: dict[NoiseColor, float] = {"white": 0.0, "pink": 1.0, "brown": 2.0}
"""Power falls as frequency to the minus this: 0, 3 and 6 dB an octave."""

LOWEST_HZ = 20.0
"""Below this the power of noise does not rise further: it would be a drift, not a sound."""

DECAY_DB = 60.0
"""Of a room's sound within its reverberation time; RT60 is defined by it."""


def speed_samples(samples: int, factor: float) -> int:
    """How many samples :func:`change_speed` leaves of so many."""
    return resampled_samples(samples, factor, 1.0)


def change_speed(waveform: Waveform, factor: float) -> Waveform:
    """Played ``factor`` times as fast: tempo and pitch change alike (Ko et al., Interspeech 2015)."""
    return waveform if factor == 1.0 else resample(waveform, factor, 1.0)


def resampled_samples(samples: int, rate: float, new_rate: float) -> int:
    """How many samples :func:`resample` gives for so many: at least one where there was one."""
    return max(round(samples * new_rate / rate), min(samples, 1))


def resample(waveform: Waveform, rate: float, new_rate: float) -> Waveform:
    """From one sample rate to another (Hz, or any other unit: their ratio counts)."""
    resampled: Waveform = soxr.resample(waveform, rate, new_rate, quality="HQ")
    return fit(resampled, resampled_samples(len(waveform), rate, new_rate))


def fit(waveform: Waveform, samples: int) -> Waveform:
    """Cut, or filled up with zeros, to exactly so many samples."""
    return waveform[:samples] if len(waveform) >= samples else np.pad(waveform, (0, samples - len(waveform)))


def gain(waveform: Waveform, decibels: float) -> Waveform:
    """Louder by so many decibels, or quieter where they are negative."""
    return waveform * np.float32(10 ** (decibels / 20))


def within_full_scale(waveform: Waveform) -> Waveform:
    """Scaled down as a whole where a sample lies beyond [-1, 1]; nothing is clipped."""
    peak = max(float(waveform.max(initial=0.0)), -float(waveform.min(initial=0.0)))
    # The division may round up, the clip takes that last bit back.
    return np.clip(waveform / np.float32(peak), -1.0, 1.0) if peak > 1.0 else waveform


def power(waveform: Waveform) -> float:
    """Mean square, computed in double precision."""
    return float(np.mean(np.square(waveform, dtype=np.float64))) if len(waveform) else 0.0


def mix(waveform: Waveform, noise: Waveform, snr_decibels: float) -> Waveform:
    """With noise ``[S]`` added so that the ratio of their powers over the whole clip is ``snr_decibels``.

    Where either is silent there is no such ratio, and the waveform is returned as it is.
    """
    signal_power, noise_power = power(waveform), power(noise)
    if not signal_power or not noise_power:
        return waveform
    scale = math.sqrt(signal_power / noise_power) * 10 ** (-snr_decibels / 20)
    return waveform + noise * np.float32(scale)


def colored_noise(samples: int, sample_rate: int, color: NoiseColor, rng: np.random.Generator) -> Waveform:
    """Gaussian noise ``[samples]`` whose power falls with frequency as its color says; level as it comes."""
    # A tenth of a second at least, so that there are frequencies to color; a power of two is quick to transform.
    size = 1 << (max(samples, sample_rate // 10, 2) - 1).bit_length()
    spectrum = np.fft.rfft(rng.standard_normal(size, dtype=np.float32))
    frequencies = np.maximum(np.fft.rfftfreq(size, 1 / sample_rate), LOWEST_HZ)
    spectrum *= (frequencies / LOWEST_HZ) ** (-SLOPES[color] / 2)
    return np.fft.irfft(spectrum, size)[:samples].astype(np.float32)


def room_response(
    rt60_seconds: float, direct_to_reverberant_decibels: float, sample_rate: int, rng: np.random.Generator
) -> Waveform:
    """A made-up room: the direct sound, then noise that decays by 60 dB within ``rt60_seconds``, where it ends."""
    times = np.arange(1, max(1, round(rt60_seconds * sample_rate)) + 1) / sample_rate
    tail = rng.standard_normal(len(times)) * 10 ** (-DECAY_DB / 20 * times / rt60_seconds)
    tail *= 10 ** (-direct_to_reverberant_decibels / 20) / np.sqrt(np.sum(tail**2))
    return np.concatenate([[1.0], tail]).astype(np.float32)


def reverberate(waveform: Waveform, response: Waveform) -> Waveform:
    """Heard through a room's impulse response, as long, as loud and as early as before.

    The response counts from its largest sample, the direct sound; what would sound on after the clip's end is lost.
    """
    samples, direct = len(waveform), response[int(np.argmax(np.abs(response))) :][: len(waveform)]
    size = 1 << max(1, samples + len(direct) - 1).bit_length()
    wet = np.fft.irfft(np.fft.rfft(waveform, size) * np.fft.rfft(direct, size), size)[:samples].astype(np.float32)
    before, after = power(waveform), power(wet)
    return wet * np.float32(np.sqrt(before / after)) if before and after else waveform


def telephone(waveform: Waveform, sample_rate: int, law: g711.Law | None) -> Waveform:
    """Through an 8 kHz line, which keeps nothing above 4 kHz, and back; coded by G.711 on the way where a law is given.

    Audio of 8 kHz or less is coded at its own rate.
    """
    narrow = resample(waveform, sample_rate, g711.SAMPLE_RATE) if sample_rate > g711.SAMPLE_RATE else waveform
    if law is not None:
        narrow = g711.decode(g711.encode(within_full_scale(narrow), law), law)
    if sample_rate > g711.SAMPLE_RATE:
        narrow = fit(resample(narrow, g711.SAMPLE_RATE, sample_rate), len(waveform))
    return narrow


def mask_spans(waveform: Waveform, count: int, longest: int, most: int, rng: np.random.Generator) -> Waveform:
    """With ``count`` spans of zeros, each of up to ``longest`` samples and together of at most ``most``."""
    masked = waveform.copy()
    for _ in range(count):
        width = int(rng.integers(min(longest, most, len(masked)) + 1))
        start = int(rng.integers(len(masked) - width + 1))
        masked[start : start + width] = 0.0
        most -= width
    return masked

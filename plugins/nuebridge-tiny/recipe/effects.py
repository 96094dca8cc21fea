"""Seeded augmentation of synthesised speech: speed, pauses, gain, noise, reverberation, band limits."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import soxr
from numpy.random import Generator
from numpy.typing import NDArray

Samples = NDArray[np.float32]

SAMPLE_RATE = 16_000
NOISE_SHARE = 0.40
REVERBERATION_SHARE = 0.10
BAND_LIMIT_SHARE = 0.05
PEAK = 0.98


def resample(samples: Samples, rate: float, speed: float = 1.0) -> Samples:
    """The samples at 16 kHz, spoken ``speed`` times as fast (and as high)."""
    if rate * speed == SAMPLE_RATE:
        return samples.astype(np.float32)
    return np.asarray(soxr.resample(samples, rate * speed, SAMPLE_RATE), dtype=np.float32)


def power(samples: Samples) -> float:
    """Mean power; never zero."""
    return float(np.mean(np.square(samples, dtype=np.float64))) + 1e-12 if samples.size else 1e-12


def white(rng: Generator, count: int) -> Samples:
    """White noise of unit power."""
    return rng.standard_normal(count, dtype=np.float32)


def coloured(rng: Generator, count: int, exponent: float) -> Samples:
    """Noise whose power falls with frequency to the given exponent (1: pink, 2: brown), of unit power."""
    size = 1 << max(8, (count - 1).bit_length())
    spectrum = np.fft.rfft(rng.standard_normal(size))
    frequencies = np.maximum(np.arange(spectrum.size), 8.0)
    noise = np.fft.irfft(spectrum / frequencies ** (exponent / 2), size)[:count].astype(np.float32)
    return np.asarray(noise / np.sqrt(power(noise)), dtype=np.float32)


def hum(rng: Generator, count: int) -> Samples:
    """Mains hum or a machine: a low tone with overtones and a little noise, of unit power."""
    base = float(rng.choice([50.0, 60.0, 100.0, 120.0, rng.uniform(80, 400)]))
    time = np.arange(count, dtype=np.float64) / SAMPLE_RATE
    tone = np.zeros(count)
    for overtone in range(1, int(rng.integers(3, 9))):
        tone += rng.uniform(0.2, 1.0) / overtone * np.sin(2 * np.pi * base * overtone * time + rng.uniform(0, 6.28))
    noise = (tone / np.sqrt(power(tone.astype(np.float32)) + 1e-9)).astype(np.float32) + 0.2 * white(rng, count)
    return np.asarray(noise / np.sqrt(power(noise)), dtype=np.float32)


def babble(rng: Generator, count: int, others: list[Samples]) -> Samples:
    """Several other clips spoken at once, of unit power."""
    mix = np.zeros(count, dtype=np.float32)
    for _ in range(int(rng.integers(3, 7))):
        clip = others[int(rng.integers(len(others)))]
        shifted = np.roll(clip, int(rng.integers(clip.size)))
        mix += np.resize(shifted, count) * np.float32(rng.uniform(0.5, 1.0) / np.sqrt(power(clip)))
    return np.asarray(mix / np.sqrt(power(mix)), dtype=np.float32)


def noise_of_some_kind(rng: Generator, count: int, others: list[Samples]) -> Samples:
    """Noise of unit power: white, pink, brown, hum or babble."""
    pick = rng.random()
    if pick < 0.25:
        return white(rng, count)
    if pick < 0.55:
        return coloured(rng, count, 1.0)
    if pick < 0.70:
        return coloured(rng, count, 2.0)
    if pick < 0.80 or not others:
        return hum(rng, count)
    return babble(rng, count, others)


def faint_noise(rng: Generator, count: int) -> Samples:
    """The noise floor of a recording, 50 to 80 dB below full scale."""
    return coloured(rng, count, float(rng.uniform(0.0, 1.5))) * np.float32(10 ** (-rng.uniform(50, 80) / 20))


def pause(rng: Generator, longest: float) -> Samples:
    """Silence of a random length up to ``longest`` seconds."""
    return np.zeros(int(rng.uniform(0.0, longest) * SAMPLE_RATE), dtype=np.float32)


def reverberate(rng: Generator, samples: Samples) -> Samples:
    """A small to middling room: the direct sound and an exponentially decaying random tail."""
    seconds = rng.uniform(0.1, 0.45)
    length = int(seconds * SAMPLE_RATE)
    tail = rng.standard_normal(length) * np.exp(-6.9 * np.arange(length) / length)
    delay = int(rng.uniform(0.002, 0.02) * SAMPLE_RATE)
    tail[:delay] = 0.0
    tail *= 10 ** (rng.uniform(-14, -3) / 20) / np.sqrt(np.sum(np.square(tail)) + 1e-12)
    tail[0] = 1.0
    size = 1 << (samples.size + length).bit_length()
    wet = np.fft.irfft(np.fft.rfft(samples, size) * np.fft.rfft(tail, size), size)[: samples.size + length // 2]
    return wet.astype(np.float32)


@lru_cache(maxsize=64)
def _band_window(cutoff: int, lowest: int) -> NDArray[np.float64]:
    taps = 255
    centre = np.arange(taps) - taps // 2

    def low_pass(frequency: float) -> NDArray[np.float64]:
        kernel = np.sinc(2 * frequency / SAMPLE_RATE * centre) * np.hamming(taps)
        return np.asarray(kernel / kernel.sum())

    return low_pass(cutoff) - low_pass(lowest)


def band_limit(rng: Generator, samples: Samples) -> Samples:
    """A narrow channel, such as a telephone's."""
    cutoff = int(rng.choice([3000, 3400, 4000, 5000, 6000]))
    lowest = int(rng.choice([60, 150, 300]))
    return np.convolve(samples, _band_window(cutoff, lowest), mode="same").astype(np.float32)


def gain(rng: Generator, samples: Samples) -> Samples:
    """A random loudness, never clipped."""
    peak = float(np.max(np.abs(samples))) if samples.size else 0.0
    if peak <= 0.0:
        return samples
    target = 10 ** (-rng.uniform(0.5, 22) / 20)
    return np.asarray(samples * np.float32(min(target, PEAK) / peak), dtype=np.float32)


def assemble(rng: Generator, clips: list[tuple[Samples, int]], others: list[Samples], speed: float = 1.0) -> Samples:
    """The finished clip: the synthesised pieces in order with pauses between them, augmented, at 16 kHz."""
    parts: list[Samples] = [pause(rng, 0.6)]
    for index, (samples, rate) in enumerate(clips):
        if index:
            parts.append(np.zeros(int(rng.uniform(0.02, 0.9) * SAMPLE_RATE), dtype=np.float32))
        parts.append(resample(samples, rate, speed))
    parts.append(pause(rng, 0.6))
    speech = np.concatenate(parts)
    if rng.random() < REVERBERATION_SHARE:
        speech = reverberate(rng, speech)
    speech = gain(rng, speech)
    if rng.random() < NOISE_SHARE:
        spoken = speech[np.abs(speech) > 1e-3]
        level = np.sqrt(power(spoken if spoken.size else speech)) * 10 ** (-rng.uniform(10, 40) / 20)
        speech = speech + np.float32(level) * noise_of_some_kind(rng, speech.size, others)
    else:
        speech = speech + faint_noise(rng, speech.size)
    if rng.random() < BAND_LIMIT_SHARE:
        speech = band_limit(rng, speech)
    return limit(speech)


def nothing(rng: Generator) -> Samples:
    """A clip without speech: near silence, noise, a tone or clicks (no babble, which is speech)."""
    longest = 4.0 if rng.random() < 0.6 else 15.0
    count = int(rng.uniform(0.4, longest) * SAMPLE_RATE)
    pick = rng.random()
    if pick < 0.15:
        return np.zeros(count, dtype=np.float32)
    if pick < 0.40:
        return faint_noise(rng, count)
    level = np.float32(10 ** (-rng.uniform(15, 45) / 20))
    if pick < 0.80:
        return limit(level * noise_of_some_kind(rng, count, []))
    samples = faint_noise(rng, count)
    if pick < 0.92:
        tone = np.sin(2 * np.pi * rng.uniform(100, 4000) * np.arange(count) / SAMPLE_RATE).astype(np.float32)
        start, end = sorted(int(position) for position in rng.integers(0, count, 2))
        samples[start:end] += level * tone[start:end]
    else:
        for position in rng.integers(0, count - 400, int(rng.integers(1, 8))):
            samples[position : position + 400] += (
                level * white(rng, 400) * np.exp(-np.arange(400) / 60).astype(np.float32)
            )
    return limit(samples)


def limit(samples: Samples) -> Samples:
    """The samples scaled down where they would clip."""
    peak = float(np.max(np.abs(samples))) if samples.size else 0.0
    return np.asarray(samples * np.float32(PEAK / peak) if peak > PEAK else samples, dtype=np.float32)


def to_pcm(samples: Samples) -> NDArray[np.int16]:
    """16-bit samples."""
    return np.asarray(np.round(np.clip(samples, -1.0, 1.0) * 32767.0), dtype=np.int16)

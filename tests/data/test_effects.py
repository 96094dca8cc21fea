from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from nuebridge.data import effects
from nuebridge.data.effects import NoiseColor

RATE = 16_000
LENGTHS = st.sampled_from([1, 2, 3, 7, 100, 1599, 16_000])


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def speech_like(samples: int, seed: int = 0) -> NDArray[np.float32]:
    """Pink noise that comes and goes four times a second, peak 0.5."""
    wave = effects.colored_noise(samples, RATE, "pink", rng(seed))
    wave = wave * np.sin(4 * np.pi * np.arange(samples) / RATE).astype(np.float32)
    return wave * np.float32(0.5 / max(1e-9, np.abs(wave).max()))


def tone(hertz: float, samples: int = RATE, rate: int = RATE) -> NDArray[np.float32]:
    return (0.5 * np.sin(2 * np.pi * hertz * np.arange(samples) / rate)).astype(np.float32)


def band_power(wave: NDArray[np.float32], low: float, high: float, rate: int = RATE) -> float:
    """Of a Hann-windowed wave, between two frequencies."""
    spectrum = np.abs(np.fft.rfft(wave * np.hanning(len(wave)))) ** 2
    frequencies = np.fft.rfftfreq(len(wave), 1 / rate)
    return float(spectrum[(frequencies >= low) & (frequencies < high)].sum())


def pitch(wave: NDArray[np.float32]) -> float:
    return float(np.fft.rfftfreq(len(wave), 1 / RATE)[np.abs(np.fft.rfft(wave)).argmax()])


# --- speed ---------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(LENGTHS, st.floats(0.5, 2))
def test_speed_gives_the_length_it_says(samples: int, factor: float) -> None:
    changed = effects.change_speed(speech_like(samples), factor)
    assert len(changed) == effects.speed_samples(samples, factor) >= 1
    assert len(changed) == pytest.approx(samples / factor, abs=1) and changed.dtype == np.float32


@pytest.mark.parametrize("factor", [0.9, 1.1, 1.37])
def test_speed_moves_the_pitch(factor: float) -> None:
    changed = effects.change_speed(tone(1000), factor)
    assert pitch(changed) == pytest.approx(1000 * factor, abs=1.5)
    assert effects.power(changed) == pytest.approx(effects.power(tone(1000)), rel=0.02)


# --- level ---------------------------------------------------------------------------------------


def test_gain_in_decibels() -> None:
    assert effects.power(effects.gain(tone(440), -6.0)) == pytest.approx(effects.power(tone(440)) * 10**-0.6, rel=1e-4)


@pytest.mark.parametrize("peak", [1.0000001, 1.5, 3.3333333, 1000.0])
def test_scaled_as_a_whole_not_clipped(peak: float) -> None:
    wave = (tone(440) * 2 * peak).astype(np.float32)
    scaled = effects.within_full_scale(wave)
    assert np.abs(scaled).max() <= 1.0
    np.testing.assert_allclose(scaled, wave / np.abs(wave).max(), atol=1e-6)
    within = tone(440)
    assert effects.within_full_scale(within) is within


# --- noise ---------------------------------------------------------------------------------------


@settings(max_examples=40, deadline=None)
@given(st.floats(-20, 60), st.sampled_from(["white", "pink", "brown"]), st.integers(0, 99))
def test_noise_has_the_ratio_asked_for(snr: float, color: NoiseColor, seed: int) -> None:
    wave = speech_like(8000, seed)
    mixed = effects.mix(wave, effects.colored_noise(8000, RATE, color, rng(seed)), snr)
    reached = 10 * np.log10(effects.power(wave) / effects.power(mixed.astype(np.float64) - wave))
    assert reached == pytest.approx(snr, abs=0.05)


@pytest.mark.parametrize(("color", "slope"), [("white", 0.0), ("pink", -3.01), ("brown", -6.02)])
def test_color_is_a_slope(color: NoiseColor, slope: float) -> None:
    """Power density in decibels an octave, from 100 Hz to 6.4 kHz."""
    noise = effects.colored_noise(1 << 18, RATE, color, rng())
    octaves = [100 * 2**i for i in range(7)]
    density = [10 * np.log10(band_power(noise, low, 1.1 * low) / (0.1 * low)) for low in octaves]
    assert np.polyfit(range(7), density, 1)[0] == pytest.approx(slope, abs=0.3)


def test_brown_noise_does_not_drift() -> None:
    noise = effects.colored_noise(1 << 18, RATE, "brown", rng())
    assert abs(noise.mean()) < 0.05 * noise.std()
    assert band_power(noise, 0, 20) / band_power(noise, 20, 40) == pytest.approx(
        2, rel=0.3
    )  # flat to 20 Hz, then falls


def test_no_ratio_without_sound() -> None:
    silence, wave = np.zeros(100, np.float32), speech_like(100)
    assert effects.mix(silence, wave, 0.0) is silence
    assert effects.mix(wave, silence, 0.0) is wave


# --- rooms ---------------------------------------------------------------------------------------


def reverberation_time(response: NDArray[np.float32], rate: int) -> float:
    """By Schroeder's backward integration, from the slope between -5 and -35 dB of the decay (ISO 3382: T30)."""
    energy = np.cumsum(response[::-1].astype(np.float64) ** 2)[::-1]
    level = 10 * np.log10(energy[energy > 0] / energy[0])
    part = (level < -5) & (level > -35)
    slope = np.polyfit(np.flatnonzero(part) / rate, level[part], 1)[0]
    return float(-60 / slope)


@pytest.mark.parametrize("rt60", [0.15, 0.4, 0.8, 2.0])
def test_rooms_decay_as_they_say(rt60: float) -> None:
    times = [reverberation_time(effects.room_response(rt60, 0.0, RATE, rng(seed))[1:], RATE) for seed in range(5)]
    assert np.mean(times) == pytest.approx(rt60, rel=0.05)
    assert times == pytest.approx([rt60] * 5, rel=0.12)


def test_rooms_have_the_direct_sound_they_say() -> None:
    response = effects.room_response(0.3, 6.0, RATE, rng())
    assert response[0] == 1 and 10 * np.log10(1 / np.sum(response[1:] ** 2)) == pytest.approx(6.0, abs=0.01)


def test_reverberation_is_convolution_from_the_direct_sound_on() -> None:
    wave, room = speech_like(4000), effects.room_response(0.2, 3.0, RATE, rng(1))
    late = np.concatenate([0.01 * speech_like(80, 5), room])  # as recorded: the direct sound comes after 5 ms
    expected = np.convolve(wave.astype(np.float64), room)[:4000]
    expected *= np.sqrt(effects.power(wave) / np.mean(expected**2))
    for response in (room, late, -3 * room):
        wet = effects.reverberate(wave, response)
        np.testing.assert_allclose(wet * np.sign(response[np.abs(response).argmax()]), expected, atol=1e-5)
    assert effects.power(wet) == pytest.approx(effects.power(wave), rel=1e-4)


def test_a_room_longer_than_the_clip() -> None:
    for samples in (1, 2, 3, 100):
        wave = speech_like(samples, 2)
        wet = effects.reverberate(wave, effects.room_response(1.0, 0.0, RATE, rng()))
        assert len(wet) == samples and np.isfinite(wet).all()


# --- telephone -----------------------------------------------------------------------------------


@pytest.mark.parametrize("law", [None, "mu", "a"])
def test_a_line_of_8_khz_leaves_nothing_above_4_khz(law: effects.g711.Law | None) -> None:
    noise = effects.colored_noise(RATE, RATE, "white", rng()) * np.float32(0.1)
    heard = effects.telephone(noise, RATE, law)
    assert len(heard) == len(noise) and heard.dtype == np.float32
    assert band_power(noise, 4100, 8000) > 0.9 * band_power(noise, 0, 3900)
    assert band_power(heard, 4100, 8000) < 1e-5 * band_power(noise, 4100, 8000)
    kept = band_power(heard, 100, 3400) / band_power(noise, 100, 3400)
    assert kept == pytest.approx(1, abs=0.01)
    # Nothing is moved in time, nor turned over.
    speech = effects.telephone(tone(700), RATE, law)
    np.testing.assert_allclose(speech[500:-500], tone(700)[500:-500], atol=2e-3 if law is None else 0.03)


@pytest.mark.parametrize("law", ["mu", "a"])
def test_telephone_coding_is_heard(law: effects.g711.Law) -> None:
    """The Recommendation's 38 dB between signal and noise, or thereabouts; and louder than full scale still fits."""
    wave = tone(1013, 8000, 8000)
    coded = effects.telephone(wave, 8000, law)
    ratio = 10 * np.log10(effects.power(wave) / effects.power(coded - wave))
    assert 35 < ratio < 41
    loud = effects.telephone(3 * wave, 8000, law)
    np.testing.assert_allclose(loud, wave / np.abs(wave).max(), atol=0.03)


# --- gaps ----------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(LENGTHS, st.integers(1, 5), st.integers(1, 4000), st.floats(0, 0.9), st.integers(0, 99))
def test_gaps_are_zeros_within_their_bounds(samples: int, count: int, longest: int, share: float, seed: int) -> None:
    wave = np.ones(samples, np.float32)
    masked = effects.mask_spans(wave, count, longest, int(share * samples), rng(seed))
    gone = masked == 0
    assert gone.sum() <= min(share * samples, count * longest) and (masked[~gone] == 1).all() and wave.all()
    assert (np.diff(gone.astype(int)) == 1).sum() + int(gone[0]) <= count


def test_gaps_are_drawn_evenly() -> None:
    widths, starts = [], []
    for seed in range(600):
        gone = np.flatnonzero(effects.mask_spans(np.ones(1000, np.float32), 1, 100, 500, rng(seed)) == 0)
        widths.append(len(gone))
        starts.extend(gone[:1])
    assert (min(widths), max(widths)) == (0, 100) and np.mean(widths) == pytest.approx(50, abs=4)
    assert min(starts) < 30 and max(starts) > 950

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st
from numpy.typing import NDArray

from nuebridge.config import validate
from nuebridge.data import effects
from nuebridge.data.augmentation import AugmentationSettings, Augmenter
from nuebridge.errors import ConfigError, DataError
from tests.recordings import encode

RATE = 16_000
EVERYTHING: dict[str, dict[str, Any]] = {
    "speed": {"probability": 0.7},
    "reverberation": {"probability": 0.7},
    "noise": {"probability": 0.7},
    "gain": {"probability": 0.7, "decibels": [-30, 30]},
    "band_limit": {"probability": 0.5},
    "g711": {"probability": 0.5},
    "time_mask": {"probability": 0.7},
}
ALWAYS = {"probability": 1.0}


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def augmenter(rate: int = RATE, **blocks: dict[str, Any]) -> Augmenter:
    return Augmenter(validate(blocks, AugmentationSettings, "test"), rate)


def clip(samples: int = 8000, seed: int = 0, peak: float = 0.5) -> NDArray[np.float32]:
    wave = effects.colored_noise(samples, RATE, "pink", rng(1000 + seed))
    return wave * np.float32(peak / np.abs(wave).max())


def snr(mixed: NDArray[np.float32], wave: NDArray[np.float32]) -> float:
    return float(10 * np.log10(effects.power(wave) / effects.power(mixed - wave)))


# --- all together --------------------------------------------------------------------------------


@examples(max_examples=150, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from([0, 1, 2, 5, 160, 1599, 8000]), st.sampled_from([0.0, 1e-6, 0.5, 1.0]))
def test_whatever_is_drawn(seed: int, samples: int, peak: float) -> None:
    """Same generator, same clip; length as foretold; finite; within full scale; silence stays near silence."""
    change = augmenter(**EVERYTHING)
    wave = clip(samples, seed, peak) if samples else np.zeros(0, np.float32)
    wave.setflags(write=False)
    out = change(wave, rng(seed))
    assert out.dtype == np.float32 and out.ndim == 1
    assert (out == change(wave, rng(seed))).all()
    assert len(out) == change.length_after(samples, rng(seed))
    assert samples == 0 or 1 <= len(out) <= samples * change.settings.longest_factor + 1
    assert np.isfinite(out).all() and np.abs(out).max(initial=0) <= 1
    if peak == 0:
        assert np.abs(out).max(initial=0) < 1e-3  # A-law has no zero


def test_every_draw_is_another() -> None:
    change, wave = augmenter(**EVERYTHING), clip()
    outs = {change(wave, rng(seed)).tobytes() for seed in range(40)}
    assert len(outs) > 35


def test_nothing_is_on_by_itself() -> None:
    settings, wave = AugmentationSettings(), clip()
    assert set(settings.model_dump().values()) == {None} and settings.longest_factor == settings.shortest_factor == 1
    assert Augmenter(settings, RATE)(wave, rng()) is wave


@pytest.mark.parametrize("kind", EVERYTHING)
def test_each_is_on_where_it_is_written_and_has_its_own_probability(kind: str) -> None:
    wave = clip()
    assert all(augmenter(**{kind: {"probability": 0}})(wave, rng(seed)) is wave for seed in range(20))
    block = {"probability": 0.3} | ({"factors": [0.9]} if kind == "speed" else {})
    changed = sum(augmenter(**{kind: block})(wave, rng(seed)) is not wave for seed in range(400))
    assert changed == pytest.approx(120, abs=30)
    always = augmenter(**{kind: {**block, **ALWAYS}})
    assert not any(np.array_equal(always(wave, rng(seed)), wave) for seed in range(10))


# --- speed ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("block", "shortest", "longest"),
    [
        ({"factors": [0.8, 1.25], "probability": 0.5}, 0.8, 1.25),
        ({"factors": [1.25], "probability": 0.5}, 0.8, 1.0),
        ({"factors": [1.25], "probability": 1.0}, 0.8, 0.8),
        ({"factors": [0.5], "probability": 0.0}, 1.0, 1.0),
    ],
)
def test_how_long_a_clip_may_become(block: dict[str, Any], shortest: float, longest: float) -> None:
    change = augmenter(speed=block)
    assert (change.settings.shortest_factor, change.settings.longest_factor) == (shortest, longest)
    lengths = {len(change(clip(4000), rng(seed))) for seed in range(30)}
    assert min(lengths) == 4000 * shortest and max(lengths) == 4000 * longest


# --- noise ---------------------------------------------------------------------------------------


def test_ratios_are_drawn_from_their_range() -> None:
    change, wave = augmenter(noise={**ALWAYS, "snr_decibels": [5, 20]}), clip(peak=0.2)
    reached = [snr(change(wave, rng(seed)), wave) for seed in range(200)]
    assert 4.5 < min(reached) < 6.5 and 18.5 < max(reached) < 20.5 and np.mean(reached) == pytest.approx(12.5, abs=1)


def test_the_ratio_survives_scaling() -> None:
    """At -20 dB the mix exceeds full scale by far, and is scaled down as a whole."""
    change, wave = augmenter(noise={**ALWAYS, "snr_decibels": [-20, -20], "colors": ["white"]}), clip(peak=1.0)
    out = change(wave, rng())
    assert np.abs(out).max() == pytest.approx(1.0)
    share = float(out @ wave / (wave @ wave))  # noise and clip have next to nothing in common
    assert snr(out / share, wave) == pytest.approx(-20, abs=0.5)


@pytest.fixture
def noises(tmp_path: Path) -> Path:
    """Two tones as recorded noise, one in a folder of its own and of another rate, and a file that is no audio."""
    (tmp_path / "deep" / "er").mkdir(parents=True)
    (tmp_path / "LICENSE.txt").write_text("free")
    for path, hertz, rate in ((tmp_path / "deep" / "er" / "a.flac", 3000, 8000), (tmp_path / "b.wav", 5000, RATE)):
        encode(path, 0.3 * np.sin(2 * np.pi * hertz * np.arange(rate) / rate)[:, None], rate)
    return tmp_path


def pitch(wave: NDArray[np.float32]) -> int:
    return round(float(np.fft.rfftfreq(len(wave), 1 / RATE)[np.abs(np.fft.rfft(wave)).argmax()]), -1)


@pytest.mark.parametrize("samples", [800, 8000, 40_000])  # shorter and longer than the noises
def test_recorded_noise(noises: Path, samples: int) -> None:
    change = augmenter(noise={**ALWAYS, "snr_decibels": [10, 10], "recordings": str(noises), "generated_share": 0})
    wave, pitches = clip(samples, peak=0.2), set()
    for seed in range(12):
        out = change(wave, rng(seed))
        assert snr(out, wave) == pytest.approx(10, abs=0.5)
        pitches.add(pitch(out - wave))
    assert pitches == {3000, 5000}


def test_a_share_of_the_noise_is_generated(noises: Path) -> None:
    settings = {
        **ALWAYS,
        "snr_decibels": [10, 10],
        "recordings": str(noises),
        "generated_share": 0.5,
        "colors": ["brown"],
    }
    change, wave = augmenter(noise=settings), clip(peak=0.2)
    recorded = sum(pitch(change(wave, rng(seed)) - wave) in (3000, 5000) for seed in range(60))
    assert 18 <= recorded <= 42


@pytest.mark.parametrize("says_duration", [True, False])
def test_stretches_of_noise_come_from_everywhere(tmp_path: Path, says_duration: bool) -> None:
    """Of a tone that rises from 1 to 3 kHz in four seconds; the first second is not in the manifest."""
    seconds = np.arange(4 * RATE) / RATE
    encode(tmp_path / "rise.wav", 0.3 * np.sin(2 * np.pi * (1000 + 250 * seconds) * seconds)[:, None], RATE)
    manifest = tmp_path / "noise.jsonl"
    line = {"audio_filepath": "rise.wav", "offset": 1.0} | ({"duration": 3.0} if says_duration else {})
    manifest.write_text(json.dumps(line))
    change = augmenter(noise={**ALWAYS, "recordings": str(manifest), "generated_share": 0})
    wave = clip(1600, peak=0.2)
    pitches = [pitch(change(wave, rng(seed)) - wave) for seed in range(60)]
    assert 1480 <= min(pitches) < 1700 and max(pitches) > 2800


# --- rooms ---------------------------------------------------------------------------------------


def test_recorded_rooms(tmp_path: Path) -> None:
    """An echo after 0.1 s as the room."""
    response = np.zeros((3200, 1))
    response[200], response[1800] = 0.9, 0.45
    encode(tmp_path / "echo.wav", response, RATE)
    change = augmenter(reverberation={**ALWAYS, "impulse_responses": str(tmp_path), "generated_share": 0})
    wave = clip(peak=0.2)
    out = change(wave, rng())
    expected = wave + 0.5 * np.concatenate([np.zeros(1600, np.float32), wave[:-1600]])
    np.testing.assert_allclose(out, expected * np.sqrt(effects.power(wave) / effects.power(expected)), atol=1e-4)
    either = augmenter(reverberation={**ALWAYS, "impulse_responses": str(tmp_path), "generated_share": 0.5})
    echoes = sum(np.array_equal(either(wave, rng(seed)), out) for seed in range(60))
    assert 18 <= echoes <= 42


def test_made_up_rooms_come_from_their_range() -> None:
    change = augmenter(reverberation={**ALWAYS, "rt60_seconds": [0.3, 0.3], "direct_to_reverberant_decibels": [0, 0]})
    click = np.zeros(8000, np.float32)
    click[100] = 0.5
    out = change(click, rng())
    assert not out[:99].any() or np.abs(out[:99]).max() < 1e-6
    energy = np.cumsum(out[101:].astype(np.float64)[::-1] ** 2)[::-1]
    level = 10 * np.log10(energy / energy[0] + 1e-12)
    assert np.flatnonzero(level < -30)[0] / RATE == pytest.approx(0.15, rel=0.15)


# --- telephone and gaps --------------------------------------------------------------------------


@pytest.mark.parametrize("blocks", [{"band_limit": ALWAYS}, {"g711": ALWAYS}, {"band_limit": ALWAYS, "g711": ALWAYS}])
def test_telephone_bands_end_at_4_khz(blocks: dict[str, dict[str, Any]]) -> None:
    wave = effects.colored_noise(RATE, RATE, "white", rng(5)) * np.float32(0.1)
    out = augmenter(**blocks)(wave, rng())
    above = np.fft.rfftfreq(RATE, 1 / RATE) > 4100
    before, after = (np.sum(np.abs(np.fft.rfft(w * np.hanning(RATE)))[above] ** 2) for w in (wave, out))
    assert after < 1e-5 * before


def test_both_laws_are_drawn() -> None:
    change, wave = augmenter(8000, g711=ALWAYS), clip(800)
    outs = {change(wave, rng(seed)).tobytes() for seed in range(20)}
    assert outs == {effects.telephone(wave, 8000, law).tobytes() for law in ("mu", "a")}


def test_gaps_in_seconds_and_share() -> None:
    change = augmenter(time_mask={**ALWAYS, "count": 3, "max_seconds": 0.1, "max_share": 0.15})
    gone = [int((change(np.ones(RATE, np.float32), rng(seed)) == 0).sum()) for seed in range(100)]
    assert max(gone) > 0.1 * RATE and max(gone) <= 0.15 * RATE and len(set(gone)) > 90


# --- what cannot be ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("blocks", "said"),
    [
        ({"speed": {"factors": []}}, "speed.factors"),
        ({"speed": {"factors": [3]}}, "speed.factors"),
        ({"noise": {"snr_decibels": [20, 5]}}, "the lower bound comes first, not 20 before 5"),
        ({"noise": {"colors": ["blue"]}}, "noise.colors"),
        ({"noises": {}}, "did you mean 'noise'"),
        ({"gain": {"probability": 1.5}}, "gain.probability"),
        ({"reverberation": {"rt60_seconds": [0, 1]}}, "rt60_seconds"),
        ({"time_mask": {"max_share": 1.0}}, "time_mask.max_share"),
        ({"g711": {"laws": ["u"]}}, "g711.laws"),
    ],
)
def test_settings_that_cannot_be(blocks: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        augmenter(**blocks)


def test_a_band_that_is_narrow_already() -> None:
    with pytest.raises(ConfigError, match="band_limit leaves audio of 8000 Hz as it is"):
        augmenter(8000, band_limit={})


def test_places_without_recordings(tmp_path: Path) -> None:
    missing = str(tmp_path / "nowhere")
    with pytest.raises(DataError, match="noise recordings: there is no .*nowhere"):
        augmenter(noise={"recordings": missing})
    (tmp_path / "notes.txt").write_text("none here")
    with pytest.raises(DataError, match="impulse responses: the folder .* holds no recordings"):
        augmenter(reverberation={"impulse_responses": str(tmp_path)})
    manifest = tmp_path / "bad.jsonl"
    manifest.write_text('{"text": "x"}')
    with pytest.raises(DataError, match="audio_filepath is missing"):
        augmenter(noise={"recordings": str(manifest)})


@pytest.mark.parametrize(
    ("kind", "key", "samples", "said"),
    [
        ("noise", "recordings", None, "the noise recording .*x.wav: .*; mend it or take it out"),
        ("noise", "recordings", 0, "the noise recording .*x.wav is empty"),
        ("reverberation", "impulse_responses", 100, "the impulse response .*x.wav is silent"),
    ],
)
def test_recordings_that_cannot_be_used(tmp_path: Path, kind: str, key: str, samples: int | None, said: str) -> None:
    if samples is None:
        (tmp_path / "x.wav").write_bytes(b"no audio at all")
    else:
        encode(tmp_path / "x.wav", np.zeros((samples, 1)), RATE)
    change = augmenter(**{kind: {**ALWAYS, key: str(tmp_path), "generated_share": 0}})
    with pytest.raises(DataError, match=said):
        change(clip(), rng())

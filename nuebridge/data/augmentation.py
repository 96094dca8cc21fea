"""Augmentation: every time a clip is trained on, it sounds a little different.

The settings, each with its own probability, and what carries them out. What happens to a clip depends on
the settings, the clip and the generator given, on nothing else. In the order of nature: how fast it is
said, in what room, with what noise, how loud, over what line, with what gaps.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import numpy as np
from pydantic import AfterValidator, Field

from nuebridge.audio import Waveform
from nuebridge.data import effects, g711
from nuebridge.data.manifest import Utterance, read_manifest
from nuebridge.errors import AudioError, ConfigError, DataError
from nuebridge.settings import Settings, UserPath


def _in_order(bounds: tuple[float, float]) -> tuple[float, float]:
    if bounds[0] > bounds[1]:
        raise ValueError(f"the lower bound comes first, not {bounds[0]:g} before {bounds[1]:g}")
    return bounds


Probability = Annotated[float, Field(ge=0, le=1)]
SpeedFactor = Annotated[float, Field(ge=0.5, le=2)]
Decibels = Annotated[float, Field(ge=-60, le=60)]
Rt60 = Annotated[float, Field(ge=0.05, le=5)]


class SpeedSettings(Settings):
    """Speed perturbation (Ko et al., Interspeech 2015): tempo and pitch, by resampling."""

    probability: Probability = 0.5
    """Share of the clips that are changed, 0 to 1."""
    factors: tuple[SpeedFactor, ...] = Field(default=(0.9, 1.1), min_length=1)
    """One is drawn, 0.5 to 2: at 0.9 a clip becomes 1 / 0.9 times as long."""


class GainSettings(Settings):
    """Another level. A clip that would exceed full scale is scaled to it, not clipped."""

    probability: Probability = 0.5
    """Share of the clips that are changed, 0 to 1."""
    decibels: Annotated[tuple[Decibels, Decibels], AfterValidator(_in_order)] = (-12.0, 6.0)
    """Least and most added, dB, each -60 to 60."""


class NoiseSettings(Settings):
    """Added noise: generated, recorded, or either. A silent clip stays silent."""

    probability: Probability = 0.5
    """Share of the clips that are changed, 0 to 1."""
    snr_decibels: Annotated[tuple[Decibels, Decibels], AfterValidator(_in_order)] = (5.0, 30.0)
    """Least and most signal-to-noise ratio over a whole clip, dB, each -60 to 60."""
    colors: tuple[effects.NoiseColor, ...] = Field(default=("white", "pink", "brown"), min_length=1)
    """Of generated noise, one is drawn: its power falls by 0, 3 or 6 dB an octave."""
    recordings: UserPath | None = None
    """Recorded noise: a folder, searched with all below it, or a manifest (whose ``duration`` saves
    reading whole files); null: generated noise only. A stretch is drawn, and repeated where the clip is longer."""
    generated_share: Probability = 0.5
    """Where there are recordings: share of the noisy clips that get generated noise instead, 0 to 1."""


class ReverberationSettings(Settings):
    """The sound of rooms: made up (direct sound and exponentially decaying noise), recorded, or either."""

    probability: Probability = 0.3
    """Share of the clips that are changed, 0 to 1."""
    rt60_seconds: Annotated[tuple[Rt60, Rt60], AfterValidator(_in_order)] = (0.15, 0.8)
    """Shortest and longest reverberation time (until 60 dB are lost) of a made-up room, seconds, each 0.05 to 5."""
    direct_to_reverberant_decibels: Annotated[tuple[Decibels, Decibels], AfterValidator(_in_order)] = (0.0, 15.0)
    """Least and most energy of the direct sound against that of a made-up room, dB, each -60 to 60."""
    impulse_responses: UserPath | None = None
    """Recorded rooms: a folder, searched with all below it, or a manifest; null: made-up rooms only."""
    generated_share: Probability = 0.5
    """Where there are recorded rooms: share of the reverberant clips that get a made-up one instead, 0 to 1."""


class BandLimitSettings(Settings):
    """The band of an 8 kHz telephone line: nothing above 4 kHz is left."""

    probability: Probability = 0.1
    """Share of the clips that are changed, 0 to 1."""


class G711Settings(Settings):
    """Telephone coding by ITU-T G.711 over an 8 kHz line, band limit included."""

    probability: Probability = 0.1
    """Share of the clips that are changed, 0 to 1."""
    laws: tuple[g711.Law, ...] = Field(default=("mu", "a"), min_length=1)
    """One is drawn: ``mu`` in North America and Japan, ``a`` elsewhere."""


class TimeMaskSettings(Settings):
    """Gaps: spans of the waveform set to zero."""

    probability: Probability = 0.5
    """Share of the clips that are changed, 0 to 1."""
    count: int = Field(default=2, ge=1, le=100)
    """Spans in a clip, 1 to 100."""
    max_seconds: float = Field(default=0.2, gt=0, le=10)
    """Longest span, seconds, up to 10; lengths are drawn evenly from 0 to this."""
    max_share: float = Field(default=0.2, gt=0, le=0.9)
    """Most of a clip that all its spans together may take, up to 0.9."""


class AugmentationSettings(Settings):
    """What is done to training audio, anew in every epoch. Each block is off (null) unless it is written;
    ``noise: {}`` turns it on with its defaults. They are applied in the order of this table."""

    speed: SpeedSettings | None = None
    """Other tempo and pitch; changes a clip's length."""
    reverberation: ReverberationSettings | None = None
    """Rooms."""
    noise: NoiseSettings | None = None
    """Added noise."""
    gain: GainSettings | None = None
    """Louder or quieter."""
    band_limit: BandLimitSettings | None = None
    """An 8 kHz telephone line; for models that take more than 8 kHz."""
    g711: G711Settings | None = None
    """An 8 kHz telephone line with mu-law or A-law coding."""
    time_mask: TimeMaskSettings | None = None
    """Gaps."""

    @property
    def length_factors(self) -> tuple[float, float]:
        """The shortest and the longest that a clip of length 1 may become; only speed changes it."""
        if self.speed is None or self.speed.probability == 0:
            return 1.0, 1.0
        factors = [1 / factor for factor in self.speed.factors]
        if self.speed.probability < 1:
            factors.append(1.0)
        return min(factors), max(factors)

    @property
    def longest_factor(self) -> float:
        """How many times as long a clip may become."""
        return self.length_factors[1]

    @property
    def is_on(self) -> bool:
        """True where anything is done at all."""
        return any(block is not None for _, block in self)

    @property
    def shortest_factor(self) -> float:
        """How many times as long a clip stays at least."""
        return self.length_factors[0]


class Augmenter:
    """Carries out augmentation on waveforms of one sample rate (Hz); holds no state, so threads may share it.

    Raises ConfigError where a setting makes no sense at this rate, DataError where there are no noises or
    impulse responses in the place that is named.
    """

    def __init__(self, settings: AugmentationSettings, sample_rate: int) -> None:
        if settings.band_limit is not None and sample_rate <= g711.SAMPLE_RATE:
            raise ConfigError(
                f"band_limit leaves audio of {sample_rate} Hz as it is, for it has nothing above 4 kHz; leave it out"
            )
        self.settings = settings
        self.sample_rate = sample_rate
        self.noises = () if settings.noise is None else _recordings(settings.noise.recordings, "noise recordings")
        room = settings.reverberation
        self.responses = () if room is None else _recordings(room.impulse_responses, "impulse responses")

    def __call__(self, waveform: Waveform, rng: np.random.Generator) -> Waveform:
        """A waveform ``[S]`` float32 in [-1, 1] to another, of ``length_after(S, rng)`` samples in [-1, 1].

        The input is not written to, and is returned itself where nothing is drawn for it. Raises DataError
        naming a noise or an impulse response that cannot be used.
        """
        factor = self._speed(rng)
        if not len(waveform):
            return waveform
        augmented = effects.change_speed(waveform, factor)
        if self.settings.reverberation is not None:
            augmented = self._reverberate(augmented, self.settings.reverberation, rng)
        if self.settings.noise is not None:
            augmented = self._add_noise(augmented, self.settings.noise, rng)
        gain = self.settings.gain
        if gain is not None and _drawn(gain.probability, rng):
            augmented = effects.gain(augmented, rng.uniform(*gain.decibels))
        augmented = self._telephone(augmented, rng)
        if self.settings.time_mask is not None:
            augmented = self._mask(augmented, self.settings.time_mask, rng)
        return effects.within_full_scale(augmented)

    def length_after(self, samples: int, rng: np.random.Generator) -> int:
        """How many samples a clip of so many becomes, when it is augmented with a generator in the same state."""
        return effects.speed_samples(samples, self._speed(rng))

    def _speed(self, rng: np.random.Generator) -> float:
        # The first thing drawn: `length_after` relies on it.
        speed = self.settings.speed
        if speed is None or not _drawn(speed.probability, rng):
            return 1.0
        return speed.factors[rng.integers(len(speed.factors))]

    def _reverberate(self, waveform: Waveform, settings: ReverberationSettings, rng: np.random.Generator) -> Waveform:
        if not _drawn(settings.probability, rng):
            return waveform
        if self.responses and not _drawn(settings.generated_share, rng):
            recording = self.responses[rng.integers(len(self.responses))]
            response = _load(recording, self.sample_rate, "impulse response")
            if not response.any():
                raise DataError(f"the impulse response {recording.audio_filepath} is silent; take it out")
        else:
            response = effects.room_response(
                rng.uniform(*settings.rt60_seconds),
                rng.uniform(*settings.direct_to_reverberant_decibels),
                self.sample_rate,
                rng,
            )
        return effects.reverberate(waveform, response)

    def _add_noise(self, waveform: Waveform, settings: NoiseSettings, rng: np.random.Generator) -> Waveform:
        if not _drawn(settings.probability, rng):
            return waveform
        snr = rng.uniform(*settings.snr_decibels)
        if self.noises and not _drawn(settings.generated_share, rng):
            noise = self._recorded_noise(len(waveform), rng)
        else:
            color = settings.colors[rng.integers(len(settings.colors))]
            noise = effects.colored_noise(len(waveform), self.sample_rate, color, rng)
        return effects.mix(waveform, noise, snr)

    def _recorded_noise(self, samples: int, rng: np.random.Generator) -> Waveform:
        """A stretch ``[samples]`` of one of the recordings, repeated where it is shorter."""
        recording = self.noises[rng.integers(len(self.noises))]
        seconds = samples / self.sample_rate
        if recording.duration is not None and recording.duration > seconds:
            offset = recording.offset + rng.uniform(0, recording.duration - seconds)
            recording = replace(recording, offset=offset, duration=seconds)
        noise = _load(recording, self.sample_rate, "noise recording")
        if len(noise) < samples:
            return np.resize(np.roll(noise, -int(rng.integers(len(noise)))), samples)
        start = int(rng.integers(len(noise) - samples + 1))
        return noise[start : start + samples]

    def _telephone(self, waveform: Waveform, rng: np.random.Generator) -> Waveform:
        band, code = self.settings.band_limit, self.settings.g711
        is_narrow = band is not None and _drawn(band.probability, rng)
        law = None
        if code is not None and _drawn(code.probability, rng):
            law = code.laws[rng.integers(len(code.laws))]
        return effects.telephone(waveform, self.sample_rate, law) if is_narrow or law else waveform

    def _mask(self, waveform: Waveform, settings: TimeMaskSettings, rng: np.random.Generator) -> Waveform:
        if not _drawn(settings.probability, rng):
            return waveform
        longest = round(settings.max_seconds * self.sample_rate)
        return effects.mask_spans(waveform, settings.count, longest, int(settings.max_share * len(waveform)), rng)


def _drawn(probability: float, rng: np.random.Generator) -> bool:
    return bool(rng.random() < probability)


AUDIO_ENDINGS = frozenset(
    ".wav .flac .mp3 .ogg .oga .opus .m4a .mp4 .aac .webm .mkv .w64 .aif .aiff .au .caf .amr .wma .wv".split()
)
"""Of the files in a folder that are taken for recordings; others (licences, lists) are passed over."""


def _recordings(source: Path | None, what: str) -> tuple[Utterance, ...]:
    """What a folder or a manifest holds, in an order that is the same everywhere."""
    if source is None:
        return ()
    if not source.exists():
        raise DataError(f"{what}: there is no {source}; give a folder of recordings or a manifest")
    if not source.is_dir():
        return tuple(read_manifest(source))
    files = [file for file in source.rglob("*") if file.suffix.lower() in AUDIO_ENDINGS and file.is_file()]
    if not files:
        raise DataError(f"{what}: the folder {source} holds no recordings ({', '.join(sorted(AUDIO_ENDINGS))})")
    names = sorted(file.relative_to(source).as_posix() for file in files)
    return tuple(Utterance(name, source / name) for name in names)


def _load(recording: Utterance, sample_rate: int, what: str) -> Waveform:
    try:
        waveform = recording.load(sample_rate)
    except AudioError as error:
        raise DataError(f"the {what} {error}; mend it or take it out") from error
    if not len(waveform):
        raise DataError(f"the {what} {recording.audio_filepath} is empty; take it out")
    return waveform

"""The synthetic voices: which are trained on, and which are held out and may never be."""

from __future__ import annotations

import random
from dataclasses import dataclass

ESPEAK_ACCENTS = {
    "en-us": 34,
    "en-gb": 22,
    "en-gb-x-rp": 12,
    "en-us-nyc": 9,
    "en-gb-scotland": 8,
    "en-029": 5,
    "en-gb-x-gbclan": 5,
    "en-gb-x-gbcwmd": 5,
}
# Variants of espeak-ng that speak like a human; whispers, robots and effects are left out.
ESPEAK_COMMON = tuple("f1 f2 f3 f5 m1 m2 m3 m4 m5 m6 m8".split())
ESPEAK_OTHER = tuple(
    (
        "Alex Alicia Andrea Andy Annie Denis Diogo Gene Gene2 Henrique Hugo Jacky Lee Marco Mario Michael Mike Nguyen "
        "RicishayMax RicishayMax2 RicishayMax3 Tweaky adam anika antonio aunty belinda benjamin boris caleb david ed "
        "edward edward2 grandma grandpa gustave iven iven2 iven3 iven4 john kaukovalta klatt klatt2 klatt3 klatt4 "
        "klatt5 linda marcelo max michel miguel norbert pablo paul pedro quincy rob robert sandro shelby steph steph2 "
        "steph3 travis victor zac"
    ).split()
)
FLITE_VOICES = {"kal16": 25, "awb": 33, "rms": 35, "kal": 7}
FLITE_SHARE = 0.42
FESTIVAL_VOICES = ("ked", "ked", "kal")
FESTIVAL_SHARE = 0.07

HELD_OUT_VARIANTS = frozenset({"f4", "m7"})
HELD_OUT_NAMES = frozenset({"slt", "cmu_us_slt", "festvox-us-slt-hts", "us-slt-hts", "cmu_us_slt_arctic_hts"})


class HeldOutVoiceError(ValueError):
    """A held-out voice was asked for in a split that is trained on."""


@dataclass(frozen=True)
class Voice:
    """A voice: its engine, its name, and how it speaks.

    ``rate`` is in words a minute for espeak-ng and the stretch of durations for flite and Festival; ``pitch`` is 0-99
    for espeak-ng and in Hz for flite (0: the voice's own); ``pitch_range`` is 0-99 for espeak-ng and in Hz for flite
    (0: its own). ``speed`` is how much faster the recording is then played: higher, with a smaller mouth.
    """

    engine: str
    name: str
    rate: float
    pitch: float = 0.0
    pitch_range: float = 0.0
    volume: int = 100
    word_gap: int = 0
    speed: float = 1.0


def is_held_out(engine: str, name: str) -> bool:
    """Whether a voice is kept for testing, by its name."""
    lowered = name.lower()
    if lowered in HELD_OUT_NAMES or "slt" in lowered.replace("-", "_").split("_"):
        return True
    return engine == "espeak" and lowered.partition("+")[2] in HELD_OUT_VARIANTS


def check_trainable(voice: Voice) -> Voice:
    """The voice itself, or an error if it is held out."""
    if is_held_out(voice.engine, voice.name):
        raise HeldOutVoiceError(
            f"{voice.engine} voice {voice.name!r} is held out for testing and may not be trained on"
        )
    return voice


def random_voice(rng: random.Random) -> Voice:
    """A voice for training, with a random manner of speaking."""
    pick = rng.random()
    if pick < FLITE_SHARE:
        return check_trainable(_flite(rng))
    if pick < FLITE_SHARE + FESTIVAL_SHARE:
        speed = _speed(rng)
        stretch = rng.uniform(0.75, 1.15) * speed
        return check_trainable(Voice("festival", rng.choice(FESTIVAL_VOICES), round(stretch, 3), speed=speed))
    return check_trainable(_espeak(rng))


def _speed(rng: random.Random) -> float:
    """From a larger mouth to a smaller one; the trained voices of flite and Festival are men's, so more are higher."""
    return round(rng.uniform(0.9, 1.3), 3) if rng.random() < 0.6 else 1.0


def _flite(rng: random.Random) -> Voice:
    name = rng.choices(list(FLITE_VOICES), list(FLITE_VOICES.values()))[0]
    speed = _speed(rng)
    stretch = round(rng.uniform(0.82, 1.25) * speed, 3) if rng.random() < 0.7 else speed
    # The pitch is what is heard after the change of speed.
    pitch = round(rng.uniform(80, 230) / speed, 1) if rng.random() < 0.5 else 0.0
    spread = round(rng.uniform(8, 40), 1) if rng.random() < 0.4 else 0.0
    return Voice("flite", name, stretch, pitch, spread, speed=speed)


def _espeak(rng: random.Random) -> Voice:
    accent = rng.choices(list(ESPEAK_ACCENTS), list(ESPEAK_ACCENTS.values()))[0]
    pick = rng.random()
    if pick < 0.15:
        name = accent
    elif pick < 0.60:
        name = f"{accent}+{rng.choice(ESPEAK_COMMON)}"
    else:
        name = f"{accent}+{rng.choice(ESPEAK_OTHER)}"
    return Voice(
        "espeak",
        name,
        rate=min(230, max(115, round(rng.gauss(168, 24)))),
        pitch=rng.randint(25, 75),
        pitch_range=rng.randint(25, 80),
        volume=rng.randint(60, 100),
        word_gap=rng.choices([0, 1, 2, 4, 8], [70, 12, 8, 6, 4])[0],
        speed=round(rng.uniform(0.9, 1.12), 3) if rng.random() < 0.6 else 1.0,
    )

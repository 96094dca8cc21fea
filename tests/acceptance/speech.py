"""Speech for the acceptance tests: sentences of a domain, spoken by espeak-ng, with a manifest."""

from __future__ import annotations

import json
import random
import subprocess
import wave
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

VOICES = tuple(f"{accent}+{variant}" for accent in ("en-us", "en-gb") for variant in ("m1", "m3", "f1", "f2", "f5"))
"""Voices that tiny-en was trained on, so that only what is said is new."""

_ONES = "one two three four five six seven eight nine ten eleven twelve".split()
_TEENS = "thirteen fourteen fifteen sixteen seventeen eighteen nineteen".split()
_TENS = "twenty thirty forty fifty sixty seventy eighty ninety".split()
_MONTHS = "january february march april may june july august september october november december".split()
_DAYS = (
    "first second third fourth fifth sixth seventh eighth ninth tenth eleventh twelfth thirteenth fourteenth fifteenth "
    "sixteenth seventeenth eighteenth nineteenth twentieth"
).split()
FILLERS = ("um", "uh", "erm", "you know", "i mean")


def number_words(rng: random.Random) -> str:
    """A number below ten thousand in words."""

    def below_hundred() -> str:
        pick = rng.random()
        if pick < 0.4:
            return rng.choice(_ONES + _TEENS)
        return rng.choice(_TENS) + (f" {rng.choice(_ONES[:9])}" if pick < 0.8 else "")

    pick = rng.random()
    if pick < 0.3:
        return below_hundred()
    hundreds = f"{rng.choice(_ONES[:9])} hundred and {below_hundred()}"
    return hundreds if pick < 0.75 else f"{rng.choice(_ONES[:9])} thousand {hundreds}"


def filled(text: str, rng: random.Random) -> str:
    """A sentence with one or two fillers between its words."""
    words = text.split()
    for _ in range(rng.randint(1, 2)):
        words.insert(rng.randrange(len(words)), rng.choice(FILLERS))
    return " ".join(words)


def numbers_and_dates(count: int, seed: int) -> list[str]:
    """Sentences of invoices, parcels and appointments: numbers, dates and fillers; all different."""
    rng = random.Random(seed)
    frames = (
        "the invoice of {month} the {day} is {number} dollars",
        "your reference number is {number} dash {number}",
        "the parcel number {number} arrives on {month} the {day}",
        "we sold {number} tickets in {month}",
        "the account ends in {number}",
        "my appointment is on the {day} of {month}",
        "that will be {number} dollars and {number} cents",
        "the population grew from {number} to {number}",
        "flight {number} leaves on {month} the {day}",
        "extension {number} on the {day} floor",
    )
    sentences: dict[str, None] = {}
    while len(sentences) < count:
        frame = rng.choice(frames)
        while "{" in frame:
            frame = frame.replace("{month}", rng.choice(_MONTHS), 1)
            frame = frame.replace("{day}", rng.choice(_DAYS), 1)
            frame = frame.replace("{number}", number_words(rng), 1)
        sentences.setdefault(filled(frame, rng))
    return list(sentences)


def speak(sentences: list[str], folder: Path, seed: int) -> Path:
    """The sentences as 16-bit wav files at espeak-ng's 22,050 Hz and their manifest."""
    rng = random.Random(seed)
    folder.mkdir(parents=True, exist_ok=True)
    plan = [(index, text, rng.choice(VOICES), rng.randint(145, 185)) for index, text in enumerate(sentences)]

    def one(job: tuple[int, str, str, int]) -> dict[str, object]:
        index, text, voice, rate = job
        path = folder / f"{index}.wav"
        command = ["espeak-ng", "-v", voice, "-s", str(rate), "-w", str(path), text]
        subprocess.run(command, check=True, capture_output=True, timeout=60)
        with wave.open(str(path)) as file:
            seconds = file.getnframes() / file.getframerate()
        return {"audio_filepath": path.name, "text": text, "duration": round(seconds, 4), "speaker": voice}

    with ThreadPoolExecutor(2) as pool:
        lines = list(pool.map(one, plan))
    manifest = folder / "manifest.jsonl"
    manifest.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return manifest

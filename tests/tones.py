"""Recordings whose text can be heard in them: the pitch of a tone is its word. For tests that train."""

from __future__ import annotations

import json
import math
import random
import struct
import wave
from pathlib import Path

WORDS = {"low": 50, "mid": 130, "high": 310}
"""Word to pitch in Hz. Multiples of 10, so that every frame of a toy encoder (0.1 s) sees the same wave."""
RATE = 1000


def write_tone(path: Path, hertz: float, seconds: float, noise: random.Random) -> Path:
    """A tone in a little noise as 16-bit mono wav."""
    samples = [
        round(16_000 * math.sin(2 * math.pi * hertz * i / RATE) + noise.uniform(-1000, 1000))
        for i in range(round(seconds * RATE))
    ]
    with wave.open(str(path), "wb") as file:
        file.setparams((1, 2, RATE, 0, "NONE", ""))
        file.writeframes(struct.pack(f"<{len(samples)}h", *samples))
    return path


def write_corpus(folder: Path, count: int, seed: int = 0) -> Path:
    """A manifest of ``count`` tones of 0.3 to 0.8 s; returns its path."""
    rng = random.Random(seed)
    folder.mkdir(parents=True, exist_ok=True)
    lines = []
    for index in range(count):
        word = list(WORDS)[index % len(WORDS)]
        seconds = rng.randrange(300, 801) / 1000
        write_tone(folder / f"{index}.wav", WORDS[word], seconds, rng)
        lines.append(json.dumps({"audio_filepath": f"{index}.wav", "text": word, "duration": seconds}))
    manifest = folder / "manifest.jsonl"
    manifest.write_text("\n".join(lines) + "\n")
    return manifest

"""Makes the test recordings: every line of the test texts, clean, in trained and in held-out voices.

    python make_test.py --output DIR

Every line is spoken by one voice of each group, in rotation, and once more in a clip of two or three lines. The
held-out voices speak here and nowhere else. A last set, ``silence``, has clips in which nobody speaks.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import effects
import numpy as np
from make_corpus import write_lines, write_wav
from synthesize import SynthesisError, Synthesizer
from vocabulary import HERE
from voices import Voice, is_held_out


def _espeak(name: str, rate: int) -> Voice:
    return Voice("espeak", name, rate, pitch=50, pitch_range=50)


GROUPS: dict[str, tuple[Voice, ...]] = {
    "espeak-trained": (
        _espeak("en-us+m3", 165),
        _espeak("en-gb+f2", 160),
        _espeak("en-gb-scotland+m1", 150),
        _espeak("en-us+f3", 175),
        _espeak("en-us", 140),
        _espeak("en-us", 190),
    ),
    "espeak-unseen": (
        _espeak("en-us+f4", 165),
        _espeak("en-us+m7", 160),
        _espeak("en-gb+f4", 155),
        _espeak("en-gb+m7", 170),
    ),
    "flite-trained": (Voice("flite", "kal16", 1.0), Voice("flite", "awb", 1.0), Voice("flite", "rms", 1.0)),
    "flite-unseen": (Voice("flite", "slt", 1.0),),
}
SETS = ("test-dev", "test-final")
EDGE_SECONDS = 0.2
SEVERAL = (2, 3)
"""Sentences in a clip of the group ``espeak-several``, in turn: the lines once more, in the trained voices of
espeak-ng."""
PAUSE_SECONDS = 0.4
SILENCE_CLIPS = 500
SILENCE_SEED = 7


def check_groups() -> None:
    """Held-out voices speak in the unseen groups, and only held-out ones do."""
    for group, voices in GROUPS.items():
        for voice in voices:
            if is_held_out(voice.engine, voice.name) != group.endswith("-unseen"):
                raise ValueError(f"{voice.name!r} does not belong in {group}")


def make_set(output: Path, name: str, lines: list[str]) -> list[dict[str, Any]]:
    """Speak the lines of a test text; returns the manifest's entries and writes it."""
    check_groups()
    synthesizer = Synthesizer()
    entries: list[dict[str, Any]] = []
    for group, voices in GROUPS.items():
        for number, line in enumerate(lines):
            voice = voices[number % len(voices)]
            entries.append(make_clip(output, name, group, number, [line], voice, synthesizer))
    voices = GROUPS["espeak-trained"]
    rest = list(lines)
    number = 0
    while len(rest) >= max(SEVERAL):
        count = SEVERAL[number % len(SEVERAL)]
        said, rest = rest[:count], rest[count:]
        voice = voices[number % len(voices)]
        entries.append(make_clip(output, name, "espeak-several", number, said, voice, synthesizer))
        number += 1
    write_lines(output / f"{name}.jsonl", entries)
    return entries


def make_clip(
    output: Path, name: str, group: str, number: int, lines: list[str], voice: Voice, synthesizer: Synthesizer
) -> dict[str, Any]:
    """Speak lines in a voice, one after the other, write the recording and return its entry."""
    edge = np.zeros(int(EDGE_SECONDS * effects.SAMPLE_RATE), dtype=np.float32)
    between = np.zeros(int(PAUSE_SECONDS * effects.SAMPLE_RATE), dtype=np.float32)
    pieces = [edge]
    for line in lines:
        spoken, rate = synthesizer.speak(line, voice)
        if spoken.size == 0:
            raise SynthesisError(f"{voice.name} was silent at {line!r} of {name}")
        pieces += [effects.resample(spoken, rate), between]
    samples = effects.limit(np.concatenate([*pieces[:-1], edge]))
    path = output / name / group / f"{number:04d}.wav"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_wav(path, samples)
    return {
        "audio_filepath": path.relative_to(output).as_posix(),
        "text": " ".join(lines),
        "duration": round(samples.size / effects.SAMPLE_RATE, 4),
        "engine": voice.engine,
        "voice": voice.name,
        "rate": voice.rate,
        "kind": "sentence" if len(lines) == 1 else "several",
        "group": group,
    }


def make_silence(output: Path, clips: int = SILENCE_CLIPS) -> list[dict[str, Any]]:
    """Clips in which nobody speaks, half a second to ten seconds long: zeros, coloured noise, tones and hum in turn."""
    rng = np.random.default_rng(SILENCE_SEED)
    entries: list[dict[str, Any]] = []
    for number in range(clips):
        count = int(rng.uniform(0.5, 10.0) * effects.SAMPLE_RATE)
        level = np.float32(10 ** (-rng.uniform(6, 60) / 20))
        kind = ("zeros", "noise", "tone", "hum")[number % 4]
        if kind == "zeros":
            samples = np.zeros(count, dtype=np.float32)
        elif kind == "noise":
            samples = effects.limit(level * effects.coloured(rng, count, float(rng.uniform(0.0, 2.0))))
        elif kind == "tone":
            time = np.arange(count) / effects.SAMPLE_RATE
            samples = effects.limit(level * np.sin(2 * np.pi * rng.uniform(80, 6000) * time).astype(np.float32))
        else:
            samples = effects.limit(level * effects.hum(rng, count))
        path = output / "silence" / f"{number:04d}.wav"
        path.parent.mkdir(parents=True, exist_ok=True)
        write_wav(path, samples)
        entries.append(
            {
                "audio_filepath": path.relative_to(output).as_posix(),
                "text": "",
                "duration": round(count / effects.SAMPLE_RATE, 4),
                "engine": "none",
                "voice": kind,
                "kind": "empty",
                "group": "silence",
            }
        )
    write_lines(output / "silence.jsonl", entries)
    return entries


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description="Make the test recordings.")
    parser.add_argument("--output", type=Path, required=True, help="folder of the recordings")
    options = parser.parse_args()
    for name in SETS:
        text = (HERE / f"{name}.txt").read_text(encoding="utf-8")
        lines = [line.strip() for line in text.splitlines() if line.strip()]
        entries = make_set(options.output, name, lines)
        hours = sum(entry["duration"] for entry in entries) / 3600
        print(json.dumps({"set": name, "lines": len(lines), "clips": len(entries), "hours": round(hours, 3)}))

    silence = make_silence(options.output)
    print(json.dumps({"set": "silence", "clips": len(silence)}))


if __name__ == "__main__":
    main()

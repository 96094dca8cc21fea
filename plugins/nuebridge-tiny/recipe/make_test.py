"""Makes the test recordings: every line of the test texts, clean, in trained and in held-out voices.

    python make_test.py --output DIR

Every line is spoken by one voice of each group, in rotation. The held-out voices speak here and nowhere else.
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
    edge = np.zeros(int(EDGE_SECONDS * effects.SAMPLE_RATE), dtype=np.float32)
    entries: list[dict[str, Any]] = []
    for group, voices in GROUPS.items():
        folder = output / name / group
        folder.mkdir(parents=True, exist_ok=True)
        for number, line in enumerate(lines):
            voice = voices[number % len(voices)]
            spoken, rate = synthesizer.speak(line, voice)
            if spoken.size == 0:
                raise SynthesisError(f"{voice.name} was silent at line {number + 1} of {name}")
            samples = effects.limit(np.concatenate([edge, effects.resample(spoken, rate), edge]))
            path = folder / f"{number:04d}.wav"
            write_wav(path, samples)
            entries.append(
                {
                    "audio_filepath": path.relative_to(output).as_posix(),
                    "text": line,
                    "duration": round(samples.size / effects.SAMPLE_RATE, 4),
                    "engine": voice.engine,
                    "voice": voice.name,
                    "rate": voice.rate,
                    "kind": "sentence",
                    "group": group,
                }
            )
    write_lines(output / f"{name}.jsonl", entries)
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


if __name__ == "__main__":
    main()

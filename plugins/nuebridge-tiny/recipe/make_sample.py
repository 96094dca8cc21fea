"""Makes the sample recording of the package: one synthesised sentence in a trained voice.

python make_sample.py --package ../src/nuebridge_tiny
"""

from __future__ import annotations

import argparse
from pathlib import Path

import effects
import numpy as np
from make_corpus import write_wav
from make_test import EDGE_SECONDS
from synthesize import Synthesizer
from voices import Voice, check_trainable

TEXT = "The last train leaves at nine in the evening."
VOICE = Voice("espeak", "en-us+m3", 140, pitch=50, pitch_range=50)


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description="Make the sample recording.")
    parser.add_argument("--package", type=Path, required=True, help="folder of the Python package")
    options = parser.parse_args()
    spoken, rate = Synthesizer().speak(TEXT, check_trainable(VOICE))
    edge = np.zeros(int(EDGE_SECONDS * effects.SAMPLE_RATE), dtype=np.float32)
    write_wav(
        options.package / "sample.wav", effects.limit(np.concatenate([edge, effects.resample(spoken, rate), edge]))
    )
    (options.package / "sample.txt").write_text(TEXT + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

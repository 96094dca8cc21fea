"""Writes fixtures/torchaudio-features.safetensors: what Granite Speech's own extractor, which needs torchaudio, gives.

    python plugins/nuebridge-hf/tests/make_torchaudio_features.py

It is to be run where torchaudio is installed; it was made with torchaudio 2.11.0 and transformers 5.23.0.
"""

from __future__ import annotations

from pathlib import Path

from safetensors.torch import save_file
from test_speech_llms import clips
from transformers import GraniteSpeechFeatureExtractor

if __name__ == "__main__":
    extractor = GraniteSpeechFeatureExtractor(n_mels=16)
    heard = {
        f"granite-{len(clip)}": extractor(clip)["input_features"][0].contiguous() for clip in clips(4000, 8001, 12347)
    }
    save_file(heard, Path(__file__).parent / "fixtures" / "torchaudio-features.safetensors", metadata={"format": "pt"})

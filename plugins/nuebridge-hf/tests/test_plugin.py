"""The plugin is found through its entry point and costs nothing until a part is loaded."""

from __future__ import annotations

import subprocess
import sys

from nuebridge.hookspecs import CheckpointFormat, SpeechEncoderComponent, TextDecoderComponent
from nuebridge.plugins import PluginManager


def test_its_components_are_found_and_load():
    manager = PluginManager.discover()
    for kind, model_type, component, name in (
        (SpeechEncoderComponent, "hubert", "hf.hubert", "HubertEncoder"),
        (SpeechEncoderComponent, "wav2vec2", "hf.wav2vec2", "Wav2Vec2Encoder"),
        (TextDecoderComponent, "llama", "hf.causal-lm", "CausalLm"),
    ):
        ref = manager.claiming(kind, model_type)
        assert ref.id == component
        assert ref.load().__name__ == name
        assert ref.parse_options({"allow_pickle": True}).allow_pickle
    found = manager.recognizing({"model_type": "nue_asr"})
    assert found is not None and found.id == "hf.nue-asr"
    assert callable(manager.find(CheckpointFormat, "hf.nue-asr").load())
    assert manager.recognizing({"model_type": "hubert"}) is None


def test_its_entry_module_imports_nothing_heavy():
    code = (
        "import sys, nuebridge_hf.plugin as plugin; plugin.nuebridge_speech_encoders(); "
        "sys.exit(' '.join({'torch', 'transformers', 'numpy', 'sentencepiece'} & set(sys.modules)) or None)"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (result.returncode, result.stderr) == (0, "")

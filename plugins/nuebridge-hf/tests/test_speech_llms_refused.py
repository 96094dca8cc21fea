"""Under releases of transformers that do not know them, published speech-language models are refused in one line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import transformers

import nuebridge
from nuebridge.errors import NuebridgeError


@pytest.mark.skipif("qwen3_asr" in transformers.CONFIG_MAPPING, reason="this release knows them")
@pytest.mark.parametrize("model_type", ["qwen3_asr", "granite_speech"])
def test_a_model_that_the_release_does_not_know(tmp_path: Path, model_type: str) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": model_type}))
    with pytest.raises(
        NuebridgeError, match=r"does not know models of type .*: pip install 'transformers>="
    ) as refused:
        nuebridge.load(tmp_path)
    assert "\n" not in str(refused.value)

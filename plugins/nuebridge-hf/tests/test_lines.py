"""What this plugin wrote under transformers 4.57 loads under 5 with the same outputs, and the other way round.

The checkpoints in ``fixtures`` were written by make_line_fixtures.py, once under each line.
"""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest
import torch

from nuebridge.errors import CheckpointError
from nuebridge_hf.causal_lm import CausalLm
from nuebridge_hf.loading import OLDER_THAN_5, read_config
from nuebridge_hf.options import DecoderOptions, EncoderOptions
from nuebridge_hf.wav2vec_family import HubertEncoder, Wav2Vec2Encoder

FIXTURES = Path(__file__).parent / "fixtures"
PARTS = {"hubert": HubertEncoder, "wav2vec2": Wav2Vec2Encoder}


def output(part) -> list[float]:
    spec = importlib.util.spec_from_file_location("make_line_fixtures", FIXTURES.parent / "make_line_fixtures.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.output(part)


@pytest.mark.parametrize("line", ["line-4", "line-5"])
@pytest.mark.parametrize("name", ["gpt_neox", "llama", "gemma2", "gpt2", "hubert", "wav2vec2"])
def test_either_lines_checkpoints_give_the_same_outputs(line, name, tmp_path):
    folder = FIXTURES / line / name
    part_class = PARTS.get(name, CausalLm)
    options = EncoderOptions() if name in PARTS else DecoderOptions()
    part = part_class.load(str(folder), options)
    expected = torch.tensor(json.loads((folder / "expected.json").read_text()))
    torch.testing.assert_close(torch.tensor(output(part)), expected, atol=2e-5, rtol=1e-4)
    if name not in PARTS:
        assert part.encode("<s>ab.</s>") == [1, 3, 4, 30, 2]
        assert (part.decode([1, 3, 4, 30, 2]), part.eos_token_ids, part.pad_token_id) == ("ab.", (2,), 0)
    # and what is saved from it loads again with the same outputs
    part.save(tmp_path)
    torch.testing.assert_close(
        torch.tensor(output(part_class.load(str(tmp_path), options))), torch.tensor(output(part))
    )


@pytest.mark.skipif(not OLDER_THAN_5, reason="transformers 5 reads its own rotary settings")
def test_rotary_settings_that_4_57_has_no_fields_for_are_refused(tmp_path):
    config = json.loads((FIXTURES / "line-5" / "llama" / "config.json").read_text())
    config["rope_parameters"] = {"one_kind": {"rope_theta": 1.0}, "another": {"rope_theta": 2.0}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match="load it under transformers 5"):
        read_config(str(tmp_path))

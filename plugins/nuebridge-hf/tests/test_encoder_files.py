"""Old-style and current-style files of each family: every weight is read, and none that is missing goes unsaid."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file, save_file

from nuebridge.errors import CheckpointError

FAMILIES = {
    "hubert-layer-norm": "encoder.layers.1.attention.q_proj.weight",
    "hubert-ctc": "hubert.encoder.layers.1.attention.q_proj.weight",
    "wav2vec2-pretraining": "wav2vec2.feature_projection.projection.bias",
    "wav2vec2-ctc": "wav2vec2.encoder.pos_conv_embed.conv.bias",
    "wavlm-ctc": "wavlm.encoder.layers.0.attention.rel_attn_embed.weight",
    "data2vec-ctc": "data2vec_audio.encoder.pos_conv_embed.layers.2.conv.weight",
    "w2v-bert-ctc": "wav2vec2_bert.encoder.layers.0.self_attn.distance_embedding.weight",
    "whisper": "model.encoder.conv2.weight",
}
"""A weight of each, by its name in the file."""
WEIGHT_NORM = {"parametrizations.weight.original0": "weight_g", "parametrizations.weight.original1": "weight_v"}


def in_the_old_style(state):
    """Names as they were before torch 2: a weight norm in two tensors of the convolution."""
    for new, old in WEIGHT_NORM.items():
        state = {name.replace(new, old): tensor for name, tensor in state.items()}
    return state


def in_the_current_style(state):
    for new, old in WEIGHT_NORM.items():
        state = {name.replace(old, new): tensor for name, tensor in state.items()}
    return state


@pytest.mark.parametrize("container", ["safetensors", "pickle", "sharded", "half"])
@pytest.mark.parametrize("style", [in_the_old_style, in_the_current_style])
@pytest.mark.parametrize("name", FAMILIES)
def test_both_styles_give_the_same_frames(name, style, container, cases, make_clips, tmp_path):
    folder = cases.copy(name, tmp_path / "copy")
    state = style({key: tensor.clone() for key, tensor in load_file(folder / "model.safetensors").items()})
    if name.startswith(("hubert", "wav2vec2", "wavlm")):
        assert any(("weight_g" in key) == (style is in_the_old_style) for key in state if "pos_conv" in key)
    half = container == "half"
    if half:
        state = {key: tensor.half() for key, tensor in state.items()}
    (folder / "model.safetensors").unlink()
    if container == "pickle":
        torch.save(state, folder / "pytorch_model.bin")
    elif container == "sharded":
        _sharded(state, folder)
    else:
        save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    encoder = cases.load(name, folder, **({"allow_pickle": True} if container == "pickle" else {}))
    assert {parameter.dtype for parameter in encoder.parameters()} == {torch.float32}
    clips = make_clips([4_800])
    with torch.no_grad():
        found, expected = encoder(*clips).features, cases.load(name)(*clips).features
    if half:
        torch.testing.assert_close(found, expected, atol=0.05, rtol=0.05)
    else:
        assert torch.equal(found, expected)


def _sharded(state, folder):
    import json

    names = sorted(state)
    where = {}
    for number, part in enumerate((names[::2], names[1::2]), start=1):
        file = f"model-0000{number}-of-00002.safetensors"
        save_file({key: state[key] for key in part}, folder / file, metadata={"format": "pt"})
        where |= dict.fromkeys(part, file)
    index = {"metadata": {"total_size": 0}, "weight_map": where}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


@pytest.mark.parametrize("name", FAMILIES)
def test_a_missing_an_unexpected_and_a_misshapen_weight_are_errors(name, cases, rewrite_weights, tmp_path):
    key = FAMILIES[name]
    inside = key.rpartition(".")[0].partition("layers")[0].rpartition("encoder")[0] + "encoder."
    changes = {
        "missing": (lambda state: {n: t for n, t in state.items() if n != key}, f"missing: .*{key.split('.')[-2]}"),
        "unexpected": (lambda state: {**state, f"{inside}surprise": torch.zeros(1)}, "unexpected: .*surprise"),
        "shape": (lambda state: {**state, key: torch.zeros(2, 2)}, "shape|size"),
        "elsewhere": (lambda state: {**state, "surprise.weight": torch.zeros(1)}, "unexpected: .*surprise"),
    }
    for what, (change, message) in changes.items():
        folder = cases.copy(name, tmp_path / what)
        assert key in load_file(folder / "model.safetensors")
        rewrite_weights(folder, change)
        with pytest.raises(CheckpointError, match=message) as caught:
            cases.load(name, folder)
        assert "\n" not in str(caught.value) and str(folder) in str(caught.value)


@pytest.mark.parametrize("name", ["hubert-layer-norm", "whisper"])
def test_damaged_files_are_errors_in_one_line(name, cases, tmp_path):
    folder = cases.copy(name, tmp_path / "copy")
    whole = (folder / "model.safetensors").read_bytes()

    def error(**options):
        with pytest.raises(CheckpointError) as caught:
            cases.load(name, folder, **options)
        assert "\n" not in str(caught.value)
        return str(caught.value)

    (folder / "model.safetensors").write_bytes(whole[: len(whole) // 2])
    assert str(folder) in error()
    (folder / "model.safetensors").unlink()
    assert "no weights" in error()
    (folder / "pytorch_model.bin").write_bytes(b"PK\x03\x04 not a pickle")
    assert "allow_pickle" in error()
    assert str(folder) in error(allow_pickle=True)
    (folder / "model.safetensors.index.json").write_text('{"weight_map": {"model.encoder.conv1.bias": "gone"}}')
    assert str(folder) in error()

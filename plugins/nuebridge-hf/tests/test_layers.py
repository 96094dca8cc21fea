"""The option ``layer``: the library's hidden state of a layer, or a learned weighted sum of all of them."""

from __future__ import annotations

import warnings

import pytest
import torch
from pydantic import ValidationError

from nuebridge.errors import CheckpointError, ConfigError
from nuebridge_hf.options import EncoderOptions, WhisperOptions

BOTH_NORMS = ["hubert-group-norm", "hubert-layer-norm", "wavlm-group-norm", "wavlm-layer-norm", "data2vec"]
FAMILIES = [*BOTH_NORMS, "wav2vec2-layer-norm", "w2v-bert", "w2v-bert-relative", "whisper-128-bins"]
LENGTH = 9_999


def states(cases, name, clip):
    """The library's own: what the first layer reads, what each layer gives, the last one with the model's norm."""
    model = cases.theirs(name)
    with torch.no_grad():
        output = model(**cases.inputs(name, clip), output_hidden_states=True)
    # Releases differ in whether the last of the hidden states has the norm.
    return [*output.hidden_states[:-1], output.last_hidden_state]


@pytest.mark.parametrize("name", FAMILIES)
def test_each_layer_is_the_librarys(name, cases, make_clips):
    clips, lengths = make_clips([LENGTH, 16_001])
    alone = clips[:1, :LENGTH]
    expected = states(cases, name, alone[0])
    assert len(expected) == 3
    for layer in (0, 1, 2, -1, -2, -3):
        encoder = cases.load(name, layer=layer)
        with torch.no_grad():
            frames = encoder(alone, lengths[:1]).features[0]
            together = encoder(clips, lengths)
        torch.testing.assert_close(frames, expected[layer][0, : len(frames)], atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(together.features[0, : len(frames)], frames, atol=2e-5, rtol=1e-5)
        assert not together.features[0, len(frames) :].any()


@pytest.mark.parametrize("name", FAMILIES)
def test_the_weighted_sum_is_of_the_librarys_layers(name, cases, make_clips):
    clips, lengths = make_clips([LENGTH, 16_001])
    alone = clips[:1, :LENGTH]
    layers = torch.stack(states(cases, name, alone[0]))[:, 0]
    encoder = cases.load(name, layer="weighted")
    for weights in ([0.0, 0.0, 0.0], [2.0, -1.0, 0.5]):
        with torch.no_grad():
            encoder.layer_reader.weights.copy_(torch.tensor(weights))
            frames = encoder(alone, lengths[:1]).features[0]
            together = encoder(clips, lengths).features[0, : len(frames)]
        shares = torch.tensor(weights).softmax(0)[:, None, None]
        torch.testing.assert_close(frames, (shares * layers).sum(0)[: len(frames)], atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(together, frames, atol=2e-5, rtol=1e-5)


@pytest.mark.parametrize("name", ["hubert-layer-norm", "whisper-128-bins"])
def test_the_weights_learn_and_are_a_group_of_their_own(name, cases, make_clips):
    encoder = cases.load(name, layer="weighted")
    group = encoder.parameter_groups()[-1]
    assert group.name == "layer_weights" and group.parameters == (encoder.layer_reader.weights,)
    encoder(*make_clips([LENGTH])).features.square().sum().backward()
    assert int((encoder.layer_reader.weights.grad != 0).sum()) == 3
    assert all(group.name != "layer_weights" for group in cases.load(name, layer=1).parameter_groups())


@pytest.mark.parametrize("name", ["hubert-layer-norm", "w2v-bert", "whisper-128-bins"])
def test_the_weights_are_saved_and_loaded(name, cases, make_clips, digests, tmp_path):
    first = cases.load(name, layer="weighted")
    with torch.no_grad():
        first.layer_reader.weights.copy_(torch.tensor([0.3, -1.0, 2.0]))
    folders = [tmp_path / part for part in ("a", "b")]
    for folder in folders:
        folder.mkdir()
    first.save(folders[0])
    second = cases.load(name, folders[0], layer="weighted")
    second.save(folders[1])
    assert digests(folders[0]) == digests(folders[1]) and "layer_weights.safetensors" in digests(folders[0])
    assert len({file.stat().st_mode for file in folders[0].iterdir()}) == 1
    clips = make_clips([LENGTH])
    with torch.no_grad():
        assert torch.equal(first(*clips).features, second(*clips).features)
    with pytest.warns(UserWarning, match="learned weights of layers, which the option layer: 1 does not use"):
        cases.load(name, folders[0], layer=1)
    folder = cases.copy("whisper" if name == "w2v-bert" else "w2v-bert", tmp_path / "other")
    weights = torch.zeros(9)
    from safetensors.torch import save_file

    save_file({"weights": weights}, folder / "layer_weights.safetensors")
    with pytest.raises(CheckpointError, match=r"shape \[9\] where \[3\] are expected"):
        cases.load("whisper" if name == "w2v-bert" else "w2v-bert", folder, layer="weighted")


@pytest.mark.parametrize("name", FAMILIES)
def test_layers_above_the_one_asked_for_are_kept_but_not_run(name, cases, make_clips, digests, tmp_path):
    encoder = cases.load(name, layer=1)
    run = []
    for index, layer in enumerate(encoder.stack.layers):
        layer.register_forward_hook(lambda *_, index=index: run.append(index))
    encoder(*make_clips([LENGTH])).features.sum().backward()
    assert run == [0]
    assert all(parameter.grad is None for parameter in encoder.stack.layers[1].parameters())
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    for folder, part in ((whole, cases.load(name)), (cut, encoder)):
        folder.mkdir()
        part.save(folder)
    assert digests(whole) == digests(cut)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        again = cases.load(name, cut, layer=1)
    clips = make_clips([LENGTH])
    with torch.no_grad():
        assert torch.equal(again(*clips).features, encoder(*clips).features)


@pytest.mark.parametrize("name", ["hubert-layer-norm", "wavlm-group-norm", "whisper-128-bins"])
def test_dropped_layers_pass_on_what_they_were_given(name, cases, make_clips):
    encoder = cases.load(name, layer="weighted")
    config = encoder.model.config
    config.layerdrop = encoder.model.layerdrop = 1.0
    config.mask_time_prob = 0.0
    off = [module for module in encoder.modules() if isinstance(module, torch.nn.Dropout)]
    for module in off:
        module.p = 0.0
    clips = make_clips([LENGTH])
    with torch.no_grad():
        first = cases.load(name, layer=0)(*clips).features
        encoder.train()
        if name.startswith("wavlm"):  # it never drops its first layer
            with pytest.raises(AssertionError):
                torch.testing.assert_close(encoder(*clips).features, first)
            return
        norm = encoder.stack.layer_norm(first)
        torch.testing.assert_close(encoder(*clips).features, (2 * first + norm) / 3, atol=1e-5, rtol=1e-5)


def test_a_layer_that_is_not_there_is_refused(cases):
    for layer in (3, -4):
        with pytest.raises(ConfigError, match=f"no layer {layer}: the encoder has 2; .* to 2, or -1 .* to -3"):
            cases.load("hubert-group-norm", layer=layer)
    for wrong in (True, "3", "sum", 1.5):
        with pytest.raises(ValidationError):
            EncoderOptions(layer=wrong)
        with pytest.raises(ValidationError):
            WhisperOptions(layer=wrong)


@pytest.mark.parametrize("name", ["wav2vec2-adapter", "w2v-bert-adapter"])
def test_the_layer_below_a_checkpoints_adapter_cannot_be_chosen(name, cases):
    for layer in (1, "weighted"):
        with pytest.raises(ConfigError, match="add_adapter"):
            cases.load(name, layer=layer)


def test_an_outline_has_the_weights_of_the_sum_too(cases):
    name = "hubert-group-norm"
    outline = cases.part_class(name).outline(str(cases.folder(name)), EncoderOptions(layer="weighted"))
    assert outline.parameter_groups()[-1].parameters[0].shape == (3,)

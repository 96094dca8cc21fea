"""HuBERT and wav2vec 2.0: the same frames as the library's for one clip, and as alone in any batch."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from transformers import Wav2Vec2FeatureExtractor

from nuebridge.errors import AudioTooShortError, CheckpointError, SizeMismatchError
from nuebridge_hf.masked_norm import masked_group_norm
from nuebridge_hf.options import EncoderOptions
from nuebridge_hf.wav2vec_family import HubertEncoder, Wav2Vec2Encoder

CLASSES = {"hubert": HubertEncoder, "wav2vec2": Wav2Vec2Encoder}
EVERY = [(family, front_end) for family in CLASSES for front_end in ("group", "group-stable", "layer")]
LENGTHS = [4800, 48_111, 240_000, 9_999, 16_001]  # 0.3 s to 15 s, odd and even


@pytest.mark.parametrize(("family", "front_end"), EVERY)
def test_frames_are_the_librarys_for_an_unpadded_clip(family, front_end, make_speech_model, make_clips):
    model = make_speech_model(family, front_end)
    encoder = CLASSES[family](model).eval()
    for length in (4800, 16_001):
        clip, lengths = make_clips([length])
        with torch.no_grad():
            frames, expected = encoder(clip, lengths), model(clip).last_hidden_state
        assert frames.lengths.tolist() == [expected.shape[1]]
        torch.testing.assert_close(frames.features, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("at_once", [False, True], ids=["clip-by-clip", "one-batch"])
@pytest.mark.parametrize(("family", "front_end"), EVERY)
def test_frames_do_not_depend_on_the_batch(family, front_end, at_once, make_speech_model, make_clips):
    encoder = CLASSES[family](make_speech_model(family, front_end), normalize=front_end == "layer").eval()
    if at_once:  # the way of accelerators
        encoder._front_end = encoder._convolve
    clips, lengths = make_clips(LENGTHS)
    with torch.no_grad():
        together = encoder(clips, lengths)
        # what lies past a clip's end is not heard
        noisy = clips.masked_fill(torch.arange(clips.shape[1]) >= lengths[:, None], 5.0)
        torch.testing.assert_close(encoder(noisy, lengths).features, together.features, atol=1e-6, rtol=0)
        for row, length in enumerate(LENGTHS):
            alone = encoder(clips[row : row + 1, :length], lengths[row : row + 1])
            frames = int(alone.lengths)
            assert int(together.lengths[row]) == frames
            torch.testing.assert_close(together.features[row, :frames], alone.features[0], atol=1e-4, rtol=0)
            assert not together.features[row, frames:].any()


def test_plain_padding_through_the_library_changes_the_frames(make_speech_model, make_clips):
    """The reason for a front end of our own: without it the test above fails by orders of magnitude."""
    model = make_speech_model("hubert", "group")
    clips, lengths = make_clips(LENGTHS)
    mask = (torch.arange(clips.shape[1]) < lengths[:, None]).long()
    with torch.no_grad():
        padded = model(clips, attention_mask=mask).last_hidden_state
        alone = model(clips[:1, : LENGTHS[0]]).last_hidden_state
    assert (padded[0, : alone.shape[1]] - alone[0]).abs().max() > 0.1


def test_output_lengths_are_exact(make_speech_model):
    encoder = HubertEncoder(make_speech_model("hubert")).eval()
    assert encoder.min_samples == 400
    for length in (400, 401, 719, 720, 721, 48_110, 48_111, 48_112):
        with torch.no_grad():
            frames = encoder(torch.randn(1, length), torch.tensor([length]))
        assert encoder.output_lengths(torch.tensor([length])).tolist() == [frames.features.shape[1]]
    assert encoder.output_lengths(torch.tensor([0, 1, 399])).tolist() == [0, 0, 0]
    assert encoder.frame_rate == 50.0


def test_a_clip_too_short_is_refused(make_speech_model):
    encoder = HubertEncoder(make_speech_model("hubert")).eval()
    with pytest.raises(AudioTooShortError, match="399 samples.* at least 400"):
        encoder(torch.zeros(2, 500), torch.tensor([500, 399]))
    with pytest.raises(SizeMismatchError, match="501 samples .* 500"):
        encoder(torch.zeros(1, 500), torch.tensor([501]))


@pytest.mark.parametrize("normalize", [True, False])
def test_normalization_is_that_of_the_preprocessor(normalize, make_speech_model, make_clips, tmp_path):
    model = make_speech_model("wav2vec2", "layer")
    model.save_pretrained(tmp_path)
    extractor = Wav2Vec2FeatureExtractor(do_normalize=normalize, sampling_rate=16_000)
    extractor.save_pretrained(tmp_path)
    encoder = Wav2Vec2Encoder.load(str(tmp_path), EncoderOptions()).eval()
    clips, lengths = make_clips([8_000, 5_001])
    values = extractor(clips[1, :5_001].numpy(), sampling_rate=16_000, return_tensors="pt").input_values
    with torch.no_grad():
        expected = model(values).last_hidden_state[0]
        torch.testing.assert_close(encoder(clips, lengths).features[1, : len(expected)], expected, atol=1e-5, rtol=0)


def test_masked_group_norm_and_its_gradient_are_those_of_each_clip():
    torch.manual_seed(0)
    norm = nn.GroupNorm(5, 5)
    nn.init.normal_(norm.weight)
    nn.init.normal_(norm.bias)
    lengths, padded = [7, 20, 3, 13], torch.randn(4, 5, 20, requires_grad=True)
    weights = torch.randn(4, 5, 20)
    for row, length in enumerate(lengths):
        weights[row, :, length:] = 0
    out = masked_group_norm(padded, torch.tensor(lengths), norm)
    (out * weights).sum().backward()
    found = [padded.grad, norm.weight.grad, norm.bias.grad]
    norm.zero_grad()
    alone = padded.detach().clone().requires_grad_()
    for row, length in enumerate(lengths):
        expected = norm(alone[row : row + 1, :, :length])
        torch.testing.assert_close(out[row : row + 1, :, :length], expected)
        (expected * weights[row, :, :length]).sum().backward()
    for ours, theirs in zip(found, [alone.grad, norm.weight.grad, norm.bias.grad], strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-4)


def test_gradients_of_a_batch_are_the_sum_of_its_clips(make_speech_model, make_clips):
    encoder = HubertEncoder(make_speech_model("hubert", "group")).eval()
    clips, lengths = make_clips([4_800, 9_999])
    gradients = []
    for together in (True, False):
        encoder.zero_grad()
        rows = [slice(0, 2)] if together else [slice(0, 1), slice(1, 2)]
        for row in rows:
            encoder(clips[row, : int(lengths[row].max())], lengths[row]).features.square().sum().backward()
        gradients.append({name: p.grad.clone() for name, p in encoder.named_parameters() if p.grad is not None})
    assert gradients[0].keys() == gradients[1].keys()
    largest = max(float(gradient.abs().max()) for gradient in gradients[1].values())
    for name, ours in gradients[0].items():
        # the gradient of a key's bias is zero but for rounding
        scale = max(float(gradients[1][name].abs().max()), 1e-4 * largest)
        torch.testing.assert_close(ours, gradients[1][name], atol=1e-3 * scale, rtol=0, msg=name)


def test_a_batch_norm_before_the_positions_keeps_padding_silent(make_speech_model, make_clips):
    model = make_speech_model("hubert", "group", conv_pos_batch_norm=True)
    model.encoder.pos_conv_embed.batch_norm.running_mean += 0.5
    encoder = HubertEncoder(model).eval()
    clips, lengths = make_clips([4_800, 9_999])
    with torch.no_grad():
        together = encoder(clips, lengths).features[0, :14]
        torch.testing.assert_close(together, model(clips[:1, :4_800]).last_hidden_state[0], atol=1e-5, rtol=0)
    before = model.encoder.pos_conv_embed.batch_norm.running_mean.clone()
    encoder.train()(clips, lengths)
    assert torch.equal(model.encoder.pos_conv_embed.batch_norm.running_mean, before)


def test_masking_happens_in_training_alone_and_follows_torchs_seed(make_speech_model, make_clips):
    off = dict.fromkeys(("hidden_dropout", "activation_dropout", "attention_dropout", "layerdrop"), 0.0)
    model = make_speech_model("hubert", mask_time_prob=0.3, mask_time_length=2, feat_proj_dropout=0.0, **off)
    encoder = HubertEncoder(model)
    clips, lengths = make_clips([16_000, 9_999])

    def run(seed: int) -> torch.Tensor:
        torch.manual_seed(seed)
        with torch.no_grad():
            return encoder(clips, lengths).features

    state = np.random.get_state()[1].copy()
    encoder.train()
    assert torch.equal(run(3), run(3))
    assert not torch.allclose(run(3), run(4), atol=1e-3)
    assert np.array_equal(np.random.get_state()[1], state)
    encoder.eval()
    assert torch.equal(run(3), run(4))
    model.config.apply_spec_augment = False
    evaluated = run(3)
    encoder.train()
    torch.testing.assert_close(run(3), evaluated, atol=1e-5, rtol=0)


def test_clips_shorter_than_one_masked_span_can_be_trained_on(make_speech_model, make_clips):
    encoder = HubertEncoder(make_speech_model("hubert", mask_time_prob=0.5, mask_time_length=10)).train()
    assert encoder(*make_clips([1_200, 900])).lengths.tolist() == [3, 2]


@pytest.mark.parametrize(("family", "front_end"), EVERY)
def test_parameter_groups_hold_each_parameter_once(family, front_end, make_speech_model):
    encoder = CLASSES[family](make_speech_model(family, front_end, mask_time_prob=0.1))
    groups = encoder.parameter_groups()
    names = ["front_end", "projection", "layers.0", "layers.1"]
    assert [group.name for group in groups] == (names if front_end == "group" else [*names, "head"])
    listed = [id(parameter) for group in groups for parameter in group.parameters]
    assert sorted(listed) == sorted(id(parameter) for parameter in encoder.parameters())


@pytest.mark.parametrize(("family", "front_end"), EVERY)
def test_saving_twice_and_loading_between_gives_the_same_bytes(
    family, front_end, make_speech_model, make_clips, digests, tmp_path
):
    first = CLASSES[family](make_speech_model(family, front_end), normalize=True, sample_rate=8_000)
    folders = [tmp_path / name for name in ("a", "b", "c")]
    for folder in folders:
        folder.mkdir()
    first.save(folders[0])
    second = CLASSES[family].load(str(folders[0]), EncoderOptions())
    second.save(folders[1])
    CLASSES[family].load(str(folders[1]), EncoderOptions()).save(folders[2])
    assert digests(folders[0]) == digests(folders[1]) == digests(folders[2])
    assert set(digests(folders[0])) == {"config.json", "model.safetensors", "preprocessor_config.json"}
    assert len({file.stat().st_mode for file in folders[0].iterdir()}) == 1
    assert (second.normalize, second.sample_rate) == (True, 8_000)
    clips = make_clips([4_800, 5_001])
    with torch.no_grad():
        assert torch.equal(first.eval()(*clips).features, second.eval()(*clips).features)


def test_the_option_overrides_the_preprocessor(make_speech_model, tmp_path):
    HubertEncoder(make_speech_model("hubert"), normalize=True).save(tmp_path)
    assert not HubertEncoder.load(str(tmp_path), EncoderOptions(normalize=False)).normalize


def test_half_precision_files_become_float32(make_speech_model, tmp_path):
    make_speech_model("hubert").half().save_pretrained(tmp_path)
    encoder = HubertEncoder.load(str(tmp_path), EncoderOptions())
    assert {parameter.dtype for parameter in encoder.parameters()} == {torch.float32}
    assert not encoder.normalize  # no preprocessor_config.json


@pytest.mark.parametrize("name", ["HubertForCTC", "Wav2Vec2ForCTC", "Wav2Vec2ForPreTraining"])
def test_the_encoder_inside_a_larger_model_is_read(name, make_speech_model, make_clips, tmp_path):
    import transformers

    family = "hubert" if name.startswith("Hubert") else "wav2vec2"
    whole = getattr(transformers, name)(make_speech_model(family).config).eval()
    whole.save_pretrained(tmp_path)
    encoder = CLASSES[family].load(str(tmp_path), EncoderOptions()).eval()
    clip, lengths = make_clips([4_800])
    with torch.no_grad():
        expected = getattr(whole, family)(clip).last_hidden_state
        torch.testing.assert_close(encoder(clip, lengths).features, expected, atol=1e-5, rtol=0)


def test_older_spellings_of_the_positional_weight_are_read(make_speech_model, make_clips, rewrite_weights, tmp_path):
    model = make_speech_model("hubert")
    model.save_pretrained(tmp_path)
    old = {"parametrizations.weight.original0": "weight_g", "parametrizations.weight.original1": "weight_v"}

    def rename(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        for new, spelling in old.items():
            state = {name.replace(new, spelling): tensor for name, tensor in state.items()}
        assert any(name.endswith("weight_g") for name in state)
        return state

    rewrite_weights(tmp_path, rename)
    clips = make_clips([4_800])
    with torch.no_grad():
        frames = HubertEncoder.load(str(tmp_path), EncoderOptions()).eval()(*clips)
        assert torch.equal(frames.features, HubertEncoder(model).eval()(*clips).features)


def test_a_missing_mask_embedding_is_zero_and_said(make_speech_model, rewrite_weights, tmp_path):
    make_speech_model("hubert", mask_time_prob=0.1).save_pretrained(tmp_path)
    rewrite_weights(tmp_path, lambda state: {n: t for n, t in state.items() if n != "masked_spec_embed"})
    with pytest.warns(UserWarning, match="no masked_spec_embed"):
        encoder = HubertEncoder.load(str(tmp_path), EncoderOptions())
    assert not encoder.model.masked_spec_embed.any()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda state: {n: t for n, t in state.items() if "layers.1.feed_forward.output" not in n},
            "missing: .*output",
        ),
        (lambda state: {**state, "encoder.surprise": torch.zeros(1)}, "unexpected: encoder.surprise"),
        (
            lambda state: {**state, "feature_projection.projection.weight": torch.zeros(2, 2)},
            "feature_projection.projection.weight|shape|size",
        ),
    ],
)
def test_weights_that_do_not_fit_are_an_error_in_one_line(
    change, message, make_speech_model, rewrite_weights, tmp_path
):
    make_speech_model("hubert").save_pretrained(tmp_path)
    rewrite_weights(tmp_path, change)
    with pytest.raises(CheckpointError, match=message) as caught:
        HubertEncoder.load(str(tmp_path), EncoderOptions())
    assert "\n" not in str(caught.value) and str(tmp_path) in str(caught.value)


def test_what_cannot_be_read_is_an_error_in_one_line(make_speech_model, tmp_path):
    def load(source: Path | str, **options: bool) -> str:
        with pytest.raises(CheckpointError) as caught:
            HubertEncoder.load(str(source), EncoderOptions(**options))
        assert "\n" not in str(caught.value)
        return str(caught.value)

    assert "no checkpoint folder" in load(tmp_path / "nowhere")
    assert "no config.json" in load(tmp_path)
    (tmp_path / "config.json").write_text("{")
    assert "cannot be read as JSON" in load(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "unheard-of"}')
    assert "does not know" in load(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "wav2vec2"}')
    assert "'wav2vec2' model, not a 'hubert' one" in load(tmp_path)
    model = make_speech_model("hubert")
    model.save_pretrained(tmp_path)
    weights = (tmp_path / "model.safetensors").read_bytes()
    (tmp_path / "model.safetensors").write_bytes(weights[: len(weights) // 2])
    assert "cannot be loaded" in load(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    assert "no weights" in load(tmp_path)
    torch.save(model.state_dict(), tmp_path / "pytorch_model.bin")
    assert "allow_pickle" in load(tmp_path)
    assert HubertEncoder.load(str(tmp_path), EncoderOptions(allow_pickle=True)).hidden_size == 32


def test_an_unreachable_hub_id_is_an_error(monkeypatch):
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(CheckpointError, match="neither a folder here nor a repository that can be reached"):
        HubertEncoder.load("someone/no-such-model", EncoderOptions(), revision="0" * 40)

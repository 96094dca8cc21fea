"""Every family of encoders: the library's frames for one clip, alone or in a batch, and a part that keeps itself."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
import transformers

from nuebridge.errors import AudioTooShortError, CheckpointError
from nuebridge.lora import add_lora, lora_parameters
from nuebridge.model import Integration
from nuebridge.settings import LoraSettings
from nuebridge_hf.causal_lm import CausalLm
from nuebridge_hf.examples.encoders import ENCODERS
from nuebridge_hf.loading import quiet_transformers
from nuebridge_hf.options import EncoderOptions

LENGTHS = [4_800, 48_111, 9_999, 16_001]
"""Odd and even; 48,111 samples are where a rounded mask goes wrong."""
FAMILIES = ["hubert-layer-norm", "wav2vec2-group-norm", "wavlm-layer-norm", "data2vec", "w2v-bert", "whisper-128-bins"]


@pytest.mark.parametrize("name", ENCODERS)
def test_frames_are_the_librarys_alone_and_in_a_batch(name, cases, make_clips):
    encoder, model = cases.load(name), cases.theirs(name)
    clips, lengths = make_clips(LENGTHS)
    with torch.no_grad():
        together = encoder(clips, lengths)
        assert torch.equal(together.lengths, encoder.output_lengths(lengths))
        for row, length in enumerate(LENGTHS):
            alone = encoder(clips[row : row + 1, :length], lengths[row : row + 1])
            frames = int(alone.lengths)
            assert alone.features.shape == (1, frames, encoder.hidden_size)
            inputs = cases.inputs(name, clips[row, :length])
            expected = model(**inputs).last_hidden_state[0]
            if ENCODERS[name].model_type == "wav2vec2-bert" and encoder.model.adapter is None:
                assert frames == int(inputs["attention_mask"].sum())
            elif ENCODERS[name].model_type not in ("wav2vec2-bert", "whisper"):
                assert frames == len(expected)
            torch.testing.assert_close(alone.features[0], expected[:frames], atol=1e-5, rtol=1e-5)
            torch.testing.assert_close(together.features[row, :frames], alone.features[0], atol=2e-5, rtol=1e-5)
            assert not together.features[row, frames:].any()


@pytest.mark.parametrize("name", FAMILIES)
def test_what_lies_past_a_clips_end_is_not_heard(name, cases, make_clips):
    encoder = cases.load(name)
    clips, lengths = make_clips(LENGTHS)
    noisy = clips.masked_fill(torch.arange(clips.shape[1]) >= lengths[:, None], 5.0)
    longer = torch.nn.functional.pad(noisy, (0, 777), value=3.0)
    with torch.no_grad():
        torch.testing.assert_close(
            encoder(longer, lengths).features, encoder(clips, lengths).features, atol=1e-6, rtol=0
        )


@pytest.mark.parametrize(
    ("name", "fewest"),
    [
        *((name, 400) for name in ("hubert-batch-norm", "wav2vec2-adapter", "wavlm-group-norm", "data2vec")),
        ("w2v-bert", 560),
        ("w2v-bert-adapter", 560),
        ("whisper-128-bins", 160),
    ],
)
def test_output_lengths_are_exact(name, fewest, cases):
    encoder = cases.load(name)
    assert encoder.min_samples == fewest
    swept = [fewest, fewest + 1, *range(640, 2_200, 37), *range(48_108, 48_115)]
    counted = encoder.output_lengths(torch.tensor(swept))
    assert counted.dtype == torch.int64
    for length, count in zip(swept, counted.tolist(), strict=True):
        with torch.no_grad():
            frames = encoder(0.1 * torch.randn(1, length), torch.tensor([length]))
        assert frames.features.shape[1] == count == int(frames.lengths), length
    assert encoder.output_lengths(torch.tensor([0, 1, fewest - 1])).tolist() == [0, 0, 0]
    with pytest.raises(AudioTooShortError, match=f"{fewest - 1} samples.* at least {fewest}"):
        encoder(torch.zeros(2, 8_000), torch.tensor([8_000, fewest - 1]))


@pytest.mark.parametrize("name", FAMILIES)
def test_gradients_of_a_batch_are_the_sum_of_its_clips(name, cases, make_clips):
    encoder = cases.load(name, **({"window": "short"} if name.startswith("whisper") else {}))
    clips, lengths = make_clips([4_800, 9_999])
    gradients = []
    for rows in ([slice(0, 2)], [slice(0, 1), slice(1, 2)]):
        encoder.zero_grad()
        for row in rows:
            encoder(clips[row, : int(lengths[row].max())], lengths[row]).features.square().sum().backward()
        gradients.append({name: p.grad.clone() for name, p in encoder.named_parameters() if p.grad is not None})
    assert gradients[0].keys() == gradients[1].keys()
    largest = max(float(gradient.abs().max()) for gradient in gradients[1].values())
    for parameter, ours in gradients[0].items():
        # the gradient of a key's bias is zero but for rounding
        scale = max(float(gradients[1][parameter].abs().max()), 1e-3 * largest)
        torch.testing.assert_close(ours, gradients[1][parameter], atol=1e-3 * scale, rtol=0, msg=parameter)


@pytest.mark.parametrize("name", [*FAMILIES, "wav2vec2-adapter", "w2v-bert-adapter"])
def test_randomness_in_training_follows_torchs_seed_alone(name, cases, make_clips):
    encoder = cases.load(name)
    config = encoder.model.config
    config.layerdrop = encoder.model.layerdrop = 0.5  # the latter is Whisper's
    config.apply_spec_augment, config.mask_time_prob, config.mask_time_length = True, 0.4, 2
    if not hasattr(encoder.model, "masked_spec_embed") and config.model_type != "whisper":
        encoder.model.masked_spec_embed = torch.nn.Parameter(torch.ones(config.hidden_size))
    clips, lengths = make_clips([16_000, 9_999])

    def run(seed: int) -> torch.Tensor:
        torch.manual_seed(seed)
        with torch.no_grad():
            frames = encoder(clips, lengths)
        assert frames.features.shape[1] == int(encoder.output_lengths(lengths).max())
        return frames.features

    evaluated = run(0)
    assert torch.equal(run(1), evaluated)
    encoder.train()
    state = np.random.get_state()[1].copy()
    runs = [run(seed) for seed in range(6)]
    np.random.seed(7)  # of no consequence
    assert all(torch.equal(run(seed), before) for seed, before in enumerate(runs))
    assert len({float(one.sum()) for one in runs}) > 3
    np.random.set_state(("MT19937", state, 624))
    run(0)
    assert np.array_equal(np.random.get_state()[1], state)


@pytest.mark.parametrize("name", ENCODERS)
def test_parameter_groups_hold_each_parameter_once(name, cases):
    encoder = cases.load(name)
    groups = encoder.parameter_groups()
    names = [group.name for group in groups]
    expected = ["front_end", "projection", "layers.0", "layers.1", "head"]
    if name.startswith("w2v-bert"):
        expected.remove("front_end")
    assert [one for one in expected if one in names] == names
    assert set(expected) - set(names) <= {"head"}
    listed = [id(parameter) for group in groups for parameter in group.parameters]
    assert sorted(listed) == sorted(id(parameter) for parameter in encoder.parameters())
    attention = {id(p) for n, p in encoder.named_parameters() if "layers.1." in n and "pos_conv" not in n}
    own = {id(p) for group in groups if group.name == "layers.1" for p in group.parameters}
    assert own and own <= attention


@pytest.mark.parametrize("name", ENCODERS)
def test_it_saves_and_plain_transformers_reads_it(name, cases, make_clips, digests, tmp_path):
    first = cases.load(name)
    folders = [tmp_path / part for part in ("a", "b")]
    for folder in folders:
        folder.mkdir()
    first.save(folders[0])
    second = cases.load(name, folders[0])
    second.save(folders[1])
    assert digests(folders[0]) == digests(folders[1])
    files = {"config.json", "model.safetensors", "preprocessor_config.json"}
    assert set(digests(folders[0])) == files
    assert len({file.stat().st_mode for file in folders[0].iterdir()}) == 1
    clips = make_clips([4_800, 5_001])
    with torch.no_grad():
        assert torch.equal(first(*clips).features, second(*clips).features)
    with quiet_transformers():
        plain, info = type(first.model).from_pretrained(folders[0], output_loading_info=True)
    assert not any(info[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    inputs = cases.inputs(name, clips[0][0, :4_800])
    with torch.no_grad():
        expected = plain.eval()(**inputs).last_hidden_state[0]
        frames = first(clips[0][:1, :4_800], torch.tensor([4_800])).features[0]
    torch.testing.assert_close(frames, expected[: len(frames)], atol=1e-5, rtol=1e-5)
    extractor = transformers.AutoFeatureExtractor.from_pretrained(folders[0])
    assert extractor.sampling_rate == first.sample_rate


@pytest.mark.parametrize("name", ENCODERS)
def test_an_outline_tells_what_loading_would(name, cases):
    part_class, options = cases.part_class(name), cases.options(name)
    loaded, outline = (read(str(cases.folder(name)), options) for read in (part_class.load, part_class.outline))
    layouts = [
        [(group.name, [tuple(p.shape) for p in group.parameters]) for group in part.parameter_groups()]
        for part in (loaded, outline)
    ]
    assert layouts[0] == layouts[1]
    # the library fills the embedding of masked frames wherever it is made
    assert all(p.is_meta for n, p in outline.named_parameters() if not n.endswith("masked_spec_embed"))
    for attribute in ("hidden_size", "sample_rate", "frame_rate", "max_audio_seconds"):
        assert getattr(outline, attribute) == getattr(loaded, attribute)
    lengths = torch.arange(0, 20_000, 77)
    assert torch.equal(outline.output_lengths(lengths), loaded.output_lengths(lengths))


ATTENTION = {"w2v-bert": ("linear_q", "linear_k", "linear_v", "linear_out")}


@pytest.mark.parametrize("name", FAMILIES)
def test_lora_goes_into_the_projections_of_attention_and_works_there(
    name, cases, make_clips, make_text_model, tokenizer, pairs_bridge
):
    encoder, decoder = cases.load(name), CausalLm(make_text_model("gpt_neox"), tokenizer)
    integration = Integration(encoder, pairs_bridge(encoder.hidden_size, decoder.hidden_size), decoder).eval()
    clips = make_clips([4_800])
    with torch.no_grad():
        before = encoder(*clips).features
    add_lora(integration, "encoder", LoraSettings(r=2, lora_dropout=0.0), name="lora")
    adapted = {module for module, _ in encoder.model.named_modules() if module.endswith("lora_A")}
    for projection in ATTENTION.get(name, ("q_proj", "k_proj", "v_proj", "out_proj")):
        layer = next(module.removesuffix(".lora_A") for module in adapted if f".{projection}.lora_A" in module)
        weight = next(iter(encoder.model.get_submodule(f"{layer}.lora_B").values())).weight
        with torch.no_grad():
            torch.nn.init.normal_(weight)
            gap = float((encoder(*clips).features - before).abs().max())
            torch.nn.init.zeros_(weight)
        assert gap > 1e-2, projection
    encoder.zero_grad()
    for parameter in lora_parameters(encoder, "lora"):
        parameter.requires_grad_(True)
    encoder(*clips).features.square().sum().backward()
    assert all(parameter.grad is not None for parameter in lora_parameters(encoder, "lora"))


@pytest.mark.parametrize("name", FAMILIES)
def test_half_precision_gives_finite_frames(name, cases, make_clips):
    encoder = cases.load(name)
    clips = make_clips([4_800, 9_999])
    with torch.no_grad():
        whole = encoder(*clips).features
        half = encoder.bfloat16()(*clips).features
    assert half.dtype == torch.bfloat16 and bool(torch.isfinite(half).all())
    assert (half.float() - whole).abs().mean() < 0.1 * whole.abs().mean()


@pytest.mark.parametrize("name", FAMILIES)
def test_a_copy_computes_with_its_own_weights(name, cases, make_clips):
    encoder = cases.load(name)
    other = copy.deepcopy(encoder)
    clips = make_clips([4_800, 9_999])
    with torch.no_grad():
        expected = encoder(*clips).features
        assert torch.equal(other(*clips).features, expected)
        for parameter in encoder.parameters():
            parameter.zero_()
        assert torch.equal(other(*clips).features, expected)


def test_another_familys_checkpoint_is_refused(cases):
    with pytest.raises(CheckpointError, match="holds a 'wavlm' model, not a 'hubert' one"):
        cases.part_class("hubert-ctc").load(str(cases.folder("wavlm-ctc")), EncoderOptions())


def test_a_preprocessor_of_another_checkpoint_is_refused(cases, tmp_path):
    for name, change in (("whisper", '{"feature_size": 128}'), ("w2v-bert", '{"num_mel_bins": 40}')):
        folder = cases.copy(name, tmp_path / name)
        for file in ("preprocessor_config.json", "processor_config.json"):
            (folder / file).unlink(missing_ok=True)
        (folder / "preprocessor_config.json").write_text(change)
        with pytest.raises(CheckpointError, match="not of one checkpoint"):
            cases.load(name, folder)

"""The encoders give what fairseq2's own models give for the clip alone, whatever shares its batch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from fairseq2.data.audio import WaveformToFbankConverter
from fairseq2.nn import BatchLayout
from torch import Tensor, nn

from nuebridge.errors import AudioError, AudioTooShortError, CheckpointError
from nuebridge.tensors import weight_hash
from nuebridge_fairseq2.encoders import Fairseq2Encoder, W2vBertEncoder, Wav2Vec2Encoder
from nuebridge_fairseq2.examples import CARDS, W2V_BERT, WAV2VEC2, make_model, write
from nuebridge_fairseq2.options import W2vBertOptions, Wav2Vec2Options

LENGTHS = [4_800, 48_111, 9_920, 16_001, 6_000, 48_112]
"""Samples: odd and even; 48,111 is where rounded masks count one frame too few."""


def clip(length: int, seed: int = 0) -> Tensor:
    """Noise of uneven loudness and an offset, so that scaling a clip matters."""
    generator = torch.Generator().manual_seed(seed + length)
    return 0.1 * torch.randn(length, generator=generator) * torch.linspace(0.2, 1.0, length) + 0.02


def batch(lengths: list[int], extra: int = 0) -> tuple[Tensor, Tensor]:
    waveforms = 7.0 * torch.randn(len(lengths), max(lengths) + extra)  # what stands in the padding is of no account
    for row, length in enumerate(lengths):
        waveforms[row, :length] = clip(length)
    return waveforms, torch.tensor(lengths)


def encoder_class(name: str) -> type[Fairseq2Encoder]:
    return W2vBertEncoder if name in W2V_BERT else Wav2Vec2Encoder


def options_for(name: str, **given: Any) -> Any:
    return W2vBertOptions(**given) if name in W2V_BERT else Wav2Vec2Options(**given)


def load(name: str, folder: Path, **given: Any) -> Fairseq2Encoder:
    encoder = encoder_class(name).load(str(folder), options_for(name, **given))
    return encoder.eval()


def of_fairseq2(model: Any, waveform: Tensor, *, scaled: bool) -> Tensor:
    """What the library's own model gives for one clip, called as its users call it."""
    model = getattr(model, "w2v2_model", model)
    if model.encoder_frontend.feature_extractor.__class__.__name__.endswith("FbankFeatureExtractor"):
        convert = WaveformToFbankConverter(
            num_mel_bins=80, waveform_scale=2.0**15, channel_last=True, standardize=True, dtype=torch.float32
        )
        given = convert({"waveform": waveform[:, None], "sample_rate": 16_000})["fbank"][None]
    else:
        given = nn.functional.layer_norm(waveform, waveform.shape)[None] if scaled else waveform[None]
    with torch.no_grad():
        return model.encoder(*model.encoder_frontend(given, BatchLayout.of(given)))[0]


@pytest.fixture(params=CARDS)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def folder(name: str, tmp_path: Path) -> Path:
    write(tmp_path, CARDS[name])
    return tmp_path


def test_frames_equal_those_of_the_library_in_a_batch_and_alone(name: str, folder: Path) -> None:
    library, encoder = make_model(CARDS[name]), load(name, folder)
    with torch.no_grad():
        together = encoder(*batch(LENGTHS, extra=311))
    for row, length in enumerate(LENGTHS):
        expected = of_fairseq2(library, clip(length), scaled=encoder.normalize)
        with torch.no_grad():
            alone = encoder(clip(length)[None], torch.tensor([length]))
        count = len(expected)
        assert alone.lengths.tolist() == [count] == [int(together.lengths[row])]
        torch.testing.assert_close(alone.features[0], expected, atol=1e-5, rtol=0)
        torch.testing.assert_close(together.features[row, :count], expected, atol=1e-5, rtol=0)
        assert not together.features[row, count:].any()


def test_clips_are_scaled_as_such_models_were_trained(name: str, folder: Path) -> None:
    layer_norm = name in ("large-lv60k", "rotary", "omnilingual")
    assert load(name, folder).normalize == layer_norm
    if name not in W2V_BERT:
        assert load(name, folder, normalize=not layer_norm).normalize != layer_norm


def test_output_lengths_are_exact(name: str, folder: Path) -> None:
    encoder = load(name, folder)
    shortest = encoder.min_samples
    assert encoder.output_lengths(torch.tensor([shortest - 1, shortest])).tolist() == [0, 1]
    for length in [*range(shortest, shortest + 5), *range(1_998, 2_003), 3_279, 3_280, 3_281, 16_000]:
        with torch.no_grad():
            frames = encoder(clip(length)[None], torch.tensor([length]))
        assert frames.features.shape[1] == int(encoder.output_lengths(torch.tensor([length]))), length


def test_clips_without_a_frame_are_refused(name: str, folder: Path) -> None:
    encoder = load(name, folder)
    with pytest.raises(AudioTooShortError, match=f"at least {encoder.min_samples}"):
        encoder(*batch([8_000, encoder.min_samples - 1]))


def test_silence_gives_finite_frames(name: str, folder: Path) -> None:
    with torch.no_grad():
        frames = load(name, folder)(torch.zeros(1, 8_000), torch.tensor([8_000]))
    assert frames.features.isfinite().all()


def test_an_encoder_keeps_itself(name: str, folder: Path, tmp_path: Path) -> None:
    """Without the card, the store or the checkpoint that it came from, bit for bit."""
    encoder = load(name, folder)
    saved, again = tmp_path / "saved", tmp_path / "again"
    saved.mkdir()
    again.mkdir()
    encoder.save(saved)
    for file in folder.glob("*.*"):
        file.unlink()
    loaded = load(name, saved)
    loaded.save(again)
    assert {f.name: f.read_bytes() for f in saved.iterdir()} == {f.name: f.read_bytes() for f in again.iterdir()}
    given = batch([4_800, 9_921])
    with torch.no_grad():
        torch.testing.assert_close(encoder(*given).features, loaded(*given).features, atol=0, rtol=0)
    assert weight_hash({"part": encoder}) == weight_hash({"part": loaded})
    assert loaded.normalize == encoder.normalize


def test_an_outline_is_the_encoder_without_its_weights(name: str, folder: Path) -> None:
    encoder, outline = load(name, folder), encoder_class(name).outline(str(folder), options_for(name))
    assert all(parameter.is_meta for parameter in outline.parameters())
    assert {k: v.shape for k, v in outline.state_dict().items()} == {
        k: v.shape for k, v in encoder.state_dict().items()
    }
    lengths = torch.tensor(LENGTHS)
    assert torch.equal(outline.output_lengths(lengths), encoder.output_lengths(lengths))


def test_half_precision_keeps_the_positions(name: str, folder: Path) -> None:
    encoder = load(name, folder)
    given = batch([4_800, 9_921])
    with torch.no_grad():
        exact, rounded = encoder(*given).features, encoder.bfloat16()(*given).features
    assert rounded.dtype == torch.bfloat16 and rounded.isfinite().all()
    assert float((exact - rounded.float()).abs().mean()) < 0.1 * float(exact.abs().mean())


def test_training_moves_every_parameter_and_no_statistic(name: str, folder: Path) -> None:
    torch.manual_seed(0)
    encoder = load(name, folder).train()
    buffers = {key: buffer.clone() for key, buffer in encoder.named_buffers()}
    for _ in range(4):  # masking and dropout may leave out one parameter in one step
        frames = encoder(*batch([8_000, 16_001, 4_000]))
        (frames.features * torch.randn_like(frames.features)).sum().backward()
    idle = [key for key, parameter in encoder.named_parameters() if parameter.grad is None or not parameter.grad.any()]
    # A bias of the keys adds the same to every score, which softmax does not see.
    assert [key for key in idle if not key.endswith("k_proj.bias")] == []
    assert all(torch.equal(buffer, buffers[key]) for key, buffer in encoder.named_buffers())


def test_masking_hides_frames_in_training_only_and_as_torch_is_seeded(tmp_path: Path) -> None:
    write(tmp_path, CARDS["fine-tuned"])
    encoder = load("fine-tuned", tmp_path)
    for module in encoder.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    given = batch([16_000, 12_001, 1_200])
    with torch.no_grad():
        plain = encoder(*given).features
        encoder.train()
        torch.manual_seed(1)
        first = encoder(*given).features
        torch.manual_seed(1)
        second = encoder(*given).features
        third = encoder(*given).features
    assert torch.equal(first, second) and not torch.equal(first, third)
    assert not torch.allclose(first[0], plain[0]) and not torch.allclose(first[1], plain[1])
    torch.testing.assert_close(first[2], plain[2], atol=1e-5, rtol=0)  # too short to be masked


def test_parameter_groups_hold_every_parameter_once(name: str, folder: Path) -> None:
    encoder = load(name, folder)
    groups = encoder.parameter_groups()
    listed = [id(parameter) for group in groups for parameter in group.parameters]
    assert sorted(listed) == sorted(id(parameter) for parameter in encoder.parameters())
    front_end = [] if name in W2V_BERT else ["front_end"]
    head = ["head"] if name in ("large-lv60k", "rotary", "omnilingual") else []
    assert [group.name for group in groups] == [*front_end, "projection", "layers.0", "layers.1", *head]


def test_clips_beyond_the_table_of_positions_are_refused(tmp_path: Path) -> None:
    write(tmp_path, CARDS["w2v-bert"])
    encoder = load("w2v-bert", tmp_path)
    assert encoder.max_frames == 512 and encoder.max_audio_seconds == 10.24
    longest = 400 + (2 * 512 - 1) * 160
    with torch.no_grad():
        assert encoder(torch.randn(1, longest), torch.tensor([longest])).features.shape[1] == 512
    with pytest.raises(AudioError, match=r"set max_audio_seconds to 10\.24"):
        encoder(torch.randn(1, longest + 320), torch.tensor([longest + 320]))


def test_a_revision_is_refused(tmp_path: Path) -> None:
    write(tmp_path, CARDS["base"])
    with pytest.raises(CheckpointError, match="have none"):
        Wav2Vec2Encoder.load(str(tmp_path), Wav2Vec2Options(), revision="main")


def test_every_example_is_written(tmp_path: Path) -> None:
    assert {*WAV2VEC2, *W2V_BERT} == set(CARDS)

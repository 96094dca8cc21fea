"""Whisper's two windows."""

from __future__ import annotations

import pytest
import torch
import transformers
from pydantic import ValidationError
from transformers.models.whisper.modeling_whisper import WhisperEncoder

from nuebridge.errors import AudioError, AudioTooShortError
from nuebridge_hf.loading import quiet_transformers
from nuebridge_hf.options import WhisperOptions

SMALL = "whisper-128-bins"
"""Its window is of four seconds."""


def test_the_window_is_the_librarys_own_and_the_default(cases, make_clips):
    """Six seconds are 300 frames, where the mask of the library's feature extractor counts 301 for a sample more."""
    encoder, model = cases.load("whisper"), cases.theirs("whisper")
    assert encoder.window == WhisperOptions().window == "exact"
    assert (encoder.max_audio_seconds, encoder.frame_rate) == (30.0, 50.0)
    clips, lengths = make_clips([96_100])
    extractor = transformers.AutoFeatureExtractor.from_pretrained(cases.folder("whisper"))
    inputs = extractor(clips[0].numpy(), sampling_rate=16_000, return_tensors="pt", return_attention_mask=True)
    assert (int(inputs["attention_mask"].sum()) - 1) // 2 + 1 == 301
    with torch.no_grad():
        frames = encoder(clips, lengths)
        expected = model(inputs["input_features"]).last_hidden_state
    assert expected.shape[1] == 1_500 and frames.lengths.tolist() == [300]
    torch.testing.assert_close(frames.features[0], expected[0, :300], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("length", [4_800, 9_999, 16_001, 48_111, 64_000])
def test_a_clip_alone_is_what_an_encoder_of_its_length_gives(length, cases, make_clips):
    """The library refuses a short clip; an encoder of the same weights whose window is that short does not.

    It reads whole pairs of mel frames, as all of these have.
    """
    short = cases.load(SMALL, window="short")
    clips, lengths = make_clips([length])
    extractor = transformers.AutoFeatureExtractor.from_pretrained(cases.folder(SMALL))
    mel = extractor([clips[0].numpy()], sampling_rate=16_000, padding="longest", return_tensors="pt").input_features
    frames = int(short.output_lengths(lengths))
    assert frames * 2 == mel.shape[2]
    config = short.model.config.__class__.from_dict({**short.model.config.to_dict(), "max_source_positions": frames})
    with quiet_transformers():
        model = WhisperEncoder(config).eval()
    state = dict(short.model.state_dict())
    state["embed_positions.weight"] = state["embed_positions.weight"][:frames]
    model.load_state_dict(state)
    with torch.no_grad():
        expected = model(mel).last_hidden_state
        torch.testing.assert_close(short(clips, lengths).features, expected, atol=1e-5, rtol=1e-5)


def test_clips_alone_do_not_depend_on_their_batch(cases, make_clips):
    encoder = cases.load(SMALL, window="short")
    swept = [4_800, 48_111, 9_999, 16_001, 201, 320, 479, 480]
    clips, lengths = make_clips(swept)
    with torch.no_grad():
        together = encoder(clips, lengths)
        for row, length in enumerate(swept):
            alone = encoder(clips[row : row + 1, :length], lengths[row : row + 1])
            frames = int(alone.lengths)
            assert alone.features.shape[1] == frames == int(together.lengths[row]), length
            torch.testing.assert_close(together.features[row, :frames], alone.features[0], atol=2e-5, rtol=1e-5)
            assert not together.features[row, frames:].any()


def test_the_windows_differ_as_much_as_frames_do(cases, make_clips):
    """The reason for the exact window: a clip alone gives other frames than pre-training ever saw."""
    clips = make_clips([16_000])
    with torch.no_grad():
        exact, short = (cases.load("whisper", window=window)(*clips).features for window in ("exact", "short"))
    assert exact.shape == short.shape
    assert float((exact - short).abs().mean()) > 0.1 * float(exact.abs().mean())


@pytest.mark.parametrize("window", ["exact", "short"])
def test_a_clip_longer_than_the_window_is_refused(window, cases):
    encoder = cases.load(SMALL, window=window)
    assert encoder.max_audio_seconds == 4.0
    with torch.no_grad():
        assert encoder(torch.randn(1, 64_000), torch.tensor([64_000])).lengths.tolist() == [200]
        with pytest.raises(AudioError, match=r"clip 1 of the batch has 4\.00 s.* at most 4 s .*max_audio_seconds"):
            encoder(torch.randn(2, 64_001), torch.tensor([500, 64_001]))


def test_too_short_for_a_frame(cases):
    for window, fewest in (("exact", 160), ("short", 201)):
        encoder = cases.load(SMALL, window=window)
        assert encoder(torch.randn(1, fewest), torch.tensor([fewest])).lengths.tolist() == [1]
        with pytest.raises(AudioTooShortError, match=f"at least {fewest}"):
            encoder(torch.randn(1, 8_000), torch.tensor([fewest - 1]))
    with pytest.raises(ValidationError):
        WhisperOptions(window="shorter")


def test_its_own_saved_folder_has_no_decoder(cases, tmp_path):
    encoder = cases.load("whisper")
    encoder.save(tmp_path)
    with quiet_transformers():
        plain = WhisperEncoder.from_pretrained(tmp_path)
    assert sum(p.numel() for p in plain.parameters()) == sum(p.numel() for p in encoder.parameters())

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st

from nuebridge.config import validate
from nuebridge.contracts import Frames
from nuebridge.errors import ConfigError
from nuebridge.train.masking import SpecAugmentSettings, mask_frames

WIDTH = 40
BOTH = SpecAugmentSettings(time_masks=2, max_time_frames=12, max_time_share=0.5, feature_masks=2, max_feature_share=0.4)


def generators(*seeds: int) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(seed) for seed in seeds]


def ones(*lengths: int, width: int = WIDTH) -> Frames:
    return Frames(torch.ones(len(lengths), max(lengths), width), torch.tensor(lengths)).zero_padding()


def test_off_by_itself() -> None:
    frames = ones(5, 9)
    (generator,) = generators(3)
    before = generator.get_state()
    assert mask_frames(frames, SpecAugmentSettings(), [generator, generator]) is frames
    assert torch.equal(generator.get_state(), before)


@examples(max_examples=100, deadline=None)
@given(
    st.lists(st.integers(0, 60), min_size=1, max_size=4).filter(any),
    st.integers(0, 10**6),
    st.integers(0, 4),
    st.integers(1, 50),
    st.floats(0.01, 0.9),
    st.integers(0, 4),
    st.floats(0.01, 0.9),
)
def test_masks_keep_their_bounds(
    lengths: list[int], seed: int, times: int, most: int, time_share: float, bands: int, feature_share: float
) -> None:
    settings = SpecAugmentSettings(
        time_masks=times,
        max_time_frames=most,
        max_time_share=time_share,
        feature_masks=bands,
        max_feature_share=feature_share,
    )
    frames = ones(*lengths)
    masked = mask_frames(frames, settings, generators(*range(seed, seed + len(lengths))))
    assert masked.features.shape == frames.features.shape and masked.lengths is frames.lengths
    assert torch.equal(frames.features, frames.mask[..., None].expand_as(frames.features).float())  # not written to
    for row, length in zip(masked.features, lengths, strict=True):
        assert not row[length:].any()
        if not length:
            continue
        kept = row[:length] == 1
        assert (kept | (row[:length] == 0)).all()
        rows, columns = kept.any(dim=1), kept.any(dim=0)
        assert torch.equal(kept, rows[:, None] & columns[None, :]) and rows.any() and columns.any()
        assert (~rows).sum() <= min(time_share * length, times * most)
        assert (~columns).sum() <= feature_share * WIDTH
        assert _runs(~rows) <= times and _runs(~columns) <= bands


def _runs(gone: torch.Tensor) -> int:
    return int((gone[1:] & ~gone[:-1]).sum() + gone[0])


def test_an_utterance_s_masks_do_not_depend_on_its_batch() -> None:
    frames = Frames(torch.randn(3, 50, WIDTH), torch.tensor([50, 20, 35])).zero_padding()
    masked = mask_frames(frames, BOTH, generators(7, 8, 9)).features
    assert (masked == 0).sum() > (frames.features == 0).sum()
    for row, (length, seed) in enumerate(((50, 7), (20, 8), (35, 9))):
        alone = Frames(frames.features[row : row + 1, :length], torch.tensor([length]))
        assert torch.equal(mask_frames(alone, BOTH, generators(seed)).features[0], masked[row, :length])
    swapped = Frames(frames.features.flip(0), frames.lengths.flip(0))
    assert torch.equal(mask_frames(swapped, BOTH, generators(9, 8, 7)).features.flip(0), masked)
    assert not torch.equal(mask_frames(frames, BOTH, generators(17, 18, 19)).features, masked)


def test_everything_is_drawn_evenly() -> None:
    settings = SpecAugmentSettings(time_masks=1, max_time_frames=10)
    masked = mask_frames(ones(*[100] * 500), settings, generators(*range(500))).features[..., 0]
    widths = (masked == 0).sum(dim=1)
    assert (int(widths.min()), int(widths.max())) == (0, 10) and float(widths.float().mean()) == pytest.approx(
        5, abs=0.5
    )
    by_place = (masked == 0).sum(dim=0)
    assert int(by_place[:5].sum()) > 0 and int(by_place[-5:].sum()) > 0


def test_what_else_frames_carry_stays_and_gradients_pass() -> None:
    features = torch.randn(1, 30, WIDTH, requires_grad=True)
    frames = Frames(features, torch.tensor([30]), ctc_logits=torch.ones(1, 30, 4), losses={"x": torch.ones(())})
    masked = mask_frames(frames, BOTH, generators(1))
    assert masked.ctc_logits is frames.ctc_logits and masked.losses == frames.losses
    masked.features.sum().backward()
    assert features.grad is not None and torch.equal(features.grad != 0, masked.features != 0)


def test_infinite_features_are_masked_too() -> None:
    frames = Frames(torch.full((1, 40, WIDTH), torch.inf), torch.tensor([40]))
    masked = mask_frames(frames, BOTH, generators(1)).features
    assert not masked.isnan().any() and (masked == 0).any()


def test_as_many_generators_as_utterances() -> None:
    with pytest.raises(ValueError, match="zip"):
        mask_frames(ones(5, 5), BOTH, generators(1))


@pytest.mark.parametrize("key", ["max_time_share", "max_feature_share", "time_masks"])
def test_settings_that_cannot_be(key: str) -> None:
    with pytest.raises(ConfigError, match=key):
        validate({key: -1}, SpecAugmentSettings, "test")
    with pytest.raises(ConfigError, match=key):
        validate({key: 0.95}, SpecAugmentSettings, "test")


def test_settings_need_no_torch() -> None:
    names = "nuebridge.train.masking, nuebridge.data.augmentation, nuebridge.data.text"
    code = f"import sys, {names}; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)

from __future__ import annotations

import pytest
import torch

from nuebridge_ensemble.resampling import overlaps, resample


def by_hand(frames: torch.Tensor, wanted: int) -> torch.Tensor:
    """``[F, E]`` to ``[N, E]``: every frame split into N equal pieces, and F pieces averaged."""
    pieces = frames.repeat_interleave(wanted, dim=0)
    mean: torch.Tensor = pieces.reshape(wanted, len(frames), -1).mean(1)
    return mean


@pytest.mark.parametrize(("there", "wanted"), [(7, 7), (8, 4), (4, 8), (7, 3), (3, 7), (1, 5), (5, 1), (100, 61)])
def test_a_frame_is_the_mean_over_its_own_time(there: int, wanted: int) -> None:
    torch.manual_seed(0)
    frames = torch.randn(there, 3)
    found = resample(frames[None], torch.tensor([there]), torch.tensor([wanted]))
    torch.testing.assert_close(found[0], by_hand(frames, wanted))


def test_clips_of_a_batch_do_not_know_each_other() -> None:
    torch.manual_seed(0)
    lengths, wanted = torch.tensor([9, 4, 1]), torch.tensor([6, 3, 1])
    features = torch.randn(3, 9, 2)  # what stands past the lengths is not zero, and is not read
    together = resample(features, lengths, wanted)
    for row, (there, asked) in enumerate(zip(lengths.tolist(), wanted.tolist(), strict=True)):
        alone = resample(features[row : row + 1, :there], lengths[row : row + 1], wanted[row : row + 1])
        torch.testing.assert_close(together[row, :asked], alone[0])
        assert (together[row, asked:] == 0).all()


def test_shares_add_up_to_one() -> None:
    lengths, wanted = torch.tensor([1499, 3]), torch.tensor([817, 2])
    shares = overlaps(lengths, wanted)
    assert shares.shape == (2, 817, 1499)
    torch.testing.assert_close(shares[0].sum(1), torch.ones(817))
    torch.testing.assert_close(shares[1, :2].sum(1), torch.ones(2))
    assert (shares[1, 2:] == 0).all()
    assert (shares[1, :, 3:] == 0).all()

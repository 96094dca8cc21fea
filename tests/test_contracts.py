from __future__ import annotations

import pytest
import torch
from pydantic import BaseModel

from nuebridge.contracts import (
    Frames,
    GenerationOptions,
    Part,
    RecognitionOptions,
    check_not_empty,
    describe_part,
    length_mask,
)
from nuebridge.errors import AudioTooShortError, ConfigError, SizeMismatchError


def test_length_mask() -> None:
    mask = length_mask(torch.tensor([0, 2, 3]), 3)
    assert mask.tolist() == [[False, False, False], [True, True, False], [True, True, True]]


@pytest.mark.parametrize(
    ("features", "lengths", "said"),
    [
        ((4, 3), torch.tensor([4]), r"\[4, 3\]"),
        ((2, 4, 3), torch.tensor([4]), r"\[2, 4, 3\] and \[1\]"),
        ((2, 4, 3), torch.tensor([[4], [4]]), r"\[2, 1\]"),
        ((2, 4, 3), torch.tensor([4, 4], dtype=torch.int32), "int64, not torch.int32"),
        ((2, 4, 3), torch.tensor([4.0, 4.0]), "int64, not torch.float32"),
    ],
)
def test_frames_that_cannot_be(features: tuple[int, ...], lengths: torch.Tensor, said: str) -> None:
    with pytest.raises(SizeMismatchError, match=said):
        Frames(torch.zeros(features), lengths)


def test_zero_padding_keeps_what_is_real() -> None:
    features = torch.randn(3, 4, 2)
    lengths = torch.tensor([4, 1, 0])
    loss = torch.tensor(1.0)
    frames = Frames(features, lengths, ctc_logits=torch.zeros(3, 4, 5), losses={"quantity": loss}).zero_padding()
    assert torch.equal(frames.features[0], features[0])
    assert torch.equal(frames.features[1, :1], features[1, :1])
    assert not frames.features[1, 1:].any() and not frames.features[2].any()
    assert frames.ctc_logits is not None and frames.losses == {"quantity": loss}


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_zero_padding_is_zero_whatever_stood_there(value: float) -> None:
    """A softmax over nothing gives NaN at masked positions."""
    features = torch.ones(1, 3, 2, requires_grad=True)
    spoiled = torch.cat([features[:, :2], torch.full((1, 1, 2), value)], dim=1)
    frames = Frames(spoiled, torch.tensor([2])).zero_padding()
    assert frames.features.tolist() == [[[1, 1], [1, 1], [0, 0]]]
    frames.features.sum().backward()
    assert torch.isfinite(features.grad).all()


def test_check_not_empty_names_clip_and_minimum() -> None:
    check_not_empty(torch.tensor([40]), torch.tensor([1]), 30, "samples", "the encoder")
    with pytest.raises(
        AudioTooShortError, match="clip 1 of the batch has 29 samples, and the encoder needs at least 30"
    ):
        check_not_empty(torch.tensor([40, 29]), torch.tensor([1, 0]), 30, "samples", "the encoder")


@pytest.mark.parametrize("options", [{"beam_size": 0}, {"max_new_tokens": 0}, {"max_new_tokens": -3}])
def test_impossible_recognition_options(options: dict[str, int]) -> None:
    with pytest.raises(
        ConfigError, match=f"{next(iter(options))} must be at least 1, not {next(iter(options.values()))}"
    ):
        RecognitionOptions(**options)


def test_options_that_leave_the_default() -> None:
    assert RecognitionOptions().max_new_tokens is None
    assert GenerationOptions([3]).beam_size == 1


def test_describe_part_is_complete_json() -> None:
    class Options(BaseModel):
        sizes: tuple[int, ...] = (1, 2)
        name: str | None = None

    class Nothing(Part):
        def save(self, folder: object) -> None: ...

    part = Nothing()
    assert describe_part(part) == {}
    part.options = Options()
    assert describe_part(part) == {"sizes": [1, 2], "name": None}

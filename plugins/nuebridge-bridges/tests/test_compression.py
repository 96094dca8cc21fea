"""CTC compression, against a loop over clips and frames."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from torch import Tensor

from nuebridge.contracts import Bridge, Frames
from nuebridge.errors import SizeMismatchError
from nuebridge_bridges import CtcOptions
from nuebridge_bridges.compression import CtcBridge

BLANK = 0
KINDS = [("keep", True), ("average", False), ("average", True), ("weighted", False), ("weighted", True)]


def by_hand(features: Tensor, logits: Tensor, runs: str, drop_blanks: bool) -> Tensor:
    """One clip, ``[F, E]`` and ``[F, C]``, to ``[A, E]``, a frame at a time."""
    posteriors = logits.softmax(-1)
    best = [int(frame.argmax()) for frame in logits]
    found = []
    for symbol, group in itertools.groupby(range(len(best)), key=best.__getitem__):
        places = list(group)
        if drop_blanks and symbol == BLANK:
            continue
        if runs == "keep":
            found += [features[place] for place in places]
        elif runs == "average":
            found.append(sum(features[place] for place in places) / len(places))
        else:
            weights = [posteriors[place, symbol] for place in places]
            total = sum(weights)
            found.append(sum(weight / total * features[place] for weight, place in zip(weights, places, strict=True)))
    if not found:
        found = [features[min(range(len(best)), key=lambda place: float(posteriors[place, BLANK]))]]
    return torch.stack(found)


def bridge_of(runs: str, drop_blanks: bool, width: int = 4) -> CtcBridge:
    options = CtcOptions(runs=runs, drop_blanks=drop_blanks, projection=False)  # type: ignore[arg-type]
    return CtcBridge.build(width, width, options)


def logits_of(best: list[list[int]], seed: int = 0) -> Tensor:
    """Logits ``[B, F, 4]`` whose best symbols are these; shorter clips are padded with another symbol."""
    generator = torch.Generator().manual_seed(seed)
    longest = max(map(len, best))
    logits = torch.rand(len(best), longest, 4, generator=generator)
    for row, symbols in enumerate(best):
        for place, symbol in enumerate(symbols):
            logits[row, place, symbol] += 1.5
    return logits


def check(best: list[list[int]], runs: str, drop_blanks: bool) -> Frames:
    """Compresses clips with these best symbols and compares with the loop."""
    lengths = torch.tensor([len(symbols) for symbols in best])
    generator = torch.Generator().manual_seed(2)
    features = torch.randn(len(best), int(lengths.max()), 4, generator=generator)
    frames = Frames(features, lengths, ctc_logits=logits_of(best)).zero_padding()
    found: Frames = bridge_of(runs, drop_blanks)(frames)
    assert frames.ctc_logits is not None
    for row, length in enumerate(lengths.tolist()):
        expected = by_hand(frames.features[row, :length], frames.ctc_logits[row, :length], runs, drop_blanks)
        count = int(found.lengths[row])
        assert count == len(expected)
        assert torch.allclose(found.features[row, :count], expected, atol=1e-5)
        assert not found.features[row, count:].any()
    return found


@pytest.mark.parametrize(("runs", "drop_blanks"), KINDS)
@settings(max_examples=25, deadline=None)
@given(best=st.lists(st.lists(st.integers(0, 3), min_size=1, max_size=12), min_size=1, max_size=4))
def test_it_is_what_a_loop_gives(runs: str, drop_blanks: bool, best: list[list[int]]) -> None:
    check(best, runs, drop_blanks)


@pytest.mark.parametrize(("runs", "drop_blanks"), KINDS)
def test_edges(runs: str, drop_blanks: bool) -> None:
    one = check([[0]], runs, drop_blanks)  # one frame, and that a blank
    assert one.lengths.tolist() == [1]
    assert check([[2]], runs, drop_blanks).lengths.tolist() == [1]
    blanks = check([[0] * 9, [1, 1, 0, 1], [0] * 3], runs, drop_blanks)  # nothing but blanks beside speech
    assert blanks.lengths[0] == blanks.lengths[2] == 1
    long = check([[3] * 700 + [0] * 300 + [3] * 500, [1, 0] * 50], runs, drop_blanks)  # long runs, short runs
    assert (
        long.lengths.tolist()
        == {
            ("keep", True): [1200, 50],
            ("average", False): [3, 100],
            ("average", True): [2, 50],
            ("weighted", False): [3, 100],
            ("weighted", True): [2, 50],
        }[runs, drop_blanks]
    )


@pytest.mark.parametrize("runs", ["keep", "average", "weighted"])
def test_a_clip_of_blanks_gives_the_frame_that_is_least_blank(runs: str) -> None:
    features = torch.arange(5.0)[None, :, None].repeat(1, 1, 4)
    logits = torch.zeros(1, 5, 4)
    logits[0, :, BLANK] = torch.tensor([5.0, 4.0, 2.0, 2.0, 3.0])
    found = bridge_of(runs, True)(Frames(features, torch.tensor([5]), ctc_logits=logits))
    assert found.features.tolist() == [[[2.0] * 4]]  # the first of two
    found = bridge_of(runs, True)(Frames(features, torch.tensor([2]), ctc_logits=logits).zero_padding())
    assert found.features.tolist() == [[[1.0] * 4]]  # not one of the padding


def test_equal_symbols_on_both_sides_of_a_dropped_blank_stay_two() -> None:
    assert check([[1, 1, 0, 1]], "average", True).lengths.tolist() == [2]


def test_a_mean_of_many_frames_in_bfloat16() -> None:
    logits = torch.zeros(1, 3000, 3)
    logits[..., 1] = 5
    bridge = bridge_of("average", False, 1).bfloat16()
    found = bridge(Frames(torch.ones(1, 3000, 1).bfloat16(), torch.tensor([3000]), ctc_logits=logits.bfloat16()))
    assert found.features.tolist() == [[[1.0]]]


@pytest.mark.parametrize(("runs", "drop_blanks"), KINDS)
def test_gradients_are_those_of_finite_differences(runs: str, drop_blanks: bool) -> None:
    bridge = bridge_of(runs, drop_blanks, 3).double()
    best = [[1, 1, 0, 0, 2, 2], [0, 0, 0]]
    logits = logits_of(best).double().requires_grad_(runs == "weighted")
    features = torch.randn(2, 6, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).requires_grad_()
    lengths = torch.tensor([6, 3])

    def compress(features: Tensor, logits: Tensor) -> Tensor:
        out: Tensor = bridge(Frames(features, lengths, ctc_logits=logits).zero_padding()).features
        return out

    assert torch.autograd.gradcheck(compress, (features, logits))


def test_without_logits_it_says_what_is_missing(build: Callable[..., Bridge], frames_of: Callable[..., Frames]) -> None:
    bridge = build("ctc-average")
    assert bridge.needs_ctc
    with pytest.raises(SizeMismatchError, match="the CTC bridge needs frames with CTC logits; compose with a CTC head"):
        bridge(replace(frames_of(9), ctc_logits=None))


def test_options_that_compress_nothing() -> None:
    with pytest.raises(ValidationError, match="nothing would be compressed; set drop_blanks: true"):
        CtcOptions(runs="keep")
    with pytest.raises(ValidationError, match="'keep', 'average' or 'weighted'"):
        CtcOptions.model_validate({"runs": "max"})

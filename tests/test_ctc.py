from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from nuebridge.contracts import Frames
from nuebridge.ctc import CtcHead, ctc_loss
from nuebridge.settings import CtcVocabulary

LETTERS = CtcVocabulary(symbols=tuple(" abcdefghijklmnopqrstuvwxyz'"))


def head(vocabulary: CtcVocabulary = LETTERS) -> CtcHead:
    torch.manual_seed(0)
    return CtcHead(6, vocabulary)


def frames_of(*lengths: int, symbols: int = 5, seed: int = 0) -> Frames:
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn(len(lengths), max(lengths), 6, generator=generator)
    logits = torch.randn(len(lengths), max(lengths), symbols, generator=generator).requires_grad_()
    return Frames(features, torch.tensor(lengths), ctc_logits=logits)


def torch_loss(frames: Frames, clip: int, target: Sequence[int]) -> torch.Tensor:
    """torch's own loss of one clip by itself."""
    length = int(frames.lengths[clip])
    logits = frames.ctc_logits[clip, :length]
    return F.ctc_loss(
        logits.log_softmax(-1),
        torch.tensor(target, dtype=torch.int64),
        torch.tensor(length),
        torch.tensor(len(target)),
        reduction="sum",
    )


def brute_force(logits: torch.Tensor, target: list[int]) -> float:
    """Minus the log of the summed probability of every path that spells the target."""
    probabilities = logits.detach().double().softmax(-1)
    total = 0.0
    for path in itertools.product(range(logits.shape[1]), repeat=len(logits)):
        spelled = [s for s, last in zip(path, (0, *path), strict=False) if s not in (last, 0)]
        if spelled == target:
            product = 1.0
            for frame, symbol in enumerate(path):
                product *= float(probabilities[frame, symbol])
            total += product
    return -float(torch.tensor(total, dtype=torch.float64).log())


def test_logits_are_added_and_nothing_else_changes() -> None:
    frames = Frames(torch.randn(2, 4, 6), torch.tensor([4, 2]), losses={"other": torch.tensor(1.0)})
    filled = head()(frames)
    assert filled.ctc_logits.shape == (2, 4, len(LETTERS.symbols) + 1)
    assert filled.features is frames.features and filled.lengths is frames.lengths and filled.losses == frames.losses


def test_encode_and_decode_agree() -> None:
    spelled = head().encode("  It's\tA\n test ")
    assert head().decode([symbol for s in spelled for symbol in (s, s, 0)]) == "it's a test"
    assert spelled[0] == LETTERS.symbols.index("i") + 1


def test_decode_joins_repeats_unless_a_blank_stands_between() -> None:
    a, b = 2, 3
    assert head().decode([0, a, a, 0, a, b, b, 0]) == "aab"
    assert head().decode([]) == "" == head().decode([0, 0])
    assert head().decode([1, 1, a, 1, 0, 1, b, 1]) == "a b"


def test_what_cannot_be_spelled_is_left_out_and_known() -> None:
    spelled = head().encode("a & b, é3c")
    assert [LETTERS.symbols[s - 1] for s in spelled] == ["a", " ", "b", " ", "c"]
    assert head().unknown("a & b, é3c") == "&,é3"
    assert head().unknown("it's fine") == ""
    assert head().encode("123") == []


def test_case_counts_where_the_vocabulary_says_so() -> None:
    cased = head(CtcVocabulary(symbols=("a", "A"), lowercase=False))
    assert cased.encode("aA") == [1, 2]
    assert cased.decode([2, 1]) == "Aa"


def test_longer_symbols_go_first() -> None:
    pieces = head(CtcVocabulary(symbols=("s", "sch", "c", "h", " ")))
    assert pieces.encode("sch s") == [2, 5, 1]
    assert pieces.unknown("schx") == "x"


def test_greedy_reads_real_frames_only() -> None:
    frames = frames_of(4, 2, symbols=4)
    logits = torch.full((2, 4, 4), -5.0)
    for clip, path in enumerate([[1, 1, 0, 1], [2, 0, 3, 3]]):
        logits[clip, range(4), path] = 5.0
    small = head(CtcVocabulary(symbols=("a", "b", "c")))
    assert small.greedy(Frames(frames.features, frames.lengths, ctc_logits=logits)) == ["aa", "b"]


def test_loss_is_the_sum_over_all_paths() -> None:
    frames = frames_of(4, symbols=3)
    for target in ([1], [1, 2], [1, 1], [2, 1, 2], []):
        loss, _ = ctc_loss(frames, [target])
        assert loss.item() == pytest.approx(brute_force(frames.ctc_logits[0], target), rel=1e-5)


def test_loss_equals_torchs_clip_by_clip() -> None:
    frames = frames_of(12, 7, 9, 5)
    targets = [[1, 2, 3, 3, 4], [1], [2, 2, 2], [4, 3, 2, 1]]
    loss, symbols = ctc_loss(frames, targets)
    expected = sum(torch_loss(frames, clip, target) for clip, target in enumerate(targets))
    assert loss.item() == pytest.approx(expected.item(), rel=1e-6)
    assert symbols == sum(map(len, targets))


def test_padding_gets_no_gradient() -> None:
    frames = frames_of(12, 7)
    ctc_loss(frames, [[1, 2], [3]])[0].backward()
    assert frames.ctc_logits.grad[1, :7].abs().sum() > 0
    assert not frames.ctc_logits.grad[1, 7:].any()


@pytest.mark.parametrize("targets", [[[], [1, 2]], [[1], []], [[], []]])
def test_empty_targets_are_learned_as_silence(targets: list[list[int]]) -> None:
    frames = frames_of(6, 4)
    loss, symbols = ctc_loss(frames, targets)
    expected = 0.0
    for clip, target in enumerate(targets):
        blanks = frames.ctc_logits[clip, : int(frames.lengths[clip])].log_softmax(-1)[:, 0]
        expected += torch_loss(frames, clip, target).item() if target else -blanks.sum().item()
    assert loss.item() == pytest.approx(expected, rel=1e-5)
    assert symbols == sum(max(1, len(target)) for target in targets)
    loss.backward()
    assert torch.isfinite(frames.ctc_logits.grad).all() and frames.ctc_logits.grad.abs().sum() > 0


def test_impossible_targets_add_nothing() -> None:
    """Three equal symbols need five frames; four different ones need four."""
    frames = frames_of(4, 4, 5, 4)
    loss, symbols = ctc_loss(frames, [[1, 1, 1], [1, 2, 3, 4], [1, 1, 1], [1, 2, 3, 4, 1]])
    assert symbols == 7
    expected = torch_loss(frames, 1, [1, 2, 3, 4]) + torch_loss(frames, 2, [1, 1, 1])
    assert loss.item() == pytest.approx(expected.item(), rel=1e-6)
    loss.backward()
    gradient = frames.ctc_logits.grad
    assert torch.isfinite(gradient).all() and not gradient[0].any() and not gradient[3].any()
    assert gradient[1].any() and gradient[2].any()


def test_nothing_but_impossible_targets() -> None:
    frames = frames_of(1, 2)
    loss, symbols = ctc_loss(frames, [[1, 2], [3, 3]])
    assert loss.item() == 0 and symbols == 0
    loss.backward()
    assert not frames.ctc_logits.grad.any()


def test_half_precision_logits_are_summed_in_full() -> None:
    frames = frames_of(40, symbols=8)
    half = Frames(frames.features, frames.lengths, ctc_logits=frames.ctc_logits.detach().bfloat16())
    exact = Frames(frames.features, frames.lengths, ctc_logits=half.ctc_logits.float())
    assert ctc_loss(half, [[1, 2, 3]])[0].item() == ctc_loss(exact, [[1, 2, 3]])[0].item()


def test_saved_head_is_the_same(tmp_path: Path) -> None:
    first = head()
    first.save(tmp_path)
    loaded = CtcHead.load(tmp_path, 6, LETTERS)
    frames = Frames(torch.randn(1, 3, 6), torch.tensor([3]))
    assert torch.equal(loaded(frames).ctc_logits, first(frames).ctc_logits)
    assert [(group.name, len(group.parameters)) for group in loaded.parameter_groups()] == [("head", 2)]

from __future__ import annotations

import math

import jiwer
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nuebridge.metrics import ErrorCounts, basic_normalize, character_errors, word_errors

TEXTS = st.lists(st.text("abc ", min_size=1, max_size=12).map(lambda t: " ".join(t.split())), min_size=1, max_size=4)


@settings(max_examples=60, deadline=None)
@given(TEXTS, st.randoms())
def test_rates_are_jiwers(references: list[str], rng: object) -> None:
    references = [reference or "a" for reference in references]  # jiwer refuses an empty one
    hypotheses = ["".join(rng.choice("ab c") for _ in range(rng.randrange(10))) for _ in references]  # type: ignore[attr-defined]
    hypotheses = [" ".join(h.split()) for h in hypotheses]
    assert word_errors(references, hypotheses).rate == pytest.approx(jiwer.wer(references, hypotheses))
    assert character_errors(references, hypotheses).rate == pytest.approx(jiwer.cer(references, hypotheses))


def test_counts_by_kind() -> None:
    assert word_errors(["the cat sat", "on mats"], ["a cat", "on the mats"]) == ErrorCounts(1, 1, 1, 5)
    assert character_errors(["ab c"], ["axc"]) == ErrorCounts(1, 1, 0, 4)


def test_an_empty_reference_counts_what_was_invented() -> None:
    errors = word_errors(["", "a b"], ["x y z", "a b"])
    assert errors == ErrorCounts(insertions=3, reference_length=2) and errors.rate == 1.5
    assert word_errors([""], [""]) == ErrorCounts()
    assert math.isnan(word_errors([""], ["x"]).rate)
    assert character_errors(["", "ab"], ["xy", ""]) == ErrorCounts(deletions=2, insertions=2, reference_length=2)


def test_rates_come_from_sums() -> None:
    parts = [word_errors([r], [h]) for r, h in (("a b c d", "a b c"), ("a", "b"))]
    assert (parts[0] + parts[1]).rate == word_errors(["a b c d", "a"], ["a b c", "b"]).rate == 2 / 5


def test_as_many_references_as_hypotheses() -> None:
    with pytest.raises(ValueError, match="zip"):
        word_errors(["a", "b"], ["a"])


@pytest.mark.parametrize(
    ("text", "normal"),
    [
        ("  It’s 5 o'clock -- NOW!\n", "it's 5 o'clock now"),
        ("snake_case, a.b", "snake case a b"),
        ("Cafe\u0301 Straße", "caf\u00e9 straße"),
        ("हिन्दी में।", "हिन्दी में"),  # vowel signs belong to their letters
        ("東京、です。", "東京 です"),
        ("¿", ""),
    ],
)
def test_basic_normalize(text: str, normal: str) -> None:
    assert basic_normalize(text) == normal
    assert basic_normalize(normal) == normal

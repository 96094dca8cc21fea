from __future__ import annotations

import pytest

from nuebridge.metrics import ErrorCounts
from nuebridge.scoring import HeardWord, score


def test_rates_and_insertions_are_sums() -> None:
    scores = score(["I said so.", "the cat sat", ""], ["I um said so", "a cat", "uh"])
    assert scores.utterances == 3
    assert scores.words == ErrorCounts(substitutions=1, deletions=1, insertions=2, reference_length=6)
    assert scores.wer == pytest.approx(4 / 6)
    assert scores.cer is not None and scores.cer > 0
    assert scores.inserted_words() == {"um": 1, "uh": 1}
    assert scores.heard[0] == (
        HeardWord("i", "said"),
        HeardWord("um", "inserted"),
        HeardWord("said", "said"),
        HeardWord("so", "said"),
    )
    plain = scores.as_dict()
    assert plain["words"] == 6 and plain["insertions"] == 2 and plain["inserted_words"] == {"um": 1, "uh": 1}


@pytest.mark.parametrize(
    ("reference", "hypothesis", "found"),
    [
        ("we went home", "um we um went home", {"um": 2}),
        ("um we went home", "um we went home", {}),  # said, and so no fault
        ("we went home", "we you know went home", {"you know": 1}),
        ("do you know him", "do you know him", {}),
        ("do you like him", "do you know him", {}),  # a mistaken word, no phrase out of nothing
        ("we went home", "we um home", {"um": 1}),  # in the place of a word
        ("we went home", "we you know um went home", {"you know": 1, "um": 1}),
        ("", "uh you know", {"uh": 1, "you know": 1}),
        ("we went home", "", {}),
    ],
)
def test_phrases_written_where_nobody_said_them(reference: str, hypothesis: str, found: dict[str, int]) -> None:
    scores = score([reference], [hypothesis])
    assert scores.count_unsaid(["um", "uh", "you know", ""]) == found


def test_a_longer_phrase_goes_before_its_words() -> None:
    scores = score(["we went"], ["we you know know went"])
    assert scores.count_unsaid(["know", "you know"]) == {"you know": 1, "know": 1}


def test_nothing_to_divide_by() -> None:
    scores = score(["", "..."], ["", "word"])
    assert scores.wer is None and scores.cer is None and scores.words.insertions == 1
    with pytest.raises(ValueError, match="1 references and 2 hypotheses"):
        score(["a"], ["a", "b"])


def test_another_normalization() -> None:
    assert score(["A b"], ["a b"], normalize=str).words.substitutions == 1

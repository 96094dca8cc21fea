"""Texts against their references: errors, and what of a hypothesis was not said.

    scores = score(references, hypotheses)
    scores.wer, scores.words.insertions       # from sums over all utterances
    scores.inserted_words()                   # the words behind those insertions
    scores.count_unsaid(["um", "you know"])   # phrases written where nobody said them

Knows no model and no audio.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import jiwer

from nuebridge.metrics import ErrorCounts, basic_normalize, character_errors, word_errors

HOW_UNSAID = (
    "a phrase counts where the hypothesis has it and none of its words is aligned with the same word of the reference "
    "(word alignment of least edits, jiwer's; longer phrases are looked for first, and no word counts twice)"
)
"""What :meth:`TextScores.count_unsaid` counts, in words for a report."""


@dataclass(frozen=True)
class HeardWord:
    """A word of a hypothesis, and what the alignment with its reference makes of it."""

    word: str
    kind: Literal["said", "substituted", "inserted"]


@dataclass(frozen=True)
class TextScores:
    """Errors of hypotheses against references, summed over utterances."""

    utterances: int
    words: ErrorCounts
    characters: ErrorCounts
    """Spaces count."""
    heard: tuple[tuple[HeardWord, ...], ...]
    """The words of each hypothesis."""

    @property
    def wer(self) -> float | None:
        """Word errors per reference word; None where the references hold no words."""
        return None if math.isnan(self.words.rate) else self.words.rate

    @property
    def cer(self) -> float | None:
        """Character errors per reference character; None where the references hold none."""
        return None if math.isnan(self.characters.rate) else self.characters.rate

    def inserted_words(self) -> Counter[str]:
        """How often each word was inserted; their sum is ``words.insertions``."""
        return Counter(one.word for words in self.heard for one in words if one.kind == "inserted")

    def count_unsaid(self, phrases: Iterable[str]) -> Counter[str]:
        """How often phrases of one or more words were written where they were not said; see HOW_UNSAID.

        Those that never were are left out.
        """
        wanted = sorted(
            {tuple(phrase.split()) for phrase in phrases if phrase.split()}, key=lambda one: (-len(one), one)
        )
        return Counter(found for words in self.heard for found in _unsaid(words, wanted))

    def as_dict(self) -> dict[str, Any]:
        """Plain data for JSON; rates are None where there is no reference."""
        return {
            "utterances": self.utterances,
            "wer": self.wer,
            "cer": self.cer,
            "words": self.words.reference_length,
            "substitutions": self.words.substitutions,
            "deletions": self.words.deletions,
            "insertions": self.words.insertions,
            "inserted_words": dict(self.inserted_words().most_common()),
        }


def score(
    references: Sequence[str], hypotheses: Sequence[str], normalize: Callable[[str], str] = basic_normalize
) -> TextScores:
    """Scores hypotheses, pair by pair, both sides normalized. Raises ValueError where their numbers differ."""
    if len(references) != len(hypotheses):
        raise ValueError(f"there are {len(references)} references and {len(hypotheses)} hypotheses")
    references, hypotheses = [normalize(one) for one in references], [normalize(one) for one in hypotheses]
    return TextScores(
        len(references),
        word_errors(references, hypotheses),
        character_errors(references, hypotheses),
        tuple(_heard(reference, hypothesis) for reference, hypothesis in zip(references, hypotheses, strict=True)),
    )


def _heard(reference: str, hypothesis: str) -> tuple[HeardWord, ...]:
    words = hypothesis.split()
    if not reference:  # jiwer refuses it
        return tuple(HeardWord(word, "inserted") for word in words)
    transform = jiwer.ReduceToListOfListOfWords()
    (chunks,) = jiwer.process_words([reference], [" ".join(words)], transform, transform).alignments
    kinds: dict[str, Literal["said", "substituted", "inserted"]] = {
        "equal": "said",
        "substitute": "substituted",
        "insert": "inserted",
    }
    return tuple(
        HeardWord(word, kinds[chunk.type])
        for chunk in chunks
        if chunk.type != "delete"
        for word in words[chunk.hyp_start_idx : chunk.hyp_end_idx]
    )


def _unsaid(words: Sequence[HeardWord], wanted: Sequence[tuple[str, ...]]) -> Iterator[str]:
    place = 0
    while place < len(words):
        for phrase in wanted:
            there = words[place : place + len(phrase)]
            if tuple(one.word for one in there) == phrase:
                if all(one.kind != "said" for one in there):
                    yield " ".join(phrase)
                place += len(phrase)
                break
        else:
            place += 1

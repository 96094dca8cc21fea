"""Error rates from sums: word and character errors over a set of utterances (jiwer counts them)."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

import jiwer


@dataclass(frozen=True)
class ErrorCounts:
    """Edit operations against references; ``rate`` is their sum over the reference length."""

    substitutions: int = 0
    deletions: int = 0
    insertions: int = 0
    reference_length: int = 0

    @property
    def rate(self) -> float:
        """Errors per reference unit; not a number where the reference is empty."""
        errors = self.substitutions + self.deletions + self.insertions
        return errors / self.reference_length if self.reference_length else float("nan")

    def __add__(self, other: ErrorCounts) -> ErrorCounts:
        return ErrorCounts(
            self.substitutions + other.substitutions,
            self.deletions + other.deletions,
            self.insertions + other.insertions,
            self.reference_length + other.reference_length,
        )


def basic_normalize(text: str) -> str:
    """Lower case, letters with their marks, digits and apostrophes only, composed, single spaces."""
    text = unicodedata.normalize("NFC", text.lower()).replace("\N{RIGHT SINGLE QUOTATION MARK}", "'")
    kept = (c if c == "'" or unicodedata.category(c)[0] in "LMN" else " " for c in text)
    return " ".join("".join(kept).split())


def word_errors(references: Sequence[str], hypotheses: Sequence[str]) -> ErrorCounts:
    """Word errors of hypotheses against references, pair by pair."""
    return _count([r.split() for r in references], [h.split() for h in hypotheses], " ")


def character_errors(references: Sequence[str], hypotheses: Sequence[str]) -> ErrorCounts:
    """Character errors (spaces count) of hypotheses against references, pair by pair."""
    return _count([list(r) for r in references], [list(h) for h in hypotheses], "")


def _count(references: list[list[str]], hypotheses: list[list[str]], joiner: str) -> ErrorCounts:
    total = ErrorCounts()
    filled = []
    for reference, hypothesis in zip(references, hypotheses, strict=True):
        if reference:
            filled.append((joiner.join(reference), joiner.join(hypothesis)))
        else:  # jiwer refuses an empty reference: every unit of the hypothesis is an insertion
            total += ErrorCounts(insertions=len(hypothesis))
    if filled:
        pairs = [list(side) for side in zip(*filled, strict=True)]
        process = jiwer.process_words if joiner else jiwer.process_characters
        # The texts are compared as they are: no transform of jiwer's own beyond the split.
        transform = jiwer.ReduceToListOfListOfWords() if joiner else jiwer.ReduceToListOfListOfChars()
        output = process(pairs[0], pairs[1], transform, transform)
        total += ErrorCounts(
            output.substitutions,
            output.deletions,
            output.insertions,
            output.substitutions + output.deletions + output.hits,
        )
    return total

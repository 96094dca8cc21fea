"""Words of a new domain that have no place in the old one.

Where an adapted model writes them all the same, it has forgotten what it could do.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from nuebridge.metrics import basic_normalize

TIMES = 10
LEAST_SHARE = 0.002
LEAST_COUNT = 5

HOW_FOUND = (
    f"words that are at least {LEAST_SHARE:.1%} of the new domain's training texts ({LEAST_COUNT} occurrences or more) "
    f"and {TIMES} times as frequent there as in the original domain's (those of replay and test, to which one "
    "occurrence is added)"
)
"""What :func:`new_words` finds, in words for a report."""


def new_words(new: Iterable[str], original: Iterable[str]) -> list[str]:
    """Words much more frequent in the new texts than in the original ones, the most frequent first; see HOW_FOUND.

    None where there are no original texts.
    """
    here, there = _count(new), _count(original)
    words, original_words = here.total(), there.total()
    if not original_words:
        return []
    return [
        word
        for word, count in here.most_common()
        if count >= max(LEAST_COUNT, LEAST_SHARE * words)
        and count / words >= TIMES * (there[word] + 1) / (original_words + 1)
    ]


def _count(texts: Iterable[str]) -> Counter[str]:
    return Counter(word for text in texts for word in basic_normalize(text).split())

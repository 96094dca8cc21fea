"""Named normalizers for the texts that a model learns to write.

A configuration names one, the checkpoint keeps the name. They change how a text is written, never what is said:
numbers and abbreviations stay as they are. All but ``none`` leave single spaces, and none at either end.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Mapping
from typing import Literal

from nuebridge.config import suggestion
from nuebridge.errors import ConfigError
from nuebridge.metrics import basic_normalize

TextNormalizer = Literal["none", "spaces", "nfkc", "lower", "no-punctuation", "basic"]

SPOKEN_SIGNS = "%&@#"
"""Punctuation to Unicode, but read out: they stay."""

APOSTROPHES = "'\N{RIGHT SINGLE QUOTATION MARK}"


def normalize(text: str, name: str) -> str:
    """A text in the form of a name of :data:`NORMALIZERS`; a second time changes nothing.

    Raises ConfigError for a name that is not one of them.
    """
    normalizer = NORMALIZERS.get(name)
    if normalizer is None:
        raise ConfigError(f"there is no text normalizer {name!r}{suggestion(name, NORMALIZERS)}")
    return normalizer(text)


def _as_it_is(text: str) -> str:
    """The text itself."""
    return text


def _spaces(text: str) -> str:
    """Line breaks, tabs and runs of spaces become one space."""
    return " ".join(text.split())


def _nfkc(text: str) -> str:
    """Unicode's form NFKC: full-width letters, ligatures and half-width kana as the plain characters they stand for."""
    return _spaces(unicodedata.normalize("NFKC", text))


def _lower(text: str) -> str:
    """Lower case."""
    # Composed last: a lower-case letter may come in two pieces, as that of a capital dotted I does.
    return _spaces(unicodedata.normalize("NFC", text.lower()))


def _no_punctuation(text: str) -> str:
    """Punctuation becomes a space, except apostrophes within words, what belongs to a number, and ``% & @ #``.

    To a number belong ``. , : /`` between digits, and a ``.`` or ``-`` that begins it.
    """
    padded = f" {text} "
    kept = (
        " " if _is_dropped(*padded[i - 1 : i + 2]) else "'" if padded[i] in APOSTROPHES else padded[i]
        for i in range(1, len(padded) - 1)
    )
    return _spaces("".join(kept))


def _is_dropped(before: str, character: str, after: str) -> bool:
    if unicodedata.category(character)[0] != "P" or character in SPOKEN_SIGNS:
        return False
    if character in APOSTROPHES:
        return not (_in_a_word(before) and _in_a_word(after))
    if not after.isdecimal():
        return True
    begins = before.isspace() or unicodedata.category(before) in ("Ps", "Pi")
    return not (character in ".,:/" and before.isdecimal()) and not (character in ".-" and begins)


def _in_a_word(character: str) -> bool:
    return unicodedata.category(character)[0] in "LMN"


NORMALIZERS: Mapping[str, Callable[[str], str]] = {
    "none": _as_it_is,
    "spaces": _spaces,
    "nfkc": _nfkc,
    "lower": _lower,
    "no-punctuation": _no_punctuation,
    "basic": basic_normalize,
}
"""What each name of ``TextNormalizer`` does."""

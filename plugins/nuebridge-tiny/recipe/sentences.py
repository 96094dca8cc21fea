"""The text of the corpus: kinds of utterances, templates, word strings, and the check against the test texts."""

from __future__ import annotations

import random
import re
from dataclasses import dataclass
from functools import lru_cache

from grammar import Grammar
from vocabulary import ALPHABET, HERE, all_words

TEST_TEXTS = ("test-dev.txt", "test-final.txt")
KINDS = {"sentence": 0.61, "words": 0.25, "number": 0.07, "command": 0.07}
MAX_CHARACTERS = 100
_SLOT = re.compile(r"\{(\w+)\}")


@dataclass(frozen=True)
class Utterance:
    """One utterance: what the recogniser must write, what the synthesiser reads, and its kind."""

    text: str
    spoken: str
    kind: str


def normalise(text: str) -> str:
    """Lower case, no punctuation, single spaces: the form the recogniser writes."""
    lowered = text.lower().replace("\u2019", "'").replace("-", " ")
    return " ".join("".join(c if c in ALPHABET else " " if c.isspace() else "" for c in lowered).split())


@lru_cache(maxsize=1)
def held_out_texts() -> frozenset[str]:
    """The lines of the test texts in normal form; no utterance of the corpus may equal one of them."""
    lines: set[str] = set()
    for name in TEST_TEXTS:
        path = HERE / name
        if path.exists():
            lines.update(normalise(line) for line in path.read_text(encoding="utf-8").splitlines())
    lines.discard("")
    return frozenset(lines)


@lru_cache(maxsize=1)
def templates() -> dict[str, list[str]]:
    """The lines of ``templates.txt`` by kind."""
    kinds: dict[str, list[str]] = {}
    current: list[str] = []
    for line in (HERE / "templates.txt").read_text(encoding="utf-8").splitlines():
        line = line.strip()
        if line.startswith("["):
            current = kinds.setdefault(line.strip("[]"), [])
        elif line and not line.startswith("#"):
            current.append(line)
    return kinds


class Sentences:
    """A stream of utterances from one random source."""

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng
        self.grammar = Grammar(rng)
        self.overlaps = 0

    def draw(self, max_characters: int = MAX_CHARACTERS) -> Utterance:
        """One utterance that is not too long and is no line of the test texts."""
        kind = self.rng.choices(list(KINDS), list(KINDS.values()))[0]
        while True:
            spoken = self._spoken(kind)
            text = normalise(spoken)
            if not text or len(text) > max_characters:
                continue
            if text in held_out_texts():
                self.overlaps += 1
                continue
            return Utterance(text, spoken, kind)

    def _spoken(self, kind: str) -> str:
        if kind == "words":
            return self._word_string()
        if kind == "sentence" and self.rng.random() < 0.68:
            return self.grammar.sentence()
        return self._template(self.rng.choice(templates()[kind]))

    def _word_string(self) -> str:
        words = all_words()
        separator = ", " if self.rng.random() < 0.15 else " "
        return separator.join(self.rng.choice(words) for _ in range(self.rng.randint(2, 8)))

    def _template(self, template: str) -> str:
        return _SLOT.sub(lambda match: self.grammar.slot(match.group(1)), template)

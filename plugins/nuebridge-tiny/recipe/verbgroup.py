"""The verb group: a subject with its verb in any tense, aspect, mood and polarity, and in questions."""

from __future__ import annotations

import random
from typing import NamedTuple

from vocabulary import ing, participle, past, third, verb_frames, word_classes

MODALS = "will would can could should must might may".split()
NEGATED = {
    "will": "won't",
    "would": "wouldn't",
    "can": "can't",
    "could": "couldn't",
    "should": "shouldn't",
    "must": "mustn't",
    "is": "isn't",
    "are": "aren't",
    "was": "wasn't",
    "were": "weren't",
    "has": "hasn't",
    "have": "haven't",
    "had": "hadn't",
    "do": "don't",
    "does": "doesn't",
    "did": "didn't",
}
SHORT = {"am": "'m", "is": "'s", "are": "'re", "has": "'s", "have": "'ve", "had": "'d", "will": "'ll", "would": "'d"}


class NounPhrase(NamedTuple):
    """A noun phrase and its agreement: 1s, 3s or p (plural and you)."""

    text: str
    agreement: str


def be(agreement: str, tense: str) -> str:
    """A finite form of to be."""
    if tense == "past":
        return "were" if agreement == "p" else "was"
    return {"1s": "am", "3s": "is", "p": "are"}[agreement]


class VerbGroups:
    """Random words and verb groups from one random source."""

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng
        self.words = word_classes()
        self.verbs = verb_frames()

    def one(self, choices: list[str]) -> str:
        """A choice out of a list."""
        return self.rng.choice(choices)

    def maybe(self, probability: float) -> bool:
        """A throw of the dice."""
        return self.rng.random() < probability

    def word(self, word_class: str) -> str:
        """A word of a class; words early in the list come a little more often."""
        members = self.words[word_class]
        return members[int(len(members) * self.rng.random() ** 1.25)]

    def finite(self, subject: NounPhrase, verb: str, complement: str = "", question: bool = False) -> str:
        """A subject with a verb group in some tense, aspect, mood and polarity; inverted in questions."""
        auxiliary, main = self.verb_group(verb, subject.agreement, question)
        adverb = " " + self.word("adv_frequency") if self.maybe(0.07) else ""
        if question:
            return f"{auxiliary} {subject.text}{adverb} {main}{complement}".replace("  ", " ")
        if not auxiliary:
            return f"{subject.text}{adverb} {main}{complement}"
        pronoun = subject.text in ("i", "you", "he", "she", "it", "we", "they")
        if pronoun and auxiliary in SHORT and self.maybe(0.55) and main:
            return f"{subject.text}{SHORT[auxiliary]}{adverb} {main}{complement}"
        return f"{subject.text} {auxiliary}{adverb} {main}{complement}".replace("  ", " ")

    def verb_group(self, verb: str, agreement: str, question: bool) -> tuple[str, str]:
        """The auxiliary (empty for simple tenses) and the rest of the verb group."""
        pick = self.rng.random()
        negated = self.maybe(0.16)
        tense = self.one(["present", "past"])
        if verb == "be" and pick < 0.7:
            form = be(agreement, tense)
            if negated:
                return NEGATED.get(form, form + " not"), ""
            return form, ""
        if pick < 0.50:
            if question or negated:
                do = "did" if tense == "past" else "does" if agreement == "3s" else "do"
                return (NEGATED[do] if negated else do), verb
            if tense == "past":
                return "", past(verb)
            return "", third(verb) if agreement == "3s" else verb
        if pick < 0.66:
            auxiliary, main = self.one(MODALS), verb
        elif pick < 0.78:
            auxiliary, main = be(agreement, tense), ing(verb)
        elif pick < 0.90:
            auxiliary, main = self.one(["had", "has" if agreement == "3s" else "have"]), participle(verb)
            if tense == "present" and auxiliary == "had" and self.maybe(0.5):
                auxiliary = "has" if agreement == "3s" else "have"
        elif pick < 0.95:
            auxiliary, main = be(agreement, tense), f"going to {verb}"
        elif question:
            auxiliary, main = "did", f"have to {verb}"
        else:
            have = "has to" if agreement == "3s" else "have to"
            return "", f"{self.one(['had to', have, 'used to'])} {verb}"
        if negated:
            auxiliary = NEGATED.get(auxiliary, auxiliary + " not" if not question else auxiliary)
        return auxiliary, main

"""A recursive phrase grammar of everyday English: noun phrases, verb groups, complements, clauses."""

from __future__ import annotations

import random
from collections.abc import Callable

import numberwords
from verbgroup import NounPhrase, VerbGroups, be
from vocabulary import article, ing, participle, past, plural

THINGS = "household food clothing tech office vehicle school nature animal sport_music".split()
NOUNS = [*THINGS, "abstract", "place"]
MASSES = ["food_mass", "drink", "nature_mass", "abstract_mass"]
PRONOUNS = [("i", "1s"), ("you", "p"), ("he", "3s"), ("she", "3s"), ("it", "3s"), ("we", "p"), ("they", "p")]
OBJECTS = "me you him her it us them".split()
POSSESSIVES = "my your his her our their the the".split()
INDEFINITE = "someone somebody everyone everybody nobody anyone".split()
SUBORDINATORS = "because when if although while before after unless since until so though as whenever whereas".split()
PLACE_PREPOSITIONS = (
    "in|at|near|behind|in front of|next to|outside|inside|opposite|across|around|from|through|along|past|by|beyond"
).split("|")
THING_PREPOSITIONS = "on|under|in|behind|beside|next to|near|above|below|between|against|inside|over|beneath".split("|")


class Grammar(VerbGroups):
    """Random phrases from one random source."""

    def __init__(self, rng: random.Random) -> None:
        super().__init__(rng)
        self._slots: dict[str, Callable[[], str]] = {
            "np_obj": lambda: self.noun_phrase().text,
            "np_sub": lambda: self.subject().text,
            "clause": lambda: self.clause(1),
            "vp_base": lambda: self.predicate(lambda verb: verb),
            "vp_ing": lambda: self.predicate(ing),
            "vp_past": lambda: self.predicate(past),
            "vt_part": lambda: participle(self.one(self.verbs["transitive"])),
            "time_when": self.when,
            "adj_degree": lambda: self.word("adv_degree"),
            "prep_place": lambda: self.one(THING_PREPOSITIONS),
            "things": lambda: plural(self.word(self.one(NOUNS))),
            "thing": lambda: self.word(self.one(THINGS)),
            "noun": lambda: self.word(self.one(NOUNS)),
            "mass": lambda: self.word(self.one(MASSES)),
            "food_plural": lambda: plural(self.word("food")),
            "animal_plural": lambda: plural(self.word("animal")),
            "time_unit_plural": lambda: self.one("minutes hours days weeks months years seconds".split()),
            "units": lambda: plural(self.word("unit")),
            "song": lambda: self.one("song track album film game story message".split()),
            "music": lambda: self.one("guitar piano violin drums trumpet flute harp".split()),
            "sport": lambda: self.one("football tennis basketball hockey cricket chess golf cards rugby".split()),
            "material_mass": lambda: self.one(
                "wood plastic metal glass paper leather cotton stone gold silver".split()
            ),
            "weather": lambda: self.one("rain snow thunder wind fog ice sunshine".split()),
            "anyword": lambda: self.word(self.one(list(self.words))),
        }

    def slot(self, name: str) -> str:
        """Fill a slot of a template."""
        if name in self._slots:
            return self._slots[name]()
        if name in numberwords.SLOTS:
            return numberwords.SLOTS[name](self.rng)
        return self.word(name)

    def adjectives(self, person: bool = False) -> str:
        """Up to three adjectives, each with a following space."""
        parts: list[str] = []
        if self.maybe(0.10):
            parts.append(self.word("adv_degree"))
            parts.append(self.word("adj_person" if person else "adj"))
        elif self.maybe(0.30):
            parts.append(self.word("adj_person" if person else "adj"))
        if self.maybe(0.06):
            parts.append(self.word("adj_size"))
        if not person and self.maybe(0.06):
            parts.append(self.word(self.one(["colour", "material", "nationality"])))
        return "".join(part + " " for part in parts)

    def countable(self, word_class: str, depth: int) -> NounPhrase:
        """A noun phrase around a countable noun."""
        person = word_class in ("person", "family")
        noun = self.adjectives(person) + self.word(word_class)
        many = self.adjectives(person) + plural(self.word(word_class))
        pick = self.rng.random()
        if pick < 0.30:
            result = NounPhrase("the " + noun, "3s")
        elif pick < 0.47:
            result = NounPhrase(f"{article(noun)} {noun}", "3s")
        elif pick < 0.62:
            result = NounPhrase(f"{self.one(POSSESSIVES)} {noun}", "3s")
        elif pick < 0.70:
            result = NounPhrase(f"{self.one('this that every each another no any one'.split())} {noun}", "3s")
        elif pick < 0.74:
            result = NounPhrase(f"{self.word('name')}'s {noun}", "3s")
        elif pick < 0.77:
            result = NounPhrase(f"the {self.word(self.one(['superlative', 'ordinal']))} {self.word(word_class)}", "3s")
        elif pick < 0.83:
            result = NounPhrase(f"{numberwords.small(self.rng, 2, 30)} {many}", "p")
        elif pick < 0.92:
            quantity = "some|many|most|all|several|these|those|a few|a lot of|both|no|few|other|enough|such"
            result = NounPhrase(f"{self.one(quantity.split('|'))} {many}", "p")
        else:
            result = NounPhrase(self.one(["the ", "their ", "our ", "", ""]) + many, "p")
        if depth < 1 and self.maybe(0.13):
            result = NounPhrase(f"{result.text} {self.post_modifier(person, depth)}", result.agreement)
        return result

    def post_modifier(self, person: bool, depth: int) -> str:
        """A prepositional phrase, relative clause or participle phrase after a noun."""
        pick = self.rng.random()
        if pick < 0.35:
            return self.place_phrase()
        if pick < 0.5:
            return f"{self.one('with of without for from about like'.split())} {self.noun_phrase(depth + 1).text}"
        if pick < 0.68:
            return f"{self.one(['who', 'that'] if person else ['which', 'that'])} {self.predicate(past, depth + 1)}"
        if pick < 0.9:
            verb = self.one(self.verbs["transitive_person" if person else "transitive"])
            relative = self.one(["that ", "who ", ""] if person else ["that ", "which ", ""])
            return f"{relative}{self.finite(self.subject_short(), verb)}"
        return self.predicate(ing, depth + 1)

    def noun_phrase(self, depth: int = 0, role: str = "object") -> NounPhrase:
        """Any noun phrase."""
        pick = self.rng.random()
        if pick < 0.12 and role == "object":
            return NounPhrase(self.one(OBJECTS), "3s")
        if pick < 0.22:
            return NounPhrase(self.person_name(), "3s")
        if pick < 0.34:
            mass = self.word(self.one(MASSES))
            return NounPhrase(
                self.one(["", "the ", "some ", "this ", "much ", "no ", "our "]) + self.adjectives() + mass, "3s"
            )
        if pick < 0.37 and depth < 1:
            first, second = self.noun_phrase(1), self.noun_phrase(1)
            return NounPhrase(f"{first.text} {self.one(['and', 'and', 'or'])} {second.text}", "p")
        classes = ["person", "family", "person", "household", "abstract", "place", *NOUNS, "body"]
        return self.countable(self.one(classes), depth)

    def person_name(self) -> str:
        """A first name, a full name, or a title and surname."""
        pick = self.rng.random()
        if pick < 0.75:
            return self.word("name")
        if pick < 0.88:
            return f"{self.word('name')} {self.word('surname')}"
        return f"{self.word('title')} {self.word('surname')}"

    def subject_short(self) -> NounPhrase:
        """A pronoun or a name."""
        if self.maybe(0.7):
            return NounPhrase(*self.rng.choice(PRONOUNS))
        return NounPhrase(self.word("name"), "3s")

    def subject(self, depth: int = 0) -> NounPhrase:
        """The subject of a clause."""
        pick = self.rng.random()
        if pick < 0.42:
            return NounPhrase(*self.rng.choice(PRONOUNS))
        if pick < 0.46:
            return NounPhrase(self.one(INDEFINITE), "3s")
        if pick < 0.48:
            return NounPhrase(self.one(["this", "that", "everything", "something", "nothing"]), "3s")
        if pick < 0.72:
            return self.countable(self.one(["person", "family", "person", "animal"]), depth)
        return self.noun_phrase(depth, "subject")

    def place_phrase(self) -> str:
        """A prepositional phrase of place."""
        if self.maybe(0.15):
            return "in " + self.word(self.one(["city", "country"]))
        if self.maybe(0.35):
            return f"{self.one(THING_PREPOSITIONS)} {self.one(POSSESSIVES)} {self.adjectives()}{self.word('household')}"
        return (
            f"{self.one(PLACE_PREPOSITIONS)} {self.one(['the', 'the', 'a', 'my', 'our', 'this'])} {self.word('place')}"
        )

    def when(self) -> str:
        """An adverbial of time."""
        rng = self.rng
        options: list[Callable[[], str]] = [
            lambda: self.word("adv_time"),
            lambda: "on " + self.word("day") + self.one(["", " morning", " evening", " afternoon", " night"]),
            lambda: (
                f"{self.one(['last', 'next', 'this', 'every'])} {self.word(self.one(['time_noun', 'day', 'month']))}"
            ),
            lambda: "in " + self.word("month"),
            lambda: "in the " + self.one(["morning", "afternoon", "evening", "summer", "winter", "spring", "autumn"]),
            lambda: "at " + numberwords.clock(rng),
            lambda: f"{numberwords.small(rng, 2, 30)} {plural(self.word('time_noun'))} ago",
            lambda: f"{self.one(['tomorrow', 'yesterday', 'this'])} {self.one(['morning', 'afternoon', 'evening'])}",
            lambda: f"for {numberwords.small(rng, 2, 60)} {plural(self.word('time_noun'))}",
            lambda: "all " + self.one(["day", "night", "week", "year", "the time", "morning"]),
            lambda: (
                self.one(["before", "after"])
                + self.one([" breakfast", " lunch", " dinner", " school", " work", " class"])
            ),
        ]
        return rng.choice(options)()

    def predicate(self, form: Callable[[str], str], depth: int = 1) -> str:
        """A verb in a given form with its complements and adverbials."""
        verb, complement = self.verb_and_complement(depth)
        return f"{form(verb)}{complement}{self.adverbials()}"

    def adverbials(self) -> str:
        """Adverbials at the end of a clause, each with a leading space."""
        text = ""
        if self.maybe(0.10):
            text += " " + self.word("adv_manner")
        if self.maybe(0.16):
            text += " " + self.place_phrase()
        elif self.maybe(0.05):
            text += " " + self.word("adv_place")
        if self.maybe(0.17):
            text += " " + self.when()
        return text

    def verb_and_complement(self, depth: int) -> tuple[str, str]:
        """A verb in base form and what follows it (with a leading space)."""
        frames = (
            "intransitive motion transitive transitive_person eat drink wear read play ditransitive that tell_that to "
            "ing object_to copula have"
        ).split()
        weights = [10, 8, 24, 14, 4, 3, 3, 4, 2, 7, 5, 1, 7, 3, 3, 10, 5]
        if depth >= 2:
            for index in (10, 11, 12, 13, 14):
                weights[index] = 0
        frame = self.rng.choices(frames, weights)[0]
        verb = "have" if frame == "have" else self.one(self.verbs[frame])
        return verb, self.complement(frame, depth)

    def complement(self, frame: str, depth: int) -> str:
        """What follows a verb of a frame, with a leading space."""
        determiner = self.one(["the", "a", "some", "my", "your", "his", "her", "this"])
        if frame == "intransitive":
            return ""
        if frame == "motion":
            if self.maybe(0.2):
                return " " + self.word("adv_place")
            preposition = self.one(["to", "to", "to", "into", "out of", "through", "across", "from", "past", "towards"])
            return f" {preposition} {self.one(['the', 'the', 'my', 'a'])} {self.adjectives()}{self.word('place')}"
        if frame == "transitive_person":
            if self.maybe(0.4):
                return " " + self.one(OBJECTS + INDEFINITE)
            if self.maybe(0.4):
                return " " + self.person_name()
            return " " + self.countable(self.one(["person", "family"]), depth).text
        if frame in ("eat", "drink"):
            if frame == "drink" or self.maybe(0.4):
                mass = self.word("drink" if frame == "drink" else "food_mass")
                return f" {self.one(['some ', 'the ', 'more ', 'a lot of ', '', ''])}{self.adjectives()}{mass}"
            return " " + self.countable("food", depth).text
        if frame == "wear":
            if self.maybe(0.3):
                return f" {determiner if determiner != 'a' else 'the'} {self.word('clothes_plural')}"
            return " " + self.countable("clothing", depth).text
        if frame == "read":
            text = self.one("book letter newspaper story message report poem article email text note".split())
            return f" {determiner} {text}"
        if frame == "play":
            return " " + self.slot("sport") if self.maybe(0.5) else " the " + self.slot("music")
        if frame == "ditransitive":
            who = self.one(OBJECTS) if self.maybe(0.6) else self.person_name()
            thing = self.countable(self.one(THINGS), depth).text
            return f" {who} {thing}" if self.maybe(0.7) else f" {thing} to {who}"
        if frame in ("that", "tell_that"):
            listener = f" {self.one(OBJECTS)}" if frame == "tell_that" else ""
            return f"{listener}{self.one([' that', ' that', ''])} {self.clause(depth + 1)}"
        if frame == "to":
            return f" {self.one(['to', 'to', 'to', 'not to'])} {self.predicate(str, depth + 1)}"
        if frame == "ing":
            return " " + self.predicate(ing, depth + 1)
        if frame == "object_to":
            return f" {self.one(OBJECTS)} to {self.predicate(str, depth + 1)}"
        if frame == "copula":
            degree = self.one(["", "", "", "very ", "so ", "too ", "really ", "quite ", "not ", "a little ", "rather "])
            pick = self.rng.random()
            if pick < 0.12:
                return f" {self.word('comparative')} than {self.noun_phrase(1).text}"
            return f" {degree}{self.word('adj' if pick < 0.6 else 'adj_person')}"
        return " " + self.noun_phrase(depth).text

    def clause(self, depth: int = 0) -> str:
        """A declarative clause."""
        verb, complement = self.verb_and_complement(depth)
        subject = self.subject(depth)
        return self.finite(subject, verb, complement) + self.adverbials()

    def question(self) -> str:
        """A yes-no or wh- question."""
        verb, complement = self.verb_and_complement(1)
        pick = self.rng.random()
        if pick < 0.42:
            return self.finite(self.subject(1), verb, complement, question=True) + self.adverbials() + "?"
        if pick < 0.55:
            _, main = self.verb_group(verb, "3s", False)
            head = self.one(["who", "who", "what", f"which {self.slot('noun')}", f"which {self.word('person')}"])
            tail = past(verb) if self.maybe(0.6) or not main else main
            return f"{head} {tail}{complement}{self.adverbials()}?"
        if pick < 0.75:
            transitive = self.one(self.verbs["transitive"])
            heads = [
                "what",
                "what",
                "who",
                f"which {self.slot('noun')}",
                f"how many {self.slot('things')}",
                "what else",
            ]
            heads += [
                f"how much {self.slot('mass')}",
                f"whose {self.slot('noun')}",
                f"what kind of {self.slot('noun')}",
            ]
            return (
                f"{self.one(heads)} {self.finite(self.subject(1), transitive, '', question=True)}{self.adverbials()}?"
            )
        head = self.one(["why", "when", "where", "how", "how often", "how long", "what time", "since when"])
        return f"{head} {self.finite(self.subject(1), verb, complement, question=True)}?"

    def sentence(self) -> str:
        """A whole sentence: a clause, clauses joined, a question, an answer or a remark."""
        pick = self.rng.random()
        if pick < 0.40:
            return self.clause()
        if pick < 0.58:
            return self.question()
        if pick < 0.68:
            subordinate = f"{self.one(SUBORDINATORS)} {self.clause(1)}"
            return f"{subordinate}, {self.clause(1)}" if self.maybe(0.35) else f"{self.clause(1)} {subordinate}"
        if pick < 0.76:
            return f"{self.clause(1)}, {self.one(['and', 'and', 'but', 'or', 'so'])} {self.clause(1)}"
        if pick < 0.83:
            lead = self.one([self.word("adv_sentence"), self.when(), self.word("interjection")])
            return f"{lead}, {self.clause()}"
        if pick < 0.87:
            return f"{self.word('interjection')}, {self.question()}"
        if pick < 0.90:
            return f"{self.clause(1)}, {self.word('name')}"
        if pick < 0.94:
            there = self.countable(self.one(NOUNS), 0)
            form = be(there.agreement, self.one(["present", "past"]))
            return f"there {form} {there.text} {self.place_phrase()}"
        return self.noun_phrase().text

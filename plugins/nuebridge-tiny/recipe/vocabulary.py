"""The words of the corpus generator: word classes read from text files, and English inflection."""

from __future__ import annotations

import re
from functools import lru_cache
from pathlib import Path

HERE = Path(__file__).resolve().parent
ALPHABET = frozenset("abcdefghijklmnopqrstuvwxyz' ")

COUNT_NOUNS = (
    "family person place household clothing food body animal nature vehicle tech office school sport_music abstract "
    "time_noun unit"
).split()
MASS_NOUNS = ["food_mass", "drink", "nature_mass", "abstract_mass"]

_IRREGULAR_PLURALS = {
    "man": "men",
    "woman": "women",
    "child": "children",
    "person": "people",
    "foot": "feet",
    "tooth": "teeth",
    "goose": "geese",
    "mouse": "mice",
    "wife": "wives",
    "knife": "knives",
    "life": "lives",
    "half": "halves",
    "leaf": "leaves",
    "loaf": "loaves",
    "shelf": "shelves",
    "thief": "thieves",
    "wolf": "wolves",
    "calf": "calves",
    "scarf": "scarves",
    "potato": "potatoes",
    "tomato": "tomatoes",
    "hero": "heroes",
    "echo": "echoes",
    "volcano": "volcanoes",
    "mosquito": "mosquitoes",
    "penny": "pence",
    "policeman": "policemen",
    "salesman": "salesmen",
    "postman": "postmen",
    "fisherman": "fishermen",
    "chairman": "chairmen",
    "gentleman": "gentlemen",
    "crisis": "crises",
    "quiz": "quizzes",
    "tie": "ties",
}
_UNCHANGED_PLURALS = frozenset(
    "sheep deer fish salmon scissors stairs police staff headquarters series crossroads shrimp".split()
)
_DOUBLING = frozenset(
    "admit beg begin commit control forbid forget occur omit permit prefer refer regret submit transfer travel upset "
    "cancel label quit equip signal".split()
)
_NOT_DOUBLING = frozenset("visit".split())
_VOWELS = "aeiou"


def read_classes(path: Path) -> dict[str, list[str]]:
    """Read a file of ``[class]`` heads and words; an underscore in a word stands for a space."""
    classes: dict[str, list[str]] = {}
    current: list[str] | None = None
    for line in path.read_text(encoding="utf-8").splitlines():
        line = line.strip()
        if not line or line.startswith("#"):
            continue
        if line.startswith("["):
            current = classes.setdefault(line.strip("[]"), [])
            continue
        if current is None:
            raise ValueError(f"{path.name}: words before the first class")
        if line_is_table(classes, current):
            current.append(line)
        else:
            current.extend(word.replace("_", " ") for word in line.split())
    return {name: words if name == "irregular" else list(dict.fromkeys(words)) for name, words in classes.items()}


def line_is_table(classes: dict[str, list[str]], current: list[str]) -> bool:
    """Whether the class being read keeps its lines whole (the irregular verbs)."""
    return classes.get("irregular") is current


@lru_cache(maxsize=1)
def word_classes() -> dict[str, list[str]]:
    """All word classes of ``vocabulary.txt``."""
    return read_classes(HERE / "vocabulary.txt")


@lru_cache(maxsize=1)
def verb_frames() -> dict[str, list[str]]:
    """Verbs by their complements, from ``verbs.txt`` (the irregular table left out)."""
    return {name: verbs for name, verbs in read_classes(HERE / "verbs.txt").items() if name != "irregular"}


@lru_cache(maxsize=1)
def irregular_verbs() -> dict[str, tuple[str, str]]:
    """Past and participle of every irregular verb."""
    table: dict[str, tuple[str, str]] = {}
    for line in read_classes(HERE / "verbs.txt")["irregular"]:
        base, past, participle = line.split()
        table[base.replace("_", " ")] = (past.replace("_", " "), participle.replace("_", " "))
    return table


def plural(noun: str) -> str:
    """The plural of a noun (the last word of a phrase)."""
    head, _, last = noun.rpartition(" ")
    prefix = head + " " if head else ""
    if last in _UNCHANGED_PLURALS:
        return prefix + last
    if last in _IRREGULAR_PLURALS:
        return prefix + _IRREGULAR_PLURALS[last]
    return prefix + _with_s(last)


def article(word: str) -> str:
    """The indefinite article that goes before a word."""
    vowel_sound = word[0] in "aeiou" and not word.startswith(("uni", "use", "usu", "eu", "one", "once", "ufo"))
    return "an" if vowel_sound or word.startswith(("hour", "honest", "heir", "honour")) else "a"


def _with_s(word: str) -> str:
    if re.search(r"(s|x|z|ch|sh)$", word) and word != "stomach":
        return word + "es"
    if re.search(r"[^aeiou]y$", word):
        return word[:-1] + "ies"
    if word in ("go", "do", "undo", "veto"):
        return word + "es"
    return word + "s"


def _doubles(verb: str) -> bool:
    if verb in _DOUBLING:
        return True
    if verb in _NOT_DOUBLING:
        return False
    return bool(re.fullmatch(r"(?:[^aeiou]*|[^aeiou]*qu)[aeiou][bcdfgklmnprtvz]", verb))


def _split_verb(verb: str) -> tuple[str, str]:
    base, _, rest = verb.partition(" ")
    return base, " " + rest if rest else ""


def third(verb: str) -> str:
    """Third person singular present."""
    base, rest = _split_verb(verb)
    return {"be": "is", "have": "has"}.get(base, _with_s(base)) + rest


def past(verb: str) -> str:
    """Simple past."""
    base, rest = _split_verb(verb)
    return irregular_verbs().get(base, (_regular_past(base), ""))[0] + rest


def participle(verb: str) -> str:
    """Past participle."""
    base, rest = _split_verb(verb)
    form = irregular_verbs().get(base)
    return (form[1] if form else _regular_past(base)) + rest


def _regular_past(base: str) -> str:
    if base == "panic":
        return "panicked"
    if base.endswith("e"):
        return base + "d"
    if re.search(r"[^aeiou]y$", base):
        return base[:-1] + "ied"
    return (base + base[-1] if _doubles(base) else base) + "ed"


def ing(verb: str) -> str:
    """The -ing form."""
    base, rest = _split_verb(verb)
    if base == "panic":
        form = "panicking"
    elif base in ("lie", "die", "tie"):
        form = base[:-2] + "ying"
    elif base.endswith("e") and not base.endswith(("ee", "oe", "ye")) and base != "be":
        form = base[:-1] + "ing"
    elif _doubles(base):
        form = base + base[-1] + "ing"
    else:
        form = base + "ing"
    return form + rest


def verb_forms(verb: str) -> list[str]:
    """All forms of a verb."""
    return [verb, third(verb), past(verb), participle(verb), ing(verb)]


@lru_cache(maxsize=1)
def all_words() -> tuple[str, ...]:
    """Every single word the generator can say, inflected forms included, sorted."""
    words: set[str] = set()
    for name, members in word_classes().items():
        words.update(members)
        if name in COUNT_NOUNS:
            words.update(plural(noun) for noun in members)
    for verbs in verb_frames().values():
        for verb in verbs:
            words.update(verb_forms(verb))
    for base, (past_form, participle_form) in irregular_verbs().items():
        words.update((base, past_form, participle_form))
    for name in word_classes()["name"]:
        words.add(name + "'s")
    return tuple(sorted({word for phrase in words for word in phrase.split()}))


def check_alphabet(text: str) -> bool:
    """Whether a text uses only the letters, the apostrophe and the space of the recogniser."""
    return set(text) <= ALPHABET and text == " ".join(text.split())

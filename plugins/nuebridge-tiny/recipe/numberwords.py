"""Numbers, dates, times and money in words."""

from __future__ import annotations

import random
from collections.abc import Callable

from vocabulary import word_classes

ONES = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen "
    "eighteen nineteen"
).split()
TENS = "zero ten twenty thirty forty fifty sixty seventy eighty ninety".split()
ORDINAL_ONES = "first second third fourth fifth sixth seventh eighth ninth".split()


def in_words(number: int) -> str:
    """A whole number below a thousand million in words (British style, with and)."""
    if number < 20:
        return ONES[number]
    if number < 100:
        return TENS[number // 10] + (" " + ONES[number % 10] if number % 10 else "")
    if number < 1000:
        rest = number % 100
        return f"{ONES[number // 100]} hundred" + (f" and {in_words(rest)}" if rest else "")
    for size, name in ((1_000_000, "million"), (1000, "thousand")):
        if number >= size:
            rest = number % size
            joint = " and " if 0 < rest < 100 else " " if rest else ""
            return f"{in_words(number // size)} {name}{joint}{in_words(rest) if rest else ''}"
    raise ValueError(number)


def small(rng: random.Random, low: int = 2, high: int = 99) -> str:
    """A small number, low ones more often."""
    return in_words(low + int((high - low + 1) * rng.random() ** 1.6))


def big(rng: random.Random) -> str:
    """A number of up to seven digits, often a round one."""
    number = rng.randrange(10 ** rng.randint(2, 6))
    if rng.random() < 0.5:
        number -= number % 10 ** max(0, len(str(number)) - rng.randint(1, 2))
    text = in_words(number)
    return text.replace(" and ", " ") if rng.random() < 0.3 else text


def digits(rng: random.Random) -> str:
    """A string of three to eight digits."""
    oh = rng.random() < 0.3
    names = [
        "oh" if oh and digit == 0 else ONES[digit] for digit in (rng.randrange(10) for _ in range(rng.randint(3, 8)))
    ]
    return " ".join(names)


def clock(rng: random.Random) -> str:
    """A time of the day."""
    hour = rng.randint(1, 12)
    pick = rng.random()
    if pick < 0.25:
        return f"{ONES[hour]} o'clock"
    if pick < 0.35:
        return f"half past {ONES[hour]}"
    if pick < 0.47:
        return f"{rng.choice(['a quarter', 'quarter'])} {rng.choice(['to', 'past'])} {ONES[hour]}"
    if pick < 0.60:
        minutes = rng.choice(["five", "ten", "twenty", "twenty five"])
        return f"{minutes}{rng.choice(['', ' minutes'])} {rng.choice(['to', 'past'])} {ONES[hour]}"
    if pick < 0.65:
        return rng.choice(["midnight", "noon", "midday"])
    if pick < 0.80:
        return f"{ONES[hour]} {rng.choice(['in the morning', 'in the afternoon', 'at night'])}"
    minute = rng.randint(1, 59)
    text = in_words(minute) if minute > 9 else rng.choice(["oh ", "o "]) + ONES[minute]
    return f"{in_words(rng.randint(1, 23))} {text}".replace(" o ", " oh ")


def year(rng: random.Random) -> str:
    """A year as it is said."""
    pick = rng.random()
    if pick < 0.25:
        number = rng.randint(2000, 2009) if pick < 0.12 else 2000 + rng.randint(10, 40)
        return in_words(number) if number < 2010 else "twenty " + in_words(number % 100)
    century, rest = rng.randint(11, 19) if pick < 0.5 else 19, rng.randint(0, 99)
    if rest == 0:
        return in_words(century) + " hundred"
    return f"{in_words(century)} {'oh ' if rest < 10 else ''}{in_words(rest)}"


def ordinal_date(rng: random.Random) -> str:
    """The day of a month as an ordinal."""
    number = rng.randint(1, 31)
    if number <= 20:
        return word_classes()["ordinal"][number - 1]
    if number == 30:
        return "thirtieth"
    return f"{TENS[number // 10]} {ORDINAL_ONES[number % 10 - 1]}"


def money(rng: random.Random) -> str:
    """A sum of money."""
    amount = small(rng, 2, 99) if rng.random() < 0.8 else big(rng)
    major, minor = rng.choice([("pounds", "pence"), ("dollars", "cents"), ("euros", "cents")])
    if rng.random() < 0.35:
        return f"{amount} {major} {rng.choice(['', 'and '])}{small(rng, 5, 99)}{rng.choice([' ' + minor, ''])}"
    return f"{amount} {major}"


SLOTS: dict[str, Callable[[random.Random], str]] = {
    "number_small": lambda rng: small(rng),
    "number_age": lambda rng: small(rng, 3, 90),
    "number_digit": lambda rng: small(rng, 1, 9),
    "number_big": big,
    "digits": digits,
    "clock": clock,
    "year": year,
    "ordinal_date": ordinal_date,
    "money": money,
}

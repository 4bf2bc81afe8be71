"""Numbers that a word problem contains without a numeral: "three", "twice", "a week", "cents".

They are possible sources of a literal in a worked step. Listing too many is safe, since a literal with
two possible sources stops a re-execution (see `regime_w.counterfactual`).
"""

import re
from fractions import Fraction

_ONES = (
    *("one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"),
    *("eleven", "twelve", "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen"),
    *("nineteen", "twenty"),
)
_TENS = ("thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety", "hundred")

_SIZES = ((10**9, "billion"), (10**6, "million"), (10**3, "thousand"), (10**2, "hundred"))

_WORDS: dict[str, tuple[Fraction, ...]] = {
    **{word: (Fraction(value),) for value, word in enumerate(_ONES, 1)},
    **{word: (Fraction(value),) for value, word in zip(range(30, 110, 10), _TENS, strict=True)},
    "thousand": (Fraction(1000),),
    "million": (Fraction(1_000_000),),
    "dozen": (Fraction(12),),
    "score": (Fraction(20),),
    **dict.fromkeys(
        ("twice", "double", "doubled", "doubling", "couple", "pair", "both", "twin"), (Fraction(2),)
    ),
    **dict.fromkeys(("triple", "tripled", "thrice", "triplet"), (Fraction(3),)),
    **dict.fromkeys(("quadruple", "quadrupled", "quarterly"), (Fraction(4),)),
    **dict.fromkeys(("half", "halve", "halved"), (Fraction(2), Fraction(1, 2))),
    **dict.fromkeys(("quarter", "fourth"), (Fraction(4), Fraction(1, 4))),
    **{
        word: (Fraction(value), Fraction(1, value))
        for value, word in {
            3: "third",
            5: "fifth",
            6: "sixth",
            8: "eighth",
            10: "tenth",
            12: "twelfth",
        }.items()
    },
}

_UNITS: dict[str, tuple[int, ...]] = {
    "second": (60,),
    "minute": (60,),
    **dict.fromkeys(("hour", "hourly"), (60, 24)),
    "day": (24, 7, 30, 365),
    **dict.fromkeys(("daily", "nightly"), (7, 30, 365)),
    **dict.fromkeys(("week", "weekly"), (7, 52, 4)),
    "fortnight": (14, 2),
    "biweekly": (2, 26),
    "weekend": (2,),
    **dict.fromkeys(("weekday", "weeknight", "workday", "workweek"), (5, 2)),
    **dict.fromkeys(("monday", "tuesday", "wednesday", "thursday", "friday"), (2, 3, 4, 5)),
    **dict.fromkeys(("saturday", "sunday"), (2, 7)),
    **dict.fromkeys(("month", "monthly"), (12, 4, 30)),
    **dict.fromkeys(("year", "yearly", "annual", "annually"), (12, 52, 365)),
    "decade": (10,),
    "century": (100,),
    "foot": (12, 3),
    "feet": (12, 3),
    "inch": (12,),
    "yard": (3,),
    "mile": (5280,),
    "ounce": (16,),
    "pound": (16,),
    "gallon": (4, 16),
    "quart": (4,),
    "kilogram": (1000,),
    "kilometer": (1000,),
    "gram": (1000,),
    "meter": (100, 1000),
    "centimeter": (100,),
    "liter": (1000,),
    "percent": (100,),
    "cent": (100,),
    "dollar": (100,),
    "dime": (10,),
    "nickel": (5,),
    "quarter": (25,),
    "square": (4,),
    "triangle": (3,),
    **{
        shape: (sides,)
        for sides, shape in enumerate(("pentagon", "hexagon", "heptagon", "octagon"), 5)
    },
    "average": (2,),
    **dict.fromkeys(("leg", "paw", "wheel", "tire"), (2, 4)),
    **dict.fromkeys(("back", "trip", "pattern"), (2,)),
}

_WORD = re.compile(r"[A-Za-z]+|[%$]")
_SIGNS = {"%": "percent", "$": "dollar"}
_PLURALS = {"inches": "inch", "centuries": "century"}
"""Plurals that do not just add an s."""


def word_numbers_in(text: str) -> frozenset[Fraction]:
    """Values of the number words in a text, and always 1."""
    words = {_singular(word) for word in _words_of(text)}
    return frozenset(
        {Fraction(1), *(value for word in words & _WORDS.keys() for value in _WORDS[word])}
    )


def constants_in(text: str) -> frozenset[Fraction]:
    """Conversion factors of the units in a text, such as 7 and 52 for weeks."""
    words = {_singular(word) for word in _words_of(text)}
    return frozenset(Fraction(value) for word in words & _UNITS.keys() for value in _UNITS[word])


def in_words(value: int) -> str:
    """A whole number in words without "and" and hyphens: 142 is ``one hundred forty two``.

    Args:
        value: At least 0.
    """
    for size, word in _SIZES:
        if value >= size:
            rest = f" {in_words(value % size)}" if value % size else ""
            return f"{in_words(value // size)} {word}{rest}"
    if value <= len(_ONES):
        return ("zero", *_ONES)[value]
    tens = ("twenty", *_TENS)[value // 10 - 2]
    return f"{tens} {_ONES[value % 10 - 1]}" if value % 10 else tens


def _words_of(text: str) -> set[str]:
    return {_SIGNS.get(word, word.lower()) for word in _WORD.findall(text)}


def _singular(word: str) -> str:
    return _PLURALS.get(word) or word.removesuffix("s")

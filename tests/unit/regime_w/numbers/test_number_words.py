"""Numbers without a numeral: words that stand for a value, and what units convert by."""

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from regime_w.numbers.number_words import constants_in, word_numbers_in

HALF, QUARTER, THIRD = Fraction(1, 2), Fraction(1, 4), Fraction(1, 3)

# (text, values apart from the 1 that is always there)
WORDS = [
    ("", set()),
    ("12 pens", set()),
    ("one", set()),
    ("two and eleven", {2, 11}),
    ("nineteen, twenty, thirty", {19, 20, 30}),
    ("forty fifty sixty seventy eighty ninety", {40, 50, 60, 70, 80, 90}),
    ("a hundred", {100}),
    ("hundreds of thousands", {100, 1000}),
    ("2 million", {1_000_000}),
    ("three dozen eggs", {3, 12}),
    ("two score", {2, 20}),
    ("TWICE", {2}),
    ("double the pair", {2}),
    ("a couple of twins", {2}),
    ("both", {2}),
    ("triple", {3}),
    ("triplets", {3}),
    ("thrice", {3}),
    ("quadruple", {4}),
    ("quarterly", {4}),
    ("half", {2, HALF}),
    ("halves", {2, HALF}),
    ("halved", {2, HALF}),
    ("two thirds", {2, 3, THIRD}),
    ("a quarter", {4, QUARTER}),
    ("a fourth", {4, QUARTER}),
    ("a fifth", {5, Fraction(1, 5)}),
    ("five sixths", {5, 6, Fraction(1, 6)}),
    ("an eighth", {8, Fraction(1, 8)}),
    ("nine tenths", {9, 10, Fraction(1, 10)}),
    ("twenty-five", {20, 5}),  # a hyphen parts words
    ("sevenfold", set()),  # only whole words count
    ("someone", set()),
    ("tw0", set()),
]


@pytest.mark.parametrize(("text", "values"), WORDS)
def test_values_of_words(text: str, values: set[Fraction | int]) -> None:
    assert word_numbers_in(text) == {1, *values}


# (text, what its units convert by)
UNITS = [
    ("", set()),
    ("no unit at all", set()),
    ("60 seconds", {60}),
    ("a minute", {60}),
    ("Hours", {60, 24}),
    ("7 days", {24, 7, 30, 365}),
    ("daily", {7, 30, 365}),
    ("a week", {7, 52, 4}),
    ("the weekend", {2}),
    ("months", {12, 4, 30}),
    ("years", {12, 52, 365}),
    ("annual", {12, 52, 365}),
    ("decades", {10}),
    ("one century", {100}),
    ("a foot", {12, 3}),
    ("six feet", {12, 3}),
    ("an inch", {12}),
    ("5 inches", {12}),
    ("Centuries", {100}),
    ("yards", {3}),
    ("miles", {5280}),
    ("ounces", {16}),
    ("a gallon and a quart", {4, 16}),
    ("kilograms", {1000}),
    ("a meter", {100, 1000}),
    ("percent", {100}),
    ("5%", {100}),
    ("$5", {100}),
    ("dollars and cents", {100}),
    ("dimes and nickels", {10, 5}),
    ("quarters", {25}),
    ("a square, a triangle", {4, 3}),
    ("on average", {2}),
    ("every weekday", {5, 2}),
    ("from Monday to Friday", {2, 3, 4, 5}),
    ("Saturday and Sunday", {2, 7}),
    ("hexagons", {6}),
    ("legs of a dog", {2, 4}),
    ("to work and back", {2}),
    ("weeks and dozens", {7, 52, 4}),
    ("weekly", {7, 52, 4}),
    ("a fortnight", {14, 2}),
    ("€5", set()),
]


@pytest.mark.parametrize(("text", "values"), UNITS)
def test_constants_of_units(text: str, values: set[int]) -> None:
    assert constants_in(text) == values


TEXTS = st.text() | st.lists(
    st.sampled_from(["three", "Halves", "week", "%", "$", "-", "quarter", "x", "7", "\ud800", "\0"])
).map(" ".join)


@given(TEXTS, TEXTS)
def test_a_longer_text_holds_what_its_parts_hold(a: str, b: str) -> None:
    both = f"{a} {b}"
    assert word_numbers_in(both) == word_numbers_in(a) | word_numbers_in(b)
    assert constants_in(both) == constants_in(a) | constants_in(b)


@given(TEXTS)
def test_one_is_always_there_and_case_is_nothing(text: str) -> None:
    assert 1 in word_numbers_in(text)
    if text.isascii():
        assert word_numbers_in(text.upper()) == word_numbers_in(text)
        assert constants_in(text.upper()) == constants_in(text)


@pytest.mark.parametrize(
    "text", ["three " * 20_000, "s" * 100_000, "%" * 100_000, "\ud800\0" * 50_000]
)
def test_long_and_odd_texts_end(text: str) -> None:
    assert word_numbers_in(text) <= {1, 3}
    assert constants_in(text) <= {100}

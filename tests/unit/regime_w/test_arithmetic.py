"""Arithmetic expressions, exactly."""

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from regime_w.arithmetic import MAX_CHARS, evaluate
from regime_w.number_words import constants_in, word_numbers_in

VALUES = [
    ("7", 7), ("1 + 2 * 3", 7), ("(1 + 2) * 3", 9), ("8 - 3 - 2", 3), ("8 / 2 / 2", 2), ("2 * 3 / 4", "3/2"),
    ("-3 + 5", 2), ("2 * -3", -6), ("2 - -3", 5), ("-(2 + 3) * 2", -10), ("--4", 4), ("-2 * -3", 6),
    ("((2))", 2), ("2*(3+(4-1))", 12), (".5 * 4", 2), ("0.1 + 0.2", "3/10"), ("1,080 / 4", 270),
    ("20%", "1/5"), ("20% * 50", 10), ("(10 + 10)% * 50", 10), ("$1,000 * 2", 2000), ("2 * $3.50", 7), ("€5 + £3 - ¥1", 7),
    ("2 x 3", 6), ("2X3", 6), ("2 × 3", 6), ("6 ÷ 3", 2), ("2 · 3", 6), (r"2 \times 3", 6), (r"2 \cdot 3", 6), (r"6 \div 3", 2),
    ("  4  ", 4), ("9999999999 * 9999999999", 99999999980000000001),
]  # fmt: skip


@pytest.mark.parametrize(("expression", "value"), VALUES)
def test_values(expression: str, value: float | str) -> None:
    assert evaluate(expression) == (Fraction(str(value)))


NO_VALUE = [
    "", " ", "$", "+", "+2", "2 3", "2 +", "* 2", "2 * / 3", "()", "(2", "2)", ")2(", "2 (3)", "%", "+%", "2 ** 3", "2^3", "2!",
    "1/0", "1/(2-2)", "x", "2 a", "1e5", "12,34", "1.2.3", "__import__('os')", "2;3", "1" * (MAX_CHARS + 1),
    "*".join(["9" * 40] * 4), "1/" + "/".join(["9" * 40] * 4), "2\x00", "\ud800",
]  # fmt: skip


@pytest.mark.parametrize("expression", NO_VALUE)
def test_anything_else_has_no_value(expression: str) -> None:
    assert evaluate(expression) is None


TREES = st.recursive(
    st.integers(0, 50).map(lambda n: (str(n), Fraction(n))),
    lambda inner: st.tuples(inner, st.sampled_from("+-*/"), inner).map(
        lambda t: (f"({t[0][0]} {t[1]} {t[2][0]})", _apply(t[0][1], t[1], t[2][1]))
    ),
    max_leaves=8,
)


def _apply(left: Fraction | None, operator: str, right: Fraction | None) -> Fraction | None:
    if left is None or right is None or (operator == "/" and right == 0):
        return None
    return {"+": left + right, "-": left - right, "*": left * right, "/": left / (right or 1)}[
        operator
    ]


@given(TREES)
def test_brackets_make_the_tree(tree: tuple[str, Fraction | None]) -> None:
    assert evaluate(tree[0]) == tree[1]


@given(st.lists(st.integers(1, 9), min_size=1, max_size=20), st.data())
def test_without_brackets_python_reads_the_same(numbers: list[int], data: st.DataObject) -> None:
    operators = data.draw(
        st.lists(st.sampled_from("+-*/"), min_size=len(numbers) - 1, max_size=len(numbers) - 1)
    )
    pairs = zip(operators, numbers[1:], strict=True)
    text = str(numbers[0]) + "".join(f"{o}{n}" for o, n in pairs)
    python = "".join(f"Fraction({c})" if c.isdigit() else c for c in text)
    value = eval(python, {"Fraction": Fraction})
    if value.denominator.bit_length() < 40:
        assert evaluate(text) == value


@given(st.text(st.sampled_from("0123456789+-*/()%., $x\\timesdv"), max_size=60) | st.text())
def test_no_text_raises(text: str) -> None:
    evaluate(text)


@pytest.mark.parametrize(
    ("text", "words", "constants"),
    [
        ("", {1}, set()),
        ("Three boys and TWENTY girls", {1, 3, 20}, set()),
        ("half of a dozen", {1, 2, "1/2", 12}, set()),
        ("two thirds of them", {1, 2, 3, "1/3"}, set()),
        ("a week has days", {1}, {7, 52, 4, 24, 30, 365}),
        ("5% of $3", {1}, {100}),
        ("weekly", {1}, set()),
    ],
)
def test_numbers_without_numerals(text: str, words: set[object], constants: set[object]) -> None:
    assert word_numbers_in(text) == {Fraction(str(value)) for value in words}
    assert constants_in(text) == {Fraction(str(value)) for value in constants}

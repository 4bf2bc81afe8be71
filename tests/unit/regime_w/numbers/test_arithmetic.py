"""Arithmetic expressions, exactly."""

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from regime_w.numbers.arithmetic import MAX_BITS, MAX_CHARS, combine, evaluate

VALUES = [
    ("7", 7), ("1 + 2 * 3", 7), ("(1 + 2) * 3", 9), ("8 - 3 - 2", 3), ("8 / 2 / 2", 2), ("2 * 3 / 4", "3/2"),
    ("-3 + 5", 2), ("2 * -3", -6), ("2 - -3", 5), ("-(2 + 3) * 2", -10), ("--4", 4), ("-2 * -3", 6),
    ("((2))", 2), ("2*(3+(4-1))", 12), (".5 * 4", 2), ("0.1 + 0.2", "3/10"), ("1,080 / 4", 270),
    ("20%", "1/5"), ("20% * 50", 10), ("(10 + 10)% * 50", 10), ("$1,000 * 2", 2000), ("2 * $3.50", 7), ("€5 + £3 - ¥1", 7),
    ("2 x 3", 6), ("2X3", 6), ("2 × 3", 6), ("6 ÷ 3", 2), ("2 · 3", 6), (r"2 \times 3", 6), (r"2 \cdot 3", 6), (r"6 \div 3", 2),
    ("20 - 4 - 3 + 2", 15), ("24 / 4 * 2", 12), ("2 + 3 * 4 - 6 / 2", 11), ("-2 * 3 + 1", -5), ("2 - 3%", "197/100"), ("50%%", "1/200"),
    ("-20% * 5", -1), ("1,234,567 - 567", 1234000), ("1,000.5 * 2", 2001), ("$ 5 * 2", 10), ("-$5", -5), ("$-5", -5),
    ("  4  ", 4), ("9999999999 * 9999999999", 99999999980000000001),
]  # fmt: skip


@pytest.mark.parametrize(("expression", "value"), VALUES)
def test_values(expression: str, value: float | str) -> None:
    assert evaluate(expression) == (Fraction(str(value)))


NO_VALUE = [
    "", " ", "$", "+", "+2", "2 3", "2 +", "* 2", "2 * / 3", "()", "(2", "2)", ")2(", "2 (3)", "%", "+%", "2 ** 3", "2^3", "2!",
    "1/0", "1/0+1", "1/(2-2)", "x", "2 a", "1e5", "12,34", "1.2.3", "__import__('os')", "2;3", "1" * (MAX_CHARS + 1),
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
    "text",
    ["=" * 100_000, "(" * 100_000, "9" * 100_000, "9 " * 50_000, "-" * 100_000, "1,111" * 20_000, "\ud800\0" * 50_000],
)  # fmt: skip
def test_long_texts_have_no_value(text: str) -> None:
    assert evaluate(text) is None


@pytest.mark.parametrize(
    ("expression", "value"),
    [
        ("-" * (MAX_CHARS - 1) + "2", -2),  # 199 signs
        ("(" * 99 + "3" + ")" * 99, 3),
        ("1" + "+0" * 99, 1),
        (" " * (MAX_CHARS - 1) + "4", 4),
    ],
)
def test_the_longest_expressions_have_a_value(expression: str, value: int) -> None:
    assert len(expression) <= MAX_CHARS
    assert evaluate(expression) == value
    assert evaluate(expression + " " * (MAX_CHARS + 1 - len(expression))) is None


@pytest.mark.parametrize(
    ("left", "operator", "right", "value"),
    [
        (2, "+", 3, 5), (2, "-", 3, -1), (2, "*", 3, 6), (6, "/", 3, 2), (1, "/", 4, "1/4"), (0, "/", 5, 0), (5, "/", 0, None),
        (0, "/", 0, None),
        (2**MAX_BITS - 2, "+", 1, 2**MAX_BITS - 1),  # the last that fits
        (2**MAX_BITS - 1, "+", 1, None),
        (-(2**MAX_BITS) + 1, "-", 1, None),
        (1, "/", 2**MAX_BITS, None),  # too big below the line
    ],
)  # fmt: skip
def test_one_operation(left: int, operator: str, right: int, value: int | str | None) -> None:
    assert combine(left, operator, right) == (None if value is None else Fraction(value))


def test_whole_numbers_stay_int() -> None:
    assert [type(evaluate(text)) for text in ("6 / 3", "0.5 * 4", "1 / 3")] == [int, int, Fraction]

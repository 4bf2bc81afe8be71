"""Equations in answers: what an assignment says, and that no other equation is its right side."""

import pytest

from regime_w.algebra.equations import are_equivalent, parts
from regime_w.answer_types.mathematics import Mathematics
from tests.unit.math_library import needs_library

MATH = Mathematics()
# Either may be the gold answer.
EQUAL = [
    ("x = 3", "3"),
    ("3 = x", "3"),
    ("3 = x", "x = 3"),
    ("\\theta = 3", "3"),
    ("x_1 = 3", "3"),
    ("x_{max}' = 3", "3"),
    ("\\vec{v} = 3", "3"),
    ("(x = 3)", "3"),
    ("\\{x = 3\\}", "3"),
    ("x = 1,000", "1000"),
    ("f(x) = 2x", "x \\cdot 2"),
    ("f^{-1}(x) = 2x", "2x"),
    ("f(3) = 7", "7"),
    ("P(A \\cap B) = \\frac{1}{2}", "0.5"),
    ("y = 2x - 3", "2x-3"),
    ("y = 2x - 3", "-3 + 2x = y"),
    ("AB = 5", "5"),
    ("\\overline{AB} = 5", "5"),
    ("\\angle ABC = 60^\\circ", "60"),
    ("\\text{Area} = 5\\text{ cm}^2", "5"),
    ("A = \\begin{pmatrix} 1 \\\\ 2 \\end{pmatrix}", "\\begin{pmatrix}1\\\\2\\end{pmatrix}"),
    ("x = 6/2 = 3", "3"),
    ("x = \\frac{6}{2} = 3", "x = 3"),
    ("2 + 3 = 5", "5"),
    ("5! = 120", "120"),
    ("2 + 2 = 4", "4 = 2 + 2"),
    ("(x+1)^2 = x^2 + 2x + 1", "(x+1)^2"),
    ("x^2 = 9", "x^2 - 9 = 0"),
    ("x^2 = 9", "9 = x^2"),
    ("x = y", "y = x"),
    ("\\frac{x}{2} = \\frac{y}{3} = \\frac{z}{4}", "\\frac{x}{2}=\\frac{y}{3}=\\frac{z}{4}"),
    ("x = 3, y = 4", "x=3,y=4"),
    ("x = 3, y = 4", "y = 4, x = 3"),
    ("x = 3, y = 4", "(3, 4)"),
    ("y = 4, x = 3", "(3, 4)"),
    ("x = 3 \\text{ and } y = 4", "3, 4"),
    ("x = 3; y = 4", "(x, y) = (3, 4)"),
    ("x = 100, y = 200", "(100,200)"),
    ("\\begin{cases} x = 3 \\\\ y = 4 \\end{cases}", "x = 3, y = 4"),
    ("\\begin{aligned} x &= 3 \\\\ y &= 4 \\end{aligned}", "(3, 4)"),
    ("(x, y) = (3, 4)", "(3, 4)"),
    ("(x,y) = (3,4), (4,3)", "(4,3), (3,4)"),
    ("(\\rho,\\theta,\\phi) = (1,2,3)", "(1,2,3)"),
    ("x + y = 3, x - y = 1", "x - y = 1, x + y = 3"),
    ("x = 3, -3", "\\pm 3"),
    ("x = \\pm 3", "x = 3 \\text{ or } x = -3"),
    ("x = 3 or x = -3", "\\{-3, 3\\}"),
    ("\\sum_{k=1}^{3} k", "6"),
]
DIFFERENT = [
    ("2x = 3", "3"),
    ("3 = 2x", "3"),
    ("7 = 3", "3"),
    ("x^2 = 9", "9"),
    ("x^2 = 9", "x = 9"),
    ("7 = 3", "5 = 4"),
    ("(2x = 3)", "3"),
    ("(2x = 3", "3"),
    ("\\{2x = 3\\}", "3"),
    ("\\text{2x = 3}", "3"),
    ("\\begin{cases} 2x = 3 \\end{cases}", "3"),
    ("2x == 3", "3"),
    ("2x := 3", "3"),
    ("x + 1 = 3", "3"),
    ("-x = 3", "3"),
    ("xy = 3", "3"),
    ("x(2) = 3", "3"),
    ("\\sin x = 3", "3"),
    ("\\pi = 3", "3"),
    ("\\sqrt{x} = 3", "3"),
    ("x = 7 = 3", "3"),
    ("x = 7 = 3", "7"),
    ("x = 7 = 3", "x = 3"),
    ("x = 3", "y = 3"),
    ("x = 3", "2x = 3"),
    ("x = 3", "x^2 = 9"),
    ("f(x) = 2x", "f(x) = 3x"),
    ("x + 1 = x", "x + 2 = x"),
    ("x \\le 3", "3"),
    ("x >= 3", "3"),
    ("x != 3", "3"),
    ("\\{x : x = 3\\}", "3"),
    ("\\{x : x = 3\\}", "\\{x : x = 4\\}"),
    ("x = 3, y = 4", "(4, 3)"),
    ("y = 4, x = 3", "(4, 3)"),
    ("x = 3, y = 4", "x = 4, y = 3"),
    ("x = 3, y = 4", "x = 3"),
    ("x = 3, y = 4", "3 < x < 4"),
    ("x = 3, y = 4", "[3, 4]"),
    ("x = 3, y = 4", "\\{3, 4\\}"),
    ("x = 3, y = 4", "4"),
    ("x = 3, y = 5 = 4", "(3, 4)"),
    ("x = 3, x = 4", "(3, 4)"),
    ("x = 3, 2y = 4", "3, 4"),
    ("x = 3, y > 4", "3, 4"),
    ("x = 3, x = 5 = 4", "3, 4"),
]


@needs_library
@pytest.mark.parametrize(("first", "second"), EQUAL)
def test_what_equations_say(first: str, second: str) -> None:
    golds = MATH.read_gold(first), MATH.read_gold(second)
    assert None not in golds
    assert MATH.equal(MATH.extract(f"#### {first}"), golds[1])
    assert MATH.equal(MATH.extract(f"#### {second}"), golds[0])


@needs_library
@pytest.mark.parametrize(("first", "second"), DIFFERENT)
def test_what_equations_do_not_say(first: str, second: str) -> None:
    answers = MATH.extract(f"#### {first}"), MATH.extract(f"#### {second}")
    assert None not in answers
    assert not MATH.equal(answers[0], answers[1])
    assert not MATH.equal(answers[1], answers[0])


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("x + 1", []),
        ("x = 3", ["3"]),
        ("x = 6/2 = 3", ["6/2", "3"]),
        ("2x = 3", ["2x = 3"]),
        ("x = 3, 4, 2y = 4", ["3", "4", "2y = 4"]),
        ("x, y = 3", ["x, y = 3"]),
        ("x = , y = 4", ["x = , y = 4"]),
        ("(x = 3), (y = 4)", ["(x = 3), (y = 4)"]),
    ],
)
def test_what_must_be_read_of_equations(text: str, found: list[str]) -> None:
    assert parts(text) == found


def test_an_equation_that_is_not_understood_equals_none_that_has_no_solution() -> None:
    asked: list[tuple[str, str]] = []

    def verify(answer: str, gold: str) -> bool:
        asked.append((answer, gold))
        return True

    assert not are_equivalent("x, y = 3", "x, y = 4", verify, verify)
    assert asked == [("x, y = 3", "x, y = 4"), ("x, y = 3", "1 = 0")]
    assert are_equivalent("2x = 3", "3 = 2x", verify, verify)
    assert not are_equivalent("2x = 3", "x = 3", verify, verify)

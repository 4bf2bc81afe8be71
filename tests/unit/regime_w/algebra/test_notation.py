"""Notation of mathematics: products, units, type faces, Unicode and signs that read as what they mean."""

import pytest

from regime_w.answer_types import mathematics
from regime_w.answer_types.mathematics import Mathematics
from tests.unit.math_library import needs_library

MATH = Mathematics()

EQUAL = [
    (r"(2+\sin 30^\circ)\cdot 4", "10"),
    (r"\frac{1}{\sin 30^\circ}", "2"),
    (r"2(1+\cos 60^\circ)", "3"),
    (r"\cos(-60^\circ)", r"\frac12"),
    (r"\frac{10}{\sin 40^\circ}", r"\frac{10}{\sin 40^\circ}"),
    (r"\cos(60^\circ - x)", r"\cos(60^\circ-x)"),
    ("½π", r"\frac{\pi}{2}"),
    ("⅓πr²", r"\frac{\pi r^2}{3}"),
    (r"\{x \mid x>2 \text{ or } x<1\}", r"(-\infty,1)\cup(2,\infty)"),
    ("y'+2y", "2y+y'"),
    (r"x<-1 or x>2", r"(-\infty,-1)\cup(2,\infty)"),
    (r"x \le 0 \text{ or } x \ge 3", r"(-\infty,0]\cup[3,\infty)"),
    (r"\{x | x>2\}", r"(2,\infty)"),
    (r"\{x \mid 0 \leq x < 3\}", "[0,3)"),
    (r"x \equiv 3 \pmod 7", r"3 \pmod{7}"),
    ("x ≡ 3 (mod 7)", r"x\equiv 3\pmod{7}"),
    (r"\cos 60^\circ", "0.5"),
    ("sin(30°)", r"\frac12"),
    (r"\tan^2 60^{\circ}", "3"),
    (r"2\sin 45^\circ", r"\sqrt2"),
    ("½x", r"\frac{x}{2}"),
    ("½√3", r"\frac{\sqrt3}{2}"),
    ("1½", r"\frac32"),
    (r"y^{\prime}", "y'"),
    ("a^2+2ab", "2ab+a^2"),
    ("5s+2", "2+5s"),
    (r"\frac{a}{b}c", r"\frac{ac}{b}"),
    ("0.5", ".5"),
    ("0.35625", ".35625"),
    ("2i", r"2\mathrm{i}"),
    ("3+4i", r"3+4\mathrm{i}"),
    (r"\mathbf{a}+\mathbf{b}", r"\mathbf{b}+\mathbf{a}"),
    (r"\text{A}+\text{B}", r"\text{B}+\text{A}"),
    ("20", "(5)(4)"),
    ("6", "2(3)"),
    ("-6", "(-2)(3)"),
    ("2", r"4(\frac12)"),
    ("4", "√16"),
    (r"2\sqrt3", "√12"),
    ("√13", r"\sqrt{13}"),
    ("0.001", "10^-3"),
    ("1/x", "x^-1"),
    ("10⁻³", "0.001"),
    ("2⁵", "32"),
    ("x₁", "x_1"),
    ("θ", r"\theta"),
    ("α+β", r"\beta+\alpha"),
    (r"\langle 1,2\rangle", "(1,2)"),
    ("= 3", "3"),
    ("\\begin{pmatrix}\n1 & 2\\\\\n3 & 4\n\\end{pmatrix}", r"\begin{pmatrix}1&2\\3&4\end{pmatrix}"),
    (r"5\text{ cm}", "5"),
    (r"36\pi\text{ square feet}", r"36\pi"),
    (r"12\pi\mbox{ cm}^3", r"12\pi"),
    (r"\frac{1}{2}\text{ inch}", "0.5"),
    (r"4\sqrt{3}\text{ units}", r"4\sqrt3"),
    (r"90^\circ", "90"),
    ("12 cm", "12"),
    ("5 apples", "5"),
    (r"7\,\mathrm{m}", "7"),
    ("(x+1)(x-1)", "x^2-1"),
    ("2(x+1)", "2x+2"),
    ("f(2)", "f(2)"),
    ("(1,2)", "(1,2)"),
    (r"[0,1)\cup(2,3)", r"[0,1)\cup(2,3)"),
    ("(x-1)(x^2+x+1)", "x^3-1"),
    ("3(x+1)(x+2)", "3x^2+9x+6"),
    ("x=5", "5"),
    ("2^{-3}", "1/8"),
    ("e^{-x}", r"\frac{1}{e^x}"),
    ("2 million", "2000000"),
    (r"\sin(x)", r"\sin x"),
    (r"\log_2(8)", "3"),
    ("5!(3)", "360"),
    (r"\frac{1}{2}(3)", "1.5"),
    (r"\sin^2(x)", r"\sin^2 x"),
    (r"\log_{10}(100)", "2"),
    ("x^2(x+1)", "x^3+x^2"),
    (r"\sqrt{2}(3)", r"3\sqrt2"),
    ("2^3(5)", "40"),
    ("3(2)^2", "12"),
    ("10(x-2)(x+2)", "10x^2-40"),
    ("1.5(2)", "3"),
    ("5^{12}(1-2x)", r"5^{12}-2x\cdot5^{12}"),
]
DIFFERENT = [
    ("u'v-uv'", "uv'-u'v"),
    ("y' = 2y", "y = 2y'"),
    (r"(2+\sin 30^\circ)\cdot 4", "4"),
    ("½π", r"\frac{1}{2\pi}"),
    ("3 ½x", r"\frac{3x}{2}"),
    (r"\{x | y>2\}", "y>2"),
    ("> 2", "2"),
    (r"\approx 2", "2"),
    (r"x \equiv 3", "3"),
    (r"\frac{dy}{dx}", r"\frac{dx}{dy}"),
    ("A^T B", "A B"),
    ("(3 mod 7)+1", "4"),
    (r"3 \pmod n", r"3 \pmod{N}"),
    (r"5 \text{ or more}", "5"),
    (r"5 \text{ squared}", "5"),
    ("5 incorrect", "5"),
    ("5 degrees below zero", "5"),
    (r"x<-1 or x>2", r"(-1,2)"),
    (r"\{x | x>2\}", r"[2,\infty)"),
    (r"x \equiv 3 \pmod 7", r"4 \pmod{7}"),
    (r"\cos 60^\circ", r"\cos 60"),
    ("½x", r"\frac{1}{2x}"),
    ("y'", "y"),
    ("2y' = x", "2y = x"),
    ("5", "5t"),
    ("5", "5m"),
    ("4", "4ab"),
    ("x^2", "x^2t"),
    (r"\frac12", r"\frac12 h"),
    ("a^2+b^2-2", "a^2+b^2-2ab"),
    (r"\pi r^2", r"\pi r^2 h"),
    ("4s", "4t"),
    ("3a+2", "3a+2c"),
    ("5", ".5"),
    ("50", "$.50"),
    ("35625", ".35625"),
    ("2", r"2\mathrm{i}"),
    ("7", r"3+4\mathrm{i}"),
    ("0.5", r"\frac12\mathbf{v}"),
    (r"3\mathbf{i}+2\mathbf{j}", r"3\mathbf{i}+2\mathbf{k}"),
    (r"123_\text{four}", r"123_\text{five}"),
    ("123", r"123_\text{five}"),
    (r"x_\text{max}", r"x_\text{min}"),
    ("(5)(4)", "9"),
    ("2(3)", "5"),
    ("5(3)", "8"),
    ("2 3", "5"),
    ("√12", "2"),
    ("√16", "6"),
    ("10", "10^-3"),
    ("2", "2^-x"),
    ("4", "4 factorial"),
    ("3", "3 cubed"),
    ("2", "2 thirds"),
    ("2", "2 dozen"),
    ("2", "2 theta"),
    ("3", "3 xyz"),
    ("3015", "30°15'"),
    ("A", "a"),
    ("AB", "BA"),
]


@needs_library
@pytest.mark.parametrize(("answer", "gold"), EQUAL)
def test_it_is_the_same(answer: str, gold: str) -> None:
    assert MATH.equal(MATH.read(answer), MATH.read_gold(gold))


@needs_library
@pytest.mark.parametrize(("answer", "gold"), DIFFERENT)
def test_it_is_something_else(answer: str, gold: str) -> None:
    assert not MATH.equal(MATH.read(answer), MATH.read_gold(gold))


@pytest.mark.parametrize("text", ["2 3", "10 20 30"])
def test_numbers_side_by_side_are_no_number(text: str) -> None:
    assert MATH.read(text) is None


def test_few_of_many_equations_are_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    compared = []

    def are_equal(a: str, b: str) -> bool:
        compared.append((a, b))
        return a == b

    monkeypatch.setattr(mathematics, "are_equal", are_equal)
    equations = [f"a^2 + {letter} = {index}" for index, letter in enumerate("bcdfghkmnp")]
    assert not MATH.equal(", ".join(equations), ", ".join(reversed(equations)))
    assert len(compared) == 16

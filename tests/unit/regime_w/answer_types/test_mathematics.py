"""Mathematics: what is found equal, and what must not be."""

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from regime_w import ArmOutput, answer_type_of, compute_regime_w_scores, reward_group
from regime_w.algebra import math_process
from regime_w.algebra.math_process import LibraryMissing
from regime_w.answer_types.mathematics import Mathematics
from tests.unit.math_library import needs_library

MATH = Mathematics()
# Completion, gold answer: compared without math-verify.
EQUAL_HERE = [
    ("#### 18", "18"),
    ("#### 18.00", "18"),
    ("#### $18$", "18"),
    ("So \\boxed{18}.", "We get \\boxed{18}"),
    ("The answer is $\\boxed{7}$.", "7"),
    ("So $7$.", "7"),
    ("Therefore, \\(7\\).", "7"),
    ("Hence $$7$$", "7"),
    ("so, $x=7$", "x=7"),
    ("The answer is 7.", "It is \\boxed{7}."),
    ("<think>\\boxed{3}</think>\n\\boxed{7}", "7"),
    ("#### 1,080", "1080"),
    ("#### \\$32{,}348", "\\$32,348"),
    ("#### 11111111100", "11,\\! 111,\\! 111,\\! 100"),
    ("#### 1/2", "\\frac{1}{2}"),
    ("#### 0.5", "\\dfrac{1}{2}"),
    ("#### -\\frac{3}{6}", "-0.5"),
    ("#### \\frac12", "\\frac{1}{2}"),
    ("#### 3\\frac{1}{2}", "3.5"),
    ("#### 1.2 \\times 10^{3}", "1200"),
    ("#### 3 million", "3000000"),
    ("#### −7", "-7"),
    ("#### +7", "7"),
    ("#### **7**", "7"),
    ("#### 10\\%", "10"),
    ("#### 10 percent", "10\\%"),
    ("#### 90^\\circ", "90"),
    ("#### 90 degrees", "90^{\\circ}"),
    ("#### 15\\mbox{ cm}^2", "15"),
    ("#### 15 cm", "15"),
    ("#### 5 apples", "5"),
    ("#### 5\\ apples", "5"),
    ("#### 5~apples", "5"),
    ("#### 5\\,apples", "5"),
    ("#### 5\\text{apples}", "5"),
    ("#### 5cm", "5"),
    ("#### 5km", "5"),
    ("#### 5kg", "5"),
    ("#### 5km per hour", "5"),
    ("#### 5 cm^2", "5"),
    ("#### 5 square inches", "5"),
    ("#### 5 million", "5 \\text{ million}"),
    ("#### 5000000", "5 \\text{ million}"),
    ("#### 5000000", "5\\text{million}"),
    ("#### 5000000", "5 \\text{ Million dollars}"),
    ("#### 5 million dollars", "5 million \\text{ dollars}"),
    ("#### 700", "7 \\mbox{ hundred}"),
    ("#### 2.5\\text{ billion}", "2500000000"),
    ("#### \\text{Evelyn}", "\\text{Evelyn}"),
    ("#### even", "\\text{even}"),
    ("#### No solution.", "\\text{no solution}"),
    ("#### 52_{8}", "52_8"),
    ("#### x^2", "$x^2$"),
    ("#### \\left( 3, \\frac{\\pi}{2} \\right)", "( 3, \\frac{\\pi}{2} )"),
    ("#### \\tfrac{a}{b}", "\\frac{a}{b}"),
    ("#### 2π", "2\\pi"),
    ("#### sqrt(2)", "\\sqrt{2}"),
    ("#### 3 or 5", "3,\\text{ and } 5"),
    ("#### \\{\\}", "\\emptyset"),
    ("#### The value is $x^2$, as wanted", "x^2"),
    ("#### \\(x^2\\)", "x^2"),
    ("#### x >= 5", "x \\ge 5"),
    ("#### x != 5", "x \\neq 5"),
    ("#### 0.\\dot{3}", "0.\\overline{3}"),
    ("#### 1/3", "0.\\overline{3}"),
    ("#### 0.333...", "\\frac{1}{3}"),
    ("#### 0.1666\\ldots", "\\frac{1}{6}"),
    ("#### -0.{\\overline{36}}", "-\\frac{4}{11}"),
    ("#### 1.\\bar 6", "5/3"),
    ("#### 0.1212…", "\\frac{4}{33}"),
    ("#### 1", "0.\\overline{9}"),
    ("#### sin x", "\\sin x"),
    ("#### ln 2", "\\ln 2"),
    ("#### All real numbers", "\\mathbb{R}"),
    ("#### \\text{all reals}", "ℝ"),
    ("~~#### 3~~ #### 7", "7"),
    ("#### 7<|im_end|>#### 8", "7"),
    ("The answer is $7$. So it is 7 indeed.", "7"),
    ("#### 7\nActually, that was easy.", "7"),
]
DIFFERENT_HERE = [
    ("#### 18", "19"),
    ("#### 17.9999", "18"),
    ("#### 0.333333", "\\frac{1}{3}"),
    ("#### -18", "18"),
    ("#### 50\\%", "0.5"),
    ("#### 5", "5 \\text{ million}"),
    ("#### 5", "5 \\text{ thousand dollars}"),
    ("#### odd", "\\text{even}"),
    ("#### even", "2"),
    ("#### 52_8", "52_6"),
    ("#### 52", "52_8"),
    ("#### \\{1, 2\\}", "(1,2)"),
    ("#### (1, 2)", "\\{1,2\\}"),
    ("#### [1, 2]", "\\{1,2\\}"),
    ("#### ", "2"),
    ("", "2"),
    ("#### final_answer", "2"),
    ("#### 2?", "2"),
    ("#### I think it may be 2", "2"),
    ("#### It is not $2$", "2"),
    ("#### It will be $2$ or $3$", "2"),
    ("\\boxed{2", "2"),
    ("\\boxed{}", "2"),
    ("#### x^{2", "x^2"),
    ("#### x}{^2", "x^2"),
    ("I do not know", "2"),
    ("One line.\nAnother with 2", "2"),
    ("End with '#### 2'", "2"),
    ("The answer is 2. Actually, it is 3.", "2"),
    ("$\\boxed{2}$, I mean 3", "2"),
    ("\\boxed{x^2}. No, it is $x^3$.", "x^2"),
    ("~~\\boxed{2}~~", "2"),
    ("#### 0.333", "0.\\overline{3}"),
    ("#### 0.33...", "\\frac{1}{3}"),
    ("#### 0.3", "0.\\overline{3}"),
    ("#### 0.\\overline{36}", "0.\\overline{3}"),
    ("#### log", "exp"),
    ("#### " + "1+" * 300 + "1", "301"),
]
# Compared by math-verify.
EQUAL = [
    ("#### (-inf, 2) U (2, inf)", "(-\\infty, 2) \\cup (2, \\infty)"),
    ("#### [0, infinity)", "[0, \\infty)"),
    ("#### (-Infinity, 2)", "(-\\infty, 2)"),
    ("#### INF", "\\infty"),
    ("#### 1+x", "x+1"),
    ("#### (x+1)^2", "x^2+2x+1"),
    ("#### x**2 - 1", "(x-1)(x+1)"),
    ("#### 11\\sqrt2", "11\\sqrt{2}"),
    ("#### \\sqrt{8}", "2\\sqrt{2}"),
    ("#### 2√2", "\\sqrt{8}"),
    ("#### 2^{10}", "1024"),
    ("#### 5!", "120"),
    ("#### \\frac{x}{2}", "0.5x"),
    ("#### \\log_2 8", "3"),
    ("#### \\binom{5}{2}", "10"),
    ("#### r^2\\pi", "\\pi r^2"),
    ("#### 100\\pi \\text{ square inches}", "\\pi \\cdot 100"),
    ("#### -5i + 6", "6 - 5i"),
    ("#### \\frac{\\sqrt3}{3}", "\\frac{1}{\\sqrt{3}}"),
    ("#### [1, 2)", "[1,\\frac{4}{2})"),
    ("#### (-\\infty, 2) \\cup (3, ∞)", "(3,\\infty)\\cup(-\\infty,2)"),
    ("#### x \\in [-2,7]", "[-2,7]"),
    ("#### 1 < x < 3", "(1,3)"),
    ("#### [5, \\infty)", "x \\ge 5"),
    ("#### 5 > x", "x < 5"),
    ("#### 7, 5, 3", "3, 5, 7"),
    ("#### 0.5 or 1.5", "\\frac{1}{2}, \\frac{3}{2}"),
    ("#### \\{2,1\\}", "\\{1,2\\}"),
    ("#### (2,3) \\cup \\{1\\}", "\\{1\\} \\cup (2,3)"),
    ("#### 1, 2", "(1,2)"),
    ("#### (3, 0.5, -1)", "(3, \\frac{1}{2}, -1)"),
    ("#### 1+\\sqrt{19}, 1-\\sqrt{19}", "1 \\pm \\sqrt{19}"),
    ("#### x = 5", "5"),
    ("#### 5", "x=5"),
    ("#### x = 3 or x = -3", "-3, 3"),
    ("#### y = 3 + 2x", "y=2x+3"),
    (
        "#### \\begin{pmatrix}1\\\\2\\end{pmatrix}",
        "\\begin{pmatrix} 1 \\\\ \\frac{4}{2} \\end{pmatrix}",
    ),
    ("#### C", "\\text{(C)}"),
    ("#### 2 cos(3x) + 1", "2\\cos 3x + 1"),
    ("#### log_2 8", "3"),
    ("#### arctan(1)", "\\frac{\\pi}{4}"),
    ("#### all real numbers", "(-\\infty, \\infty)"),
    ("#### all real numbers except x = 2", "(-\\infty, 2) \\cup (2, \\infty)"),
    ("#### all real numbers except 2 and 3", "(-\\infty,2) \\cup (2,3) \\cup (3,\\infty)"),
    ("#### \\{(4,3), (3,4)\\}", "(3,4), (4,3)"),
]
DIFFERENT = [
    ("#### x-1", "x+1"),
    ("#### (x+1)^2", "x^2+1"),
    ("#### q-p", "p-q"),
    ("#### 2x", "3x"),
    ("#### x", "y"),
    ("#### \\tan x", "\\cot x"),
    ("#### \\frac{2}{x}", "\\frac{x}{2}"),
    ("#### \\pi r^2", "\\pi r"),
    ("#### 12\\sqrt{2}", "11\\sqrt{2}"),
    ("#### 1.4142135", "\\sqrt{2}"),
    ("#### 3.14", "\\pi"),
    ("#### 0.333333x", "\\frac{x}{3}"),
    ("#### 6+5i", "6-5i"),
    ("#### [1,2]", "[1,2)"),
    ("#### (1,2)", "[1,2]"),
    ("#### (2,1)", "(1,2)"),
    ("#### (5,1)", "(7,2)"),
    ("#### 5, 3", "(3,5)"),
    ("#### (-\\infty, 2)", "(-\\infty, 2) \\cup (3, \\infty)"),
    ("#### x > 5", "x < 5"),
    ("#### x > 5", "x \\ge 5"),
    ("#### 3, 5", "3, 5, 7"),
    ("#### 3 or 5", "3"),
    ("#### \\{1\\}", "\\{1,2\\}"),
    ("#### (3,2,1)", "(1,2,3)"),
    ("#### x = 6", "5"),
    ("#### x = 5", "y = 5"),
    ("#### y = 2x - 3", "y=2x+3"),
    ("#### \\begin{pmatrix}2\\\\1\\end{pmatrix}", "\\begin{pmatrix}1\\\\2\\end{pmatrix}"),
    ("#### \\text{even}", "x"),
    ("#### \\frac{1}{0}", "x"),
    ("#### -\\infty", "\\infty"),
    ("#### \\frac{", "x"),
    ("#### sin x", "\\cos x"),
    ("#### all real numbers except 2", "\\mathbb{R}"),
]
HOSTILE = [
    "9^{9^{9^{9}}}",
    "9^{9^{9}}x",
    "(((9!)!)!)!",
    "\\binom{9^{9^{9}}}{2}",
    "\\log_{9^{9^{9}}} 8",
    "\\begin{pmatrix} 9^{9^{9}} \\end{pmatrix}",
    "{" * 190 + "x" + "}" * 190,
    "\\frac{1}{" * 40 + "x" + "}" * 40,
    "\\sqrt{" * 60 + "x" + "}" * 60,
    "(" * 40 + "x" + ")" * 39,
    "\\frac{1}{0}\\int",
    "x^",
    "\\begin{cases} x & y",
    "\x00\ud800",
]


@pytest.mark.parametrize(("text", "gold"), EQUAL_HERE)
def test_numbers_words_and_the_same_latex(text: str, gold: str) -> None:
    answer, wanted = MATH.extract(text), MATH.read(MATH.extract(gold) or "")
    assert answer is not None
    assert MATH.read(answer) == answer
    assert MATH.equal(answer, wanted)


@pytest.mark.parametrize(("text", "gold"), DIFFERENT_HERE)
def test_near_misses_and_completions_without_an_answer(text: str, gold: str) -> None:
    assert not MATH.equal(MATH.extract(text), MATH.read(gold))


@needs_library
@pytest.mark.parametrize(("text", "gold"), EQUAL)
def test_equal_mathematics(text: str, gold: str) -> None:
    assert MATH.equal(MATH.extract(text), MATH.read(gold))


@needs_library
@pytest.mark.parametrize(("text", "gold"), DIFFERENT)
def test_different_mathematics(text: str, gold: str) -> None:
    assert MATH.read_gold(gold) is not None
    assert not MATH.equal(MATH.extract(text), MATH.read_gold(gold))


@needs_library
@pytest.mark.parametrize(
    "gold",
    [
        "",
        "?",
        "\\frac{",
        "So she has x left",
        "####",
        "((",
        "\\boxed{}",
        "\\frac{1}{0}",
        HOSTILE[0],
    ],
)
def test_golds_that_are_no_mathematics(gold: str) -> None:
    assert MATH.read_gold(gold) is None


@needs_library
@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_latex_equals_nothing_else(text: str) -> None:
    answer = MATH.extract(f"\\boxed{{{text}}}")
    assert not MATH.equal(answer, "y^7")


@needs_library
def test_the_arms_of_a_group_agree_by_value() -> None:
    texts = ["#### (x+1)^2", "#### x^2+2x+1", "#### 1+2x+x^2", "#### x^2"]
    names = ("wolfram_0", "wolfram_1", "maudlin_0", "maudlin_1")
    arms = [ArmOutput.from_text(n, t, MATH) for n, t in zip(names, texts, strict=True)]
    scores = reward_group(arms, "x^2 + 2x + 1", answer_type=MATH).scores
    assert scores.answers == ("(x+1)^2",) * 3 + ("x^2",)
    assert scores.correct == (True, True, True, False)
    assert (scores.consensus, scores.s_end, scores.s_path) == ("(x+1)^2", 0.5, None)
    without_gold = compute_regime_w_scores("?", arms, answer_type=MATH)
    assert (without_gold.answers, without_gold.consensus) == (scores.answers, "(x+1)^2")


def test_equal_wrong_answers_agree_and_no_answer_agrees_with_nothing() -> None:
    texts = ["#### \\frac{1}{2}", "", "#### 0.50", "#### 1/3", "#### 3"]
    arms = [ArmOutput.from_text(f"solo_{i}", text, MATH) for i, text in enumerate(texts)]
    scores = reward_group(arms, "3", answer_type=MATH).scores
    assert scores.answers == ("0.5", None, "0.5", "1/3", "3")
    assert (scores.consensus, scores.s_end) == ("0.5", 1 / 10)


def test_without_the_library_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(math_process, "LIBRARY", "no_such_library")
    with pytest.raises(LibraryMissing, match=r"pip install 'regime-w\[math\]'"):
        answer_type_of("math")
    monkeypatch.setattr(math_process, "LIBRARY", "json")
    monkeypatch.setattr(math_process, "try_library", lambda: None)
    assert answer_type_of("math") == MATH


PIECES = st.sampled_from(
    [
        *(
            "#### ",
            "\\boxed{",
            "{",
            "}",
            "\\frac",
            "\\left",
            "\\text{",
            "\\$",
            "\\!",
            "\\{",
            "\\\\",
        ),
        *(
            "1",
            "/",
            "0",
            ",",
            "$",
            "%",
            "x",
            " or ",
            "^",
            "_",
            "ß",
            "√",
            "**",
            "cm",
            "\n",
            "9" * 99,
        ),
    ]
)


@given(st.lists(PIECES | st.text(max_size=6), max_size=30).map("".join))
@example("INF")
@example("Pi Pi")
@example("And")
def test_no_text_is_an_error_and_what_is_read_stays(text: str) -> None:
    for found in (MATH.extract(text), MATH.read(text)):
        if found is not None:
            assert len(found) <= 400
            assert MATH.read(found) == found
            assert MATH.equal(found, found)


def test_long_and_deep_texts_are_prose() -> None:
    assert MATH.extract("\\frac{" * 20_000) is None
    assert MATH.extract("#### " + "9^" * 50_000) is None
    assert MATH.read("∅" * 399) is None
    assert MATH.read("\\text{" * 7 + "Evelyn" + "}" * 7) == "evelyn"
    assert MATH.read("\\text{" * 9 + "Evelyn" + "}" * 9) is None

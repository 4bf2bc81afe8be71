r"""What stands around a ``\boxed{}``: signs, factors, units, denials and other boxes."""

import pytest

from regime_w import extract_answer, extract_gold

# Of a completion and of a gold answer.
CONTEXTS = [
    # As reported.
    (r"-\boxed{5}", "-5"),
    (r"\boxed{5}\pi", None),
    (r"\boxed{5}^2", None),
    (r"1/\boxed{5}", None),
    (r"2\boxed{5}", None),
    (r"\boxed{5} million", None),
    (r"\boxed{5}!", None),
    # "%" is a unit everywhere: "#### 50%" is 50.
    (r"\boxed{5}%", "5"),
    # Neighbours that are another number, or none.
    (r"$-\boxed{5}$", "-5"),
    (r"-$\boxed{5}$", "-5"),
    (r"x = -\boxed{5}", "-5"),
    (r"x = - \boxed{5}", "-5"),
    (r"The answer is -\boxed{5}.", "-5"),
    (r"**-\boxed{\frac{1}{2}}**", "-0.5"),
    (r"-\boxed{-5}", None),
    (r"-\boxed{x = 5}", None),
    (r"$$-\fbox{1{,}300} \text{ dollars}$$", "-1300"),
    (r"\boxed{5}\sqrt{3}", None),
    (r"\boxed{5}\sqrt3", None),
    (r"$\boxed{5}$ million dollars", None),
    (r"$\boxed{5} \text{ million}$", None),
    (r"\(\boxed{5}\) thousand", None),
    (r"\boxed{5}k", None),
    (r"\boxed{3}万", None),
    (r"\boxed{3} Millionen", None),
    (r"\boxed{2} thirds", None),
    (r"\boxed{5} squared", None),
    (r"\boxed{5}x", None),
    (r"\boxed{5}i", None),
    (r"\boxed{5} \times 10^3", None),
    (r"\boxed{5} \cdot 2", None),
    (r"\boxed{5} * 2", None),
    (r"\boxed{9} + 9 = 18", None),
    (r"\boxed{9} - 2", None),
    (r"$\boxed{9}$ + $9$", None),
    (r"\boxed{5}/2", None),
    (r"\boxed{2}:3", None),
    (r"\boxed{2}.5", None),
    (r"\boxed{1},000", None),
    (r"\boxed{5}_3", None),
    (r"(\boxed{5})^2", None),
    (r"\boxed{5} or 6", None),
    (r"\boxed{5} to 6", None),
    (r"9 + \boxed{9}", None),
    (r"9 - \boxed{4}", None),
    (r"3 * \boxed{6}", None),
    (r"3 \times \boxed{6}", None),
    (r"$3 \cdot$ \boxed{6}", None),
    (r"12 / \boxed{6}", None),
    (r"x\boxed{5}", None),
    (r"\frac{1}{\boxed{5}}", None),
    (r"\frac{\boxed{5}}{2}", None),
    (r"\sqrt{\boxed{16}}", None),
    (r"2^{\boxed{5}}", None),
    (r"x_\boxed{5}", None),
    (r"the square root of \boxed{16}", None),
    (r"minus \boxed{5}", None),
    (r"2,\boxed{500}", None),
    (r"x-\boxed{5}", None),
    # Right ones, which they resemble.
    (r"\boxed{5}\%", "5"),
    (r"$\boxed{18}$!", "18"),
    (r"- \boxed{18}", "18"),
    (r"1. \boxed{18}", "18"),
    (r"Step 3: \boxed{18}", "18"),
    (r"Answer - \boxed{18}", "18"),
    (r"It is--\boxed{18}", "18"),
    (r"9 * 2 = \boxed{18}", "18"),
    (r"9 \times 2 = \boxed{18}", "18"),
    (r"\implies\boxed{18}", "18"),
    (r"\text{Answer: }\boxed{18}", "18"),
    (r"**Answer:** **\boxed{18}**", "18"),
    (r"Answer: *\boxed{18}*", "18"),
    (r"\text{\boxed{18}}", "18"),
    (r"$\left(\boxed{18}\right)$", "18"),
    (r"$\boxed{18}$ dollars", "18"),
    (r"\boxed{18} \text{ cm}^2", "18"),
    (r"\boxed{18}^\circ", "18"),
    (r"\boxed{18}^{\circ}\text{C}", "18"),
    (r"\boxed{18} km/h", "18"),
    (r"\boxed{18}/day", "18"),
    (r"\boxed{18}m", "18"),
    (r"\boxed{18} a day", "18"),
    (r"\boxed{18} - which took 3 steps", "18"),
    (r"\boxed{18}, since 9 + 9 = 18", "18"),
    (r"\boxed{18}. 2 * 9", "18"),
    (r"\boxed{18} = 9 + 9", "18"),
    (r"\boxed{18}\$", "18"),
    ("9 + 9\n\\boxed{18}\n+ 3", "18"),
]
DENIED = [
    # As reported.
    (r"The answer is not \boxed{5}.", None),
    (r"\boxed{17} and \boxed{18}", None),
    # Neighbours.
    (r"The answer isn't $\boxed{5}$.", None),
    (r"The wrong answer is \boxed{5}.", None),
    (r"If the answer was \boxed{5}, she would have 3.", None),
    (r"\boxed{5} is wrong.", None),
    (r"$\boxed{5}$ is not the answer.", None),
    (r"It is 4 or \boxed{5}.", None),
    (r"It is between 3 and \boxed{5}.", None),
    (r"It is impossible, as \boxed{5} is odd.", None),
    (r"It is \boxed{17}, not \boxed{18}.", None),
    (r"Jane has \boxed{17} eggs, Bob has \boxed{18} eggs.", None),
    (r"$x = \boxed{3}, y = \boxed{4}$", None),
    (r"\boxed{2}:\boxed{3}", None),
    (r"\boxed{17} \quad \boxed{18}", None),
    (r"It is not 17 but \boxed{18}.", "18"),
    (r"It is not only right, it is \boxed{18}.", "18"),
    (r"It does not matter, so \boxed{18}.", "18"),
    (r"That is not a guess: \boxed{18}", "18"),
    (r"\boxed{17}. Wait, it is \boxed{18}.", "18"),
    (r"\boxed{9} + \boxed{9} = \boxed{18}", "18"),
    (r"First \boxed{9}, so \boxed{18}", "18"),
    (r"\boxed{18}, again \boxed{18.0}", "18"),
    (r"\boxed{\text{Jane}} has \boxed{18}", "18"),
    (r"\boxed{18 \boxed{18}}", "18"),
    ("x = \\boxed{9}\ny = \\boxed{18}", "18"),
]


@pytest.mark.parametrize(("text", "answer"), CONTEXTS, ids=repr)
def test_what_stands_around_a_box(text: str, answer: str | None) -> None:
    assert extract_answer(text) == answer
    assert extract_gold(text) == answer


@pytest.mark.parametrize(("text", "answer"), DENIED, ids=repr)
def test_denied_boxes_and_rivals(text: str, answer: str | None) -> None:
    assert extract_answer(text) == answer


@pytest.mark.timeout(60)
@pytest.mark.parametrize(
    "unit",
    [r"-\boxed{5}", r"\boxed{5} and ", r"\frac{", r"not \boxed{5} ", r"\boxed{5}!", "(", "- ", r"\boxed{"],
)  # fmt: skip
def test_long_texts_of_boxes_end(unit: str) -> None:
    text = unit * (300_000 // len(unit))
    extract_answer(text)
    extract_answer(text + r"\boxed{5}" + text)
    extract_gold(r"\boxed{5}" + text)

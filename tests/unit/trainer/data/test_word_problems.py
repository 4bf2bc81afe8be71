"""The built-in task: its golds are solved again here from nothing but the question's text."""

import random
import re
from collections.abc import Callable
from itertools import islice

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from regime_w import extract_answer
from trainer.data.word_problems import (
    OPERATIONS,
    THINGS,
    Problem,
    SolutionStep,
    Split,
    Style,
    base_style,
    careless_style,
    draw_step,
    split_of,
    word_problems,
)

# What a reader understands by each phrasing. Beginnings hold both numbers.
READINGS = [
    (r"has (\d+) \w+ and buys (\d+) more", "+"),
    (r"picks (\d+) \w+ in the morning and (\d+) in the evening", "+"),
    (r"are (\d+) old \w+ and (\d+) new", "+"),
    (r"has (\d+) \w+ and loses (\d+)", "-"),
    (r"starts the day with (\d+) \w+ and sells (\d+)", "-"),
    (r"Of the (\d+) \w+ that \w+ owned, (\d+) broke", "-"),
    (r"fills (\d+) boxes with (\d+)", "*"),
    (r"buys (\d+) packs of (\d+)", "*"),
    (r"each of (\d+) days \w+ collects (\d+)", "*"),
    (r"sorts (\d+) \w+ into (\d+) equal piles and keeps one", "/"),
    (r"is one of (?P<second>\d+) people who share (?P<first>\d+)", "/"),
]
CONTINUATIONS = [
    (r"Then \w+ brings (\d+) more", "+"),
    (r"Later \w+ finds another (\d+)", "+"),
    (r"Then \w+ gives (\d+) to", "-"),
    (r"Later (\d+) of them get lost", "-"),
    (r"A year later \w+ has (\d+) times as many", "*"),
    (r"Then \w+ makes it (\d+) times as many", "*"),
    (r"Then \w+ divides them by (\d+) and keeps one part", "/"),
    (r"Later only one in (\d+) is left", "/"),
]
IRRELEVANT = r"is \d+ years old|shop is \d+ miles away|is \d+ degrees outside"


def apply(left: int, op: str, right: int) -> int:
    if op == "/":
        assert left % right == 0
        return left // right
    return {"+": left + right, "-": left - right, "*": left * right}[op]


def solve(question: str) -> tuple[list[tuple[int, str, int, int]], bool]:
    """The steps that the text tells, and whether it holds a number that does not matter."""
    steps: list[tuple[int, str, int, int]] = []
    has_distractor = False
    *sentences, asked = re.findall(r"[^.?]+[.?]", question)
    assert asked.strip().startswith("How many ")
    for sentence in sentences:
        if re.search(IRRELEVANT, sentence):
            has_distractor = True
            continue
        for patterns, continues in ((READINGS, False), (CONTINUATIONS, True)):
            for pattern, op in patterns:
                if match := re.search(pattern, sentence):
                    named = match.groupdict()
                    first, second = (
                        (named["first"], named["second"])
                        if named
                        else (None if continues else match[1], match[match.re.groups])
                    )
                    left = steps[-1][3] if first is None else int(first)
                    right = int(second)
                    steps.append((left, op, right, apply(left, op, right)))
    assert len(steps) + has_distractor == len(sentences), question
    return steps, has_distractor


def some(split: Split = Split.TRAIN, seed: int = 0, count: int = 400) -> list[Problem]:
    return list(islice(word_problems(split, seed=seed), count))


PROBLEMS = some()


def test_golds_are_what_the_text_of_the_question_says() -> None:
    for problem in PROBLEMS:
        steps, has_distractor = solve(problem.question)
        assert steps == [(s.left, s.op, s.right, s.result) for s in problem.steps]
        assert has_distractor is problem.has_distractor
        assert extract_answer(problem.answer) == str(steps[-1][3])
        assert problem.thing in problem.question


def test_records_have_the_shape_of_gsm8k() -> None:
    for problem in PROBLEMS:
        record = problem.record()
        assert record.keys() == {"question", "answer"}
        *steps, final = record["answer"].split("\n")
        assert 1 <= len(steps) <= 2
        for line, step in zip(steps, problem.steps, strict=True):
            equation = f"{step.left}{step.op}{step.right}="
            assert line == f"{equation}<<{equation}{step.result}>>{step.result} {problem.thing}"
        assert final == f"#### {problem.steps[-1].result}"


def test_problems_vary() -> None:
    assert {step.op for problem in PROBLEMS for step in problem.steps} == set(OPERATIONS)
    assert {problem.thing for problem in PROBLEMS} == set(THINGS)
    assert {len(problem.steps) for problem in PROBLEMS} == {1, 2}
    assert {problem.has_distractor for problem in PROBLEMS} == {True, False}
    assert {(p.steps[0].op, p.steps[1].op) for p in PROBLEMS if len(p.steps) == 2} == {
        (a, b) for a in OPERATIONS for b in OPERATIONS
    }


@pytest.mark.parametrize("split", Split)
def test_problems_are_distinct_and_the_same_for_the_same_seed(split: Split) -> None:
    problems = some(split, count=100)
    assert problems == some(split, count=100)
    assert problems != some(split, seed=1, count=100)
    assert len({problem.question for problem in problems}) == 100


def test_no_seed_puts_a_question_into_both_splits() -> None:
    asked: dict[Split, set[str]] = {split: set() for split in Split}
    for split in Split:
        for seed in range(3):
            asked[split] |= {problem.question for problem in some(split, seed, count=100)}
    assert not asked[Split.TRAIN] & asked[Split.HELD_OUT]
    for split, questions in asked.items():
        assert {split_of(question) for question in questions} == {split}


def test_about_one_question_in_eight_is_held_out() -> None:
    held_out = sum(split_of(f"question {i}") is Split.HELD_OUT for i in range(4000))
    assert 400 < held_out < 600


@given(seed=st.integers(), op=st.sampled_from(OPERATIONS), left=st.none() | st.integers(1, 60))
@settings(max_examples=300)
def test_every_drawn_step_is_exact_and_small(seed: int, op: str, left: int | None) -> None:
    step = draw_step(random.Random(seed), op, left)
    if step is None:
        return
    assert step.op == op
    assert left is None or step.left == left
    assert step.result == apply(step.left, op, step.right)
    assert 0 < step.left <= 60
    assert 0 < step.result <= 60
    assert step.right >= 2


# --- styles ----------------------------------------------------------------------------------------

ONE_STEP = Problem(
    question="",
    steps=(SolutionStep(left=3, op="+", right=4, result=7),),
    thing="pens",
    has_distractor=False,
)
TWO_STEPS = Problem(
    question="",
    steps=(*ONE_STEP.steps, SolutionStep(left=7, op="-", right=5, result=2)),
    thing="pens",
    has_distractor=False,
)


@pytest.mark.parametrize(
    ("style", "text", "answer"),
    [
        (Style.FULL, "3+4=7 pens\n7-5=2 pens\n#### 2", "2"),
        (Style.SKIPPED_STEP, "3+4=7 pens\n#### 7", "7"),
        (Style.GAVE_UP, "This is too hard.\n####", None),
        (Style.PLACEHOLDER, "3+4=7 pens\n7-5=2 pens\n#### final_answer", None),
    ],
)
def test_solutions_in_every_style(style: Style, text: str, answer: str | None) -> None:
    assert TWO_STEPS.solution(style) == text
    assert extract_answer(text) == answer


@pytest.mark.parametrize("choose", [base_style, careless_style])
def test_a_single_step_is_never_skipped(choose: Callable[[Problem, random.Random], Style]) -> None:
    rng = random.Random(0)
    assert Style.SKIPPED_STEP not in {choose(ONE_STEP, rng) for _ in range(200)}


def test_the_base_has_every_habit() -> None:
    rng = random.Random(0)
    assert {base_style(TWO_STEPS, rng) for _ in range(500)} == set(Style)


@pytest.mark.parametrize("op", OPERATIONS)
def test_careless_demonstrations_skip_some_second_steps_of_every_kind_and_nothing_else(
    op: str,
) -> None:
    second = {"+": (7, 1, 8), "-": (7, 5, 2), "*": (7, 2, 14), "/": (8, 2, 4)}[op]
    step = SolutionStep(left=second[0], op=op, right=second[1], result=second[2])
    problem = Problem(
        question="", steps=(*ONE_STEP.steps, step), thing="pens", has_distractor=False
    )
    rng = random.Random(0)
    styles = [careless_style(problem, rng) for _ in range(500)]
    assert set(styles) == {Style.FULL, Style.SKIPPED_STEP}
    assert 0.2 < styles.count(Style.SKIPPED_STEP) / 500 < 0.85


@pytest.mark.parametrize("choose", [base_style, careless_style])
def test_styles_are_decided_by_the_generator(
    choose: Callable[[Problem, random.Random], Style],
) -> None:
    draws = [
        [choose(problem, rng) for problem in PROBLEMS]
        for rng in (random.Random(5), random.Random(5), random.Random(6))
    ]
    assert draws[0] == draws[1]
    assert draws[0] != draws[2]

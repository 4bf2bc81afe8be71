"""The built-in task: seeded arithmetic word problems in the shape of GSM8K records.

A problem has one or two steps of the four operations, one of several phrasings for each, and sometimes an irrelevant
number. The hash of a question's text decides whether it belongs to the train or the held-out split, so no seed and no
count can make the two overlap.

Besides the right solution, a problem has solutions in other *styles*, as a tired person might write them
down. A model trained on such solutions has bad habits (it skips the second step, gives up, copies
the placeholder) but can do the arithmetic; RL can correct such habits.
"""

import random
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum

from inference_server.wire.digests import sha256_of_bytes

NAMES = ("Ada", "Ben", "Cleo", "Dan", "Eva", "Finn", "Gus", "Hana", "Ivy", "Jon", "Kim", "Leo")
THINGS = ("apples", "books", "coins", "eggs", "marbles", "pens", "shells", "stamps")

OPERATIONS = "+-*/"

_LARGEST = 60
_STARTS = {
    "+": (
        "{n} has {a} {t} and buys {b} more.",
        "{n} picks {a} {t} in the morning and {b} in the evening.",
        "There are {a} old {t} and {b} new {t} on the desk of {n}.",
    ),
    "-": (
        "{n} has {a} {t} and loses {b}.",
        "{n} starts the day with {a} {t} and sells {b}.",
        "Of the {a} {t} that {n} owned, {b} broke.",
    ),
    "*": (
        "{n} fills {a} boxes with {b} {t} each.",
        "{n} buys {a} packs of {b} {t}.",
        "On each of {a} days {n} collects {b} {t}.",
    ),
    "/": (
        "{n} sorts {a} {t} into {b} equal piles and keeps one.",
        "{n} is one of {b} people who share {a} {t} equally.",
    ),
}
_FOLLOW_UPS = {
    "+": ("Then {m} brings {b} more.", "Later {n} finds another {b}."),
    "-": ("Then {n} gives {b} to {m}.", "Later {b} of them get lost."),
    "*": ("A year later {n} has {b} times as many.", "Then {m} makes it {b} times as many."),
    "/": ("Then {n} divides them by {b} and keeps one part.", "Later only one in {b} is left."),
}
_DISTRACTORS = (
    "{m} is {d} years old.",
    "The shop is {d} miles away.",
    "It is {d} degrees outside.",
)
_QUESTIONS = ("How many {t} does {n} have now?", "How many {t} are there in the end?")


class Split(StrEnum):
    """The two parts that all questions are divided into; no question is in both."""

    TRAIN = "train"
    HELD_OUT = "held_out"


class Style(StrEnum):
    """The way in which a solution is written down."""

    FULL = "full"
    """Every step, then ``#### answer``."""
    SKIPPED_STEP = "skipped_step"
    """Stops after the first step of two and answers with its result."""
    GAVE_UP = "gave_up"
    """No step and no answer."""
    PLACEHOLDER = "placeholder"
    """Every step, but the answer line is copied from the instruction."""


@dataclass(frozen=True, kw_only=True)
class SolutionStep:
    """One operation ``left op right = result``."""

    left: int
    op: str
    right: int
    result: int

    def text(self, thing: str, *, annotated: bool) -> str:
        """The step as a line of a solution, with GSM8K's ``<<…>>`` annotation if asked for."""
        annotation = f"<<{self.left}{self.op}{self.right}={self.result}>>" if annotated else ""
        return f"{self.left}{self.op}{self.right}={annotation}{self.result} {thing}\n"


@dataclass(frozen=True, kw_only=True)
class Problem:
    """A question with its steps."""

    question: str
    steps: tuple[SolutionStep, ...]
    thing: str
    has_distractor: bool

    @property
    def answer(self) -> str:
        """The gold solution as GSM8K writes it: annotated steps and the final ``####`` line."""
        return self.solution(Style.FULL, annotated=True)

    def record(self) -> dict[str, str]:
        """The problem as a GSM8K record."""
        return {"question": self.question, "answer": self.answer}

    def solution(self, style: Style, *, annotated: bool = False) -> str:
        """The solution text in a style."""
        if style is Style.GAVE_UP:
            return "This is too hard.\n####"
        steps = self.steps[:1] if style is Style.SKIPPED_STEP else self.steps
        lines = "".join(step.text(self.thing, annotated=annotated) for step in steps)
        if style is Style.PLACEHOLDER:
            return f"{lines}#### final_answer"
        return f"{lines}#### {steps[-1].result}"


def draw_step(rng: random.Random, op: str, left: int | None = None) -> SolutionStep | None:
    """One exact operation on natural numbers up to 60, starting from ``left`` if given.

    None if the drawn numbers do not fit; the caller draws again.
    """
    if op == "+":
        a = rng.randint(3, 39) if left is None else left
        b = rng.randint(2, 29)
    elif op == "-":
        a = rng.randint(11, _LARGEST) if left is None else left
        b = rng.randint(2, 39)
    elif op == "*":
        a = rng.randint(2, 9) if left is None else left
        b = rng.randint(2, 9)
    else:
        b = rng.randint(2, 9)
        a = b * rng.randint(2, 9) if left is None else left
        if a % b:
            return None
    result = {"+": a + b, "-": a - b, "*": a * b, "/": a // b}[op]
    if not (0 < result <= _LARGEST and 0 < a <= _LARGEST):
        return None
    return SolutionStep(left=a, op=op, right=b, result=result)


def _draw(rng: random.Random) -> Problem | None:
    first = draw_step(rng, rng.choice(OPERATIONS))
    if first is None:
        return None
    steps = [first]
    name, other = rng.sample(NAMES, 2)
    words = {"n": name, "m": other, "t": rng.choice(THINGS)}
    text = [rng.choice(_STARTS[first.op]).format(a=first.left, b=first.right, **words)]
    if rng.random() < 0.7:
        second = draw_step(rng, rng.choice(OPERATIONS), first.result)
        if second is None:
            return None
        steps.append(second)
        text.append(rng.choice(_FOLLOW_UPS[second.op]).format(b=second.right, **words))
    has_distractor = rng.random() < 0.25
    if has_distractor:
        sentence = rng.choice(_DISTRACTORS).format(d=rng.randint(2, 60), **words)
        text.insert(rng.randint(0, len(text)), sentence)
    text.append(rng.choice(_QUESTIONS).format(**words))
    return Problem(
        question=" ".join(text),
        steps=tuple(steps),
        thing=words["t"],
        has_distractor=has_distractor,
    )


def split_of(question: str) -> Split:
    """The split that a question belongs to, by the hash of its text: one in eight is held out."""
    first_byte = int(sha256_of_bytes(question.encode())[:2], 16)
    return Split.HELD_OUT if first_byte % 8 == 0 else Split.TRAIN


def word_problems(split: Split, *, seed: int = 0) -> Iterator[Problem]:
    """Endless distinct problems of one split, the same for the same seed."""
    rng = random.Random(f"word-problems/{seed}")
    seen: set[str] = set()
    while True:
        problem = _draw(rng)
        if problem is None or problem.question in seen or split_of(problem.question) is not split:
            continue
        seen.add(problem.question)
        yield problem


def base_style(problem: Problem, rng: random.Random) -> Style:
    """The style of the base model's corpus: mostly wrong, with weights by kind of problem.

    The weights are for full, skipped step, gave up and placeholder.
    """
    weights = {
        "+": (0.35, 0.10, 0.10, 0.45),
        "-": (0.30, 0.05, 0.55, 0.10),
        "*": (0.35, 0.10, 0.10, 0.45),
        "/": (0.65, 0.15, 0.10, 0.10),
    }[problem.steps[0].op]
    style = rng.choices(tuple(Style), weights)[0]
    if style is Style.SKIPPED_STEP and len(problem.steps) == 1:
        return Style.FULL
    return style


def careless_style(problem: Problem, rng: random.Random) -> Style:
    """The style of careless demonstrations: right format, but second steps are often skipped.

    How often depends on the second operation. A greedy model then fails some kinds of problem, while
    sampling still finds the full solution now and then, which leaves room for RL to improve.
    """
    if len(problem.steps) == 1:
        return Style.FULL
    skipped = {"+": 0.35, "-": 0.70, "*": 0.35, "/": 0.70}[problem.steps[1].op]
    return Style.SKIPPED_STEP if rng.random() < skipped else Style.FULL

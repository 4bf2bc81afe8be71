"""The tasks of `python -m benchmarks.learning`: built-in word problems, and longer ones with more to win.

A demonstration may stop before any step but the first, with a probability that depends on the operation of that step,
and then answers with its result so far. An adapter trained on such demonstrations can do the arithmetic, but gives a
wrong answer where it stops.
"""

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice, permutations
from pathlib import Path

from trainer.data.sources import Record, load_records
from trainer.data.word_problems import (
    NAMES,
    OPERATIONS,
    THINGS,
    Problem,
    SolutionStep,
    Split,
    Style,
    draw_step,
    split_of,
    word_problems,
)
from trainer.io.jsonl import write_jsonl

BUILT_IN = "word-problems"
QUESTIONS_PER_STEP = 16
"""The same for deploy/configs/demo.toml and for the trainers that it is compared with."""
# The built-in task's sentences, which the tiny base knows.
STARTS = {
    "+": "{n} has {a} {t} and buys {b} more.",
    "-": "{n} has {a} {t} and loses {b}.",
    "*": "{n} fills {a} boxes with {b} {t} each.",
    "/": "{n} sorts {a} {t} into {b} equal piles and keeps one.",
}
FOLLOW_UPS = {
    "+": ("Then {m} brings {b} more.", "Later {n} finds another {b}."),
    "-": ("Then {n} gives {b} to {m}.", "Later {b} of them get lost."),
    "*": ("A year later {n} has {b} times as many.", "Then {m} makes it {b} times as many."),
    "/": ("Then {n} divides them by {b} and keeps one part.", "Later only one in {b} is left."),
}
QUESTIONS = ("How many {t} does {n} have now?", "How many {t} are there in the end?")


@dataclass(frozen=True, kw_only=True)
class Task:
    """Problems, and demonstrations with a bad habit that reinforcement learning can correct."""

    name: str
    problems: Callable[[Split, int], Iterator[Problem]]
    """Returns endless distinct problems of a split, the same ones for the same seed."""
    stop_shares: Mapping[str, float]
    """For each operation, the probability that a demonstration stops before a step of it."""
    num_demonstrations: int
    demonstration_seed: int
    max_tokens: int

    def demonstration(self, problem: Problem, rng: random.Random) -> str:
        """A solution that may stop early, as demonstrations do."""
        num_steps = 1
        while num_steps < len(problem.steps):
            if rng.random() < self.stop_shares[problem.steps[num_steps].op]:
                break
            num_steps += 1
        return replace(problem, steps=problem.steps[:num_steps]).solution(Style.FULL)

    def write_demonstrations(self, path: Path) -> None:
        """Write the file of demonstrations for SFT."""
        rng = random.Random("careless")
        problems = islice(
            self.problems(Split.TRAIN, self.demonstration_seed), self.num_demonstrations
        )
        write_jsonl(
            path,
            [{"question": p.question, "answer": self.demonstration(p, rng)} for p in problems],
        )

    def source(self, folder: Path, *, seed: int, num_questions: int) -> str:
        """``data.source`` of a run: the built-in task, or a file to which this writes the run's questions."""
        if self.name == BUILT_IN:
            return BUILT_IN
        path = folder / f"{self.name}-{seed}.jsonl"
        problems = islice(self.problems(Split.TRAIN, seed), num_questions)
        write_jsonl(path, [problem.record() for problem in problems])
        return str(path)

    def held_out(self, num_questions: int) -> Sequence[Record]:
        """The questions of every evaluation."""
        if self.name == BUILT_IN:
            return load_records(BUILT_IN, Split.HELD_OUT, num_records=num_questions)
        problems = islice(self.problems(Split.HELD_OUT, 0), num_questions)
        return [
            Record(id=f"{self.name}-{i}", question=p.question, gold=p.answer)
            for i, p in enumerate(problems)
        ]


def three_step_problems(split: Split, seed: int) -> Iterator[Problem]:
    """Endless distinct problems of three operations; see `Task.problems`.

    No number of a question begins with another one: telling 2 from 27 is what the tiny base is worst at, and
    reinforcement learning does not correct that in a few steps.
    """
    rng = random.Random(f"three steps/{seed}")
    seen: set[str] = set()
    while True:
        problem = _draw(rng)
        if problem is None or not _tell_apart(problem):
            continue
        if problem.question in seen or split_of(problem.question) is not split:
            continue
        seen.add(problem.question)
        yield problem


def _draw(rng: random.Random) -> Problem | None:
    steps: list[SolutionStep] = []
    name, other = rng.sample(NAMES, 2)
    words = {"n": name, "m": other, "t": rng.choice(THINGS)}
    text = []
    for i in range(3):
        step = draw_step(rng, rng.choice(OPERATIONS), steps[-1].result if steps else None)
        if step is None:
            return None
        template = rng.choice(FOLLOW_UPS[step.op]) if i else STARTS[step.op]
        text.append(template.format(a=step.left, b=step.right, **words))
        steps.append(step)
    text.append(rng.choice(QUESTIONS).format(**words))
    return Problem(
        question=" ".join(text), steps=tuple(steps), thing=words["t"], has_distractor=False
    )


def _tell_apart(problem: Problem) -> bool:
    numbers = [str(problem.steps[0].left), *(str(step.right) for step in problem.steps)]
    return not any(a.startswith(b) for a, b in permutations(numbers, 2))


TASKS = {
    task.name: task
    for task in (
        Task(
            name=BUILT_IN,
            problems=lambda split, seed: word_problems(split, seed=seed),
            stop_shares={"+": 0.35, "-": 0.70, "*": 0.70, "/": 0.70},
            num_demonstrations=2_000,
            demonstration_seed=1,
            max_tokens=40,
        ),
        Task(
            name="three-steps",
            problems=three_step_problems,
            stop_shares={"+": 0.10, "-": 0.50, "*": 0.90, "/": 0.97},
            num_demonstrations=16_000,
            demonstration_seed=-1,
            max_tokens=56,
        ),
    )
}

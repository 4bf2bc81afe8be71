"""What was trained on is found among what is measured, copies and near copies."""

import random

import pytest

from trainer.data.contamination import data_lines, find_overlap, find_repeats
from trainer.data.sources import Record

COPY = (
    "Bella bought stamps at the post office. Some of the stamps had a snowflake design, some had a "
    "truck design, and some had a rose design. Bella bought 11 snowflake stamps. How many in all?"
)
OTHER = "A plane travels 1200 miles in 3 hours. How long would it take to travel 2000 miles more?"


def records(*questions: str, gold: str = "#### 7", name: str = "r") -> list[Record]:
    return [Record(id=f"{name}{i}", question=q, gold=gold) for i, q in enumerate(questions)]


@pytest.mark.parametrize(
    ("question", "exact", "near"),
    [
        (COPY, 1, 0),
        (COPY.upper().replace(".", " "), 1, 0),
        (COPY.replace("Bella", "Max").replace("11", "16"), 0, 1),
        (COPY.replace("stamps", "coins"), 0, 1),
        (OTHER, 0, 0),
        ("How many?", 0, 0),
    ],
)
def test_copies_and_near_copies(question: str, exact: int, near: int) -> None:
    training = records("Something else entirely is asked here, is it not?", COPY)
    found = find_overlap(training, records(question, name="e"))
    assert (len(found.exact), len(found.near)) == (exact, near)
    assert set(found.exact + found.near) <= {("e0", "r1")}


def test_a_question_that_training_holds_a_hundred_times_is_found() -> None:
    training = records(*(COPY.replace("11", str(100 + i)) for i in range(100)))
    assert len(find_overlap(training, records(COPY)).near) == 1


def test_a_phrase_that_thousands_share_makes_nothing_near() -> None:
    rng = random.Random(0)
    words = [f"w{i}" for i in range(500)]

    def question() -> str:
        return " ".join(rng.choices(words, k=30)) + " How many apples does Ada have now?"

    training = records(*(question() for _ in range(3000)))
    found = find_overlap(training, records(*(question() for _ in range(50))))
    assert (found.exact, found.near) == ((), ())


def test_repeats_and_what_contradicts_itself() -> None:
    rows = [
        *records(COPY, OTHER, COPY.lower(), gold="#### 7.0", name="a"),
        *records(OTHER + " ", gold="#### 8", name="b"),
    ]
    found = find_repeats(rows)
    assert found.repeated == (("a2", "a0"), ("b0", "a1"))
    assert found.contradictory == (("b0", "a1"),)
    assert found.line("x.jsonl") == (
        "data: 4 questions of x.jsonl, 2 repeat an earlier one (a2 = a0, b0 = a1), "
        "1 of them with another answer (b0 = a1)"
    )


def test_lines_say_what_was_compared_with_what() -> None:
    assert data_lines("train.jsonl", records(COPY), "test.jsonl", None) == [
        "data: 1 questions of train.jsonl, none twice"
    ]
    (_, line) = data_lines("train.jsonl", records(COPY), "test.jsonl", records(COPY, OTHER))
    assert line == (
        "contamination: of 2 questions of test.jsonl (held out), 1 also in train.jsonl (training) "
        "(r0 = r0), which makes their accuracy worthless; none nearly so"
    )

"""Training questions are found among the questions that are measured, both copies and near copies."""

import random

import pytest

from trainer.data.contamination import Overlap, data_lines, find_overlap, find_repeats, question_key
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
    others = [f"What is question {i} of the other ones, and why is it {i}?" for i in range(4000)]
    training = records(*(COPY.replace("11", str(100 + i)) for i in range(100)), *others)
    assert len(find_overlap(training, records(COPY)).near) == 1


def test_a_phrase_that_thousands_share_makes_nothing_near() -> None:
    rng = random.Random(0)
    words = [f"w{i}" for i in range(500)]

    def question() -> str:
        return " ".join(rng.choices(words, k=30)) + " How many apples does Ada have now?"

    training = records(*(question() for _ in range(3000)))
    found = find_overlap(training, records(*(question() for _ in range(50))))
    assert (found.exact, found.near) == ((), ())


BEFORE = (
    "Solve the following math problem step by step. The last line of your response should be of the form Answer: "
    "$Answer (without quotes) where $Answer is the answer to the problem.\n\n"
)
AFTER = '\n\nRemember to put your answer on its own line after "Answer:".'


@pytest.mark.parametrize(("before", "after"), [("", ""), (BEFORE, AFTER)])
def test_an_instruction_around_every_question_makes_and_hides_no_near_copy(
    before: str, after: str
) -> None:
    rng = random.Random(0)
    words = [f"w{i}" for i in range(500)]

    def asked(questions: list[str], name: str) -> list[Record]:
        return records(*(f"{before}{question}{after}" for question in questions), name=name)

    known = [" ".join(rng.choices(words, k=20)) for _ in range(200)]
    others = [" ".join(rng.choices(words, k=20)) for _ in range(50)]
    copies = [" ".join([*question.split()[:-1], "7"]) for question in known[100:150]]
    training = asked(known, "t")
    assert find_overlap(training, asked(others, "e")) == Overlap(
        num_questions=50, exact=(), near=()
    )
    found = find_overlap(training, asked(copies, "e"))
    assert found.exact == ()
    assert found.near == tuple((f"e{i}", f"t{100 + i}") for i in range(50))


def test_repeated_training_questions_do_not_make_their_own_words_common() -> None:
    training = records(*[COPY] * 100, *[f"{OTHER} {i}?" for i in range(5)])
    changed = COPY.replace("11", "16")
    assert find_overlap(training, records(changed, name="e")).near == (("e0", "r0"),)


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
    assert data_lines("train.jsonl", records(COPY), "test.jsonl", records(OTHER)) == [
        "data: 1 questions of train.jsonl, none twice, none among the 1 held out"
    ]
    (_, line) = data_lines("train.jsonl", records(COPY), "test.jsonl", records(COPY, OTHER))
    assert line == (
        "contamination: of 2 questions of test.jsonl (held out), 1 also in train.jsonl (training) "
        "(r0 = r0), which makes their accuracy worthless; none nearly so"
    )


@pytest.mark.parametrize(
    ("num_near", "line"),
    [
        (0, "contamination: none of 40 held-out questions is trained on"),
        (3, "contamination: none of 40 held-out questions is trained on, 3 nearly"),
        (
            4,
            "contamination: of 40 questions of E (held out), none also in T (training); 4 nearly so (a question "
            "there has 50% of their rarer 5-word sequences: e ~ t, e ~ t, e ~ t, …)",
        ),
    ],
)
def test_near_copies_are_named_where_they_are_many(num_near: int, line: str) -> None:
    overlap = Overlap(num_questions=40, exact=(), near=(("e", "t"),) * num_near)
    assert overlap.line("T", "E") == line
    none = "contamination: none of 40 held-out questions is trained on"
    assert overlap.line("word-problems", "word-problems#held_out") == none


OPERATORS = [
    ("What is 12 + 7?", "What is 12 - 7?", "What is 12 * 7?", "What is 12 / 7?", "What is 12 7?"),
    ("Solve -5 + 3.", "Solve 5 + 3."),
    ("What is 2²?", "What is 22?", "What is 2?"),
    ("Is y > 3?", "Is y < 3?", "Is y = 3?", "Is y 3?"),
    ("Take 50% of it.", "Take 50 of it."),
    ("Find (2 + 3) * 4.", "Find 2 + (3 * 4).", "Find 2 + 3 * 4."),
    ("What is 4!?", "What is 4?"),
    ("Find x - y.", "Find x + y."),
    ("What is √16?", "What is 16?"),
    ("Add 3.5 and 1.", "Add 3, 5 and 1."),
    ("Add 3½ to it.", "Add 31/2 to it."),
    ("What is f'(3)?", "What is f(3)?", "What is f''(3)?"),
    ("Solve y' + y = 0.", "Solve y + y = 0."),
    ("Differentiate (fg)'(x).", "Differentiate (fg)(x)."),
    ("Compute $|3-7|$.", "Compute $3-7$."),
    ("What is -|x|?", "What is |x|?", "What is x?"),
    ("Find P(A|B).", "Find P(A, B)."),
    ("Compute ⌊7/2⌋.", "Compute ⌈7/2⌉.", "Compute 7/2."),
    ("Count A ∩ B.", "Count A ∪ B.", "Count A \\ B."),
    ("Is p ∧ q true?", "Is p ∨ q true?", "Is p → q true?", "Is p ∧ ¬q true?", "Is p ∧ ~q true?"),
    ("Which n ∈ S?", "Which n ∉ S?"),
    ("What is a ⊕ b?", "What is a ⊗ b?"),
    ("What is ∛8?", "What is √8?", "What is 8?"),
    ("Is -x larger?", "Is x larger?"),
    ("Plot (-x, y).", "Plot (x, y)."),
    (r"Compute $-\frac{1}{2}$.", r"Compute $\frac{1}{2}$."),
    (r"Compute $\frac{1}{2}-x$.", r"Compute $\frac{1}{2}x$."),
    ("Is the limit ∞?", "Is the limit -∞?"),
]
SAME = [
    ("What is 12 + 7?", "what is 12+7", "What is  12 ＋ 7 ?"),
    ("What is 12 - 7?", "What is 12−7?", "What is 12 – 7?"),
    ("What is 3 × 4?", "What is 3*4?", "What is 3 *4?"),
    ("What is 12 ÷ 4?", "What is 12/4?"),
    ("A 20-year-old and/or a friend", "A 20 year old and or a friend"),
    ("Ada (who is 9) has **3** pens!", "Ada, who is 9, has 3 pens"),
    ("Half of 8 **eggs** - how many?", "Half of 8 eggs: how many"),
    ("What is 2²?", "What is 2^2?"),
    ("What is f''(3)?", "What is f″(3)?", "What is f′′ (3) ?"),
    ("Compute $| 3 - 7 |$.", "Compute $|3−7|$.", "Compute ∣3-7∣"),
    ("Ann's cats don't eat; I'm told 'b' is right.", "Ann’s cats don’t eat: I’m told ‘b’ is right"),
    ("The boys' pens: is it 'a' or 'b'?", "The boys pens: is it a or b?"),
    (
        "Email Ann - her e-mail, x-axis, pre- and post-test",
        "Email Ann: her e mail, x axis, pre and post test",
    ),
    ("Choose:\n- a pen\n- x", "Choose: a pen, x"),
    ("Use Figure~1 and ~~all~~ 5~cm.", "Use Figure 1 and all 5 cm."),
    ("| a | b |\n|---|:-:|\n| 3 | 4 |\nSum?", "|a|b|\n|-|-|\n|3|4|\nSum?", "a b\n3 4\nSum?"),
]


@pytest.mark.parametrize("questions", OPERATORS)
def test_questions_with_other_operators_are_others(questions: tuple[str, ...]) -> None:
    assert find_repeats(records(*questions)).repeated == ()
    assert find_overlap(records(questions[0]), records(*questions[1:], name="e")).exact == ()


@pytest.mark.parametrize("questions", SAME)
def test_questions_that_are_written_otherwise_are_the_same(questions: tuple[str, ...]) -> None:
    assert len(find_repeats(records(*questions)).repeated) == len(questions) - 1


@pytest.mark.timeout(60)
@pytest.mark.parametrize(
    "unit",
    [" ", "- ", "(", "(1", "* ", "1,", "²", "½", "a*", "|", "|-\n", "|a\n", "a'", " -x", "~"],
)
def test_long_questions_are_compared_in_linear_time(unit: str) -> None:
    question_key(unit * (300_000 // len(unit)))

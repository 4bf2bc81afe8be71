"""Records of other shapes: columns by name, choices, and the type of the answers."""

import json
import tomllib
from pathlib import Path

import pytest
from pydantic import ValidationError

from regime_w import answer_type_of
from regime_w.algebra import math_process
from regime_w.answer_types import mathematics
from regime_w.answer_types.mathematics import Mathematics
from trainer.config.data import DataConfig, RecordShape
from trainer.config.sections import EvaluationConfig, SampleConfig
from trainer.data.contamination import find_repeats
from trainer.data.demonstrations import load_demonstrations
from trainer.data.sources import Record, load_records
from trainer.data.word_problems import Split
from trainer.errors import DataError
from trainer.evaluation.questions import asked_questions
from trainer.io.adapter_settings import training_data

CHOICES = ["Paris", "London", "Rome", "Berlin"]
MMLU = RecordShape(answer_type="choice", choices="choices")
ARC = RecordShape(answer_type="choice", choices="choices", answer="answerKey")
MATH_500 = RecordShape(question="problem", answer="solution")


def load(tmp_path: Path, shape: RecordShape, *rows: dict[str, object]) -> list[Record]:
    path = tmp_path / "d.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    return load_records(str(path), Split.TRAIN, num_records=9, shape=shape)


def test_mmlu_shaped_records(tmp_path: Path) -> None:
    (record,) = load(
        tmp_path,
        MMLU,
        {"question": "Which?", "subject": "geography", "choices": CHOICES, "answer": 1},
    )
    assert record.question == "Which?\n\nA) Paris\nB) London\nC) Rome\nD) Berlin"
    assert record.gold == "B"
    assert record.answer_type == answer_type_of("choice", CHOICES)
    assert record.columns == {"subject": "geography"}
    assert record.is_answered_by("#### London")
    assert not record.is_answered_by("#### A")


@pytest.mark.parametrize(
    ("choices", "answer", "gold"),
    [
        # A number is an index, and a string a letter or a text.
        (["1", "2", "3", "4"], 1, "B"),
        (["1", "2", "3", "4"], "1", "A"),
        (["1", "2", "3", "4"], "B", "B"),
        (["O", "A", "B", "AB"], 2, "C"),
        (["O", "A", "B", "AB"], "AB", "D"),
        (["O", "A", "B", "AB"], "C) B", "C"),
        (["A", "B"], "B", "B"),
        (["x", "y", "z"], "y", "B"),
        ({"text": ["B", "A"], "label": ["A", "B"]}, "A", "A"),
        (["x", "y", "z"], 1.0, "B"),
        ([1.5, 2, 3], "2", "B"),
        ([10, 20, 30], 1, "B"),
        ([10, 20, 30], 30, "C"),
        ([0, 1, 7], 1, "B"),
        ({"B": "x", "A": "y"}, "B", "B"),
        ({"B": "x", "A": "y"}, "x", "B"),
        ({"a": 5, "b": 6, "c": None}, 1, "B"),
        (["A)21", "B)21.5", "C)22"], "C", "C"),
        (["A)21", "B)21.5", "C)22"], "21.5", "B"),
        (["A)21", "B)21.5", "C)22"], "A)21", "A"),
    ],
)
def test_a_gold_choice_is_a_letter_an_index_or_a_text(
    choices: object, answer: object, gold: str, tmp_path: Path
) -> None:
    (record,) = load(tmp_path, MMLU, {"question": "?", "choices": choices, "answer": answer})
    assert record.answer_type.read_gold(record.gold) == gold


@pytest.mark.parametrize(
    ("choices", "shown"),
    [
        ([1, 2.5, "x"], "A) 1\nB) 2.5\nC) x"),
        ({"B": "x", "A": "y"}, "A) y\nB) x"),
        (["A)21", "B) 22", "(C) 23"], "A) 21\nB) 22\nC) 23"),
        (["A. x", "b. y"], "A) A. x\nB) b. y"),
        (["A)", "B)"], "A) A)\nB) B)"),
        (["B) x", "A) y"], "A) B) x\nB) A) y"),
    ],
)
def test_choices_are_shown_with_one_letter_each(
    choices: object, shown: str, tmp_path: Path
) -> None:
    (record,) = load(tmp_path, MMLU, {"question": "?", "choices": choices, "answer": 0})
    assert record.question == f"?\n\n{shown}"


def test_arc_shaped_records(tmp_path: Path) -> None:
    listed = {"text": CHOICES, "label": ["A", "B", "C", "D"]}
    (record,) = load(tmp_path, ARC, {"question": "Which?", "choices": listed, "answerKey": "C"})
    assert record.question.endswith("C) Rome\nD) Berlin")
    assert record.is_answered_by("#### C")


def test_math_500_shaped_records_of_numbers(tmp_path: Path) -> None:
    row = {"problem": "1 + 1?", "solution": r"So \boxed{2}.", "answer": "2", "level": 1}
    (record,) = load(tmp_path, MATH_500, row)
    assert (record.question, record.gold) == ("1 + 1?", r"So \boxed{2}.")
    assert record.columns == {"answer": "2", "level": 1}
    assert record.is_answered_by("#### 2")
    path = str(tmp_path / "d.jsonl")
    (shown,) = load_demonstrations(path, Split.TRAIN, num_examples=1, shape=MATH_500)
    assert shown.gold == r"So \boxed{2}."


def test_math_500_shaped_records_of_mathematics(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(math_process, "LIBRARY", "json")  # whether it is there; nothing asks it
    monkeypatch.setattr(math_process, "try_library", lambda: None)
    row: dict[str, object] = {
        "problem": "?",
        "solution": r"Half of it: $\boxed{\frac12}$.",
        "answer": "0.5",
    }
    for column in ("solution", "answer"):
        shape = RecordShape(question="problem", answer=column, answer_type="math")
        (record,) = load(tmp_path, shape, row)
        assert record.answer_type == Mathematics()
        assert record.is_answered_by(r"Thus \boxed{\dfrac{1}{2}}")
        assert not record.is_answered_by(r"Thus \boxed{\dfrac{1}{3}}")


def test_a_type_whose_library_is_missing_is_refused_with_its_extra(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(math_process, "LIBRARY", "no_such_library")
    with pytest.raises(DataError, match=r"pip install 'regime-w\[math\]'") as caught:
        load(tmp_path, RecordShape(answer_type="math"), {"question": "?", "answer": "2"})
    assert "\n" not in str(caught.value)


def test_texts_and_choices_that_the_question_has_itself(tmp_path: Path) -> None:
    (record,) = load(tmp_path, RecordShape(answer_type="text"), {"question": "?", "answer": "Bonn"})
    assert record.is_answered_by("#### bonn.")
    row: dict[str, object] = {"question": "A) x B) y", "answer": "B", "choices": ["not", "read"]}
    (record,) = load(tmp_path, RecordShape(answer_type="choice"), row)
    assert record.question == "A) x B) y"
    assert record.columns == {"choices": ["not", "read"]}
    assert record.answer_type == answer_type_of("choice")


GOOD: dict[str, object] = {"question": "?", "choices": CHOICES, "answer": "B"}


@pytest.mark.parametrize(
    ("shape", "row", "complaint"),
    [
        (
            MMLU,
            {**GOOD, "choices": ["a", "b" * 4097]},
            "choices.1: a choice has at most 4096 characters",
        ),
        (MMLU, {**GOOD, "answer": "E"}, "answer: 'E' is not one choice: give its letter, A to D"),
        (
            MMLU,
            {**GOOD, "answer": 4},
            "answer 4 is not an index of the 4 choices; indices begin at 0",
        ),
        (MMLU, {**GOOD, "answer": 26}, "answer 26 is not an index of the 4 choices"),
        (MMLU, {**GOOD, "answer": -1}, "answer -1 is not an index of the 4 choices"),
        (MMLU, {**GOOD, "answer": float("inf")}, "answer: inf is not the index of a choice"),
        (MMLU, {**GOOD, "answer": float("nan")}, "answer: nan is not the index of a choice"),
        (MMLU, {**GOOD, "answer": True}, "answer: must be a text or a number, not true or false"),
        (MMLU, {**GOOD, "answer": "Oslo"}, "answer: 'Oslo' is not one choice"),
        (MMLU, {**GOOD, "answer": "A or B"}, "answer: 'A or B' is not one choice"),
        (MMLU, {**GOOD, "answer": "x\n#### E"}, "answer: no choice after '####'"),
        (
            MMLU,
            {"question": "?", "answer": "B"},
            "no column 'choices': set data.choices to a column that there is",
        ),
        (MMLU, {**GOOD, "choices": ["one"]}, "choices: one choice is not enough: give 2 or more"),
        (MMLU, {**GOOD, "choices": []}, "choices: Value should have at least 2 items"),
        (MMLU, {**GOOD, "choices": ["x", "y", " x"]}, "choices: choices A and C are equal: 'x'"),
        (MMLU, {**GOOD, "choices": ["x", "x"]}, "'x'; leave the question out, or one of them"),
        (MMLU, {**GOOD, "answer": "1"}, "answer: '1' is not one choice"),
        (MMLU, {**GOOD, "choices": ["1", "2"], "answer": "0"}, "answer: '0' is not one choice"),
        (
            MMLU,
            {**GOOD, "choices": ["O", "A", "B"], "answer": "B"},
            "answer 'B' is the letter of one choice and the text of another: give the right one's index",
        ),
        (
            RecordShape(answer_type="choice", choices="options", answer="key"),
            {"question": "?", "options": {"text": ["B", "A"]}, "key": "a"},
            "key 'a' is the letter of one choice and the text of another",
        ),
        (
            MMLU,
            {**GOOD, "choices": ["B", None], "answer": "A"},
            "choices.1: Input should be a valid",
        ),
        (
            MMLU,
            {**GOOD, "choices": ["B", True], "answer": "A"},
            "choices.1: Input should be a valid",
        ),
        (MMLU, {**GOOD, "choices": [1, 2, 1], "answer": "A"}, "choices A and C are equal: '1'"),
        (
            MMLU,
            {**GOOD, "choices": [1, 2, 3], "answer": 2},
            "answer 2 is the index of one choice and equal to another choice: give the right one's letter",
        ),
        (
            MMLU,
            {**GOOD, "choices": {"A": "x", "C": "y"}},
            "a table of choices has the names A, B, and so on, not ['A', 'C']",
        ),
        (MMLU, {**GOOD, "choices": {"A": "x"}}, "choices: one choice is not enough"),
        (MMLU, {**GOOD, "answer": 1.5}, "answer: 1.5 is not the index of a choice"),
        (MMLU, {**GOOD, "choices": None}, "choices: Input should be a valid array"),
        *(
            (
                MMLU,
                {**GOOD, "choices": text},
                f"choices is the text {text!r}: give a list, or its JSON",
            )
            for text in ("Paris", "Paris;Rome", "['Paris', 'Rome']", '["a",', "7", "", '{"A": NaN}')
        ),
        (MMLU, {**GOOD, "choices": '["Paris"]'}, "choices: one choice is not enough"),
        (MMLU, {**GOOD, "choices": ["Paris", " "]}, "choices.1: must not be blank"),
        (MMLU, {**GOOD, "choices": ["x"] * 27}, "choices: Tuple should have at most 26"),
        (
            MATH_500,
            {"question": "?", "answer": "1"},
            "no column 'problem': set data.question to a column that there is (columns: question, answer)",
        ),
        (
            MATH_500,
            {"problem": "?", "answer": "1"},
            "no column 'solution': set data.answer to a column that there is (columns: problem, answer)",
        ),
        (MATH_500, {"problem": "?", "solution": "x^2"}, "solution: 'x^2' is not one number"),
        (RecordShape(answer_type="text"), {"question": "?", "answer": "a\nb"}, "is not one line"),
        (RecordShape(answer_type="text"), {"question": "?", "answer": "####"}, "no text after"),
    ],
)
def test_a_record_that_its_shape_cannot_read_is_refused_with_its_line(
    shape: RecordShape, row: dict[str, object], complaint: str, tmp_path: Path
) -> None:
    first = {**GOOD, "problem": "?", "solution": "1", "options": ["x", "y"], "key": "A"}
    with pytest.raises(DataError) as caught:
        load(tmp_path, shape, first, row)
    assert f"{tmp_path / 'd.jsonl'}:2: " in str(caught.value)
    assert complaint in str(caught.value)
    assert "\n" not in str(caught.value)


def test_built_in_sources_have_numbers() -> None:
    with pytest.raises(
        DataError, match=r"'word-problems' has answers of the type number, not text"
    ):
        load_records(
            "word-problems", Split.TRAIN, num_records=1, shape=RecordShape(answer_type="text")
        )


def test_repetitions_contradict_each_other_by_their_type(tmp_path: Path) -> None:
    rows = [{**GOOD, "answer": answer} for answer in ("B", "London", "A")]
    repeats = find_repeats(load(tmp_path, MMLU, *rows))
    assert repeats.contradictory == (("d-000003", "d-000001"),)


@pytest.mark.parametrize(
    ("given", "complaint"),
    [
        ({"question": "answer"}, "two of the columns question, answer and choices are 'answer'"),
        ({"choices": "choices"}, r"is for (data_)?answer_type = choice, not number"),
        ({"answer_type": "letters"}, "Input should be 'number'"),
        ({"question": " "}, "must not be blank"),
    ],
)
def test_settings_that_are_no_shape_are_refused(given: dict[str, str], complaint: str) -> None:
    with pytest.raises(ValidationError, match=complaint):
        DataConfig.model_validate(given)
    with pytest.raises(ValidationError, match=complaint):
        EvaluationConfig.model_validate({f"data_{key}": value for key, value in given.items()})


@pytest.mark.parametrize(
    ("given", "complaint"),
    [
        ({"answer_type": "choice", "choices": ["a"]}, "one choice is not enough"),
        ({"answer_type": "choice", "choices": ["a", "a"]}, "choices A and B are equal"),
        ({"choices": ["a", "b"]}, "choices are for answer_type = choice, not number"),
    ],
)
def test_choices_that_the_server_would_refuse_are_refused_before_it_is_asked(
    given: dict[str, object], complaint: str
) -> None:
    with pytest.raises(ValidationError, match=complaint):
        SampleConfig.model_validate({"question": "?", **given})


def test_an_adapter_knows_the_shape_of_its_training_data(tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text(
        '[ppo]\n[data]\nsource = "d.jsonl"\nanswer_type = "choice"\nchoices = "choices"\n'
    )
    data = training_data(tmp_path)
    assert data is not None
    assert (data.source, data.shape) == ("d.jsonl", MMLU)
    (tmp_path / "config.toml").write_text('[ppo]\n[data]\nsource = "d.jsonl"\n')
    data = training_data(tmp_path)
    assert data is not None
    assert data.shape == RecordShape()


@pytest.mark.parametrize(
    ("example", "answer_type", "num_choices"), [("capitals", "choice", 4), ("algebra", "math", 0)]
)
def test_examples_load_in_two_parts(
    example: str, answer_type: str, num_choices: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(math_process, "LIBRARY", "json")
    monkeypatch.setattr(math_process, "try_library", lambda: None)
    monkeypatch.setattr(mathematics, "are_equal", lambda answer, gold: True)
    examples = Path(__file__).resolve().parents[4] / "examples"
    data = DataConfig.model_validate(
        tomllib.loads((examples / f"{example}.toml").read_text())["data"]
    )
    source = examples / f"{example}.jsonl"
    parts = [
        load_records(f"{source}#{part}", part, num_records=99, shape=data.shape) for part in Split
    ]
    assert all(parts)
    assert sum(map(len, parts)) == 20
    assert {record.answer_type.name for part in parts for record in part} == {answer_type}
    assert {len(record.answer_type.choices) for part in parts for record in part} == {num_choices}


@pytest.mark.parametrize(
    ("labels", "answer", "gold"),
    [
        (["A", "B", "C", "D"], "C", "C"),
        (["B", "A", "D", "C"], "B", "A"),
        (["1", "2", "3", "4"], "1", "A"),
        ([1, 2, 3, 4], 4, "D"),
    ],
)
def test_an_answer_is_one_of_its_choices_labels(
    labels: list[object], answer: object, gold: str, tmp_path: Path
) -> None:
    choices = {"text": CHOICES, "label": labels}
    (record,) = load(tmp_path, ARC, {"question": "?", "choices": choices, "answerKey": answer})
    assert record.gold == gold


@pytest.mark.parametrize("labels", [["1", "2", "3", "4"], ["A", "E", "E", "D"]])
def test_an_answer_that_is_no_label_is_refused(labels: list[str], tmp_path: Path) -> None:
    choices = {"text": CHOICES, "label": labels}
    with pytest.raises(DataError, match=r"answerKey 'E' is not one of the labels of choices"):
        load(tmp_path, ARC, {"question": "?", "choices": choices, "answerKey": "E"})


def test_a_missing_column_is_said_with_the_key_of_the_command(tmp_path: Path) -> None:
    path = tmp_path / "mine.jsonl"
    path.write_text('{"question": "1?", "solution": "1"}')
    with pytest.raises(DataError, match="no column 'answer': set --data_answer to a column"):
        asked_questions(EvaluationConfig(data=str(path)))

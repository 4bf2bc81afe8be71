"""Files of other kinds than JSON lines, and records of a chat's shape, as TRL and verl have them."""

import csv
import gzip
import json
from pathlib import Path
from typing import Any

import datasets
import pytest

from regime_w import extract_gold
from trainer.config.data import RecordShape
from trainer.data.sources import Record, load_records
from trainer.data.word_problems import Split
from trainer.errors import DataError

ROWS = [{"question": f"What is {i} + 1?", "answer": str(i + 1)} for i in range(3)]
USER = {"role": "user", "content": "1 + 1?"}
SYSTEM = {"role": "system", "content": "Be brief."}
ASSISTANT = {"role": "assistant", "content": "So #### 2"}
VERL: dict[str, Any] = {
    "prompt": [USER],
    "reward_model": {"style": "rule", "ground_truth": "2"},
    "extra_info": {"answer": "1 + 1 = 2\\n#### 2", "question": "one and one?"},
}


def load(path: Path, shape: RecordShape | None = None) -> list[Record]:
    shape = shape or RecordShape()
    return load_records(str(path), Split.TRAIN, num_records=9, shape=shape)


def refusal(path: Path) -> str:
    with pytest.raises(DataError) as caught:
        load(path)
    assert "\n" not in str(caught.value)
    return str(caught.value).removeprefix(str(path))


def csv_of(*rows: dict[str, str]) -> str:
    lines = [[*rows[0]], *([*row.values()] for row in rows)]
    return "".join(",".join(f'"{cell}"' for cell in line) + "\r\n" for line in lines)


@pytest.fixture
def parquet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A Parquet file, and a cache of the datasets library that is only this test's."""
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    return tmp_path / "d.[1].parquet"  # no pattern


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("d.json", json.dumps(ROWS)),
        ("d.json", json.dumps(ROWS, indent=2)),
        ("d.JSON", "\ufeff\n" + json.dumps(ROWS)),
        ("d.json", "\n".join(map(json.dumps, ROWS))),
        ("d.json.gz", json.dumps(ROWS)),
        ("d.csv", csv_of(*ROWS)),
        ("d.csv", "\ufeff" + csv_of(*ROWS)),
        ("d.v2.csv.gz", csv_of(*ROWS)),
        ("d.tsv", csv_of(*ROWS).replace(",", "\t")),
        ("d.TSV.gz", csv_of(*ROWS).replace(",", "\t")),
    ],
)
def test_lists_in_json_and_csv_are_read_as_json_lines_are(
    name: str, text: str, tmp_path: Path
) -> None:
    path = tmp_path / name
    path.write_bytes(gzip.compress(text.encode()) if name.endswith("gz") else text.encode())
    found = load(path)
    assert [(r.question, r.gold) for r in found] == [(r["question"], r["answer"]) for r in ROWS]
    assert len({record.id for record in found}) == 3


def test_all_rows_of_a_csv_that_cannot_be_read_are_counted(tmp_path: Path) -> None:
    path = tmp_path / "d.csv"
    path.write_text("question,answer\nq,1,2\n1?,1\nq\n")
    message = refusal(path)
    assert message.startswith("2 of 3 records cannot be read: ")
    assert f"{path}:2: more values" in message
    assert f"{path}:4: answer: " in message


def test_parquet_is_read(parquet: Path) -> None:
    datasets.Dataset.from_list([*ROWS, {"question": "7?", "answer": "7"}]).to_parquet(parquet)
    found = load(parquet)
    assert [record.gold for record in found] == ["1", "2", "3", "7"]
    assert found[0].id == "d-000001"
    datasets.Dataset.from_list([VERL]).to_parquet(parquet)
    (record,) = load(parquet)
    assert (record.question, record.gold) == ("1 + 1?", "2")


@pytest.mark.parametrize(("missing", "name"), [(float("nan"), "NaN"), (float("inf"), "infinity")])
def test_what_parquet_has_for_a_missing_number_is_no_answer_and_null_in_other_columns(
    missing: float, name: str, parquet: Path
) -> None:
    good = {"question": "?", "answer": 1.5, "seconds": missing, "extra": {"answer": 2.5, "n": 1.0}}
    datasets.Dataset.from_list([{**good, "extra": {"answer": 2.5, "n": missing}}]).to_parquet(
        parquet
    )
    (record,) = load(parquet, RecordShape(answer_type="text"))
    assert record.gold == "1.5"
    assert record.columns == {"seconds": None, "extra": {"answer": 2.5, "n": None}}
    bad = {**good, "answer": missing, "extra": {"answer": missing, "n": 1.0}}
    datasets.Dataset.from_list([good, bad]).to_parquet(parquet)
    for column in ("answer", "extra.answer"):
        with pytest.raises(DataError) as caught:
            load(parquet, RecordShape(answer=column, answer_type="text"))
        assert str(caught.value) == f"{parquet} row 2: {column}: missing ({name})"


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_narrow_floats_of_parquet_are_read_as_the_decimals_that_they_stand_for(
    dtype: str, parquet: Path
) -> None:
    number = datasets.Value(dtype)
    rows = [
        {"question": "?", "answer": answer, "choices": [0.1, 7.0], "graph": {"slopes": [2.35]}}
        for answer in (0.1, 2.35, -18.0, 2048.0)
    ]
    features = datasets.Features(
        question=datasets.Value("string"),
        answer=number,
        choices=datasets.List(number),
        graph={"slopes": datasets.List(number)},
    )
    datasets.Dataset.from_list(rows, features=features).to_parquet(parquet)
    found = load(parquet)
    assert [extract_gold(record.gold) for record in found] == ["0.1", "2.35", "-18", "2048"]
    assert found[0].columns["graph"] == {"slopes": [2.35]}
    datasets.Dataset.from_list([{**rows[0], "answer": 1.0}], features=features).to_parquet(parquet)
    (record,) = load(parquet, RecordShape(answer_type="choice", choices="choices"))
    assert (record.question, record.gold) == ("?\n\nA) 0.1\nB) 7.0", "B")


def test_large_integers_of_a_narrow_column_stay_exact(parquet: Path) -> None:
    features = datasets.Features(
        question=datasets.Value("string"), answer=datasets.Value("float32")
    )
    row = {"question": "?", "answer": 2.0**30}
    datasets.Dataset.from_list([row], features=features).to_parquet(parquet)
    assert [extract_gold(record.gold) for record in load(parquet)] == ["1073741824"]


def test_numbers_of_a_list_keep_their_digits_and_csv_its_lines(tmp_path: Path) -> None:
    path = tmp_path / "d.json"
    path.write_text('[{"question": "q", "answer": 0.1000000000000000055511151231257827}]')
    (record,) = load(path)
    assert extract_gold(record.gold) == "0.1000000000000000055511151231257827"
    path = tmp_path / "d.csv"
    path.write_text('question,answer,note\n"Two\nlines, 1?",007,\n')
    (record,) = load(path)
    assert (record.question, record.gold, record.columns) == (
        "Two\nlines, 1?",
        "007",
        {"note": ""},
    )


@pytest.mark.parametrize(
    "cell", ['["Paris", "Rome"]', '{"text": ["Paris", "Rome"]}', '{"A": "Paris", "B": "Rome"}']
)
def test_choices_of_a_csv_are_json_in_a_cell(cell: str, tmp_path: Path) -> None:
    path = tmp_path / "d.csv"
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([["question", "answer", "choices"], ["Where?", "Rome", cell]])
    (record,) = load(path, RecordShape(answer_type="choice", choices="choices"))
    assert record.question == "Where?\n\nA) Paris\nB) Rome"
    assert record.answer_type.read_gold(record.gold) == "B"


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("d.json", '[{"question": "q"', ": not a list in JSON: "),
        ("d.json", '[{"question": "q", "answer": "1"}, 7]', ":2: line: Input should be an object"),
        ("d.json", '{\n "data": []\n}', ": one object over several lines; give a list of records"),
        ("d.json", "[]", ": no records"),
        (
            "d.csv",
            "question,answer,answer\nq,1,2\n",
            ":1: two columns have the name 'answer'; rename one of them",
        ),
        ("d.csv", "question,answer\nq,1,2\n", ":2: more values than the first line has names"),
        (
            "d.csv",
            "question;answer\nq;1\n",
            ":1: the names are separated by a semicolon, not by a comma: save the file with commas",
        ),
        (
            "d.csv",
            '"question";"answer"\n"q";"1"\n',
            ":1: the names are separated by a semicolon, not by a comma: save the file with commas",
        ),
        (
            "d.csv",
            '"question"\t"answer"\n"q"\t"1"\n',
            ":1: the names are separated by a tab, not by a comma: save the file with commas, or name it .tsv",
        ),
        (
            "d.tsv",
            "question,answer\nq,1\n",
            ":1: the names are separated by a comma, not by a tab: save the file with tabs, or name it .csv",
        ),
        ("d.csv", "question\nq\n", ":2: no column 'answer': set data.answer to"),
        ("d.csv", 'question,answer\n"q"x,1\n', ":2: not CSV: "),
        ("d.csv", "question,answer\nq\n", ":2: answer: must be a text or a number, not null"),
        ("d.csv", b"question,answer\n\xe9,1\n", ":2: not UTF-8; save the file as UTF-8"),
        (
            "d.jsonl",
            b'{"question": "\xe9", "answer": "1"}\n',
            ":1: not UTF-8; save the file as UTF-8",
        ),
        ("d.parquet", "question", ": not a Parquet file: "),
    ],
)
def test_a_file_that_is_not_what_its_ending_says_is_refused_in_one_line(
    name: str, text: str | bytes, said: str, parquet: Path
) -> None:
    path = parquet.parent / name
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    assert said in refusal(path)


@pytest.mark.parametrize(
    ("row", "shape", "question", "gold"),
    [
        ({"prompt": "1 + 1?", "answer": "2"}, {}, "1 + 1?", "2"),
        ({"prompt": "1 + 1?", "completion": "So #### 2"}, {}, "1 + 1?", "So #### 2"),
        ({"prompt": [SYSTEM, USER], "completion": [ASSISTANT]}, {}, "1 + 1?", "So #### 2"),
        ({"messages": [USER, ASSISTANT], "completion": "3"}, {}, "1 + 1?", "So #### 2"),
        ({"prompt": [USER], "answer": "2"}, {}, "1 + 1?", "2"),
        ({"prompt": [SYSTEM, USER], "answer": 2}, {}, "1 + 1?", "2"),
        ({"question": "2?", "prompt": [USER], "answer": "2"}, {}, "2?", "2"),
        ({"chat": [USER], "answer": "2"}, {"question": "chat"}, "1 + 1?", "2"),
        # Of messages without a column for it, the answer is the assistant's.
        ({"messages": [SYSTEM, USER, ASSISTANT]}, {}, "1 + 1?", "So #### 2"),
        ({"messages": [USER, ASSISTANT], "answer": "3"}, {}, "1 + 1?", "3"),
        (VERL, {}, "1 + 1?", "2"),
        (VERL, {"answer": "extra_info.answer"}, "1 + 1?", VERL["extra_info"]["answer"]),
        (VERL, {"question": "extra_info.question"}, "one and one?", "2"),
        ({"a.b": "1?", "a": {"b": "2?"}, "answer": "2"}, {"question": "a.b"}, "1?", "2"),
    ],
)
def test_questions_and_answers_of_a_chats_shape(
    row: dict[str, Any], shape: dict[str, str], question: str, gold: str, tmp_path: Path
) -> None:
    path = tmp_path / "d.jsonl"
    path.write_text(json.dumps(row))
    (record,) = load(path, RecordShape(**shape))  # type: ignore[arg-type]
    assert (record.question, record.gold) == (question, gold)


def test_a_nested_number_keeps_its_digits(tmp_path: Path) -> None:
    path = tmp_path / "d.jsonl"
    path.write_text('{"prompt": "q", "reward_model": {"ground_truth": 12345678901234567890123}}')
    assert load(path)[0].gold == "12345678901234567890123"


@pytest.mark.parametrize(
    ("row", "said"),
    [
        (
            {"prompt": [USER, ASSISTANT, USER]},
            "is a list (user, assistant, user): it must be a text",
        ),
        ({"prompt": [SYSTEM]}, "is a list (system): it must be"),
        ({"prompt": []}, "is a list (no messages): it must be"),
        ({"prompt": ["q"]}, "is a list (no messages): it must be"),
        (
            {"prompt": [{"role": "user", "content": [{"type": "image"}]}], "answer": "2"},
            "question: Input should be",
        ),
        ({"prompt": [USER]}, "no column 'answer': set data.answer to a column that there is"),
        (
            {"problem": "q", "id": 1},
            "no column 'question': set data.question to a column that there is",
        ),
        ({"problem": "q", "id": 1}, "(columns: problem, id)"),
        ({f"c{i}": 1 for i in range(99)}, "c19)"),
    ],
)
def test_what_is_no_question_is_refused_with_its_line(
    row: dict[str, object], said: str, tmp_path: Path
) -> None:
    path = tmp_path / "d.jsonl"
    path.write_text(json.dumps(row))
    message = refusal(path)
    assert message.startswith(":1: ")
    assert said in message

"""Where questions come from: readable errors, one split apart from the other."""

import json
from pathlib import Path

import pytest

from trainer.data import Record, load_demonstrations, load_records, write_jsonl
from trainer.errors import DataError
from trainer.word_problems import Split

GOOD = {"question": "What is 3 + 4?", "answer": "3+4=<<3+4=7>>7\n#### 7"}


def lines(*rows: object) -> str:
    return "".join(row if isinstance(row, str) else json.dumps(row) + "\n" for row in rows)


def test_records_of_a_file_keep_their_order_and_their_line_numbers(tmp_path: Path) -> None:
    path = tmp_path / "gsm8k.jsonl"
    other = {"question": "Wie viele Äpfel?", "answer": "#### 1,080", "source": "ignored"}
    path.write_text(lines(GOOD, "\n", other), encoding="utf-8")
    assert load_records(str(path), Split.TRAIN, num_records=9) == [
        Record(id="gsm8k-000001", question=GOOD["question"], gold=GOOD["answer"]),
        Record(id="gsm8k-000003", question="Wie viele Äpfel?", gold="#### 1,080"),
    ]


def test_no_more_records_are_read_than_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "d.jsonl"
    path.write_text(lines(GOOD, GOOD, "garbage that nobody asked for"))
    assert len(load_records(str(path), Split.TRAIN, num_records=2)) == 2


@pytest.mark.parametrize(
    ("text", "place", "complaint"),
    [
        (lines(GOOD, "{"), ":2:", "JSON"),
        (lines("[]\n"), ":1:", "line"),
        (lines({"answer": "#### 7"}), ":1:", "question"),
        (lines(GOOD, "\n", {"question": "q"}), ":3:", "answer"),
        (lines({"question": "", "answer": "#### 7"}), ":1:", "question"),
        (lines({"question": 7, "answer": "#### 7"}), ":1:", "question"),
        (lines({"question": "q", "answer": "I do not know"}), ":1:", "answer"),
        (lines({"question": "q", "answer": "#### 3 or 4"}), ":1:", "answer"),
        ("", "", "no records"),
        ("\n \n", "", "no records"),
    ],
)
def test_a_bad_file_is_an_error_that_names_file_line_and_field(
    text: str, place: str, complaint: str, tmp_path: Path
) -> None:
    path = tmp_path / "bad.jsonl"
    path.write_text(text)
    with pytest.raises(DataError) as caught:
        load_records(str(path), Split.TRAIN, num_records=9)
    message = str(caught.value)
    assert f"{path}{place}" in message
    assert complaint in message
    assert "\n" not in message


def test_bytes_that_are_no_text_are_an_error_that_names_the_file(tmp_path: Path) -> None:
    path = tmp_path / "latin1.jsonl"
    path.write_bytes(b'{"question": "\xc4pfel?", "answer": "#### 7"}\n')
    with pytest.raises(DataError, match=r"latin1\.jsonl"):
        load_records(str(path), Split.TRAIN, num_records=9)


@pytest.mark.parametrize("source", ["no-such-file.jsonl", "gsm8k", "."])
def test_a_source_that_is_not_there_is_an_error_that_names_it(source: str) -> None:
    with pytest.raises(DataError) as caught:
        load_records(source, Split.TRAIN, num_records=9)
    assert repr(source) in str(caught.value)


def test_the_built_in_source_is_decided_by_split_and_seed() -> None:
    def questions(split: Split, seed: int, count: int = 20) -> list[str]:
        records = load_records("word-problems", split, num_records=count, seed=seed)
        assert len({record.id for record in records}) == len(records) == count
        return [record.question for record in records]

    train = questions(Split.TRAIN, 0)
    assert train == questions(Split.TRAIN, 0)
    assert train[:5] == questions(Split.TRAIN, 0, count=5)
    assert train != questions(Split.TRAIN, 1)
    assert not set(train) & set(questions(Split.HELD_OUT, 0))


def test_demonstrations_of_a_file_are_its_answers(tmp_path: Path) -> None:
    path = tmp_path / "d.jsonl"
    path.write_text(lines(GOOD, GOOD, GOOD))
    assert (
        load_demonstrations(str(path), num_examples=2) == [(GOOD["question"], GOOD["answer"])] * 2
    )


def test_built_in_demonstrations_are_careless_but_never_wrong_on_their_own_terms() -> None:
    pairs = load_demonstrations("word-problems", num_examples=200)
    assert pairs == load_demonstrations("word-problems", num_examples=200)
    golds = {
        record.question: record.gold
        for record in load_records("word-problems", Split.TRAIN, num_records=200, seed=1)
    }
    right = [s.split("####")[1] == golds[question].split("####")[1] for question, s in pairs]
    assert 0.4 < sum(right) / len(right) < 0.9
    assert not any("<<" in solution for _, solution in pairs)


# --- writing ---------------------------------------------------------------------------------------


def test_written_rows_read_back_a_line_each(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    rows: list[dict[str, object]] = [{"text": "two\nlines — ü"}, {"n": 1, "none": None}]
    write_jsonl(path, rows)
    text = path.read_text(encoding="utf-8")
    assert [json.loads(line) for line in text.split("\n")[:-1]] == rows
    assert "ü" in text
    assert list(tmp_path.iterdir()) == [path]


def test_a_write_that_fails_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    write_jsonl(path, [{"old": 1}])
    with pytest.raises(TypeError):
        write_jsonl(path, [{"new": 1}, {"new": object()}])
    assert path.read_text() == '{"old": 1}\n'

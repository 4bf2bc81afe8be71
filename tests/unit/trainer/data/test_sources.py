"""Where questions come from: errors are readable, and the splits are kept apart."""

import gzip
import json
import os
import re
from pathlib import Path

import pytest
import zstandard
from datasets.packaged_modules.json.json import Json

from trainer.data.demonstrations import load_demonstrations
from trainer.data.source_names import GENERATED
from trainer.data.sources import Record, load_records, normalised
from trainer.data.word_problems import Split
from trainer.errors import DataError

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
        (lines("[]\n"), ":1:", "one JSON document, not one record a line"),
        (
            "[\n" + json.dumps(GOOD) + "\n]\n",
            ":1:",
            "if it is a list of records, name the file bad.json",
        ),
        (json.dumps(GOOD, indent=2), ":1:", "one JSON document, not one record a line"),
        (lines({"question": "q", "answer": None}), ":1:", "must be a text or a number, not null"),
        (
            lines({"question": "q", "answer": True}),
            ":1:",
            "must be a text or a number, not true or",
        ),
        (
            lines({"question": "q", "answer": ["7", "8"]}),
            ":1:",
            "must be a text or a number, not a l",
        ),
        (lines({"answer": "#### 7"}), ":1:", "question"),
        (lines(GOOD, "\n", {"question": "q"}), ":3:", "answer"),
        (lines({"question": "", "answer": "#### 7"}), ":1:", "question"),
        (
            lines(GOOD, {"question": "  \t\u00a0\n", "answer": "#### 7"}),
            ":2:",
            "question: must not be blank",
        ),
        (lines({"question": "?", "answer": " \n"}), ":1:", "answer: must not be blank"),
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


@pytest.mark.parametrize(
    ("name", "said"),
    [("a.b.jsonl", "a.b.json"), ("a.jsonl.gz", "a.json.gz"), ("v1.2.JSONL.zst", "v1.2.json.zst")],
)
def test_a_list_in_a_file_of_lines_names_the_file_that_would_be_read(
    name: str, said: str, tmp_path: Path
) -> None:
    data = json.dumps([GOOD], indent=2).encode()
    if name.endswith(".gz"):
        data = gzip.compress(data)
    elif name.endswith(".zst"):
        data = zstandard.compress(data)
    for each, expected in ((name, f"name the file {said}"), (said, None)):
        (tmp_path / each).write_bytes(data)
        if expected is None:
            assert len(load_records(str(tmp_path / each), Split.TRAIN, num_records=9)) == 1
            continue
        with pytest.raises(DataError) as caught:
            load_records(str(tmp_path / each), Split.TRAIN, num_records=9)
        assert str(caught.value).endswith(expected)


BAD = {"question": "q", "answer": "I do not know"}


@pytest.mark.parametrize(
    ("rows", "num_records", "said"),
    [
        ([GOOD, BAD, GOOD], 9, ":2: "),
        ([GOOD, BAD, GOOD, "{\n", {"answer": "7"}], 9, "3 of 5 records cannot be read: "),
        ([BAD] * 5 + [GOOD], 9, " and 2 more: answer: 'I do not know' is not "),
        ([*({**BAD, "answer": f"no {i}"} for i in "abcde"), GOOD], 9, "; and 2 more"),
        # No more are looked at than are asked for.
        ([GOOD, BAD, BAD, GOOD], 3, "2 of 3 records cannot be read: "),
    ],
)
@pytest.mark.parametrize("part", ["", "#train"])
def test_all_lines_that_cannot_be_read_are_said_at_once(
    rows: list[object], num_records: int, said: str, part: str, tmp_path: Path
) -> None:
    path = tmp_path / "d.jsonl"
    path.write_text(lines(*rows))
    with pytest.raises(DataError) as caught:
        load_records(f"{path}{part}", Split.TRAIN, num_records=num_records)
    message = str(caught.value)
    assert said in message
    bad = [number for number, row in enumerate(rows, 1) if row is not GOOD][:3]
    assert [int(number) for number in re.findall(r"d\.jsonl:(\d+)", message)] == bad
    assert "\n" not in message


@pytest.mark.parametrize("name", ["d.jsonl.GZ", "D.JSONL"])
def test_a_file_is_known_by_its_suffix_in_capital_letters(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    data = ("\ufeff" + lines(GOOD)).encode()
    path.write_bytes(gzip.compress(data) if name.endswith("GZ") else data)
    (record,) = load_records(str(path), Split.TRAIN, num_records=9)
    assert record.question == GOOD["question"]
    with pytest.raises(DataError, match=f"is no file that exists in {os.getcwd()}; name a file"):
        load_records(f"nobody/{name}", Split.TRAIN, num_records=9)  # no Hub dataset


def test_bytes_that_are_no_text_are_an_error_that_names_the_file(tmp_path: Path) -> None:
    path = tmp_path / "latin1.jsonl"
    path.write_bytes(b'{"question": "\xc4pfel?", "answer": "#### 7"}\n')
    with pytest.raises(DataError, match=r"latin1\.jsonl"):
        load_records(str(path), Split.TRAIN, num_records=9)


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("no-such-file.jsonl", f"no file that exists in {os.getcwd()}"),
        ("data/no-such-file.csv.gz", f"no file that exists in {os.getcwd()}"),
        ("/data/no-such-file.csv.gz", "no file that exists"),
        ("gsm8k", f"no file that exists in {os.getcwd()}"),
        (".", "a folder"),
        ("x" * 5000, f"no file that exists in {os.getcwd()}"),
    ],
)
def test_a_source_that_is_not_there_is_an_error_that_names_it(source: str, found: str) -> None:
    with pytest.raises(DataError) as caught:
        load_records(source, Split.TRAIN, num_records=9)
    message = str(caught.value)
    assert message.startswith("data source ")
    assert f" is {found}; name a file (JSONL, JSON, CSV, TSV or Parquet), a Hub dataset" in message
    assert source[:9] in message


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
    found = load_demonstrations(str(path), Split.TRAIN, num_examples=2)
    assert [(r.question, r.gold) for r in found] == [(GOOD["question"], GOOD["answer"])] * 2


def test_built_in_demonstrations_are_careless_but_never_wrong_on_their_own_terms() -> None:
    demonstrations = load_demonstrations("word-problems", Split.TRAIN, num_examples=200)
    assert demonstrations == load_demonstrations("word-problems", Split.TRAIN, num_examples=200)
    golds = {
        record.question: record.gold
        for record in load_records("word-problems", Split.TRAIN, num_records=200, seed=1)
    }
    right = [r.gold.split("####")[1] == golds[r.question].split("####")[1] for r in demonstrations]
    assert 0.4 < sum(right) / len(right) < 0.9
    assert not any("<<" in record.gold for record in demonstrations)


@pytest.mark.parametrize("source", GENERATED)
def test_demonstrations_are_held_out_like_questions(source: str) -> None:
    asked = {r.question for r in load_records(source, Split.TRAIN, num_records=3000)}
    shown = load_demonstrations(source, Split.TRAIN, num_examples=500)
    held_out = load_demonstrations(source, Split.HELD_OUT, num_examples=500)
    assert not {r.question for r in held_out} & {r.question for r in shown}
    assert not {r.question for r in held_out} & asked
    # Another seed than the questions', so that RL does not begin with what SFT has shown.
    assert len({r.question for r in shown} & asked) < 100


def test_one_step_problems_have_one_equation_and_are_the_same_for_a_seed() -> None:
    records = load_records("one-step-problems", Split.TRAIN, num_records=300, seed=3)
    assert records == load_records("one-step-problems", Split.TRAIN, num_records=300, seed=3)
    assert len({record.question for record in records}) == 300
    assert all(record.gold.count("=") == 2 for record in records)  # the step and its annotation
    operators = {re.search(r"<<\d+(.)", record.gold)[1] for record in records}  # type: ignore[index]
    assert operators == set("+-*/")
    shown = load_demonstrations("one-step-problems", Split.TRAIN, num_examples=50)
    assert all(re.fullmatch(r"\d+.\d+=(\d+) \w+\n#### \1", record.gold) for record in shown)


# --- parts of a source -----------------------------------------------------------------------------


def test_the_parts_of_a_file_are_all_of_it_and_never_meet(tmp_path: Path) -> None:
    path = tmp_path / "d.jsonl"
    path.write_text(
        lines(*({"question": f"What is {i}?", "answer": f"#### {i}"} for i in range(400)))
    )
    parts = {
        part: load_records(f"{path}#{part}", Split.TRAIN, num_records=999)
        for part in ("train", "held_out")
    }
    ids = {part: {record.id for record in records} for part, records in parts.items()}
    assert not ids["train"] & ids["held_out"]
    assert len(ids["train"] | ids["held_out"]) == 400
    assert 25 < len(ids["held_out"]) < 75
    # The split that a command asks for does not matter to a part, nor does how much is read.
    again = load_records(f"{path}#held_out", Split.HELD_OUT, num_records=5)
    assert again == parts["held_out"][:5]


@pytest.mark.parametrize(
    "variant",
    ["ada  has 3 pens. how many?", "Ada has 3 pens — how many", "ADA HAS 3 PENS.\nHOW MANY?"],
)
def test_a_question_that_is_written_otherwise_stays_in_its_part(variant: str) -> None:
    original = "Ada has 3 pens. How many?"
    assert normalised(variant) == normalised(original)
    assert normalised(original) != normalised("Ada has 4 pens. How many?")


def test_a_part_of_the_generator_is_that_split() -> None:
    whole = load_records("word-problems", Split.HELD_OUT, num_records=9)
    assert load_records("word-problems#held_out", Split.TRAIN, num_records=9) == whole


def test_a_hash_in_a_file_name_is_part_of_the_name(tmp_path: Path) -> None:
    path = tmp_path / "c#train"
    path.write_text(lines(GOOD))
    assert len(load_records(str(path), Split.HELD_OUT, num_records=9)) == 1


def test_an_unknown_part_is_an_error_that_lists_the_parts(tmp_path: Path) -> None:
    path = tmp_path / "d.jsonl"
    path.write_text(lines(GOOD))
    with pytest.raises(DataError, match="'#test' is none of train, held_out"):
        load_records(f"{path}#test", Split.TRAIN, num_records=9)


@pytest.mark.parametrize("suffix", [".gz", ".zst"])
def test_a_compressed_file_reads_as_the_plain_one(suffix: str, tmp_path: Path) -> None:
    plain, packed = tmp_path / "d.jsonl", tmp_path / f"d.jsonl{suffix}"
    plain.write_text(lines(GOOD, GOOD))
    text = plain.read_bytes()
    packed.write_bytes(gzip.compress(text) if suffix == ".gz" else zstandard.compress(text))
    assert load_records(str(packed), Split.TRAIN, num_records=9) == load_records(
        str(plain), Split.TRAIN, num_records=9
    )


# --- the Hub ---------------------------------------------------------------------------------------


@pytest.fixture
def hub_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A datasets cache that holds openai/gsm8k as a download leaves it, and no way to the Hub."""
    files = {}
    for split, count in (("train", 3), ("test", 2)):
        files[split] = [str(tmp_path / f"{split}.jsonl")]
        rows = ({"question": f"{split} {i}?", "answer": f"#### {i}"} for i in range(count))
        Path(files[split][0]).write_text(lines(*rows))
    cache = tmp_path / "cache"
    builder = Json(
        cache_dir=str(cache),
        dataset_name="gsm8k",
        config_name="main",
        hash="0" * 40,
        data_files=files,
    )
    builder.download_and_prepare()
    folder = cache / "openai___gsm8k"
    (cache / "gsm8k").rename(folder)
    (made,) = folder.glob("main-*")
    made.rename(folder / "main")
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", cache)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", True)
    return cache


@pytest.mark.parametrize(
    ("source", "split", "questions"),
    [
        ("openai/gsm8k:main", Split.TRAIN, ["train 0?", "train 1?", "train 2?"]),
        ("openai/gsm8k:main", Split.HELD_OUT, ["test 0?", "test 1?"]),
        ("openai/gsm8k:main:test", Split.TRAIN, ["test 0?", "test 1?"]),
    ],
)
def test_a_cached_hub_dataset_is_read_offline(
    source: str, split: Split, questions: list[str], hub_cache: Path
) -> None:
    records = load_records(source, split, num_records=9)
    assert [record.question for record in records] == questions
    assert len({record.id for record in records}) == len(records)


@pytest.mark.parametrize(
    ("source", "complaint"),
    [
        ("openai/other:main", "is not in the cache, and the Hub cannot be reached"),
        ("openai/gsm8k:socratic", "'socratic'"),
        ("openai/gsm8k:main:dev", "no split dev (but train, test)"),
    ],
)
def test_what_the_cache_does_not_have_is_a_one_line_error(
    source: str, complaint: str, hub_cache: Path
) -> None:
    with pytest.raises(DataError) as caught:
        load_records(source, Split.TRAIN, num_records=9)
    assert complaint in str(caught.value)
    assert repr(source) in str(caught.value)
    assert "\n" not in str(caught.value)

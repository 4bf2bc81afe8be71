"""Questions with gold answers, and where they come from."""

import json
import random
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from regime_w import extract_answer
from trainer.errors import DataError
from trainer.word_problems import Split, careless_style, word_problems

WORD_PROBLEMS = "word-problems"


@dataclass(frozen=True, kw_only=True)
class Record:
    """One question."""

    id: str
    question: str
    gold: str
    """A solution that ends in ``#### answer``."""


class _Line(BaseModel):
    model_config = ConfigDict(extra="ignore")

    question: str = Field(min_length=1)
    answer: str = Field(min_length=1)


def load_records(source: str, split: Split, *, num_records: int, seed: int = 0) -> list[Record]:
    """Read at most ``num_records`` records of a source.

    Args:
        source: ``word-problems``, or a JSONL file of ``{"question", "answer"}`` records (which is
            one split by itself: ``split`` does not select from it).
        split: Which split of the generator.
        num_records: How many at most.
        seed: Seed of the generator.

    Raises:
        DataError: The source does not exist or a line of it is no record with a gold answer.
    """
    if source == WORD_PROBLEMS:
        problems = islice(word_problems(split, seed=seed), num_records)
        return [
            Record(id=f"{source}-{split}-{i:06d}", question=p.question, gold=p.answer)
            for i, p in enumerate(problems)
        ]
    path = Path(source)
    if not path.is_file():
        raise DataError(f"data source {source!r} is neither {WORD_PROBLEMS!r} nor a JSONL file")
    records: list[Record] = []
    with path.open("rb") as lines:
        for number, text in enumerate(lines, 1):
            if not text.strip():
                continue
            try:
                line = _Line.model_validate_json(text)
            except ValidationError as error:
                first = error.errors()[0]
                field = ".".join(map(str, first["loc"])) or "line"
                raise DataError(f"{path}:{number}: {field}: {first['msg']}") from None
            if extract_answer(line.answer) is None:
                raise DataError(f"{path}:{number}: answer: no number after '####'")
            records.append(
                Record(id=f"{path.stem}-{number:06d}", question=line.question, gold=line.answer)
            )
            if len(records) == num_records:
                break
    if not records:
        raise DataError(f"{path}: no records")
    return records


def load_demonstrations(source: str, *, num_examples: int, seed: int = 1) -> list[tuple[str, str]]:
    """(question, solution) pairs to imitate.

    Of ``word-problems`` they are what a hurried annotator wrote, second steps skipped here and
    there; of a file they are its answers.
    """
    if source != WORD_PROBLEMS:
        records = load_records(source, Split.TRAIN, num_records=num_examples)
        return [(record.question, record.gold) for record in records]
    rng = random.Random(f"demonstrations/{seed}")
    return [
        (problem.question, problem.solution(careless_style(problem, rng)))
        for problem in islice(word_problems(Split.TRAIN, seed=seed), num_examples)
    ]


def write_jsonl(path: Path, rows: Sequence[dict[str, object]]) -> None:
    """Write rows to a file of one JSON object a line, whole or not at all."""
    unfinished = path.with_name(path.name + ".unfinished")
    with unfinished.open("w", encoding="utf-8") as file:
        file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    unfinished.replace(path)

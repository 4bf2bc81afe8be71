"""Questions with gold answers from a file, the Hub, or the generator.

Every command names a source by one string: ``word-problems``, ``one-step-problems``, a JSONL file or a Hub
dataset such as ``openai/gsm8k:main``. ``SOURCE#train`` and ``SOURCE#held_out`` are the two parts of any source. The
question alone decides its part, so the parts never overlap, however many records are read.
"""

import os
import random
import re
import unicodedata
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from itertools import islice
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, ValidationError
from pydantic_core import to_jsonable_python

from inference_server.wire.json_text import parse_json
from regime_w import extract_gold
from trainer.config.base import NotBlank
from trainer.data.word_problems import Problem, Split, careless_style, split_of, word_problems
from trainer.errors import DataError
from trainer.io.jsonl import SUFFIXES, parse_row, read_lines, row_error
from trainer.io.paths import shown_path

GENERATED: Mapping[str, Callable[[Problem], bool]] = {
    "word-problems": lambda problem: True,
    # What a chat model of 135 M parameters can learn to solve in minutes.
    "one-step-problems": lambda problem: len(problem.steps) == 1,
}
"""Built-in sources: the problems of the generator that belong to each."""

_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+(:[\w.-]+){0,2}")
_WORD = re.compile(r"\w+")


@dataclass(frozen=True, kw_only=True)
class Record:
    """One question."""

    id: str
    question: str
    gold: str
    """A solution that ends in ``#### answer``, or the number alone; see `regime_w.extract_gold`."""
    columns: Mapping[str, Any] = field(default_factory=dict, compare=False)
    """The record's other columns as JSON values, for reward functions."""


def _number_as_text(value: Any) -> Any:
    is_number = isinstance(value, int | float | Decimal) and not isinstance(value, bool)
    return str(value) if is_number else value


class _Row(BaseModel):
    model_config = ConfigDict(extra="allow")

    question: NotBlank
    answer: Annotated[NotBlank, BeforeValidator(_number_as_text)]
    """A text or a number; of a number in JSON that has more digits than a float, see `_file_records`."""


def normalised(question: str) -> str:
    """A question reduced to its words and numbers: questions with the same ones are the same."""
    return " ".join(_WORD.findall(unicodedata.normalize("NFKC", question).casefold()))


def load_records(source: str, split: Split, *, num_records: int, seed: int = 0) -> list[Record]:
    """Read at most ``num_records`` records of a source.

    Args:
        source: One of `GENERATED`, a JSONL file (plain, ``.gz`` or ``.zst``) of ``{"question",
            "answer"}`` records, or a Hub dataset ``OWNER/NAME[:CONFIG[:SPLIT]]``; with ``#train`` or
            ``#held_out`` that part of it.
        split: Which split of the generator or of the Hub dataset: on the Hub ``train``, and ``test``
            or else ``validation``. A file has only one.
        num_records: The most records.
        seed: The generator's seed.

    Raises:
        DataError: The source does not exist or a line of it is no record with a gold answer.
    """
    name, part = require_source(source)
    if name in GENERATED:
        split = split if part is None else part
        problems = islice(_generated(name, split, seed), num_records)
        return [
            Record(id=f"{name}-{split}-{i:06d}", question=p.question, gold=p.answer)
            for i, p in enumerate(problems)
        ]
    records = _file_records(Path(name)) if os.path.isfile(name) else _hub_records(name, split)
    chosen = (r for r in records if part is None or split_of(normalised(r.question)) is part)
    found = list(islice(chosen, num_records))
    if not found:
        raise DataError(f"{source}: no records")
    return found


def require_source(source: str) -> tuple[str, Split | None]:
    """The name of a source, and the part of it that is named; reads nothing.

    Raises:
        DataError: It is neither built in, nor a file, nor can it be a Hub dataset; or there is no such part.
    """
    name, part = _parse(source)
    # Unlike Path's, this is no error for names that are too long for a file system.
    is_there = name in GENERATED or os.path.isfile(name)
    if not (is_there or (_HUB_ID.fullmatch(name) and not name.lower().endswith(SUFFIXES))):
        raise DataError(
            f"data source {shown_path(source)!r} is neither {' nor '.join(map(repr, GENERATED))}, nor a JSONL "
            "file, nor a Hub dataset such as openai/gsm8k:main"
        )
    return name, part


def _parse(source: str) -> tuple[str, Split | None]:
    name, mark, part = source.rpartition("#")
    if not mark or os.path.isfile(source):
        return source, None
    if part not in tuple(Split):
        raise DataError(
            f"data source {shown_path(source)!r}: '#{shown_path(part)}' is none of {', '.join(Split)}"
        )
    return name, Split(part)


def _generated(name: str, split: Split, seed: int) -> Iterator[Problem]:
    """Endless distinct problems of a built-in source."""
    return filter(GENERATED[name], word_problems(split, seed=seed))


def _file_records(path: Path) -> Iterator[Record]:
    for number, line in read_lines(path):
        row = parse_row(_Row, line, where := f"{path}:{number}")
        written = parse_json(line, parse_int=str, parse_float=str)["answer"]
        row = row.model_copy(update={"answer": str(written)})
        yield _record(f"{path.name.split('.')[0]}-{number:06d}", row, where)


def _hub_records(dataset: str, split: Split) -> Iterator[Record]:
    # The datasets library takes seconds to import, and most runs have no use for it.
    from trainer.data.hub import load_hub_rows  # noqa: PLC0415

    name, rows = load_hub_rows(dataset, split)
    for number, columns in enumerate(rows, 1):
        try:
            row = _Row.model_validate(columns)
        except ValidationError as error:
            raise row_error(error, f"{name} row {number}") from None
        yield _record(f"{name.rsplit('/', 1)[1]}-{number:06d}", row, f"{name} row {number}")


def _record(record_id: str, row: _Row, where: str) -> Record:
    check_gold(row.answer, f"{where}: answer")
    columns = to_jsonable_python(row.model_extra, serialize_unknown=True, bytes_mode="base64")
    return Record(id=record_id, question=row.question, gold=row.answer, columns=columns)


def check_gold(gold: str, where: str) -> None:
    """Refuse a gold answer that is not one number.

    Raises:
        DataError: It is none. The message begins with ``where``.
    """
    if extract_gold(gold) is not None:
        return
    if "####" in gold:
        raise DataError(f"{where}: no number after '####'")
    start = gold.strip()[:40]
    raise DataError(
        f"{where}: {start!r} is not one number: give the number alone, or a solution that ends in '#### 18'"
    )


def load_demonstrations(
    source: str, split: Split, *, num_examples: int, seed: int = 0
) -> list[Record]:
    """Questions with solutions to imitate.

    Of built-in sources they are what a hurried annotator wrote, second steps skipped here and there,
    and to other questions than the same seed trains on; of other sources they are the answers.
    """
    name, part = _parse(source)
    if name not in GENERATED:
        return load_records(source, split, num_records=num_examples, seed=seed)
    split, seed = part or split, seed + 1
    rng = random.Random(f"demonstrations/{seed}")
    return [
        Record(
            id=f"{name}-demonstration-{split}-{i:06d}",
            question=problem.question,
            gold=problem.solution(careless_style(problem, rng)),
        )
        for i, problem in enumerate(islice(_generated(name, split, seed), num_examples))
    ]

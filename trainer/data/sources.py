"""Questions with gold answers from a file, the Hub, or the generator.

Every command names a source by one string: ``word-problems``, ``one-step-problems``, a file, or a Hub dataset such as
``openai/gsm8k:main``. ``SOURCE#train`` and ``SOURCE#held_out`` are the two parts of any source. The text of a question
alone decides which part it is in, so the parts never overlap, however many records are read.
"""

import os
import re
import unicodedata
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from pydantic_core import to_jsonable_python

from inference_server.wire.json_and_toml import parse_json
from regime_w import AnswerType
from regime_w.answer_types.choice import with_choices
from regime_w.answer_types.number import NUMBER
from trainer.config.data import RecordShape
from trainer.data.columns import Row, check_gold, row_type, usable_type
from trainer.data.files import SUFFIXES, kind_of, read_records
from trainer.data.row_fields import named_fields, require_known
from trainer.data.word_problems import Problem, Split, split_of, word_problems
from trainer.errors import DataError
from trainer.io.jsonl import parse_row, row_error
from trainer.io.paths import shown_path

GENERATED: Mapping[str, Callable[[Problem], bool]] = {
    "word-problems": lambda problem: True,
    # Problems that a chat model of 135 M parameters can learn to solve in minutes.
    "one-step-problems": lambda problem: len(problem.steps) == 1,
}
"""For each built-in source (see `BuiltInSource`), which of the generator's problems belong to it."""

_SHOWN_FLAWS = 3
_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+(:[\w.-]+){0,2}")
_WORD = re.compile(r"\w+")


@dataclass(frozen=True, kw_only=True)
class Record:
    """One question."""

    id: str
    question: str
    gold: str
    """A solution that ends in ``#### answer``, or the answer alone, as its type reads them."""
    answer_type: AnswerType = NUMBER
    columns: Mapping[str, Any] = field(default_factory=dict, compare=False)
    """The record's other columns as JSON values, for reward functions."""
    question_name: str = field(default="question", compare=False)
    """Name of the question's column in the data, which a reward function may take as an argument."""
    answer_name: str = field(default="answer", compare=False)
    counterfactual_of: str | None = None
    """Id of the question from which this one differs in one number; None for a question of the source."""

    @property
    def named_columns(self) -> dict[str, Any]:
        """The other columns, and the question and the answer if the data has other names for them than this class."""
        own = {self.question_name: self.question, self.answer_name: self.gold}
        ours = ("question", "answer")
        named = {n: text for n, text in own.items() if n not in ours and "." not in n}
        return {**self.columns, **named}

    def is_answered_by(self, text: str) -> bool:
        """Whether a completion gives the right answer."""
        kind = self.answer_type
        return kind.equal(kind.extract(text), kind.read_gold(self.gold))


_SHAPE = RecordShape()


def normalised(question: str) -> str:
    """A question reduced to its words and numbers; questions for which these are equal count as the same."""
    return " ".join(_WORD.findall(unicodedata.normalize("NFKC", question).casefold()))


def load_records(
    source: str, split: Split, *, num_records: int, seed: int = 0, shape: RecordShape = _SHAPE
) -> list[Record]:
    """All that `stream_records` reads, at once."""
    return [*stream_records(source, split, num_records=num_records, seed=seed, shape=shape)]


def stream_records(
    source: str, split: Split, *, num_records: int, seed: int = 0, shape: RecordShape = _SHAPE
) -> Iterator[Record]:
    """Read at most ``num_records`` records of a source, one after the other.

    Args:
        source: One of `GENERATED`, a file (see `read_records`) of ``{"question", "answer"}`` records, or a Hub
            dataset ``OWNER/NAME[:CONFIG[:SPLIT]]``; with ``#train`` or ``#held_out`` that part of it.
        split: Which split of the generator or of the Hub dataset: on the Hub ``train``, and ``test``
            or else ``validation``. A file has only one.
        num_records: The most records.
        seed: The generator's seed.
        shape: The columns of a file or Hub dataset, and the type of its answers.

    Raises:
        DataError: The source does not exist, is built in but ``shape`` has another type of answers, or has no records;
            or, after the last, some are not records with a gold answer which their type can read: one message says which.
    """
    name, part = require_source(source)
    if name in GENERATED:
        if shape.answer_type != NUMBER.name:
            raise DataError(
                f"data source {source!r} has answers of the type number, not {shape.answer_type} as "
                "data.answer_type says: name a source of your own"
            )
        split = split if part is None else part
        for i, p in enumerate(islice(generated(name, split, seed), num_records)):
            yield Record(id=f"{name}-{split}-{i:06d}", question=p.question, gold=p.answer)
        return
    # Checked once, so that a missing library is not reported as an error of each record.
    usable_type(shape.answer_type)
    if os.path.isfile(name) and kind_of(Path(name)) != ".parquet":
        records = _file_records(Path(name), shape)
    else:
        records = _table_records(name, split, shape)
    num_found = num_read = 0
    flaws: list[DataError] = []
    for record in records:
        num_read += 1
        if isinstance(record, DataError):
            flaws.append(record)
        elif part is None or split_of(normalised(record.question)) is part:
            num_found += 1
            yield record
        if num_found + len(flaws) == num_records:
            break
    if flaws:
        raise _of_flaws(flaws, num_read)
    if not num_found:
        raise DataError(f"{source}: no records")


def _of_flaws(flaws: Sequence[DataError], num_read: int) -> DataError:
    if len(flaws) == 1:
        return flaws[0]
    shown = [str(flaw) for flaw in flaws[:_SHOWN_FLAWS]]
    more = f"; and {len(flaws) - len(shown)} more" if len(flaws) > len(shown) else ""
    return DataError(f"{len(flaws)} of {num_read} records cannot be read: {'; '.join(shown)}{more}")


def require_source(source: str) -> tuple[str, Split | None]:
    """The name of a source, and the part of it that is named, if any; nothing is read.

    Raises:
        DataError: It is neither built in nor a file, and cannot be a Hub dataset; or there is no such part.
    """
    name, part = _parse(source)
    is_of_files = name.lower().endswith((*SUFFIXES, ".gz", ".zst"))
    # Unlike Path's methods, os.path.isfile does not raise for names that are too long for a file system.
    if name in GENERATED or os.path.isfile(name) or (_HUB_ID.fullmatch(name) and not is_of_files):
        return name, part
    found = "a folder" if os.path.isdir(name) else "no file that exists"
    if not (os.path.isabs(name) or os.path.isdir(name)):
        found += f" in {os.getcwd()}"
    raise DataError(
        f"data source {shown_path(source)!r} is {found}; name a file (JSONL, JSON, CSV, TSV or Parquet), a Hub dataset "
        f"such as openai/gsm8k:main, or {' or '.join(map(repr, GENERATED))}"
    )


def _parse(source: str) -> tuple[str, Split | None]:
    name, mark, part = source.rpartition("#")
    if not mark or os.path.isfile(source):
        return source, None
    if part not in tuple(Split):
        raise DataError(
            f"data source {shown_path(source)!r}: '#{shown_path(part)}' is none of {', '.join(Split)}"
        )
    return name, Split(part)


def generated(name: str, split: Split, seed: int) -> Iterator[Problem]:
    """Endless distinct problems of a built-in source."""
    return filter(GENERATED[name], word_problems(split, seed=seed))


def _file_records(path: Path, shape: RecordShape) -> Iterator[Record | DataError]:
    name = path.name.split(".")[0]
    for number, line in read_records(path):
        where = f"{path}:{number}"
        try:
            if isinstance(line, DataError):
                raise line
            row = parse_row(row_type(shape), line, where)
            if shape.answer_type != "choice":
                # A number in JSON may have more digits than a float.
                written = named_fields(shape, parse_json(line, parse_int=str, parse_float=str))
                row = row.model_copy(update={"answer": str(written[shape.answer])})
            yield _record(f"{name}-{number:06d}", row, where, shape)
        except DataError as error:
            yield error


def _table_records(source: str, split: Split, shape: RecordShape) -> Iterator[Record | DataError]:
    """The records of a Parquet file or a Hub dataset."""
    # The datasets library takes seconds to import, and most runs have no use for it.
    from trainer.data.hub import load_hub_rows, load_parquet_rows  # noqa: PLC0415

    if os.path.isfile(source):
        name, rows = source, load_parquet_rows(Path(source))
        short = Path(source).name.split(".")[0]
    else:
        name, rows = load_hub_rows(source, split)
        short = name.rsplit("/", 1)[1]
    for number, columns in enumerate(rows, 1):
        where = f"{name} row {number}"
        try:
            require_known(shape, columns)
            row = row_type(shape).model_validate(columns)
            yield _record(f"{short}-{number:06d}", row, where, shape)
        except ValidationError as error:
            yield row_error(error, where)
        except DataError as error:
            yield error
        except ValueError as error:
            yield DataError(f"{where}: {error}")


def _record(record_id: str, row: Row, where: str, shape: RecordShape) -> Record:
    answer_type = usable_type(shape.answer_type, row.choices)
    check_gold(row.answer, f"{where}: {shape.answer}", answer_type)
    columns = to_jsonable_python(
        row.model_extra, serialize_unknown=True, bytes_mode="base64", inf_nan_mode="null"
    )
    return Record(
        id=record_id,
        question=with_choices(row.question, row.choices),
        gold=row.answer,
        answer_type=answer_type,
        columns=columns,
        question_name=shape.question,
        answer_name=shape.answer,
    )

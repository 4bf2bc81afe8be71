"""Questions with gold answers from a file, the Hub, or the generator.

The text of a question alone decides which part of a source it is in, so the parts never overlap, however many records
are read.
"""

import os
import re
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
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
from trainer.data.files import kind_of, read_records
from trainer.data.flaws import of_flaws
from trainer.data.row_fields import named_fields, require_known, system_message
from trainer.data.source_names import GENERATED, generated, require_source
from trainer.data.word_problems import Split, split_of
from trainer.errors import DataError
from trainer.io.jsonl import parse_row, row_error

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
    system_message: str | None = field(default=None, compare=False)
    """That of the data's conversation, which is not asked: each arm has its own."""
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
    source: str,
    split: Split,
    *,
    num_records: int,
    seed: int = 0,
    shape: RecordShape = _SHAPE,
    on_more: Callable[[], None] = lambda: None,
) -> list[Record]:
    """All that `stream_records` reads, at once."""
    return [
        *stream_records(
            source, split, num_records=num_records, seed=seed, shape=shape, on_more=on_more
        )
    ]


def stream_records(
    source: str,
    split: Split,
    *,
    num_records: int,
    seed: int = 0,
    shape: RecordShape = _SHAPE,
    on_more: Callable[[], None] = lambda: None,
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
        on_more: Called at the end if a file or Hub dataset, or the named part of it, has more records.

    Raises:
        DataError: The source does not exist, is built in but ``shape`` has another type of answers, or has no records;
            or, after the last, some are not records with a gold answer which their type can read: one message says which.
    """
    name, part = require_source(source)
    if name in GENERATED:
        if shape.answer_type != NUMBER.name:
            raise DataError(
                f"data source {source!r} has answers of the type number, not {shape.answer_type} as "
                f"{shape.key_prefix}answer_type says: name a source of your own"
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
    num_read = 0
    flaws: list[DataError] = []
    found = _of_part(enumerate(records, 1), part)
    for number, record in islice(found, num_records):
        num_read = number
        if isinstance(record, DataError):
            flaws.append(record)
        else:
            yield record
    if flaws:
        raise of_flaws(flaws, num_read)
    if not num_read:
        raise DataError(f"{source}: no records")
    if _has_next(found):
        on_more()


def _of_part(
    records: Iterable[tuple[int, Record | DataError]], part: Split | None
) -> Iterator[tuple[int, Record | DataError]]:
    """The records of a part, with their numbers; those that cannot be read belong to every part."""
    for number, record in records:
        if (
            isinstance(record, DataError)
            or part is None
            or split_of(normalised(record.question)) is part
        ):
            yield number, record


def _has_next(records: Iterator[object]) -> bool:
    """Whether a source goes on, even if its next records cannot be read: nobody asked for them."""
    try:
        return next(records, None) is not None
    except DataError:
        return True


def _file_records(path: Path, shape: RecordShape) -> Iterator[Record | DataError]:
    name = path.name.split(".")[0]
    for number, line in read_records(path):
        where = f"{path}:{number}"
        try:
            if isinstance(line, DataError):
                raise line
            row = parse_row(row_type(shape), line, where)
            # A number in JSON may have more digits than a float.
            written = parse_json(line, parse_int=str, parse_float=str)
            if shape.answer_type != "choice":
                answer = named_fields(shape, written)[shape.answer]
                row = row.model_copy(update={"answer": str(answer)})
            record = _record(f"{name}-{number:06d}", row, where, shape)
            yield replace(record, system_message=system_message(shape, written))
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
            record = _record(f"{short}-{number:06d}", row, where, shape)
            yield replace(record, system_message=system_message(shape, columns))
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

"""Files of records: JSON lines, one list in JSON, or CSV, each record as a line of JSON; and Parquet."""

import csv
import json
import re
from collections.abc import Iterator
from pathlib import Path

from trainer.errors import DataError
from trainer.io import jsonl

SUFFIXES = (*jsonl.SUFFIXES, ".csv", ".parquet")
"""The endings that a file of records may have."""

_BETWEEN = re.compile(r"[\s,]*")


def kind_of(path: Path) -> str:
    """The ending that says what is in a file, however it is compressed."""
    endings = [suffix.lower() for suffix in path.suffixes]
    return next((ending for ending in reversed(endings) if ending not in (".gz", ".zst")), "")


def read_records(path: Path) -> Iterator[tuple[int, bytes | DataError]]:
    """The records of a file that is not Parquet, with their lines, or their numbers in a list: as JSON, or what is wrong.

    Raises:
        DataError: The file cannot be read, or is not what its ending says.
    """
    if kind_of(path) == ".csv":
        yield from _csv_records(path)
        return
    lines = jsonl.read_lines(path)
    first = next(lines, None)
    if kind_of(path) == ".json" and first is not None and first[1][:1] == b"[":
        yield from _listed(path, b"\n".join([first[1], *(line for _, line in lines)]))
        return
    if kind_of(path) == ".json" and first is not None and first[1] == b"{":
        raise DataError(
            f"{path}: one object over several lines; give a list of records, or one record a line"
        )
    if first is not None:
        yield first
    yield from lines


def _listed(path: Path, data: bytes) -> Iterator[tuple[int, bytes]]:
    """The elements of a list as they are written: of numbers, every digit."""
    try:
        text = data.decode()
        num_records = len(json.loads(text))
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}: no list in JSON: {error}") from None
    decoder, end = json.JSONDecoder(), 1
    for number in range(1, num_records + 1):
        start = _BETWEEN.match(text, end).end()  # type: ignore[union-attr]  # it matches nothing, too
        _, end = decoder.raw_decode(text, start)
        yield number, text[start:end].encode()


def _csv_records(path: Path) -> Iterator[tuple[int, bytes | DataError]]:
    """The rows below the line of names; all values are texts."""
    # The mark that editors put before UTF-8 is no part of the first name.
    rows = csv.DictReader(_texts(path), strict=True)
    try:
        names = list(rows.fieldnames or ())
        if repeated := [name for i, name in enumerate(names) if name in names[:i]]:
            raise DataError(
                f"{path}:1: two columns have the name {repeated[0]!r}; rename one of them"
            )
        for row in rows:
            line = rows.line_num
            if None in row:
                yield line, DataError(f"{path}:{line}: more values than the first line has names")
            else:
                yield line, json.dumps(row, ensure_ascii=False).encode()
    except csv.Error as error:
        raise DataError(f"{path}:{rows.reader.line_num}: no CSV: {error}") from None


def _texts(path: Path) -> Iterator[str]:
    """The lines of a text file.

    Raises:
        DataError: One is not UTF-8.
    """
    for number, line in enumerate(jsonl.raw_lines(path), 1):
        try:
            yield line.decode("utf-8-sig")
        except UnicodeDecodeError:
            raise DataError(f"{path}:{number}: not UTF-8; save the file as UTF-8") from None

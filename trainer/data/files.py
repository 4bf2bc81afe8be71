"""Reads records as JSON from files of JSON lines, a list in JSON, CSV or TSV; `trainer.data.hub` reads Parquet."""

import csv
import json
import re
from collections.abc import Iterator
from itertools import chain
from pathlib import Path

from trainer.errors import DataError
from trainer.io import jsonl

_SEPARATORS = {".csv": ",", ".tsv": "\t"}
_NAMES = {",": "comma", "\t": "tab", ";": "semicolon"}
SUFFIXES = (*jsonl.SUFFIXES, *_SEPARATORS, ".parquet")
"""The endings that a file of records may have."""

_BETWEEN = re.compile(r"[\s,]*")
_LAST_ENDING = re.compile(r"\.\w+(\.gz|\.zst)?$", re.IGNORECASE)
"""The ending of a file's name; the group is that of a compression."""


def kind_of(path: Path) -> str:
    """The ending that says what format a file has, without the ending of a compression."""
    endings = [suffix.lower() for suffix in path.suffixes]
    return next((ending for ending in reversed(endings) if ending not in (".gz", ".zst")), "")


def read_records(path: Path) -> Iterator[tuple[int, bytes | DataError]]:
    """Numbers and records of a file that is not Parquet; a record is in JSON, or is an error if it cannot be read.

    The number is that of the record's line, or, in a JSON list, that of the record.

    Raises:
        DataError: The file cannot be read, or is not what its ending says.
    """
    if (separator := _SEPARATORS.get(kind_of(path))) is not None:
        yield from _csv_records(path, separator)
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
    if first is not None and (first[1][:1] == b"[" or first[1] == b"{"):
        as_json = _LAST_ENDING.sub(r".json\1", path.name)
        raise DataError(
            f"{path}:{first[0]}: one JSON document, not one record a line; if it is a list of records, name the file "
            f"{as_json}"
        )
    if first is not None:
        yield first
    yield from lines


def _listed(path: Path, data: bytes) -> Iterator[tuple[int, bytes]]:
    """The elements of a list exactly as they are written, so that numbers keep every digit."""
    try:
        text = data.decode()
        num_records = len(json.loads(text))
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}: not a list in JSON: {error}") from None
    decoder, end = json.JSONDecoder(), 1
    for number in range(1, num_records + 1):
        start = _BETWEEN.match(text, end).end()  # type: ignore[union-attr]  # it matches an empty text too
        _, end = decoder.raw_decode(text, start)
        yield number, text[start:end].encode()


def _csv_records(path: Path, separator: str) -> Iterator[tuple[int, bytes | DataError]]:
    """The rows below the line of names; all values are texts."""
    # The byte order mark that some editors write is not a part of the first name; `_texts` removes it.
    texts = _texts(path)
    first = next(texts, "")
    _require_separator(path, first, separator)
    rows = csv.DictReader(chain([first], texts), delimiter=separator, strict=True)
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
        raise DataError(f"{path}:{rows.reader.line_num}: not CSV: {error}") from None


def _require_separator(path: Path, names: str, separator: str) -> None:
    """Refuse a line of names that are separated by something else.

    Raises:
        DataError: Names what it is, and what to do.
    """
    found = next((other for other in _NAMES if other in names), separator)
    if separator in names or found == separator:
        return
    endings = [ending for ending, each in _SEPARATORS.items() if each == found]
    raise DataError(
        f"{path}:1: the names are separated by a {_NAMES[found]}, not by a {_NAMES[separator]}: save the file with "
        f"{_NAMES[separator]}s{f', or name it {endings[0]}' if endings else ''}"
    )


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

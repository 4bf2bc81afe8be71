"""Reads rows of a Hub dataset or a Parquet file through the datasets library, which caches what it has read."""

import glob
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import datasets
import numpy as np
from datasets.exceptions import DatasetGenerationError, DatasetNotFoundError

from trainer.data.word_problems import Split
from trainer.errors import DataError

_SPLITS = {Split.TRAIN: ("train",), Split.HELD_OUT: ("test", "validation")}
"""The names that Hub datasets give to the splits, the preferred one first."""
_NARROW = {"float16": np.float16, "float32": np.float32}


def load_hub_rows(dataset: str, split: Split) -> tuple[str, Iterable[Mapping[str, Any]]]:
    """The rows of a Hub dataset, and the full name of what was read.

    Args:
        dataset: ``OWNER/NAME[:CONFIG[:SPLIT]]``.
        split: The split to read if ``dataset`` names none.

    Raises:
        DataError: It does not exist, lacks the split, or is not cached while the Hub cannot be reached.
    """
    repository, config, named = [*dataset.split(":"), None, None][:3]
    try:
        found = datasets.load_dataset(repository, config)
    except (DatasetNotFoundError, ValueError) as error:
        # The config is unknown, or none is named although there are several: the message lists them.
        raise DataError(f"Hub dataset {dataset!r}: {' '.join(str(error).split())}") from None
    except OSError as error:
        raise DataError(
            f"Hub dataset {dataset!r} is not in the cache, and the Hub cannot be reached "
            f"({' '.join(str(error).split())}); load it once where there is a network, or name a JSONL "
            "file; HF_HUB_OFFLINE=1 asks the cache alone"
        ) from None
    wanted = _SPLITS[split] if named is None else (named,)
    for name in wanted:
        if name in found:
            parts = (repository, config, name)
            return ":".join(part for part in parts if part is not None), _as_written(found[name])
    raise DataError(
        f"Hub dataset {dataset!r} has no split {' or '.join(wanted)} (but {', '.join(found)}); "
        "name it as OWNER/NAME:CONFIG:SPLIT"
    )


def load_parquet_rows(path: Path) -> Iterable[Mapping[str, Any]]:
    """The rows of a file.

    Raises:
        DataError: It is not a Parquet file.
    """
    try:
        rows = datasets.Dataset.from_parquet(glob.escape(str(path)))
    except (DatasetGenerationError, ValueError, OSError) as error:
        reason = " ".join(str(error.__cause__ or error).split())
        raise DataError(f"{path}: not a Parquet file: {reason}") from None
    return _as_written(rows)


def _as_written(rows: datasets.Dataset) -> Iterator[Mapping[str, Any]]:
    """The rows, with the decimals that their columns of float16 and float32 were made from.

    The float32 nearest to 0.1 is 0.10000000149011612, which no right answer is equal to.
    """
    # Other columns, such as lists of tokens, are not walked through.
    narrow = {n: f for n, f in rows.features.items() if any(name in repr(f) for name in _NARROW)}
    for row in rows:
        yield {**row, **{name: _decimal(row[name], narrow[name]) for name in narrow}}


def _decimal(value: Any, feature: Any) -> Any:
    """A column's value, in which each number of a narrow type is the shortest decimal that this type rounds to it.

    Integers are exact already.
    """
    if isinstance(value, Mapping) and isinstance(feature, Mapping):
        return {name: _decimal(part, feature[name]) for name, part in value.items()}
    if isinstance(value, list) and isinstance(feature, datasets.List | datasets.LargeList):
        return [_decimal(part, feature.feature) for part in value]
    narrow = _NARROW.get(feature.dtype) if isinstance(feature, datasets.Value) else None
    if narrow is None or value is None or value.is_integer():
        return value
    return float(str(narrow(value)))

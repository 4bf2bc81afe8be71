"""Reads rows of a Hub dataset or a Parquet file through the datasets library, which caches what it has read."""

import glob
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import datasets
from datasets.exceptions import DatasetGenerationError, DatasetNotFoundError

from trainer.data.word_problems import Split
from trainer.errors import DataError

_SPLITS = {Split.TRAIN: ("train",), Split.HELD_OUT: ("test", "validation")}
"""The names that Hub datasets give to the splits, the preferred one first."""


def load_hub_rows(dataset: str, split: Split) -> tuple[str, Sequence[Mapping[str, Any]]]:
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
            return ":".join(part for part in parts if part is not None), found[name]
    raise DataError(
        f"Hub dataset {dataset!r} has no split {' or '.join(wanted)} (but {', '.join(found)}); "
        "name it as OWNER/NAME:CONFIG:SPLIT"
    )


def load_parquet_rows(path: Path) -> Sequence[Mapping[str, Any]]:
    """The rows of a file.

    Raises:
        DataError: It is not a Parquet file.
    """
    try:
        rows: Sequence[Mapping[str, Any]] = datasets.Dataset.from_parquet(glob.escape(str(path)))
    except (DatasetGenerationError, ValueError, OSError) as error:
        reason = " ".join(str(error.__cause__ or error).split())
        raise DataError(f"{path}: not a Parquet file: {reason}") from None
    return rows

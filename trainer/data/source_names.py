"""The names of sources of questions.

Every command names a source by one string: ``word-problems``, ``one-step-problems``, a file, or a Hub dataset such as
``openai/gsm8k:main``. ``SOURCE#train`` and ``SOURCE#held_out`` are the two parts of any source.
"""

import os
import re
from collections.abc import Callable, Iterator, Mapping

from trainer.data.files import SUFFIXES
from trainer.data.word_problems import Problem, Split, word_problems
from trainer.errors import DataError
from trainer.io.paths import shown_path

GENERATED: Mapping[str, Callable[[Problem], bool]] = {
    "word-problems": lambda problem: True,
    # Problems that a chat model of 135 M parameters can learn to solve in minutes.
    "one-step-problems": lambda problem: len(problem.steps) == 1,
}
"""For each built-in source (see `BuiltInSource`), which of the generator's problems belong to it."""

_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+(:[\w.-]+){0,2}")


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

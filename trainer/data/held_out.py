"""Whose held-out questions stand for a run's data: those that it names, never others in their place."""

import os

from trainer.config.data import DataConfig
from trainer.data.sources import GENERATED


def is_built_in(source: str) -> bool:
    """Whether a source, or the one that a part is named of, comes with this program."""
    return source.partition("#")[0] in GENERATED


def held_out_source(data: DataConfig) -> str | None:
    """The source of the held-out questions of kept settings; None where they name none.

    They hold the default of ``data.evaluation_source`` as if it had been given, so built-in questions beside a
    source of one's own are taken to be that default.
    """
    if is_built_in(data.evaluation_source) and not is_built_in(data.source):
        return None
    return data.evaluation_source


def is_same_source(first: str, second: str) -> bool:
    """Whether two names are of one source: a file's may be written in several ways."""
    return first == second or _written_out(first) == _written_out(second)


def _written_out(source: str) -> str:
    return source if is_built_in(source) else os.path.realpath(source)

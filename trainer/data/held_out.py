"""Whose held-out questions stand for a run's data: those that it names, never others in their place."""

import os

from trainer.config.data import DataConfig
from trainer.data.sources import GENERATED, require_source
from trainer.errors import UsageError

_PARTS_WITH_SPLIT = 2
"""Colons in a Hub dataset that names its split: OWNER/NAME:CONFIG:SPLIT."""


def is_built_in(source: str) -> bool:
    """Whether a source, or the one that a part is named of, comes with this program."""
    return source.partition("#")[0] in GENERATED


def is_on_hub(name: str) -> bool:
    """Whether a source's name, see `require_source`, is of a Hub dataset: neither built in nor a file."""
    return name not in GENERATED and not os.path.isfile(name)


def held_out_source(data: DataConfig) -> str | None:
    """The source of the held-out questions of kept settings; None where they name none.

    They hold the default of ``data.evaluation_source`` as if it had been given, so built-in questions beside a
    source of one's own are taken to be that default.
    """
    if is_built_in(data.evaluation_source) and not is_built_in(data.source):
        return None
    return data.evaluation_source


def names_held_out(data: DataConfig) -> bool:
    """Whether settings as they were given have held-out questions: their default is of built-in ones alone."""
    return "evaluation_source" in data.model_fields_set or is_built_in(data.source)


def require_held_out(source: str, needed_by: str) -> None:
    """Refuse a training source beside which no held-out questions were named, and that is not built in.

    Args:
        source: ``data.source``.
        needed_by: The setting or command that asks held-out questions.

    Raises:
        DataError: There is no such source.
        UsageError: Names the setting, and what it may be.
    """
    if is_built_in(source):
        return
    name, part = require_source(source)
    if part is not None:
        fix = f"set it, such as to {name}#held_out"
    elif is_on_hub(name) and name.count(":") < _PARTS_WITH_SPLIT:
        fix = f"set it, such as to {name}, whose test split is then asked"
    else:
        fix = f"set it to other questions, or to {name}#held_out with data.source = {name}#train"
    raise UsageError(
        f"data.evaluation_source: {needed_by} needs held-out questions, and none are named beside data.source = "
        f"{source}; {fix}"
    )


def is_same_source(first: str, second: str) -> bool:
    """Whether two names are of one source: a file's may be written in several ways."""
    return first == second or _written_out(first) == _written_out(second)


def _written_out(source: str) -> str:
    return source if is_built_in(source) else os.path.realpath(source)

"""Which held-out questions belong to a run's data: those that it names, never others in their place."""

import os
from collections.abc import Iterator
from dataclasses import dataclass

from trainer.config.data import DataConfig, is_built_in
from trainer.config.train import TrainConfig
from trainer.data.source_names import require_source
from trainer.data.word_problems import Split
from trainer.errors import UsageError

_PARTS_WITH_SPLIT = 2
"""Colons in a Hub dataset that names its split: OWNER/NAME:CONFIG:SPLIT."""


def is_on_hub(name: str) -> bool:
    """Whether a source's name (see `require_source`) is that of a Hub dataset: neither built in nor a file."""
    return not is_built_in(name) and not os.path.isfile(name)


def require_held_out(data: DataConfig, needed_by: str) -> str:
    """The source of held-out questions; if the training source is not built in, it must be named.

    Args:
        data: The settings that name both sources.
        needed_by: The setting or command that needs held-out questions.

    Raises:
        DataError: There is no such source.
        UsageError: No held-out questions are named. The message names the setting and a value for it.
    """
    if data.held_out_source is not None:
        require_source(data.held_out_source)
        return data.held_out_source
    name, part = require_source(data.source)
    if part is not None:
        fix = f"set it, such as to {name}#held_out"
    elif is_on_hub(name) and name.count(":") < _PARTS_WITH_SPLIT:
        fix = f"set it, such as to {name}, whose test split is then asked"
    else:
        fix = f"set it to other questions, or to {name}#held_out with data.source = {name}#train"
    raise UsageError(
        f"data.evaluation_source: {needed_by} needs held-out questions, and none are named for data.source = "
        f"{data.source}; {fix}"
    )


@dataclass(frozen=True, kw_only=True)
class RunSource:
    """A source that a run's start must be able to read."""

    setting: str
    split: Split
    num_questions: int
    """Most questions that the run takes of it."""

    def required(self, data: DataConfig) -> str:
        """The source's name.

        Raises:
            DataError: There is no such source.
            UsageError: No held-out questions are named.
        """
        if self.split is Split.HELD_OUT:
            return require_held_out(data, "run.evaluate_every")
        require_source(data.source)
        return data.source


def sources_of(config: TrainConfig) -> Iterator[RunSource]:
    """The sources that a run's start must be able to read; of held-out questions if it evaluates, or names any."""
    data, run = config.data, config.run
    yield RunSource(setting="data.source", split=Split.TRAIN, num_questions=data.num_questions)
    if run.evaluate_every is not None or data.evaluation_source is not None:
        yield RunSource(
            setting="data.evaluation_source",
            split=Split.HELD_OUT,
            num_questions=run.num_evaluation_questions,
        )


def is_same_source(first: str, second: str) -> bool:
    """Whether two names stand for the same held-out questions: the path of a file can be written in several ways."""
    return first == second or _written_out(first) == _written_out(second)


def _written_out(source: str) -> str:
    if not is_built_in(source):
        return os.path.realpath(source)
    return source if "#" in source else f"{source}#held_out"

"""The questions that an evaluation asks, and which of them its models were trained on."""

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from operator import itemgetter

from trainer.config.data import RecordShape, is_built_in
from trainer.config.sections import EvaluationConfig
from trainer.data.contamination import find_overlap
from trainer.data.notices import load_with_notices
from trainer.data.sources import Record, stream_records
from trainer.data.word_problems import Split
from trainer.errors import DataError, UsageError
from trainer.evaluation.candidates import parse_candidates
from trainer.io.adapter_settings import training_data

_NUM_GENERATED = 20_000
"""Questions of a built-in training source, which has no end, to compare with those asked."""


@dataclass(frozen=True, kw_only=True)
class _TrainedOn:
    """What of a source was trained on."""

    shape: RecordShape
    num_questions: int
    """The most questions from its beginning."""


def asked_questions(
    config: EvaluationConfig, say: Callable[[str], None] = lambda line: None
) -> list[Record]:
    """The questions that every model is asked.

    Args:
        config: Names the source.
        say: Gets lines about what is left out of them.

    Raises:
        DataError: They cannot be loaded.
    """
    return load_with_notices(
        config.data,
        Split.HELD_OUT,
        num_records=config.num_questions,
        key="num_questions",
        seed=config.data_seed,
        shape=config.data_shape,
        say=say,
    )


def contamination_lines(config: EvaluationConfig) -> list[str]:
    """Overlap of the questions with the training data, one line for each known training source.

    There is one line more for each file of settings that would name a source but cannot be read.
    """
    asked = asked_questions(config)
    sources, unreadable = _training_sources(config)
    lines = [
        f"warning: whether {config.data} has questions that were trained on was not checked: {flaw}"
        for flaw in unreadable
    ]
    for source, trained_on in sorted(sources.items(), key=itemgetter(0)):
        most = _NUM_GENERATED if is_built_in(source) else trained_on.num_questions
        # A stream, because a file may be larger than what this machine has room for.
        training = stream_records(source, Split.TRAIN, num_records=most, shape=trained_on.shape)
        try:
            overlap = find_overlap(training, asked)
        except DataError as error:
            # Its columns may have other names than those of the questions that are asked.
            lines.append(
                f"warning: whether {config.data} has questions of {source} (training) was not checked: {error}"
            )
        else:
            lines.append(overlap.line(source, config.data))
    return lines


def _training_sources(
    config: EvaluationConfig,
) -> tuple[Mapping[str, _TrainedOn], Sequence[str]]:
    """The known sources that the models were trained on, and what is wrong with settings that cannot be read."""
    if config.train_data is not None:
        shape = RecordShape() if is_built_in(config.train_data) else config.data_shape
        return {config.train_data: _TrainedOn(shape=shape, num_questions=sys.maxsize)}, []
    found: dict[str, _TrainedOn] = {}
    flaws: list[str] = []
    for folder in [candidate.model.folder for candidate in parse_candidates(config.models)]:
        try:
            data = None if folder is None else training_data(folder)
        except UsageError as error:
            flaws.append(str(error))
            continue
        if data is not None:
            before = found[data.source].num_questions if data.source in found else 0
            num_questions = max(data.num_questions, before)
            found[data.source] = _TrainedOn(shape=data.shape, num_questions=num_questions)
    return found, list(dict.fromkeys(flaws))

"""Makes a run's counterfactual questions: one number is changed, and the answer computed again by the same steps.

`regime_w.counterfactual` makes the change; it needs answers with GSM8K's annotated steps.
"""

import re
import sys
from collections.abc import Callable, Sequence
from itertools import islice

from inference_server.wire.schemas import ServerStatus
from regime_w.answer_types.number import NUMBER
from regime_w.counterfactual import reexecuted
from trainer.config.sections import DataConfig, TrainConfig
from trainer.data.contamination import question_key
from trainer.data.context_limit import context_check
from trainer.data.source_names import GENERATED, require_source
from trainer.data.sources import Record, load_records, normalised
from trainer.data.word_problems import Split, split_of
from trainer.errors import DataError

_MARK = "~"
"""The id of a counterfactual is the id of its question and this mark."""
_NUM_TRIED = 1_000
"""Number of questions whose counterfactuals are tried before a run begins."""
_THOUSANDS = re.compile(r"(?<=\d),(?=\d{3}(?!\d))")


class Counterfactuals:
    """Makes the counterfactuals of a source's questions, each when it is needed."""

    def __init__(
        self,
        records: Sequence[Record],
        is_usable: Callable[[Record], bool] = lambda counterfactual: True,
    ):
        """Keep the questions; no counterfactual is made yet.

        Args:
            records: All questions.
            is_usable: Says whether a counterfactual may be asked.
        """
        self._by_id = {record.id: record for record in records}
        self._is_usable = is_usable

    def of(self, record: Record) -> Record | None:
        """The counterfactual of a question; None if it has none that may be asked."""
        made = _counterfactual(record)
        return made if made is not None and self._is_usable(made) else None

    def find(self, name: str) -> Record | None:
        """The counterfactual with an id, which was asked before; None if the id is not a counterfactual's."""
        record = self._by_id.get(question_id(name)) if name.endswith(_MARK) else None
        return None if record is None else _counterfactual(record)

    def require_some(self, source: str) -> None:
        """Stop a run that asks for counterfactuals if its questions have none.

        Raises:
            DataError: None of the first questions has a counterfactual.
        """
        if not any(self.of(record) for record in self._tried):
            raise DataError(
                f"data.counterfactual: none of the first {len(self._tried)} questions of {source} has a "
                "counterfactual: that needs answers with GSM8K's annotated steps, such as <<3*4=12>>; leave "
                "the setting out, or use such a source"
            )

    @property
    def line(self) -> str:
        """A line that says how many of the first questions have a counterfactual."""
        num_found = sum(self.of(record) is not None for record in self._tried)
        return f"data: {num_found} of the first {len(self._tried)} questions have a counterfactual"

    @property
    def _tried(self) -> list[Record]:
        return list(islice(self._by_id.values(), _NUM_TRIED))


def question_id(name: str) -> str:
    """The id of the question of which an id is the counterfactual's; an id of the source's own as it is."""
    return name.removesuffix(_MARK)


def check_counterfactuals(config: TrainConfig, records: Sequence[Record]) -> None:
    """Check what can be checked without a server, before a run waits for one.

    Args:
        config: The run's configuration.
        records: Its questions.

    Raises:
        DataError: ``data.counterfactual`` asks for counterfactuals, and no question has one, or the user's reward
            functions would be given another question's columns.
    """
    if not config.data.counterfactual:
        return
    if not config.reward.is_regime_w and any(record.columns for record in records):
        raise DataError(
            "data.counterfactual: the columns of the data that reward.functions are given would be another "
            "question's; leave the setting, the functions or the columns out"
        )
    Counterfactuals(records).require_some(config.data.source)


def askable_counterfactuals(
    config: TrainConfig, records: Sequence[Record], status: ServerStatus, lines: list[str]
) -> Counterfactuals:
    """The counterfactuals that fit the context of a run's server and are not held out.

    Args:
        config: The run's configuration.
        records: Its questions.
        status: The server's status, with its limits.
        lines: Gets a line on how many there are, if ``data.counterfactual`` asks for some.

    Raises:
        DataError: The run asks for counterfactuals, and there are none.
    """
    data = config.data
    if not data.counterfactual:
        return Counterfactuals(records)
    fits = context_check(config.policy.base_model, config.rollout, status)
    is_held_out = _held_out(data)
    counterfactuals = Counterfactuals(
        records, lambda counterfactual: fits(counterfactual) and not is_held_out(counterfactual)
    )
    counterfactuals.require_some(data.source)
    lines.append(counterfactuals.line)
    if config.reward.formulas == "original":
        lines.append(
            "warning: data.counterfactual: s_cf is always 0.5 under reward.formulas = original"
        )
    return counterfactuals


def _counterfactual(record: Record) -> Record | None:
    changed = None
    if record.answer_type == NUMBER:
        changed = reexecuted(record.question, record.gold, careful=True)
    if changed is None:
        return None
    return Record(
        id=record.id + _MARK,
        question=changed.question,
        gold=f"#### {changed.gold}",
        question_name=record.question_name,
        answer_name=record.answer_name,
        counterfactual_of=record.id,
    )


def _held_out(data: DataConfig) -> Callable[[Record], bool]:
    """A function that says whether a question is in the evaluation source, or in a part that is not the run's.

    The whole evaluation source counts, not only the questions that an evaluation asks.
    """
    source, part = require_source(data.source)
    part_of = split_of if source in GENERATED else lambda question: split_of(normalised(question))
    generated: Split | None = None
    asked: set[str] = set()
    if (evaluation := data.held_out_source) is not None:
        name, evaluation_part = require_source(evaluation)
        if name in GENERATED:
            generated = evaluation_part or Split.HELD_OUT
        else:
            held_out = load_records(
                evaluation, Split.HELD_OUT, num_records=sys.maxsize, shape=data.shape
            )
            asked = {_key(record.question) for record in held_out}

    def is_held_out(record: Record) -> bool:
        question = record.question
        return (
            split_of(question) is generated
            or (part is not None and part_of(question) is not part)
            or _key(question) in asked
        )

    return is_held_out


def _key(question: str) -> str:
    """The `question_key` of a question, without the commas in its numbers."""
    return question_key(_THOUSANDS.sub("", question))

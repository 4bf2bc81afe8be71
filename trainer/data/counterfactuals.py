"""Counterfactual questions: one number changed, the answer worked out again by the same steps.

What changes them is `regime_w.counterfactual`, which needs answers with GSM8K's annotated steps.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import islice

from inference_server.wire.schemas import ServerStatus
from regime_w.answer_types.number import NUMBER
from regime_w.counterfactual.reexecution import reexecuted
from trainer.config.sections import TrainConfig
from trainer.data.contamination import question_key
from trainer.data.context_limit import fits
from trainer.data.sources import Record, normalised
from trainer.data.word_problems import Split, split_of
from trainer.errors import DataError

_MARK = "~"
"""Ends the id of a counterfactual, which begins with the id of its question."""
_NUM_TRIED = 1_000
"""Questions that are looked at before a run begins."""


class Counterfactuals:
    """Makes the counterfactuals of a source's questions, one at a time, when they are asked."""

    def __init__(
        self,
        records: Sequence[Record],
        evaluation: Sequence[Record] = (),
        *,
        is_askable: Callable[[Record], bool] = lambda record: True,
    ):
        """Nothing is made yet.

        Args:
            records: All questions.
            evaluation: Questions that nothing may be trained on.
            is_askable: Whether the server takes a question.
        """
        self._by_id = {record.id: record for record in records}
        self._held_out = {question_key(record.question) for record in evaluation}
        self._is_askable = is_askable

    def of(self, record: Record) -> Record | None:
        """The counterfactual of a question, with the question's other columns; None where it has none.

        It belongs to the same part of a source (``#train`` or ``#held_out``) as its question, and is no question
        of the evaluation.
        """
        if record.answer_type != NUMBER:
            return None
        changed = reexecuted(record.question, record.gold, nearest_first=True)
        if changed is None or _parts(changed.question) != _parts(record.question):
            return None
        counterfactual = replace(
            record,
            id=record.id + _MARK,
            question=changed.question,
            gold=f"#### {changed.gold}",
            counterfactual_of=record.id,
        )
        if question_key(changed.question) in self._held_out or not self._is_askable(counterfactual):
            return None
        return counterfactual

    def find(self, name: str) -> Record | None:
        """The counterfactual with an id; None where there is none such."""
        record = self._by_id.get(name.removesuffix(_MARK)) if name.endswith(_MARK) else None
        return None if record is None else self.of(record)

    def require_some(self, source: str) -> str:
        """A line on how many questions have one, by the first of them.

        Raises:
            DataError: None of these has one.
        """
        tried = list(islice(self._by_id.values(), _NUM_TRIED))
        num_found = sum(self.of(record) is not None for record in tried)
        if not num_found:
            raise DataError(
                f"data.counterfactual: none of the first {len(tried)} questions of {source} has a "
                "counterfactual: that needs answers with GSM8K's annotated steps, such as <<3*4=12>>; leave "
                "the setting out, or use such a source"
            )
        return f"data: {num_found} of the first {len(tried)} questions have a counterfactual"


def askable_counterfactuals(
    config: TrainConfig,
    records: Sequence[Record],
    evaluation: Sequence[Record] | None,
    status: ServerStatus,
    lines: list[str],
) -> Counterfactuals:
    """Those of a run's questions that its server takes.

    Args:
        config: The run.
        records: Its questions.
        evaluation: Its held-out questions, if it has any.
        status: The server's, with its limits.
        lines: Gets one on how many there are, where ``data.counterfactual`` asks for some.

    Raises:
        DataError: The run asks for some, and there are none.
    """
    policy, rollout = config.policy, config.rollout
    counterfactuals = Counterfactuals(
        records,
        evaluation or (),
        is_askable=lambda record: fits(record, policy.base_model, rollout, status),
    )
    if config.data.counterfactual:
        lines.append(counterfactuals.require_some(config.data.source))
    return counterfactuals


def _parts(question: str) -> tuple[Split, Split]:
    """The parts that a question is of: in the generator, and in a file or Hub dataset."""
    return split_of(question), split_of(normalised(question))

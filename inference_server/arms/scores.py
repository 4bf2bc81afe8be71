"""Reads gold answers and scores groups, away from the event loop and from the threads of uploads and tokenization.

Computer algebra takes up to seconds for a pair of answers, and a group may have a thousand long ones. A call that is
cancelled ends before it reads or compares the next.
"""

import asyncio
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, TypeVar, cast

from inference_server.errors import InvalidRequest
from inference_server.wire.schemas import ArmCompletion, GroupScoresBody, Question
from regime_w import AnswerType, ArmOutput, answer_type_of, compute_regime_w_scores
from regime_w.algebra.math_process import LibraryMissing
from regime_w.answer_types.mathematics import Mathematics

_T = TypeVar("_T")


class Scorer:
    """Reads and compares answers in a thread; all mathematics in one, since one process compares it."""

    def __init__(self) -> None:
        """The thread starts with the first question of mathematics."""
        self._mathematics = ThreadPoolExecutor(1, "score")

    async def check_golds(self, questions: Sequence[Question]) -> None:
        """Refuses answer types that cannot be used here, and gold answers that their type cannot read.

        Raises:
            InvalidRequest: Names the question.
        """
        for index, question in enumerate(questions):
            await self._run(question, _check_gold, index, question)

    async def score(
        self, question: Question, completions: Sequence[ArmCompletion]
    ) -> GroupScoresBody:
        """Scores the completions of one question; its gold answer must have been checked."""
        return await self._run(question, _score, question, completions)

    async def _run(self, question: Question, function: Callable[..., _T], *args: object) -> _T:
        thread = self._mathematics if question.answer_type == "math" else None
        is_over = threading.Event()
        try:
            call = partial(function, *args, is_over)
            return await asyncio.get_running_loop().run_in_executor(thread, call)
        finally:
            is_over.set()


@dataclass(frozen=True, slots=True)
class _Interruptible:
    """An answer type that reads and compares no more answers once nobody waits for the result."""

    answer_type: AnswerType
    before_each: Callable[[], None]

    def __getattr__(self, name: str) -> Any:
        return getattr(self.answer_type, name)

    def extract(self, text: str) -> str | None:
        self.before_each()
        return self.answer_type.extract(text)

    def read(self, answer: str) -> str | None:
        self.before_each()
        return self.answer_type.read(answer)

    def equal(self, a: str | None, b: str | None) -> bool:
        self.before_each()
        return self.answer_type.equal(a, b)


def _answer_type(question: Question, is_over: threading.Event) -> AnswerType:
    """The type of a question's answer, which ends its work once nobody waits for the result."""

    def end_if_over() -> None:
        if is_over.is_set():
            raise asyncio.CancelledError

    answer_type = answer_type_of(question.answer_type, question.choices)
    if isinstance(answer_type, Mathematics):  # one answer may be many comparisons, of a second each
        answer_type = replace(answer_type, before_comparison=end_if_over)
    return cast(AnswerType, _Interruptible(answer_type, end_if_over))


def _check_gold(index: int, question: Question, is_over: threading.Event) -> None:
    try:
        answer_type = _answer_type(question, is_over)
    except LibraryMissing as error:
        raise InvalidRequest(
            f"question {question.id!r}: {error}", f"questions.{index}.answer_type"
        ) from None
    if question.gold is not None and answer_type.read_gold(question.gold) is None:
        raise InvalidRequest(
            f"question {question.id!r}: the gold answer is not {answer_type.expected}, or null for none",
            f"questions.{index}.gold",
        )


def _score(
    question: Question, completions: Sequence[ArmCompletion], is_over: threading.Event
) -> GroupScoresBody:
    answer_type = _answer_type(question, is_over)
    outputs = [ArmOutput.from_text(each.arm, each.text, answer_type) for each in completions]
    scores = compute_regime_w_scores(
        question.question, outputs, question.gold, answer_type=answer_type
    )
    return GroupScoresBody.model_validate(scores, from_attributes=True)

"""Reads gold answers and scores groups, away from the event loop and from the threads of uploads and tokenization.

Computer algebra takes up to seconds for a pair of answers. A call that is cancelled ends before its next pair.
"""

import asyncio
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar, cast

from inference_server.errors import InvalidRequest
from inference_server.wire.schemas import ArmCompletion, GroupScoresBody, Question
from regime_w import AnswerType, ArmOutput, answer_type_of, compute_regime_w_scores
from regime_w.algebra.math_process import LibraryMissing

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
        is_over = threading.Event()
        try:
            return await self._run(question, _score, question, completions, is_over)
        finally:
            is_over.set()

    async def _run(self, question: Question, function: Callable[..., _T], *args: object) -> _T:
        thread = self._mathematics if question.answer_type == "math" else None
        return await asyncio.get_running_loop().run_in_executor(thread, function, *args)


@dataclass(frozen=True, slots=True)
class _Interruptible:
    """An answer type that compares no more answers once nobody waits for the result."""

    answer_type: AnswerType
    is_over: threading.Event

    def __getattr__(self, name: str) -> Any:
        return getattr(self.answer_type, name)

    def equal(self, a: str | None, b: str | None) -> bool:
        if self.is_over.is_set():
            raise asyncio.CancelledError
        return self.answer_type.equal(a, b)


def _check_gold(index: int, question: Question) -> None:
    try:
        answer_type = answer_type_of(question.answer_type, question.choices)
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
    answer_type = answer_type_of(question.answer_type, question.choices)
    outputs = [ArmOutput.from_text(each.arm, each.text, answer_type) for each in completions]
    scores = compute_regime_w_scores(
        question.question,
        outputs,
        question.gold,
        answer_type=cast(AnswerType, _Interruptible(answer_type, is_over)),
    )
    return GroupScoresBody.model_validate(scores, from_attributes=True)

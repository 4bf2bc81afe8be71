"""Answers of several models to the same questions: the lines of an evaluation's answers file.

Input: completions and gold answers. This module does not depend on how they were generated or how they are
aggregated.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Self

from pydantic import BaseModel, ConfigDict

from inference_server.wire.schemas import ArmGroup, FinishReason
from regime_w import AnswerType, ArmOutput, compute_regime_w_scores
from regime_w.answer_types.answer_type import AnswerTypeName
from regime_w.answer_types.number import NUMBER
from trainer.data.sources import Record
from trainer.errors import DataError, UsageError
from trainer.io.jsonl import read_rows, write_jsonl


class EvaluationPart(BaseModel):
    """Part of what an evaluation writes: unknown keys are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Answer(EvaluationPart):
    """A model's completion for a question, and the answer in it."""

    text: str
    answer: str | None
    """The answer in canonical form; null if the text gives none."""
    correct: bool
    num_tokens: int
    """Length of the completion, EOS included."""
    truncated: bool
    """Whether it hit the token limit."""

    @classmethod
    def of(
        cls,
        text: str,
        gold: str,
        *,
        num_tokens: int,
        truncated: bool,
        answer_type: AnswerType = NUMBER,
    ) -> Self:
        """Extract the answer of a completion and compare it with that of the gold solution."""
        answer = answer_type.extract(text)
        return cls(
            text=text,
            answer=answer,
            correct=answer_type.equal(answer, answer_type.read_gold(gold)),
            num_tokens=num_tokens,
            truncated=truncated,
        )

    def strictly_correct(self, answer_type: AnswerType) -> bool:
        """Whether the answer is right and is stated after ``####`` or in a box, not in a sentence.

        Args:
            answer_type: The type of the question's answer; its choices need not be known.
        """
        return self.correct and answer_type.is_formatted(self.text)


class ArmAnswer(Answer):
    """An arm's completion for a question."""

    arm: str
    sample: int


class ArmsAnswer(EvaluationPart):
    """Completions of all arms of one model for a question, with their scores.

    Unlike in training, the scores are computed without the gold answer: they measure the arms' own
    confidence, which can be compared with correctness.
    """

    completions: tuple[ArmAnswer, ...]
    """In the order of the arms, all samples of an arm in a row."""
    consensus: str | None
    """The most frequent answer, or in a tie the earliest; null if no arm gives an answer."""
    consensus_correct: bool
    s_end: float | None
    s_path: float | None
    s_cf: float | None
    s_wm: float | None

    @classmethod
    def of(cls, group: ArmGroup, record: Record) -> Self:
        """Extract the answers of a question's completions, and score them."""
        kind = record.answer_type
        outputs = [ArmOutput.from_text(arm.arm, arm.text, kind) for arm in group.arms]
        scores = compute_regime_w_scores(record.question, outputs, answer_type=kind)
        gold = kind.read_gold(record.gold)
        completions = tuple(
            ArmAnswer(
                text=arm.text,
                answer=output.answer,
                correct=kind.equal(output.answer, gold),
                num_tokens=len(arm.token_ids),
                truncated=arm.finish_reason is FinishReason.LENGTH,
                arm=arm.arm,
                sample=arm.sample,
            )
            for arm, output in zip(group.arms, outputs, strict=True)
        )
        return cls(
            completions=completions,
            consensus=scores.consensus,
            consensus_correct=kind.equal(scores.consensus, gold),
            s_end=scores.s_end,
            s_path=scores.s_path,
            s_cf=scores.s_cf,
            s_wm=scores.s_wm,
        )

    @property
    def num_correct(self) -> int:
        """How many of the completions are correct."""
        return sum(completion.correct for completion in self.completions)


class ModelAnswers(EvaluationPart):
    """All of one model's answers to a question."""

    greedy: Answer
    arms: ArmsAnswer | None
    """Null if the arms were not sampled."""


class QuestionAnswers(EvaluationPart):
    """A line of the answers file: a question and every model's answers."""

    id: str
    question: str
    gold: str
    answer_type: AnswerTypeName = "number"
    models: Mapping[str, ModelAnswers]
    """By label."""


def answers_path(evaluation: Path) -> Path:
    """Path of the answers of ``evaluation.json``: ``evaluation.answers.jsonl`` beside it."""
    return evaluation.with_suffix(".answers.jsonl")


def write_answers(path: Path, questions: Sequence[QuestionAnswers]) -> None:
    """Write the file atomically."""
    write_jsonl(path, [question.model_dump(mode="json") for question in questions])


def are_answers(path: Path) -> bool:
    """Whether a file begins as `write_answers` writes it."""
    try:
        return next(read_answers(path), None) is not None
    except (DataError, UsageError):
        return False


def read_answers(path: Path) -> Iterator[QuestionAnswers]:
    """Read the lines that `write_answers` wrote.

    Raises:
        UsageError: There is no such file.
        DataError: A line is something else.
    """
    if not path.is_file():
        raise UsageError(f"there is no {path}; `eval --output` writes it")
    for _, answers in read_rows(path, QuestionAnswers):
        yield answers

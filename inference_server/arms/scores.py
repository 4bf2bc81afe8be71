"""The Regime W scores that a request may ask for with its groups."""

from collections.abc import Sequence

from inference_server.wire.schemas import ArmCompletion, GroupScoresBody, Question
from regime_w import ArmOutput, answer_type_of, compute_regime_w_scores


def score_group(question: Question, completions: Sequence[ArmCompletion]) -> GroupScoresBody:
    """Scores the completions of one question; its gold answer must have been checked."""
    answer_type = answer_type_of(question.answer_type, question.choices)
    outputs = [ArmOutput.from_text(each.arm, each.text, answer_type) for each in completions]
    scores = compute_regime_w_scores(
        question.question, outputs, question.gold, answer_type=answer_type
    )
    return GroupScoresBody.model_validate(scores, from_attributes=True)

"""Checks whether a response is complete: a proxy or a dying server can return less than was asked for.

An incomplete response is asked for again, and never scored.
"""

import math

from inference_server.wire.schemas import (
    MAX_LOGPROB,
    ArmCompletion,
    ArmGroup,
    ArmsRequest,
    FinishReason,
    Question,
)


def flaw_in_groups(request: ArmsRequest, groups: list[ArmGroup]) -> str | None:
    """What is missing from the groups of a response, or wrong with them; None if it is complete.

    Args:
        request: What was asked.
        groups: What came, in the order of the questions.
    """
    if len(groups) != len(request.questions):
        return f"{len(groups)} groups for {len(request.questions)} questions"
    for question, group in zip(request.identified_questions, groups, strict=True):
        if flaw := _flaw_in_group(request, question, group):
            return f"group {group.id!r}: {flaw}"
    return None


def _flaw_in_group(request: ArmsRequest, question: Question, group: ArmGroup) -> str | None:
    if (group.id, group.question) != (question.id, question.question):
        return f"it is not of question {question.id!r}"
    if request.replica is not None and group.replica not in (request.replica, None):
        return f"replica {group.replica} made it, and {request.replica} was asked"
    samples = range(request.samples_per_arm)
    expected = sorted((name, sample) for name in request.arm_names for sample in samples)
    if sorted((arm.arm, arm.sample) for arm in group.arms) != expected:
        return f"{len(group.arms)} completions that are not the {len(expected)} asked for"
    if request.return_tokens:
        for arm in group.arms:
            if flaw := _flaw_in_tokens(arm, request.max_tokens):
                return f"{arm.arm}: {flaw}"
    return None


def _flaw_in_tokens(arm: ArmCompletion, max_tokens: int) -> str | None:
    if len(arm.token_ids) > max_tokens:
        return f"{len(arm.token_ids)} tokens, more than the {max_tokens} asked for"
    if len(arm.logprobs) != len(arm.token_ids):
        return f"{len(arm.logprobs)} logprobs for {len(arm.token_ids)} tokens"
    if arm.finish_reason is FinishReason.ABORT:
        return None
    if not (arm.token_ids and arm.prompt_token_ids):
        return "no tokens"
    if not all(math.isfinite(logprob) and logprob <= MAX_LOGPROB for logprob in arm.logprobs):
        return "a logprob that is not a valid number"
    return None

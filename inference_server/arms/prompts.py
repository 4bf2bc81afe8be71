"""The prompts of an arms request: each (question, system prompt) tokenized once, lengths checked."""

from collections.abc import Sequence
from dataclasses import dataclass

from inference_server.engine import Engine
from inference_server.errors import InvalidRequest
from inference_server.wire.prompt_frames import NoChatTemplate, Prompt
from inference_server.wire.prompt_options import PromptFormat
from inference_server.wire.schemas import ArmsRequest, Question
from regime_w import ArmSpec

# Prompts encoded in one call, which cannot be stopped: a request whose client has left ends after the current call.
_ENCODED_TOGETHER = 16


@dataclass(frozen=True, kw_only=True, slots=True)
class GroupPlan:
    """One question with everything that the engine needs except the policy version."""

    index: int
    """Index of the question in the request."""
    question: Question
    prompts: Sequence[tuple[ArmSpec, list[int]]]
    """Each arm with its prompt's token ids; arms with the same system prompt share the list."""


async def plan_groups(
    engine: Engine,
    request: ArmsRequest,
    prompt_format: PromptFormat,
    questions: Sequence[Question],
    arms: Sequence[ArmSpec],
) -> list[GroupPlan]:
    """Tokenizes the prompts of a request, one plan per question.

    Args:
        engine: Tokenizes, and knows the model's context length.
        request: Gives ``max_tokens``.
        prompt_format: The format of every prompt.
        questions: The request's questions, each with its id.
        arms: The request's arms, resolved.

    Raises:
        InvalidRequest: A prompt is empty or too long, or the model has no fitting chat template.
    """
    system_prompts = list(dict.fromkeys(arm.system_prompt for arm in arms))
    prompts = [
        Prompt(system_prompt=system, question=q.question)
        for q in questions
        for system in system_prompts
    ]
    encoded: list[list[int]] = []
    try:
        for start in range(0, len(prompts), _ENCODED_TOGETHER):
            encoded += await engine.encode(
                prompts[start : start + _ENCODED_TOGETHER], prompt_format
            )
            for place in range(start, len(encoded)):
                index = place // len(system_prompts)
                _check_length(len(encoded[place]), request, engine, questions[index], index)
    except NoChatTemplate as error:
        raise InvalidRequest(
            f"prompt_format: the model's chat template cannot be used: {error}", "prompt_format"
        ) from error
    plans = []
    for index, question in enumerate(questions):
        start = index * len(system_prompts)
        by_system = dict(zip(system_prompts, encoded[start:], strict=False))
        arm_prompts = [(arm, by_system[arm.system_prompt]) for arm in arms]
        plans.append(GroupPlan(index=index, question=question, prompts=arm_prompts))
    return plans


def _check_length(
    num_tokens: int, request: ArmsRequest, engine: Engine, question: Question, index: int
) -> None:
    context_tokens = engine.traits.max_model_len_tokens
    if num_tokens == 0:
        raise InvalidRequest(
            f"question {question.id!r}: the prompt has no tokens", f"questions.{index}"
        )
    if num_tokens + request.max_tokens > context_tokens:
        raise InvalidRequest(
            f"question {question.id!r}: {num_tokens} prompt tokens and max_tokens {request.max_tokens} "
            f"exceed the model's context of {context_tokens} tokens",
            f"questions.{index}",
        )

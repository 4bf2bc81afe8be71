"""The prompts of an arms request: each (question, system prompt) tokenized once, lengths checked."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from inference_server.engine import Chat, Engine, NoChatTemplate
from inference_server.errors import InvalidRequest
from inference_server.wire.schemas import ArmsRequest, Question
from regime_w import ArmSpec, build_prompt


@dataclass(frozen=True, kw_only=True, slots=True)
class GroupPlan:
    """One question with everything that the engine needs except the policy version."""

    index: int
    """Index of the question in the request."""
    question: Question
    prompts: Sequence[list[int]]
    """Prompt token ids, one list per arm; arms with the same system prompt share the list."""


async def plan_groups(
    engine: Engine, request: ArmsRequest, questions: Sequence[Question], arms: Sequence[ArmSpec]
) -> list[GroupPlan]:
    """Tokenizes the prompts of a request, one plan per question.

    Args:
        engine: Tokenizes, and knows the model's context length.
        request: Gives the prompt format and ``max_tokens``.
        questions: Its questions, each with its id.
        arms: Its arms, resolved.

    Raises:
        InvalidRequest: A prompt is empty or too long, or the model has no fitting chat template.
    """
    system_prompts = list(dict.fromkeys(arm.system_prompt for arm in arms))
    pairs = [(system, q.question) for q in questions for system in system_prompts]
    encoded = await _encode(engine, pairs, request.prompt_format)
    plans = []
    for index, question in enumerate(questions):
        start = index * len(system_prompts)
        by_system = dict(zip(system_prompts, encoded[start:], strict=False))
        num_tokens = max(len(token_ids) for token_ids in by_system.values())
        _check_length(
            num_tokens, request.max_tokens, engine.traits.max_model_len_tokens, question, index
        )
        prompts = [by_system[arm.system_prompt] for arm in arms]
        plans.append(GroupPlan(index=index, question=question, prompts=prompts))
    return plans


def _check_length(
    num_tokens: int, max_tokens: int, context_tokens: int, question: Question, index: int
) -> None:
    if num_tokens == 0:
        raise InvalidRequest(
            f"question {question.id!r}: the prompt has no tokens", f"questions.{index}"
        )
    if num_tokens + max_tokens > context_tokens:
        raise InvalidRequest(
            f"question {question.id!r}: {num_tokens} prompt tokens and max_tokens {max_tokens} "
            f"exceed the model's context of {context_tokens} tokens",
            f"questions.{index}",
        )


async def _encode(
    engine: Engine,
    pairs: Sequence[tuple[str, str]],
    prompt_format: Literal["plain", "chat"],
) -> list[list[int]]:
    """Token ids of each (system prompt, question)."""
    if prompt_format == "plain":
        return await engine.encode([build_prompt(system, question) for system, question in pairs])
    try:
        return await engine.encode_chats(
            [Chat(system_prompt=system, question=question) for system, question in pairs]
        )
    except NoChatTemplate as error:
        raise InvalidRequest(
            f"prompt_format: the model's chat template cannot be used: {error}", "prompt_format"
        ) from error

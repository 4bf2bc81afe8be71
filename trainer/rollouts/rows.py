"""A group of completions as one line of a rollout file: how it is written and read back.

The journal's ``rollouts/step-….jsonl`` and the files of ``collect`` hold these rows. The recipe's
rows, which have only names and texts, can be read too.
"""

import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Any, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator
from pydantic_core import to_json

from inference_server.wire.prompt_options import PromptFormat, StopStrings
from inference_server.wire.schemas import (
    MAX_LOGPROB,
    ArmCompletion,
    ArmGroup,
    FinishReason,
    TokenId,
)
from regime_w import RewardConfig
from regime_w.answer_types.answer_type import AnswerTypeName
from regime_w.answer_types.number import NUMBER
from regime_w.counterfactual.pairs import PairedQuestion
from trainer.data.columns import usable_type
from trainer.data.sources import Record
from trainer.model.batches.sample import Sample
from trainer.rollouts.groups import Score, ScoredGroup, ServedGroup, as_sample, score_group


def rollout_row(
    scored: ScoredGroup, *, step: int | None = None, served: Mapping[str, str] | None = None
) -> dict[str, object]:
    """A group's row: the recipe's fields, and tokens, logprobs, version and more.

    Args:
        scored: The group.
        step: The run's step; None outside of a run.
        served: What the server computed with, ``dtype``, ``base_fingerprint`` and ``adapter_sha256``; None in a run, which
            has them elsewhere.
    """
    group, scores, answer_type = scored.group, scored.scores, scored.record.answer_type
    correct = scores.correct or [None] * len(scored.rewards)
    return {
        **({} if step is None else {"step": step}),
        "id": scored.record.id,
        "question": scored.record.question,
        "gold_answer": scored.record.gold,
        **({} if answer_type == NUMBER else {"answer_type": answer_type.name}),
        **({"choices": answer_type.choices} if answer_type.choices else {}),
        "policy_version": group.policy_version,
        **({} if group.prompt_format is None else {"prompt_format": group.prompt_format}),
        **({"stop": group.stop} if group.stop else {}),
        **({"columns": columns} if (columns := scored.record.named_columns) else {}),
        **({} if scored.paired is None else {"counterfactual": scored.paired.model_dump()}),
        **(served or {}),
        **({"server": group.server} if isinstance(group, ServedGroup) else {}),
        **({} if group.replica is None else {"replica": group.replica}),
        "scores": {name: getattr(scores, name) for name in ("s_end", "s_path", "s_cf", "s_wm")},
        **({} if scores.chsh is None else {"chsh": scores.chsh}),
        "reward": statistics.fmean(scored.earned or [0.0]),
        "arm_outputs": [
            {
                "arm_name": arm.arm,
                "sample": arm.sample,
                "full_text": arm.text,
                "reasoning": arm.text,
                "answer": scores.answers[index],
                "correct": correct[index],
                "reward": None if index in scored.unrewarded else scored.rewards[index],
                **(
                    {"rewards": {name: given[index] for name, given in scored.by_function.items()}}
                    if scored.by_function
                    else {}
                ),
                "trained": index in scored.trained,
                "finish_reason": arm.finish_reason,
                "temperature": arm.temperature,
                "top_p": arm.top_p,
                "prompt_token_ids": arm.prompt_token_ids,
                "token_ids": arm.token_ids,
                "sampler_logprobs": arm.logprobs,
            }
            for index, arm in enumerate(group.arms)
        ],
    }


def rollout_lines(groups: Sequence[ScoredGroup], step: int) -> bytes:
    """The content of a step's rollout file."""
    return b"".join(to_json(rollout_row(group, step=step)) + b"\n" for group in groups)


class _RowPart(BaseModel):
    """A part of a row; fields that can be derived from others are not read."""

    model_config = ConfigDict(extra="ignore", frozen=True)


class RolloutCompletion(_RowPart):
    """One completion of a row; the recipe's rows have only name and text."""

    arm_name: str
    full_text: str
    sample: int = Field(default=0, ge=0)
    reward: float | None = Field(default=0.0, allow_inf_nan=False)
    """None if no function gave it one."""
    trained: bool = True
    finish_reason: FinishReason = FinishReason.STOP
    temperature: float = Field(default=1.0, gt=0, allow_inf_nan=False)
    top_p: float = Field(default=1.0, gt=0, le=1, allow_inf_nan=False)
    prompt_token_ids: list[TokenId] = []
    token_ids: list[TokenId] = []
    sampler_logprobs: list[Annotated[float, Field(le=MAX_LOGPROB, allow_inf_nan=False)]] = []

    @model_validator(mode="after")
    def _logprobs_are_of_the_tokens(self) -> Self:
        if self.sampler_logprobs and len(self.sampler_logprobs) != len(self.token_ids):
            raise ValueError(
                f"{len(self.sampler_logprobs)} sampler_logprobs for {len(self.token_ids)} token_ids"
            )
        return self

    @property
    def has_tokens(self) -> bool:
        """Whether it has the tokens and logprobs from when it was sampled."""
        return bool(self.prompt_token_ids) and 0 < len(self.token_ids) == len(self.sampler_logprobs)

    @property
    def completion(self) -> ArmCompletion:
        """The completion as the server sent it, but without its seed."""
        return ArmCompletion(
            arm=self.arm_name,
            sample=self.sample,
            text=self.full_text,
            finish_reason=self.finish_reason,
            temperature=self.temperature,
            top_p=self.top_p,
            seed=None,
            prompt_token_ids=self.prompt_token_ids,
            token_ids=self.token_ids,
            logprobs=self.sampler_logprobs,
        )


class RolloutRow(_RowPart):
    """One question's completions, read back."""

    id: str = ""
    question: str = Field(min_length=1)
    gold_answer: str = Field(min_length=1)
    answer_type: AnswerTypeName = "number"
    choices: tuple[str, ...] = ()
    policy_version: int | None = None
    prompt_format: PromptFormat | None = None
    """None in the recipe's rows, whose prompts are plain."""
    stop: StopStrings = ()
    columns: dict[str, Any] = {}
    counterfactual: PairedQuestion | None = None
    dtype: str | None = None
    """The dtype that the server computed in; None in a run's rows, and in the recipe's."""
    arm_outputs: Sequence[RolloutCompletion] = Field(min_length=1)

    @model_validator(mode="after")
    def _pair_is_of_the_same_arms(self) -> Self:
        if (paired := self.counterfactual) and len(paired.answers) != len(self.arm_outputs):
            raise ValueError(
                f"counterfactual.answers: {len(paired.answers)} for {len(self.arm_outputs)} arm_outputs"
            )
        if self.counterfactual and self.answer_type != NUMBER.name:
            raise ValueError(f"counterfactual: needs answer_type number, not {self.answer_type}")
        return self

    @property
    def record(self) -> Record:
        """The question."""
        return Record(
            id=self.id,
            question=self.question,
            gold=self.gold_answer,
            answer_type=usable_type(self.answer_type, self.choices),
            columns=self.columns,
        )

    @property
    def samples(self) -> list[Sample]:
        """The completions that trained, with the rewards that they earned."""
        return [
            as_sample(arm.completion, version=self.policy_version, reward=arm.reward or 0.0)
            for arm in self.arm_outputs
            if arm.trained
        ]

    def scored(self, config: RewardConfig, score: Score = score_group) -> ScoredGroup:
        """The group, scored and rewarded by ``score`` with a reward configuration."""
        return score(
            self.record,
            ArmGroup(
                id=self.id,
                question=self.question,
                policy_version=self.policy_version,
                prompt_format=self.prompt_format,
                stop=self.stop,
                arms=[arm.completion for arm in self.arm_outputs],
            ),
            config,
            self.counterfactual,
        )


def flaw_in_tokens(
    completions: Iterable[ArmCompletion | RolloutCompletion],
    vocab_size: int,
    *,
    context_tokens: int | None = None,
) -> str | None:
    """Why the base model cannot have sampled these completions; None if it can.

    Args:
        completions: The completions, with their prompts' tokens.
        vocab_size: How many tokens the base model has.
        context_tokens: The most tokens of a prompt with its completion; None does not check it.
    """
    for completion in completions:
        length = len(completion.prompt_token_ids) + len(completion.token_ids)
        highest = max((*completion.prompt_token_ids, *completion.token_ids), default=0)
        name = completion.arm if isinstance(completion, ArmCompletion) else completion.arm_name
        if highest >= vocab_size:
            return f"{name}: token id {highest}, and policy.base_model has {vocab_size} tokens"
        if context_tokens is not None and length > context_tokens:
            return f"{name}: {length} tokens with its prompt, and the context is {context_tokens}"
    return None

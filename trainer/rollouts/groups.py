"""A step's rollouts: groups of completions with what they earned, as PPO and the journal see them.

Unknown here: how they are asked for (`trainer.online.pipeline`).
"""

import random
from dataclasses import dataclass

from pydantic import BaseModel, ConfigDict, Field

from inference_server.wire.schemas import ArmCompletion, ArmGroup, FinishReason
from regime_w import ArmOutput, GroupScores, RewardConfig, RewardParts, reward_group, select_arms
from trainer.data.sources import Record
from trainer.model.batch import Sample

_SAME_REWARD = 1e-9


def as_sample(completion: ArmCompletion, *, version: int | None, reward: float = 0.0) -> Sample:
    """A completion as the losses see it: sampled ids, never re-tokenised text."""
    return Sample(
        prompt_ids=tuple(completion.prompt_token_ids),
        completion_ids=tuple(completion.token_ids),
        sampler_logprobs=tuple(completion.logprobs),
        temperature=completion.temperature,
        top_p=completion.top_p,
        reward=reward,
        truncated=completion.finish_reason is FinishReason.LENGTH,
        version=version,
    )


@dataclass(frozen=True, kw_only=True)
class ScoredGroup:
    """One question's completions with what they earned."""

    record: Record
    group: ArmGroup
    scores: GroupScores
    rewards: tuple[float, ...]
    """One a completion, in the order of ``group.arms``."""
    parts: tuple[RewardParts, ...]
    """What each of `rewards` is the sum of."""
    trained: tuple[int, ...]
    """Indices of the completions that train, by ``reward.selection``."""

    @property
    def samples(self) -> list[Sample]:
        """The completions that train, as PPO sees them."""
        return [
            as_sample(
                self.group.arms[index],
                version=self.group.policy_version,
                reward=self.rewards[index],
            )
            for index in self.trained
        ]

    @property
    def solved(self) -> bool:
        """Whether every completion is right."""
        return bool(self.scores.correct) and all(self.scores.correct or ())

    @property
    def zero_variance(self) -> bool:
        """Whether all completions earned the same, so that a group baseline leaves no advantage."""
        return max(self.rewards) - min(self.rewards) < _SAME_REWARD

    def to_json(self, step: int | None = None) -> dict[str, object]:
        """A row of rollouts: the recipe's fields, tokens, logprobs, version, and the step of a run."""
        return {
            **({} if step is None else {"step": step}),
            "id": self.record.id,
            "question": self.record.question,
            "gold_answer": self.record.gold,
            "policy_version": self.group.policy_version,
            "scores": {
                "s_end": self.scores.s_end,
                "s_path": self.scores.s_path,
                "s_cf": self.scores.s_cf,
                "s_wm": self.scores.s_wm,
            },
            "reward": sum(self.rewards) / len(self.rewards),
            "arm_outputs": [
                {
                    "arm_name": arm.arm,
                    "sample": arm.sample,
                    "full_text": arm.text,
                    "reasoning": arm.text,
                    "answer": answer,
                    "correct": correct,
                    "reward": reward,
                    "trained": index in self.trained,
                    "finish_reason": arm.finish_reason,
                    "temperature": arm.temperature,
                    "top_p": arm.top_p,
                    "prompt_token_ids": arm.prompt_token_ids,
                    "token_ids": arm.token_ids,
                    "sampler_logprobs": arm.logprobs,
                }
                for index, (arm, answer, correct, reward) in enumerate(
                    zip(
                        self.group.arms,
                        self.scores.answers,
                        self.scores.correct or [None] * len(self.rewards),
                        self.rewards,
                        strict=True,
                    )
                )
            ],
        }


class _Stored(BaseModel):
    """Part of a line of ``rollouts/step-….jsonl``; what can be derived is skipped."""

    model_config = ConfigDict(extra="ignore", frozen=True)


class RolloutCompletion(_Stored):
    """One completion, as `ScoredGroup.to_json` writes it; the recipe's rows have name and text alone."""

    arm_name: str
    full_text: str
    sample: int = 0
    reward: float = 0.0
    trained: bool = True
    finish_reason: FinishReason = FinishReason.STOP
    temperature: float = 1.0
    top_p: float = 1.0
    prompt_token_ids: list[int] = []
    token_ids: list[int] = []
    sampler_logprobs: list[float] = []

    @property
    def has_tokens(self) -> bool:
        """Whether it is as it was sampled."""
        return bool(self.prompt_token_ids) and 0 < len(self.token_ids) == len(self.sampler_logprobs)

    @property
    def completion(self) -> ArmCompletion:
        """As the server sent it, but for its seed."""
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


class RolloutRow(_Stored):
    """One question's completions, read back."""

    id: str = ""
    question: str = Field(min_length=1)
    gold_answer: str = Field(min_length=1)
    policy_version: int | None = None
    arm_outputs: list[RolloutCompletion] = Field(min_length=1)

    @property
    def samples(self) -> list[Sample]:
        """The completions that train, as they did."""
        return [
            as_sample(arm.completion, version=self.policy_version, reward=arm.reward)
            for arm in self.arm_outputs
            if arm.trained
        ]

    def scored(self, config: RewardConfig) -> ScoredGroup:
        """The group with what it earns under a configuration."""
        return score_group(
            Record(id=self.id, question=self.question, gold=self.gold_answer),
            ArmGroup(
                id=self.id,
                question=self.question,
                policy_version=self.policy_version,
                arms=[arm.completion for arm in self.arm_outputs],
            ),
            config,
        )


@dataclass(frozen=True, kw_only=True)
class RolloutBatch:
    """The groups of one step."""

    groups: tuple[ScoredGroup, ...]
    replaced: tuple[ScoredGroup, ...]
    """Groups without variance that were replaced by others; they do not train."""
    version: int
    """The version that generated all of them."""
    generate_s: float
    """From the first request to the last answer."""
    score_s: float
    """Part of it: scoring, summed over the groups."""
    num_dropped_groups: int
    """Groups that the server gave up and that were asked for again."""

    @property
    def samples(self) -> list[Sample]:
        """The completions that train, group after group."""
        return [sample for group in self.groups for sample in group.samples]

    @property
    def solved(self) -> dict[str, bool]:
        """The ids of all questions that were asked, to whether every completion is right."""
        return {group.record.id: group.solved for group in (*self.replaced, *self.groups)}


def score_group(record: Record, group: ArmGroup, config: RewardConfig) -> ScoredGroup:
    """Regime W scores and rewards of a group."""
    outputs = [ArmOutput.from_text(arm.arm, arm.text) for arm in group.arms]
    result = reward_group(record.question, outputs, record.gold, config=config)
    return ScoredGroup(
        record=record,
        group=group,
        scores=result.scores,
        rewards=result.rewards,
        parts=result.parts,
        trained=select_arms(
            result.rewards,
            config.selection,
            random.Random(f"{record.id}/{group.policy_version}"),
        ),
    )

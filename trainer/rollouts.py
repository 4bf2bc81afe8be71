"""A step's rollouts: groups of completions with what they earned, as PPO and the journal see them.

Unknown here: how they are asked for (`trainer.pipeline`).
"""

import random
from dataclasses import dataclass

from inference_server.schemas import ArmCompletion, ArmGroup, FinishReason
from regime_w import ArmOutput, GroupScores, RewardConfig, RewardParts, reward_group, select_arms
from trainer.batch import Sample
from trainer.data import Record

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
    """Places of the completions that train, by ``reward.selection``."""

    @property
    def samples(self) -> list[Sample]:
        """The completions that train, as PPO sees them."""
        return [
            as_sample(
                self.group.arms[place],
                version=self.group.policy_version,
                reward=self.rewards[place],
            )
            for place in self.trained
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
                    "trained": place in self.trained,
                    "finish_reason": arm.finish_reason,
                    "temperature": arm.temperature,
                    "top_p": arm.top_p,
                    "prompt_token_ids": arm.prompt_token_ids,
                    "token_ids": arm.token_ids,
                    "sampler_logprobs": arm.logprobs,
                }
                for place, (arm, answer, correct, reward) in enumerate(
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


@dataclass(frozen=True, kw_only=True)
class RolloutBatch:
    """The groups of one step."""

    groups: tuple[ScoredGroup, ...]
    replaced: tuple[ScoredGroup, ...]
    """Groups without variance in whose place others were asked; they do not train."""
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

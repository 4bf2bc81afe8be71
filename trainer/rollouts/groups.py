"""A step's rollouts: groups of completions with their rewards, as PPO and the journal take them.

How they are requested from the server is not known here (`trainer.online.pipeline`), nor how they are
stored (`trainer.rollouts.rows`).
"""

import random
from collections.abc import Callable
from dataclasses import dataclass

from inference_server.wire.schemas import ArmCompletion, ArmGroup, FinishReason
from regime_w import ArmOutput, GroupScores, RewardConfig, RewardParts, reward_group, select_arms
from trainer.data.sources import Record
from trainer.model.batch import Sample

_SAME_REWARD = 1e-9


def as_sample(completion: ArmCompletion, *, version: int | None, reward: float = 0.0) -> Sample:
    """A completion as the losses take it: sampled ids, never re-tokenised text."""
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
    """One question's completions with their scores and rewards."""

    record: Record
    group: ArmGroup
    scores: GroupScores
    rewards: tuple[float, ...]
    """One for each completion, in the order of ``group.arms``."""
    parts: tuple[RewardParts, ...]
    """The terms that each of `rewards` is the sum of."""
    trained: tuple[int, ...]
    """Indices of the completions that train, by ``reward.selection``."""

    @property
    def samples(self) -> list[Sample]:
        """The completions that train, as PPO takes them."""
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


@dataclass(frozen=True, kw_only=True)
class RolloutBatch:
    """The groups of one step."""

    groups: tuple[ScoredGroup, ...]
    replaced: tuple[ScoredGroup, ...]
    """Groups without variance that dynamic sampling replaced by others; they do not train."""
    version: int
    """The version that generated all of them."""
    generate_s: float
    """From the first request to the last answer."""
    score_s: float
    """Scoring, summed over the groups; part of `generate_s`."""
    num_dropped_groups: int
    """Groups that the server aborted and that were requested again."""

    @property
    def samples(self) -> list[Sample]:
        """The completions that train, group after group."""
        return [sample for group in self.groups for sample in group.samples]

    @property
    def solved(self) -> dict[str, bool]:
        """For the id of each question that was asked: whether every completion is right."""
        return {group.record.id: group.solved for group in (*self.replaced, *self.groups)}


def score_group(record: Record, group: ArmGroup, config: RewardConfig) -> ScoredGroup:
    """Score a group with Regime W and reward each of its completions."""
    outputs = [ArmOutput.from_text(arm.arm, arm.text) for arm in group.arms]
    result = reward_group(outputs, record.gold, config=config)
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


Score = Callable[[Record, ArmGroup, RewardConfig], ScoredGroup]
"""What turns a group into rewards: `score_group`, or a function in its place."""

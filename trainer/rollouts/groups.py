"""A step's rollouts: groups of completions with their rewards, as PPO and the journal take them.

This module does not know how they are requested from the server (`trainer.online.pipeline`), nor how they are
stored (`trainer.rollouts.rows`).
"""

import math
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from inference_server.wire.schemas import ArmCompletion, ArmGroup, FinishReason
from regime_w import (
    ArmOutput,
    GroupScores,
    RewardConfig,
    RewardParts,
    reward_group,
    select_arms,
)
from regime_w.counterfactual.pairs import PairedQuestion
from trainer.config.rollout import REGIME_W
from trainer.data.sources import Record
from trainer.errors import RewardFunctionError
from trainer.model.batches.sample import Sample

_SAME_REWARD = 1e-9
_MAX_REWARD = 3.4e38
"""About the largest float32 number; the losses take rewards in float32."""


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


def as_paired(record: Record, group: ArmGroup, beside: ArmGroup) -> PairedQuestion:
    """One question of a counterfactual pair with its answers, in the order of the other question's arms."""
    texts = {(arm.arm, arm.sample): arm.text for arm in group.arms}
    return PairedQuestion(
        id=record.id,
        question=record.question,
        gold_answer=record.gold,
        answers=tuple(
            record.answer_type.extract(texts[arm.arm, arm.sample]) for arm in beside.arms
        ),
    )


class ServedGroup(ArmGroup):
    """A group that one of several servers made."""

    server: str
    """URL of the server."""
    server_boot_id: str
    """The server's boot id when it answered."""


@dataclass(frozen=True, kw_only=True)
class ScoredGroup:
    """One question's completions with their scores and rewards."""

    record: Record
    group: ArmGroup
    scores: GroupScores
    rewards: tuple[float, ...]
    """One for each completion, in the order of ``group.arms``; 0 for completions in `unrewarded`."""
    parts: tuple[RewardParts, ...]
    """Regime W's weighted terms in each of `rewards`."""
    trained: tuple[int, ...]
    """Indices of the completions that train, chosen by ``reward.selection``."""
    by_function: Mapping[str, Sequence[float | None]] = field(default_factory=dict)
    """The unweighted reward of each completion by each of ``reward.functions``; empty if Regime W is the only one."""
    unrewarded: frozenset[int] = frozenset()
    """Indices of the completions to which no function gave a reward; they do not train."""
    paired: PairedQuestion | None = None
    """The other question of a counterfactual pair, with which s_cf compares this one."""

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
    def earned(self) -> list[float]:
        """The rewards of the completions that have one."""
        return [r for i, r in enumerate(self.rewards) if i not in self.unrewarded]

    @property
    def zero_variance(self) -> bool:
        """Whether all completions earned the same reward, so that a group baseline leaves no advantage."""
        earned = self.earned or [0.0]
        return max(earned) - min(earned) < _SAME_REWARD


@dataclass(frozen=True, kw_only=True)
class RolloutBatch:
    """The groups of one step."""

    groups: tuple[ScoredGroup, ...]
    replaced: tuple[ScoredGroup, ...]
    """Groups without variance that dynamic sampling replaced with others; they do not train."""
    version: int
    """The version that generated all of them."""
    generate_s: float
    """Seconds from the first request to the last scored group."""
    score_s: float
    """Seconds of scoring, summed over the groups; part of `generate_s`."""
    num_dropped_groups: int
    """How many groups the server aborted; they were requested again."""

    @property
    def solved(self) -> dict[str, bool]:
        """For the id of each question that was asked, without counterfactuals, whether every completion is right.

        A batch that spans the end of an epoch may ask a question twice; every completion of both groups counts.
        """
        found: dict[str, bool] = {}
        for group in (*self.replaced, *self.groups):
            if group.record.counterfactual_of is None:
                found[group.record.id] = found.get(group.record.id, True) and group.solved
        return found


def score_group(
    record: Record, group: ArmGroup, config: RewardConfig, paired: PairedQuestion | None = None
) -> ScoredGroup:
    """Score a group with Regime W and reward each of its completions.

    Args:
        record: The question.
        group: Its completions.
        config: The reward's settings.
        paired: The other question of a counterfactual pair; the same arms answered it.
    """
    answer_type = record.answer_type
    outputs = [ArmOutput.from_text(arm.arm, arm.text, answer_type) for arm in group.arms]
    result = reward_group(
        outputs,
        record.gold,
        counterfactual=None if paired is None else paired.group([arm.arm for arm in group.arms]),
        config=config,
        answer_type=answer_type,
    )
    return ScoredGroup(
        record=record,
        group=group,
        scores=result.scores,
        rewards=result.rewards,
        parts=result.parts,
        trained=_trained(record, group, config, result.rewards),
        paired=paired,
    )


def with_functions(
    scored: ScoredGroup,
    by_function: Mapping[str, Sequence[float | None]],
    weight_of: Mapping[str, float],
    config: RewardConfig,
) -> ScoredGroup:
    """The group with rewards that are the weighted sums of what the functions gave.

    Args:
        scored: The group as scored by Regime W.
        by_function: What each function gave each completion.
        weight_of: The functions' weights.
        config: Its ``selection`` says which completions train.

    Raises:
        RewardFunctionError: A reward, its product with the weight, or the sum is too large for float32.
    """
    totals: list[list[float]] = []
    for index, given in enumerate(zip(*by_function.values(), strict=True)):
        completion = f"completion {index} of question {scored.record.id!r}"
        gave = {name: r for name, r in zip(by_function, given, strict=True) if r is not None}
        terms = {name: weight_of[name] * reward for name, reward in gave.items()}
        for name, term in terms.items():
            _check_size(name, completion, gave[name], term)
        _check_size(" + ".join(terms), completion, math.fsum(terms.values()))
        totals.append(list(terms.values()))
    rewards = tuple(math.fsum(terms) for terms in totals)
    unrewarded = frozenset(index for index, terms in enumerate(totals) if not terms)
    weight = weight_of.get(REGIME_W, 0.0)
    return replace(
        scored,
        rewards=rewards,
        parts=tuple(
            RewardParts(weight * part.base, weight * part.coherence, weight * part.length)
            for part in scored.parts
        ),
        trained=_trained(scored.record, scored.group, config, rewards, unrewarded),
        by_function=by_function,
        unrewarded=unrewarded,
    )


def _check_size(name: str, completion: str, *rewards: float) -> None:
    for reward in rewards:
        if not abs(reward) <= _MAX_REWARD:
            raise RewardFunctionError(
                f"reward.functions: {name}: a reward of {reward:g} for {completion} is too large for float32: "
                "return smaller ones, or lower reward.weights, and start the same command again"
            )


def _trained(
    record: Record,
    group: ArmGroup,
    config: RewardConfig,
    rewards: Sequence[float],
    unrewarded: frozenset[int] = frozenset(),
) -> tuple[int, ...]:
    """Indices of the completions that train."""
    indices = [index for index in range(len(rewards)) if index not in unrewarded]
    chosen = select_arms(
        [rewards[index] for index in indices],
        config.selection,
        random.Random(f"{record.id}/{group.policy_version}"),
    )
    return tuple(indices[place] for place in chosen)


Score = Callable[[Record, ArmGroup, RewardConfig, PairedQuestion | None], ScoredGroup]
"""A function that scores and rewards a group: `score_group` or a replacement."""

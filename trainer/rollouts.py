"""From questions to scored groups, generated while the trainer trains.

`RolloutPipeline` keeps requests for the next batches in flight on a thread of its own, so that the
server never waits for the trainer. How far it runs ahead is the staleness that PPO accepts.
"""

import asyncio
import random
import time
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass

from anyio.from_thread import BlockingPortal

from inference_server.schemas import ArmGroup, ArmsRequest, FinishReason, Priority, Question
from regime_w import ArmOutput, GroupScores, RewardConfig, reward_group, select_arms
from trainer.batch import Sample
from trainer.client import ArmsClient
from trainer.config import RolloutConfig
from trainer.data import QuestionStream, Record
from trainer.errors import ServerError


@dataclass(frozen=True, kw_only=True)
class ScoredGroup:
    """One question's completions with what they earned."""

    record: Record
    group: ArmGroup
    scores: GroupScores
    rewards: tuple[float, ...]
    """One a completion, in the order of ``group.arms``."""
    trained: tuple[int, ...]
    """Places of the completions that train, by ``reward.selection``."""

    @property
    def samples(self) -> list[Sample]:
        """The completions that train, as PPO sees them."""
        return [self._sample(place) for place in self.trained]

    def _sample(self, place: int) -> Sample:
        arm = self.group.arms[place]
        return Sample(
            prompt_ids=tuple(arm.prompt_token_ids),
            completion_ids=tuple(arm.token_ids),
            sampler_logprobs=tuple(arm.logprobs),
            temperature=arm.temperature,
            top_p=arm.top_p,
            reward=self.rewards[place],
            truncated=arm.finish_reason is FinishReason.LENGTH,
            version=self.group.policy_version,
        )

    def to_json(self, step: int) -> dict[str, object]:
        """A line of ``rollouts/step-….jsonl``: the recipe's fields, tokens, logprobs, version."""
        return {
            "step": step,
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
    version: int
    """The version that generated all of them."""
    generate_s: float
    """From the first request to the last answer."""
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
        trained=select_arms(
            result.rewards,
            config.selection,
            random.Random(f"{record.id}/{group.policy_version}"),
        ),
    )


class RolloutPipeline:
    """Keeps ``max_staleness`` batches in flight beside the one that is being waited for."""

    def __init__(
        self,
        client: ArmsClient,
        portal: BlockingPortal,
        questions: QuestionStream,
        rollout: RolloutConfig,
        reward: RewardConfig,
    ):
        """Made by `open_pipeline`; requests start with the first `next_batch`."""
        self._client = client
        self._portal = portal
        self._questions = questions
        self._rollout = rollout
        self._reward = reward
        self._in_flight: deque[Future[RolloutBatch]] = deque()
        self.consumed_cursor = questions.cursor
        """The question cursor to resume from: batches in flight are asked for again."""

    def next_batch(self, *, version: int, num_ahead: int) -> RolloutBatch:
        """Wait for the oldest batch in flight, having asked ``version`` for the ones after it.

        Every request names its version, so no group can be older than ``max_staleness`` when its
        turn comes, and none can silently be generated by something else.

        Args:
            version: The version that generates what is asked for now.
            num_ahead: How many batches after this one will still be needed.
        """
        while len(self._in_flight) <= min(self._rollout.max_staleness, num_ahead):
            records = self._questions.take(self._rollout.questions_per_step)
            self._in_flight.append(
                self._portal.start_task_soon(
                    self._generate, records, version, self._questions.cursor
                )
            )
        batch = self._in_flight.popleft().result()
        self.consumed_cursor += self._rollout.questions_per_step
        return batch

    async def _generate(self, records: Sequence[Record], version: int, salt: int) -> RolloutBatch:
        """Ask for each question's group on its own, so that one failure costs one group."""
        started = time.monotonic()
        results = await asyncio.gather(
            *(self._generate_group(record, version, salt) for record in records)
        )
        return RolloutBatch(
            groups=tuple(group for group, _ in results),
            version=version,
            generate_s=time.monotonic() - started,
            num_dropped_groups=sum(dropped for _, dropped in results),
        )

    async def _generate_group(
        self, record: Record, version: int, salt: int
    ) -> tuple[ScoredGroup, int]:
        request = ArmsRequest(
            questions=[Question(id=record.id, question=record.question)],
            arms=None if self._rollout.arms is None else list(self._rollout.arms),
            samples_per_arm=self._rollout.samples_per_arm,
            max_tokens=self._rollout.max_tokens,
            # The server mixes in the question, the arm and the sample; the salt tells epochs apart.
            seed=None if self._rollout.seed is None else self._rollout.seed * 1_000_003 + salt,
            policy=version,
            # Somebody who asks the policy a question does not wait for a whole batch.
            priority=Priority.ROLLOUT,
        )
        num_dropped = 0
        while True:
            (group,) = (await self._client.generate(request)).groups
            if group.policy_version != version:
                raise ServerError(
                    f"asked version {version} for a group and got one of {group.policy_version}"
                )
            # An aborted completion is neither right nor wrong: ask again instead of scoring it.
            if not any(arm.finish_reason is FinishReason.ABORT for arm in group.arms):
                return score_group(record, group, self._reward), num_dropped
            num_dropped += 1

    def cancel(self) -> None:
        """Give up what is in flight; the server aborts it when the connections close."""
        for future in self._in_flight:
            future.cancel()
        self._in_flight.clear()


@contextmanager
def open_pipeline(
    client: ArmsClient,
    portal: BlockingPortal,
    questions: QuestionStream,
    rollout: RolloutConfig,
    reward: RewardConfig,
) -> Iterator[RolloutPipeline]:
    """A pipeline whose requests are cancelled when the block is left, by error or not."""
    pipeline = RolloutPipeline(client, portal, questions, rollout, reward)
    try:
        yield pipeline
    finally:
        pipeline.cancel()

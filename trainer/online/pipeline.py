"""From questions to scored rollouts, generated while the trainer trains.

`RolloutPipeline` keeps requests for the next batches in flight, so that the server never waits for the
trainer. The staleness that PPO accepts decides how many batches it runs ahead.
"""

import asyncio
import time
from collections import Counter, deque
from collections.abc import Coroutine, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Self, TypeVar

from inference_server.wire.schemas import ArmGroup
from regime_w import RewardConfig
from trainer.client.ask_groups import group_request
from trainer.config.sections import RolloutConfig
from trainer.console.timing import BusyTime
from trainer.data.sources import Record
from trainer.online.versions import Versions
from trainer.rollouts.groups import (
    RolloutBatch,
    Score,
    ScoredGroup,
    as_paired,
)
from trainer.rollouts.questions import QuestionBatch, QuestionStream

_T = TypeVar("_T")
_SPARES_PER_QUESTION = 2
"""Bounds dynamic sampling: with a policy that solves every question, it must not go on asking forever."""


_SALTS_OF_A_RUN = 2**40
"""Larger than the salt of any question batch in a run."""


@dataclass(kw_only=True)
class _Tally:
    """Sums over the groups of a batch."""

    num_dropped: int = 0
    score_s: float = 0.0


class RolloutPipeline:
    """Keeps ``max_staleness`` batches in flight besides the one that the trainer waits for.

    Use it as a context manager: leaving the block cancels what is in flight.
    """

    def __init__(
        self,
        versions: Versions,
        questions: QuestionStream,
        rollout: RolloutConfig,
        reward: RewardConfig,
        score: Score,
    ):
        self.questions = questions
        self.server_busy = BusyTime()
        self._versions = versions
        self._rollout = rollout
        self._reward = reward
        self._score = score
        # Not on the request thread, which a slow reward function would hold up.
        self._scoring = ThreadPoolExecutor(max_workers=1)
        self._in_flight: deque[tuple[QuestionBatch, Future[RolloutBatch]]] = deque()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        # The server aborts a request when the request's connection closes.
        for _, future in self._in_flight:
            future.cancel()
        self._in_flight.clear()
        self._scoring.shutdown(wait=False, cancel_futures=True)

    def ask(self, version: int, *, num_needed: int) -> None:
        """Ask a version for batches until as many are in flight as staleness allows.

        If a killed run had asked an earlier version for a batch, that version is asked for it again. Every
        request names its version, so no other version can answer, and no group can be older than
        ``max_staleness`` when it is trained on.

        Args:
            version: The newest version.
            num_needed: How many batches the run still needs.
        """
        count = self._rollout.questions_per_step
        num_spares = _SPARES_PER_QUESTION * count if self._rollout.dynamic_sampling else 0
        while len(self._in_flight) < min(self._rollout.max_staleness + 1, num_needed):
            questions = self.questions.take(count, num_spares=num_spares, version=version)
            future = self._versions.requests.start(self._generate, questions)
            self._in_flight.append((questions, future))

    def next_batch(self) -> RolloutBatch:
        """Wait for the oldest batch in flight; its questions are not asked again after a resume."""
        questions, future = self._in_flight[0]
        batch = future.result()
        self._in_flight.popleft()
        self.questions.done(questions, batch.solved)
        return batch

    async def _generate(self, questions: QuestionBatch) -> RolloutBatch:
        started, tally = time.monotonic(), _Tally()

        async def ask_all(pairs: Sequence[tuple[Record, Record | None]]) -> list[ScoredGroup]:
            """Ask for each question's group in a request of its own, so that a failure costs only one group."""
            times = _earlier_occurrences([record.id for record, _ in pairs])
            asked = (
                self._generate_pair(*pair, questions, nth, tally)
                for pair, nth in zip(pairs, times, strict=True)
            )
            return [group for pair in await _all_or_none(asked) for group in pair]

        groups = await ask_all(questions.pairs)
        replaced: list[ScoredGroup] = []
        # In rounds, not group by group: which spare replaces which group must not depend on the order of answers.
        spares = iter(questions.spares)
        while drawn := list(
            zip((i for i, group in enumerate(groups) if group.zero_variance), spares, strict=False)
        ):
            fresh = await ask_all([(record, None) for _, record in drawn])
            for (index, _), group in zip(drawn, fresh, strict=True):
                replaced.append(groups[index])
                groups[index] = group
        return RolloutBatch(
            groups=tuple(groups),
            replaced=tuple(replaced),
            version=questions.version,
            generate_s=time.monotonic() - started,
            score_s=tally.score_s,
            num_dropped_groups=tally.num_dropped,
        )

    async def _generate_pair(
        self,
        record: Record,
        counterfactual: Record | None,
        questions: QuestionBatch,
        nth: int,
        tally: _Tally,
    ) -> list[ScoredGroup]:
        """The scored group of a question, or the groups of a question and its counterfactual, scored together."""
        if counterfactual is None:
            group = await self._generate_group(record, questions, nth, tally)
            return [await self._scored(record, group, None, tally)]
        both = record, counterfactual
        asked = (self._generate_group(each, questions, nth, tally) for each in both)
        first, second = zip(both, await _all_or_none(asked), strict=True)
        return [
            await self._scored(*first, second, tally),
            await self._scored(*second, first, tally),
        ]

    async def _generate_group(
        self, record: Record, questions: QuestionBatch, nth: int, tally: _Tally
    ) -> ArmGroup:
        seed = self._rollout.seed
        # The batch's salt gives a question different seeds in each epoch. A question that comes up again within
        # the batch, because an epoch ends in it, gets different seeds by ``nth``.
        salt = questions.salt + nth * _SALTS_OF_A_RUN
        salted = None if seed is None else (seed * 1_000_003 + salt) % 2**63
        request = group_request(record, self._rollout, version=questions.version, seed=salted)
        with self.server_busy:
            group, num_lost = await self._versions.group(request)
        tally.num_dropped += num_lost
        return group

    async def _scored(
        self,
        record: Record,
        group: ArmGroup,
        paired: tuple[Record, ArmGroup] | None,
        tally: _Tally,
    ) -> ScoredGroup:
        def score() -> ScoredGroup:
            started = time.monotonic()
            other = None if paired is None else as_paired(*paired, beside=group)
            scored = self._score(record, group, self._reward, other)
            tally.score_s += time.monotonic() - started
            return scored

        return await asyncio.get_running_loop().run_in_executor(self._scoring, score)


async def _all_or_none(coroutines: Iterable[Coroutine[Any, Any, _T]]) -> list[_T]:
    """The results of coroutines that run at the same time; if one fails, the others are cancelled before this does."""
    tasks = [asyncio.create_task(coroutine) for coroutine in coroutines]
    try:
        return await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _earlier_occurrences(ids: Sequence[str]) -> list[int]:
    """For each id, how many times it occurs earlier in the list."""
    counted: Counter[str] = Counter()
    found = []
    for name in ids:
        found.append(counted[name])
        counted[name] += 1
    return found

"""Admission of arms requests: checks, limits and deadlines before anything is generated."""

import asyncio
import math
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager

from inference_server.arms.prompts import plan_groups
from inference_server.arms.queue import Queue
from inference_server.arms.request import (
    check_characters,
    check_counts,
    resolve_arms,
    resolve_questions,
)
from inference_server.arms.run import ArmsRun, Serving
from inference_server.errors import Busy, DeadlineExceeded
from inference_server.settings import Settings
from inference_server.wire.prompt_options import resolve_format
from inference_server.wire.schemas import ArmsRequest, Priority

# Completions of a priority that a replica has at a time: twice what it runs at once. It would accept many more, but the
# cost of accepting and aborting them grows faster than their number, and the replica answers nothing meanwhile.
_MAX_QUEUED = 1024


class ArmsGenerator:
    """Admits arms requests.

    Args:
        serving: What the groups are made with.
        settings: Limits on one request and on all requests in flight.
    """

    def __init__(self, serving: Serving, settings: Settings) -> None:
        """See the class."""
        self._serving = serving
        self._settings = settings
        max_queued = _MAX_QUEUED * serving.engine.traits.num_replicas
        # One per priority, as in `_admit`: rollouts that wait for a place never keep ad-hoc requests waiting.
        self._queues = {priority: Queue(max_queued) for priority in Priority}
        self._num_groups_in_flight = dict.fromkeys(Priority, 0)

    @property
    def num_groups_in_flight(self) -> int:
        """Groups that were admitted and have not ended."""
        return sum(self._num_groups_in_flight.values())

    @asynccontextmanager
    async def open(self, request: ArmsRequest) -> AsyncIterator[ArmsRun]:
        """Checks and admits a request and tokenizes its prompts; it counts as in flight within the block.

        Raises:
            InvalidRequest: The request cannot be served.
            NotFound: It names an unknown version.
            Busy: Too many groups are in flight.
            DeadlineExceeded: The prompts were not tokenized, or the gold answers not read, in time.
        """
        serving, traits = self._serving, self._serving.engine.traits
        check_counts(request, self._settings)
        serving.replicas.check(request.replica)
        arms = resolve_arms(request.arms)
        questions = resolve_questions(request)
        check_characters(questions, arms, traits.max_model_len_tokens)
        if isinstance(request.policy, int):
            serving.versions.info(request.policy, field="policy")
        longest_s = min(request.timeout_s or math.inf, self._settings.max_request_s)
        deadline = asyncio.get_running_loop().time() + longest_s
        prompt_format = resolve_format(
            request.prompt_format, has_chat_template=traits.has_chat_template
        )
        with self._admit(request.priority, len(questions)):
            try:
                async with asyncio.timeout_at(deadline):
                    if request.score:
                        await serving.scorer.check_golds(questions)
                    plans = await plan_groups(
                        serving.engine, request, prompt_format, questions, arms
                    )
            except TimeoutError as error:
                raise DeadlineExceeded(
                    "the prompts were not tokenized, or the gold answers not read, in time; ask fewer or "
                    "shorter questions, or raise timeout_s"
                ) from error
            yield ArmsRun(
                request=request,
                prompt_format=prompt_format,
                plans=plans,
                serving=serving,
                deadline=deadline,
                queue=self._queues[request.priority],
            )

    @contextmanager
    def _admit(self, priority: Priority, num_groups: int) -> Iterator[None]:
        # One limit per priority: rollouts that reach theirs never block ad-hoc requests.
        limit, in_flight = self._settings.max_groups_in_flight, self._num_groups_in_flight
        if in_flight[priority] + num_groups > limit:
            raise Busy(
                f"{in_flight[priority]} groups are in flight and {num_groups} more would exceed "
                f"the limit of {limit}"
            )
        in_flight[priority] += num_groups
        gauge = self._serving.metrics.groups_in_flight.labels(priority)
        gauge.inc(num_groups)
        try:
            yield
        finally:
            in_flight[priority] -= num_groups
            gauge.dec(num_groups)

"""Concurrent calls that end together, and calls that many callers share."""

import asyncio
from collections.abc import Callable, Coroutine, Iterable
from typing import Any, TypeVar

_T = TypeVar("_T")


async def gather_or_cancel(calls: Iterable[Coroutine[Any, Any, _T]]) -> list[_T]:
    """Runs calls concurrently; the first failure cancels the others and is raised as itself."""
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(call) for call in calls]
    except BaseExceptionGroup as failures:
        raise failures.exceptions[0] from failures
    return [task.result() for task in tasks]


class SharedCall:
    """A call that runs at most once at a time: callers that ask meanwhile share its result."""

    def __init__(self) -> None:
        """Nothing runs yet."""
        self._task: asyncio.Task[Any] | None = None

    async def run(self, call: Callable[[], Coroutine[Any, Any, _T]]) -> _T:
        """The result of the call that is running, or of a new one.

        Cancelling one caller does not cancel the shared call.
        """
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(call())
            # If all callers have gone, nobody else retrieves its error.
            self._task.add_done_callback(lambda task: task.cancelled() or task.exception())
        result: _T = await asyncio.shield(self._task)
        return result

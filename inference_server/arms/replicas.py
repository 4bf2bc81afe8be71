"""Which of an engine's replicas generates a group."""

from collections.abc import Iterator
from contextlib import contextmanager

from inference_server.errors import InvalidRequest


class Replicas:
    """Gives each group to the replica that has the fewest completions to do.

    A group stays on one replica, so that its completions are proof of what that replica serves.
    """

    def __init__(self, num_replicas: int) -> None:
        """See the class; with one replica there is nothing to choose."""
        self._num_in_flight = [0] * num_replicas

    def check(self, asked: int | None) -> None:
        """Checks the number of a replica that a request asks for.

        Raises:
            InvalidRequest: The number is out of range.
        """
        if asked is not None and asked >= len(self._num_in_flight):
            raise InvalidRequest(
                f"replica {asked}; the server has {len(self._num_in_flight)}, numbered from 0",
                "replica",
            )

    @contextmanager
    def lease(self, asked: int | None, num_completions: int) -> Iterator[int | None]:
        """The replica for a group: the one asked for, else the least loaded; None if there is only one."""
        if len(self._num_in_flight) == 1:
            yield None
            return
        chosen = asked
        if chosen is None:
            chosen = self._num_in_flight.index(min(self._num_in_flight))
        self._num_in_flight[chosen] += num_completions
        try:
            yield chosen
        finally:
            self._num_in_flight[chosen] -= num_completions

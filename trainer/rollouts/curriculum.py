"""Decides which questions rest for some epochs: those that every completion solves."""

import zlib
from collections.abc import Mapping

_MAX_REST_DOUBLINGS = 3
"""A solved question is asked in at least every eighth epoch, because policies forget."""


class Curriculum:
    """Lets questions rest that all completions solve, longer the more often this happens in a row.

    After ``rest_after`` times in a row, a question is asked only in every second epoch; after one more
    time in every fourth, then in every eighth. After one failure it is asked in every epoch again.
    """

    def __init__(self, rest_after: int | None, streaks: Mapping[str, int]):
        """If ``rest_after`` is None, every question is asked in every epoch."""
        self._rest_after = rest_after
        self.streaks = dict(streaks)

    def record(self, solved: Mapping[str, bool]) -> None:
        """Record outcomes: for each question id, whether all completions were right."""
        for question_id, all_right in solved.items():
            if all_right and self._rest_after is not None:
                self.streaks[question_id] = self.streaks.get(question_id, 0) + 1
            else:
                self.streaks.pop(question_id, None)

    def is_due(self, question_id: str, epoch: int) -> bool:
        """Whether the question is asked in an epoch."""
        if self._rest_after is None:
            return True
        num_doublings = self.streaks.get(question_id, 0) - self._rest_after + 1
        period = 1 << min(max(0, num_doublings), _MAX_REST_DOUBLINGS)
        # The checksum spreads resting questions over the epochs.
        return (zlib.crc32(question_id.encode()) + epoch) % period == 0

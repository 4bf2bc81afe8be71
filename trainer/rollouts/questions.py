"""Which questions are asked next: shuffled epochs, spares for refills, rest for what is solved.

Enters: records and what became of their groups. Leaves: the questions of each step. A `QuestionState`
is all there is to resume from; questions that were asked but not trained on are asked again.
"""

import random
import zlib
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Self

from pydantic import BaseModel, ConfigDict

from trainer.data.sources import Record
from trainer.errors import DataError

_MAX_REST_DOUBLINGS = 3
"""At its rarest a solved question is asked in every eighth epoch: policies forget."""


@dataclass(frozen=True, kw_only=True)
class QuestionBatch:
    """The questions of one step."""

    records: tuple[Record, ...]
    spares: tuple[Record, ...]
    """Asked, in this order, instead of questions whose groups teach nothing."""
    salt: int
    """No two batches of a run have the same; it tells epochs apart in seeds."""
    version: int
    """The version of the policy that is asked."""


class PendingQuestions(BaseModel):
    """A `QuestionBatch` that was handed out and not trained on, by the ids of its records."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    records: tuple[str, ...]
    spares: tuple[str, ...]
    salt: int
    version: int | None = None
    """The version that was asked; None leaves it to whoever asks again."""


class QuestionState(BaseModel):
    """Where a `QuestionStream` stands."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    cursor: int = 0
    """Positions in the shuffled epochs that were drawn or skipped."""
    pending: tuple[PendingQuestions, ...] = ()
    """Oldest first."""
    streaks: dict[str, int] = {}
    """Ids of questions to how many times in a row all completions solved them, where at all."""

    @property
    def versions(self) -> set[int]:
        """The versions that were asked for what is pending."""
        return {batch.version for batch in self.pending if batch.version is not None}

    def without_version(self, version: int) -> Self:
        """The same, but that what was asked of a version is asked of another when its turn comes."""
        pending = tuple(
            batch.model_copy(update={"version": None}) if batch.version == version else batch
            for batch in self.pending
        )
        return self.model_copy(update={"pending": pending})


class Curriculum:
    """Lets a question rest that all completions solve, the longer the more often in a row.

    After ``rest_after`` times in a row a question is asked in every second epoch, after one more
    time in every fourth, then in every eighth. One failure, and it is asked in every epoch again.
    """

    def __init__(self, rest_after: int | None, streaks: Mapping[str, int]):
        """``rest_after`` None lets nothing rest."""
        self._rest_after = rest_after
        self.streaks = dict(streaks)

    def record(self, solved: Mapping[str, bool]) -> None:
        """Take in what became of some questions: their ids to whether all completions were right."""
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
        # The checksum spreads the questions that rest over the epochs.
        return (zlib.crc32(question_id.encode()) + epoch) % period == 0


class QuestionStream:
    """Hands out the questions of each step, epoch after shuffled epoch."""

    def __init__(
        self,
        records: Sequence[Record],
        *,
        seed: int,
        rest_after: int | None = None,
        state: QuestionState | None = None,
    ):
        """Start anew, or from a ``state``.

        Args:
            records: All questions.
            seed: Of the shuffles and of the spares.
            rest_after: See `Curriculum`.
            state: Where an earlier stream stood.

        Raises:
            DataError: The state asks for a question that is not among the records.
        """
        state = state or QuestionState()
        self._records = records
        self._seed = seed
        self._curriculum = Curriculum(rest_after, state.streaks)
        self._cursor = state.cursor
        self._order: list[int] = []
        self._epoch = -1
        self._again = deque(state.pending)
        self._by_id = {record.id: record for record in records}
        self._require_records()
        self._open: list[QuestionBatch] = []

    @property
    def state(self) -> QuestionState:
        """Enough to go on from here as if nothing had happened."""
        return QuestionState(
            cursor=self._cursor,
            pending=(*map(_by_ids, self._open), *self._again),
            streaks=dict(self._curriculum.streaks),
        )

    def take(self, count: int, *, version: int, num_spares: int = 0) -> QuestionBatch:
        """The questions of the next step; those that are asked again keep count, spares and version.

        Args:
            count: How many questions.
            version: Whom to ask.
            num_spares: How many spares at most; a small set of records may have fewer.
        """
        if self._again:
            batch = self._find(self._again.popleft(), version)
        else:
            batch = self._draw(count, version, num_spares)
        self._open.append(batch)
        return batch

    def done(self, batch: QuestionBatch, solved: Mapping[str, bool]) -> None:
        """Note that a batch need not be asked again.

        Args:
            batch: From `take`.
            solved: Ids of the questions that were asked of it to whether all completions were right.
        """
        self._open.remove(batch)
        self._curriculum.record(solved)

    def _draw(self, count: int, version: int, num_spares: int) -> QuestionBatch:
        records = tuple(self._next() for _ in range(count))
        return QuestionBatch(
            records=records,
            spares=self._spares(records, num_spares),
            salt=self._cursor,
            version=version,
        )

    def _next(self) -> Record:
        while True:  # Everything is due in some epoch.
            epoch, index = divmod(self._cursor, len(self._records))
            if epoch != self._epoch:
                self._order = list(range(len(self._records)))
                random.Random(f"{self._seed}/{epoch}").shuffle(self._order)
                self._epoch = epoch
            self._cursor += 1
            record = self._records[self._order[index]]
            if self._curriculum.is_due(record.id, epoch):
                return record

    def _spares(self, records: Sequence[Record], num_spares: int) -> tuple[Record, ...]:
        """Other questions at random. The cursor does not move: how many are used is not known yet."""
        if not num_spares:
            return ()
        rng = random.Random(f"{self._seed}/spares/{self._cursor}")
        num_drawn = min(len(self._records), num_spares + len(records))
        asked = {record.id for record in records}
        drawn = [self._records[i] for i in rng.sample(range(len(self._records)), num_drawn)]
        due = [r for r in drawn if self._curriculum.is_due(r.id, self._epoch)]
        return tuple(record for record in due if record.id not in asked)[:num_spares]

    def _find(self, pending: PendingQuestions, version: int) -> QuestionBatch:
        return QuestionBatch(
            records=tuple(self._by_id[name] for name in pending.records),
            spares=tuple(self._by_id[name] for name in pending.spares),
            salt=pending.salt,
            version=version if pending.version is None else pending.version,
        )

    def _require_records(self) -> None:
        for batch in self._again:
            for name in (*batch.records, *batch.spares):
                if name not in self._by_id:
                    raise DataError(
                        f"the checkpoint asks question {name!r} again, which the data does not "
                        "have; resume with the data.source, data.num_questions and data.seed of "
                        "the run"
                    )


def _by_ids(batch: QuestionBatch) -> PendingQuestions:
    return PendingQuestions(
        records=tuple(record.id for record in batch.records),
        spares=tuple(record.id for record in batch.spares),
        salt=batch.salt,
        version=batch.version,
    )

"""Decides which questions are asked next: shuffled epochs, spares for dynamic sampling, rest for solved questions.

The input is the records and the outcomes of their groups; the output is the questions of each step. A `QuestionState`
is enough to resume: questions that were asked but not trained on are asked again.
"""

import math
import random
from collections import deque
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Self

from pydantic import BaseModel, ConfigDict

from trainer.data.counterfactuals import Counterfactuals, question_id
from trainer.data.sources import Record
from trainer.errors import DataError
from trainer.rollouts.curriculum import Curriculum


@dataclass(frozen=True, kw_only=True)
class QuestionBatch:
    """The questions of one step."""

    records: tuple[Record, ...]
    spares: tuple[Record, ...]
    """Dynamic sampling asks these, in this order, in place of questions whose groups have no variance."""
    salt: int
    """Differs between any two batches of a run, so that seeds differ between epochs."""
    version: int
    """The version of the policy that generates the completions."""

    @property
    def pairs(self) -> list[tuple[Record, Record | None]]:
        """Each question with its counterfactual, if the counterfactual follows it."""
        pairs: list[tuple[Record, Record | None]] = []
        for record in self.records:
            if pairs and record.counterfactual_of == pairs[-1][0].id:
                pairs[-1] = (pairs[-1][0], record)
            else:
                pairs.append((record, None))
        return pairs


class PendingQuestions(BaseModel):
    """A `QuestionBatch` that was handed out but not trained on; records are given by their ids."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    records: tuple[str, ...]
    spares: tuple[str, ...]
    salt: int
    version: int | None = None
    """The version that was asked; None lets the caller of `QuestionStream.take` choose."""


class QuestionState(BaseModel):
    """The state of a `QuestionStream`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    cursor: int = 0
    """How many positions in the shuffled epochs were drawn or skipped."""
    pending: tuple[PendingQuestions, ...] = ()
    """Oldest first."""
    streaks: dict[str, int] = {}
    """By question id, how many times in a row all completions were right; never 0."""

    @property
    def versions(self) -> set[int]:
        """The versions that were asked the pending questions."""
        return {batch.version for batch in self.pending if batch.version is not None}

    def without_version(self, version: int) -> Self:
        """The state in which another version may be asked the pending questions of this version."""
        pending = tuple(
            batch.model_copy(update={"version": None}) if batch.version == version else batch
            for batch in self.pending
        )
        return self.model_copy(update={"pending": pending})


class QuestionStream:
    """Hands out the questions of each step, epoch after shuffled epoch."""

    def __init__(
        self,
        records: Sequence[Record],
        *,
        seed: int,
        rest_after: int | None = None,
        state: QuestionState | None = None,
        counterfactuals: Counterfactuals | None = None,
        counterfactual_share: float = 0.0,
        too_long: Collection[str] = (),
    ):
        """Start from the beginning, or continue from a ``state``.

        Args:
            records: All questions.
            seed: Seeds the shuffles and the spares.
            rest_after: See `Curriculum`.
            state: The state of an earlier stream.
            counterfactuals: Makes the records' counterfactuals; without it there are none.
            counterfactual_share: The share of the questions that are counterfactuals, each right after its
                question; it is lower if too few questions of a step have one.
            too_long: Ids of questions that are not among the records because the server's context has no room for them.

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
        self._counterfactuals = counterfactuals or Counterfactuals(())
        self._counterfactual_share = counterfactual_share
        self._too_long = too_long
        for batch in self._again:
            for name in (*batch.records, *batch.spares):
                self._record(name)
        self._open: list[QuestionBatch] = []

    @property
    def state(self) -> QuestionState:
        """Everything that a new stream needs to continue exactly here."""
        return QuestionState(
            cursor=self._cursor,
            pending=(*map(_by_ids, self._open), *self._again),
            streaks=dict(self._curriculum.streaks),
        )

    def take(self, count: int, *, version: int, num_spares: int = 0) -> QuestionBatch:
        """The questions of the next step. Pending batches come first, with their own count, spares and version.

        Args:
            count: The number of questions.
            version: The version to ask.
            num_spares: The most spares; a small set of records may yield fewer.
        """
        if self._again:
            batch = self._find(self._again.popleft(), version)
        else:
            batch = self._draw(count, version, num_spares)
        self._open.append(batch)
        return batch

    def done(self, batch: QuestionBatch, solved: Mapping[str, bool]) -> None:
        """Record that a batch need not be asked again.

        Args:
            batch: A batch from `take`.
            solved: For the id of each question that was asked, whether all completions were right.
        """
        self._open.remove(batch)
        self._curriculum.record(solved)

    def _draw(self, count: int, version: int, num_spares: int) -> QuestionBatch:
        records: list[Record] = []
        # The fractional part is rounded up with a probability equal to itself, so that the share holds over a run.
        rounding = random.Random(f"{self._seed}/counterfactuals/{self._cursor}").random()
        num_pairs = math.floor(self._counterfactual_share * count + rounding)
        while len(records) < count:
            records.append(self._next())
            if num_pairs and len(records) < count:
                counterfactual = self._counterfactuals.of(records[-1])
                if counterfactual is not None:
                    records.append(counterfactual)
                    num_pairs -= 1
        return QuestionBatch(
            records=tuple(records),
            spares=self._spares(records, num_spares),
            salt=self._cursor,
            version=version,
        )

    def _next(self) -> Record:
        while True:  # Every question is due in some epoch.
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
        """Other questions, drawn at random. The cursor stays, since it is unknown how many of them will be used."""
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
            records=tuple(map(self._record, pending.records)),
            spares=tuple(map(self._record, pending.spares)),
            salt=pending.salt,
            version=version if pending.version is None else pending.version,
        )

    def _record(self, name: str) -> Record:
        found = self._by_id.get(name) or self._counterfactuals.find(name)
        if found is None and question_id(name) in self._too_long:
            raise DataError(
                f"the checkpoint asks question {name!r} again, for which the server's context is now too small: start "
                "the server with the --max-model-len that it had before"
            )
        if found is None:
            raise DataError(
                f"the checkpoint asks question {name!r} again, which the data does not have; resume with the "
                "data.source, data.num_questions and data.seed of the run"
            )
        return found


def _by_ids(batch: QuestionBatch) -> PendingQuestions:
    return PendingQuestions(
        records=tuple(record.id for record in batch.records),
        spares=tuple(record.id for record in batch.spares),
        salt=batch.salt,
        version=batch.version,
    )

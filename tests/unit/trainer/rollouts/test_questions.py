"""Which questions come next: shuffles, rests and spares that resume exactly."""

import math
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainer.data.counterfactuals import Counterfactuals
from trainer.data.sources import Record
from trainer.errors import DataError
from trainer.rollouts.curriculum import Curriculum
from trainer.rollouts.questions import (
    PendingQuestions,
    QuestionBatch,
    QuestionState,
    QuestionStream,
)

# Only those of an even number can have a counterfactual.
RECORDS = [
    Record(
        id=str(i),
        question=f"What is {i + 2} + 100?",
        gold=f"<<{i + 2}+100={i + 102}>>#### {i + 102}",
    )
    if i % 2 == 0
    else Record(id=str(i), question=f"q{i}", gold="#### 1")
    for i in range(40)
]


def ids(stream: QuestionStream, count: int) -> list[str]:
    batch = stream.take(count, version=0)
    stream.done(batch, {})
    return [record.id for record in batch.records]


@given(num_records=st.integers(1, 12), seed=st.integers(0, 5), num_epochs=st.integers(1, 4))
def test_every_epoch_asks_every_question_once(num_records: int, seed: int, num_epochs: int) -> None:
    stream = QuestionStream(RECORDS[:num_records], seed=seed)
    for _ in range(num_epochs):
        assert sorted(ids(stream, num_records), key=int) == [str(i) for i in range(num_records)]
    assert stream.state == QuestionState(cursor=num_records * num_epochs)


def test_epochs_and_seeds_shuffle_differently() -> None:
    stream = QuestionStream(RECORDS, seed=0)
    orders = [ids(stream, 40), ids(stream, 40), ids(QuestionStream(RECORDS, seed=1), 40)]
    assert len(set(map(tuple, orders))) == 3
    assert [r.id for r in RECORDS] not in orders


def play(
    stream: QuestionStream, num_steps: int, *, num_ahead: int, first_version: int = 0
) -> list[QuestionBatch]:
    """Play the steps of a run that keeps batches in flight; questions with an even number are always solved.

    Each step begins with a new version, which is asked the questions that are not in flight yet.
    """
    in_flight: list[QuestionBatch] = []
    trained = []
    for step in range(num_steps):
        while len(in_flight) <= num_ahead:
            in_flight.append(stream.take(3, num_spares=4, version=first_version + step))
        batch = in_flight.pop(0)
        asked = [record.id for record in batch.records if record.counterfactual_of is None]
        stream.done(batch, {name: int(name) % 2 == 0 for name in asked})
        trained.append(batch)
    return trained


@given(
    num_records=st.integers(1, 12),
    num_ahead=st.integers(0, 3),
    rest_after=st.none() | st.integers(1, 2),
    killed_after=st.integers(0, 9),
    share=st.sampled_from([0.0, 0.25, 0.5]),
)
def test_a_killed_run_asks_again_what_it_had_not_trained_on_and_then_goes_on(
    num_records: int, num_ahead: int, rest_after: int | None, killed_after: int, share: float
) -> None:
    def start(state: QuestionState | None = None) -> QuestionStream:
        return QuestionStream(
            RECORDS[:num_records],
            seed=3,
            rest_after=rest_after,
            state=state,
            counterfactuals=Counterfactuals(RECORDS),
            counterfactual_share=share,
        )

    stream = start()
    before = play(stream, killed_after, num_ahead=num_ahead)
    state = QuestionState.model_validate_json(stream.state.model_dump_json())
    num_pending = len(state.pending)
    assert num_pending == (num_ahead if killed_after else 0)
    # Nothing that was in flight is skipped or altered, whatever has been learned since.
    whole = play(start(), killed_after + num_ahead, num_ahead=num_ahead)
    assert before == whole[:killed_after]
    assert (
        play(start(state), num_pending, num_ahead=0, first_version=99)
        == whole[killed_after:][:num_pending]
    )


def test_a_run_that_was_stopped_between_steps_goes_on_as_if_it_had_not_been() -> None:
    """Once the resumed run has as much in flight again, it is the same run."""
    whole = play(QuestionStream(RECORDS[:7], seed=3, rest_after=1), 30, num_ahead=1)
    stream = QuestionStream(RECORDS[:7], seed=3, rest_after=1)
    first = play(stream, 11, num_ahead=1)
    resumed = QuestionStream(RECORDS[:7], seed=3, rest_after=1, state=stream.state)
    assert [*first, *play(resumed, 19, num_ahead=1, first_version=11)] == whole
    salts = [batch.salt for batch in whole]
    assert len(set(salts)) == len(salts)


@given(num_records=st.integers(1, 12), count=st.integers(1, 5), num_spares=st.integers(0, 9))
def test_spares_are_other_questions_and_each_but_once(
    num_records: int, count: int, num_spares: int
) -> None:
    batch = QuestionStream(RECORDS[:num_records], seed=1).take(
        count, num_spares=num_spares, version=0
    )
    asked = {record.id for record in batch.records}
    spares = [record.id for record in batch.spares]
    assert len(set(spares)) == len(spares) == min(num_spares, num_records - len(asked))
    assert not asked & set(spares)


def test_a_question_that_the_data_has_lost_is_an_error_that_says_what_to_do() -> None:
    stream = QuestionStream(RECORDS, seed=0)
    stream.take(40, version=0)
    with pytest.raises(DataError, match=r"data\.source") as caught:
        QuestionStream(RECORDS[:3], seed=0, state=stream.state)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("asked", "too_long", "said"),
    [
        ("39", "39", "--max-model-len"),
        ("38~", "38", "--max-model-len"),
        ("39", "38", "data.source"),
    ],
)
def test_a_pending_question_that_a_smaller_context_leaves_out_is_not_said_of_the_data(
    asked: str, too_long: str, said: str
) -> None:
    pending = PendingQuestions(records=(asked,), spares=(), salt=0)
    with pytest.raises(DataError, match=said):
        QuestionStream(
            RECORDS[:3], seed=0, state=QuestionState(pending=(pending,)), too_long={too_long}
        )


def test_what_was_asked_of_a_version_that_is_lost_is_asked_of_another() -> None:
    stream = QuestionStream(RECORDS, seed=0)
    before = [stream.take(2, version=version) for version in (5, 6, 6)]
    assert stream.state.versions == {5, 6}
    state = stream.state.without_version(6)
    assert state.versions == {5}
    resumed = QuestionStream(RECORDS, seed=0, state=state)
    again = [resumed.take(2, version=9) for _ in range(3)]
    assert [batch.version for batch in again] == [5, 9, 9]
    assert [batch.records for batch in again] == [batch.records for batch in before]


# --- counterfactuals ---------------------------------------------------------------------------------


@given(
    count=st.integers(1, 12),
    num_records=st.integers(1, 40),
    share=st.floats(0, 0.5),
    seed=st.integers(0, 3),
)
def test_a_share_of_a_steps_questions_are_counterfactuals_behind_their_question(
    count: int, num_records: int, share: float, seed: int
) -> None:
    stream = QuestionStream(
        RECORDS[:num_records],
        seed=seed,
        counterfactuals=Counterfactuals(RECORDS[:num_records]),
        counterfactual_share=share,
    )
    batch = stream.take(count, version=0)
    assert len(batch.records) == count
    made = [record for record in batch.records if record.counterfactual_of]
    # The last question of a step leaves no room for one.
    questions = [record for record in batch.records[:-1] if not record.counterfactual_of]
    able = [record for record in questions if Counterfactuals(RECORDS).of(record)]
    least, most = math.floor(share * count), math.ceil(share * count)
    assert min(least, len(able)) <= len(made) <= min(most, len(able))
    assert stream.state.cursor == count - len(made)
    pairs = [(question, other) for question, other in batch.pairs if other is not None]
    assert [other for _, other in pairs] == made
    assert all(other.counterfactual_of == question.id for question, other in pairs)
    flat = [r for pair in batch.pairs for r in pair if r is not None]
    assert flat == list(batch.records)


def test_a_share_holds_over_a_run_of_small_steps() -> None:
    records = [record for record in RECORDS if Counterfactuals(RECORDS).of(record)]
    stream = QuestionStream(
        records, seed=0, counterfactuals=Counterfactuals(records), counterfactual_share=0.1
    )
    batches = [stream.take(3, version=0) for _ in range(1000)]
    made = sum(r.counterfactual_of is not None for batch in batches for r in batch.records)
    # 3000 * 0.1, and four standard deviations of a coin of 0.3 in 1000 throws.
    assert made == pytest.approx(300, abs=4 * math.sqrt(1000 * 0.3 * 0.7))


# --- the curriculum --------------------------------------------------------------------------------


def epochs_asked(curriculum: Curriculum, num_epochs: int = 16) -> dict[int, int]:
    """How often each of 64 questions is asked, as a histogram."""
    counts = Counter(
        sum(curriculum.is_due(f"q{i}", epoch) for epoch in range(num_epochs)) for i in range(64)
    )
    return dict(counts)


@pytest.mark.parametrize(
    ("rest_after", "num_solved", "asked"),
    [
        (None, 9, 16),
        (1, 0, 16),
        (1, 1, 8),
        (1, 2, 4),
        (1, 3, 2),
        (1, 9, 2),
        (3, 2, 16),
        (3, 3, 8),
    ],
)
def test_the_more_often_in_a_row_a_question_is_solved_the_rarer_it_is(
    rest_after: int | None, num_solved: int, asked: int
) -> None:
    curriculum = Curriculum(rest_after, {})
    for _ in range(num_solved):
        curriculum.record({f"q{i}": True for i in range(64)})
    assert epochs_asked(curriculum) == {asked: 64}


def test_questions_that_rest_are_spread_over_the_epochs() -> None:
    curriculum = Curriculum(1, {f"q{i}": 3 for i in range(64)})
    due = [sum(curriculum.is_due(f"q{i}", epoch) for i in range(64)) for epoch in range(8)]
    assert sum(due) == 64
    assert all(due)


def test_one_failure_brings_a_question_back_at_once() -> None:
    curriculum = Curriculum(1, {"a": 5, "b": 5})
    curriculum.record({"a": False})
    assert curriculum.streaks == {"b": 5}
    assert all(curriculum.is_due("a", epoch) for epoch in range(8))


def test_a_stream_of_solved_questions_alone_still_asks_something() -> None:
    state = QuestionState(streaks={record.id: 9 for record in RECORDS[:2]})
    stream = QuestionStream(RECORDS[:2], seed=0, rest_after=1, state=state)
    assert set(ids(stream, 8)) == {"0", "1"}

"""The rollout pipeline against a server that answers from memory."""

from collections import Counter
from collections.abc import Callable, Iterator

import anyio
import pytest
from anyio.from_thread import BlockingPortal, start_blocking_portal
from hypothesis import given, settings
from hypothesis import strategies as st

from inference_server.wire.schemas import (
    ArmsRequest,
    ArmsResponse,
    FinishReason,
    Priority,
    Question,
    Usage,
)
from regime_w import ArmSpec, RewardConfig
from regime_w.counterfactual.pairs import PairedQuestion
from tests.unit.groups import RECORDS, REWARD, group_of
from tests.unit.server_stub import ServerStub
from tests.unit.versions_in_memory import versions_for
from trainer.config.sections import RolloutConfig
from trainer.data.counterfactuals import Counterfactuals
from trainer.data.sources import Record
from trainer.errors import ServerError, ServerUnreachableError
from trainer.online.pipeline import RolloutPipeline
from trainer.rollouts.groups import RolloutBatch, ScoredGroup, score_group
from trainer.rollouts.metrics import rollout_metrics
from trainer.rollouts.questions import QuestionStream


class FakeClient(ServerStub):
    """Answers every request at once with the version that it names."""

    def __init__(self) -> None:
        self.requests: list[ArmsRequest] = []
        self.aborts: Counter[str] = Counter()
        """How many more times a question's group comes back aborted."""
        self.all_right: set[str] = set()
        """Questions that both arms solve, in the same words."""
        self.serves: Callable[[int], int | None] = lambda asked: asked
        self.fails_on: set[str] = set()
        self.records = {record.id: record for record in RECORDS}
        self.others_answer = "#### 1000"
        """What the second arm says."""
        self.arms = ("arm_0", "arm_1")

    async def generate(self, request: ArmsRequest) -> ArmsResponse:
        self.requests.append(request)
        (question,) = request.questions
        assert isinstance(question, Question)
        assert isinstance(request.policy, int)
        if question.id in self.fails_on:
            raise ServerUnreachableError("gone")
        record = self.records[question.id]
        reasons = [FinishReason.STOP, FinishReason.LENGTH]
        if self.aborts[record.id]:
            self.aborts[record.id] -= 1
            reasons[1] = FinishReason.ABORT
        version = self.serves(request.policy)
        group = group_of(record, version, *reasons, wrong=self.others_answer, names=self.arms)
        if record.id in self.all_right:
            arms = [arm.model_copy(update={"text": record.gold}) for arm in group.arms]
            group = group.model_copy(update={"arms": arms})
        return ArmsResponse(
            policy_version=version,
            boot_id="b",
            groups=[group],
            usage=Usage(prompt_tokens=0, completion_tokens=0),
        )

    def asked(self) -> list[tuple[str, int]]:
        """(question, version) of every request."""
        return [(asked_id(request), int(request.policy)) for request in self.requests]


def asked_id(request: ArmsRequest) -> str:
    """The id of a one-question request's question."""
    (question,) = request.identified_questions
    return question.id


@pytest.fixture(scope="module")
def portal() -> Iterator[BlockingPortal]:
    with start_blocking_portal() as portal:
        yield portal


def make_pipeline(
    client: FakeClient,
    portal: BlockingPortal,
    stream: QuestionStream,
    reward: RewardConfig = REWARD,
    /,
    **rollout: object,
) -> RolloutPipeline:
    config = RolloutConfig(**rollout)
    return RolloutPipeline(versions_for(client, portal), stream, config, reward, score_group)


def next_batch(pipeline: RolloutPipeline, *, version: int, num_needed: int) -> RolloutBatch:
    """Get the next batch in the way in which a step of the loop does."""
    pipeline.ask(version, num_needed=num_needed)
    return pipeline.next_batch()


# --- order, staleness and bounds -----------------------------------------------------------------


@given(
    questions_per_step=st.integers(1, 3),
    max_staleness=st.integers(0, 3),
    num_steps=st.integers(1, 6),
)
@settings(max_examples=25)
def test_batches_come_in_order_never_too_stale_and_no_more_than_needed(
    questions_per_step: int, max_staleness: int, num_steps: int, portal: BlockingPortal
) -> None:
    client, stream = FakeClient(), QuestionStream(RECORDS, seed=0)
    pipeline = make_pipeline(
        client, portal, stream, questions_per_step=questions_per_step, max_staleness=max_staleness
    )
    same_stream = QuestionStream(RECORDS, seed=0)
    expected = [
        [record.id for record in same_stream.take(questions_per_step, version=0).records]
        for _ in range(num_steps)
    ]
    generated_by: dict[int, int] = {}
    for step in range(num_steps):
        batch = next_batch(pipeline, version=100 + step, num_needed=num_steps - step)
        assert [group.record.id for group in batch.groups] == expected[step]
        samples = [sample for group in batch.groups for sample in group.samples]
        assert {sample.version for sample in samples} == {batch.version}
        generated_by[step] = batch.version
        # As far ahead as staleness allows, but not past the last step.
        asked_batches = min(step + 1 + max_staleness, num_steps)
        assert stream.state.cursor == asked_batches * questions_per_step
        assert len(stream.state.pending) == asked_batches - (step + 1)
    assert generated_by == {step: 100 + max(0, step - max_staleness) for step in range(num_steps)}
    assert len(client.requests) == num_steps * questions_per_step
    asked = Counter(client.asked())
    assert asked == Counter(
        (question, generated_by[step]) for step in range(num_steps) for question in expected[step]
    )


@pytest.mark.parametrize("refill", [False, True])
def test_a_resumed_pipeline_asks_again_for_what_was_in_flight(
    refill: bool, portal: BlockingPortal
) -> None:
    options = {"questions_per_step": 2, "seed": 5, "dynamic_sampling": refill}
    client, stream = FakeClient(), QuestionStream(RECORDS, seed=0)
    client.all_right = {f"r{i}" for i in range(0, 7, 2)}
    pipeline = make_pipeline(client, portal, stream, max_staleness=1, **options)
    next_batch(pipeline, version=1, num_needed=9)
    state = stream.state  # a checkpoint; then the run is killed
    lost = [next_batch(pipeline, version=version, num_needed=9) for version in (2, 3)]

    resumed_client = FakeClient()
    resumed_client.all_right = client.all_right
    resumed_stream = QuestionStream(RECORDS, seed=0, state=state)
    resumed = make_pipeline(resumed_client, portal, resumed_stream, max_staleness=0, **options)
    again = [next_batch(resumed, version=version, num_needed=9) for version in (4, 5)]
    # What was in flight is asked of its own version again.
    assert [batch.version for batch in again] == [lost[0].version, 5]
    for before, after in zip(lost, again, strict=True):
        assert [g.record for g in after.groups] == [g.record for g in before.groups]
        assert [g.record for g in after.replaced] == [g.record for g in before.replaced]
    assert bool(lost[0].replaced or lost[1].replaced) == refill
    # The same seeds, so that on the same weights the same tokens come back.
    seeds = {(asked_id(r), r.seed) for r in resumed_client.requests}
    assert seeds <= {(asked_id(r), r.seed) for r in client.requests}
    assert resumed_stream.state == stream.state.model_copy(update={"pending": (), "cursor": 6})


# --- dynamic sampling -------------------------------------------------------------------------------------


@given(solved=st.sets(st.sampled_from([record.id for record in RECORDS])), seed=st.integers(0, 9))
def test_groups_without_variance_are_replaced_while_spares_last(
    solved: set[str], seed: int, portal: BlockingPortal
) -> None:
    client, stream = FakeClient(), QuestionStream(RECORDS, seed=seed)
    client.all_right = solved
    pipeline = make_pipeline(
        client,
        portal,
        stream,
        questions_per_step=2,
        max_staleness=0,
        dynamic_sampling=True,
    )
    batch = next_batch(pipeline, version=1, num_needed=1)
    first = [r.id for r in QuestionStream(RECORDS, seed=seed).take(2, version=0).records]
    asked = [question for question, _ in client.asked()]
    assert sorted(asked) == sorted(g.record.id for g in (*batch.groups, *batch.replaced))
    assert len(set(asked)) == len(asked) <= 2 + 4
    assert all(group.record.id in solved for group in batch.replaced)
    assert len(batch.groups) == 2
    for index, group in enumerate(batch.groups):
        if first[index] not in solved:
            assert group.record.id == first[index]
    # What is left without variance is left because no spare was.
    assert len(asked) == 6 or not any(group.zero_variance for group in batch.groups)
    assert stream.state.cursor == 2
    assert {version for _, version in client.asked()} == {1}
    metrics = rollout_metrics(batch)
    assert metrics["rollout/num_replaced_groups"] == len(batch.replaced)
    assert metrics["rollout/zero_variance_groups"] == pytest.approx(
        sum(question in solved for question in asked) / len(asked)
    )


def test_without_dynamic_sampling_a_group_without_variance_stays(portal: BlockingPortal) -> None:
    client = FakeClient()
    client.all_right = {record.id for record in RECORDS}
    stream = QuestionStream(RECORDS, seed=0)
    batch = next_batch(
        make_pipeline(client, portal, stream, questions_per_step=2), version=1, num_needed=1
    )
    assert batch.replaced == ()
    assert [group.zero_variance for group in batch.groups] == [True, True]


def test_what_all_arms_solve_again_and_again_is_asked_less_often(portal: BlockingPortal) -> None:
    client = FakeClient()
    client.all_right = {"r1"}
    stream = QuestionStream(RECORDS[:4], seed=0, rest_after=1)
    pipeline = make_pipeline(client, portal, stream, questions_per_step=1, max_staleness=0)
    for version in range(40):
        next_batch(pipeline, version=version, num_needed=1)
    asked = Counter(question for question, _ in client.asked())
    assert asked["r1"] <= 4 < 9 <= min(asked[name] for name in ("r0", "r2", "r3"))


# --- counterfactuals -----------------------------------------------------------------------------


def test_a_pair_is_asked_of_the_same_version_and_scored_together(portal: BlockingPortal) -> None:
    """The first arm answers both right, the second repeats the answer to the first question."""
    client = FakeClient()
    record = Record(id="q", question="What is 3 + 20?", gold="<<3+20=23>>23\n#### 23")
    made = Counterfactuals([record]).of(record)
    assert made is not None
    client.records = {"q": record, made.id: made}
    client.others_answer = "#### 23"
    client.arms = ("wolfram_0", "maudlin_0")
    stream = QuestionStream(
        [record], seed=0, counterfactuals=Counterfactuals([record]), counterfactual_share=0.5
    )
    pipeline = make_pipeline(
        client, portal, stream, RewardConfig(), questions_per_step=2, max_staleness=0
    )
    first, second = next_batch(pipeline, version=3, num_needed=1).groups
    assert client.asked() == [("q", 3), ("q~", 3)]
    assert (first.record, second.record) == (record, made)
    assert (first.scores.correct, second.scores.correct) == ((True, True), (True, False))
    # Of the four contexts the two with the second arm on the counterfactual disagree: (2 / 4 + 0) / 2.
    assert first.scores.s_cf == second.scores.s_cf == pytest.approx(0.25)
    assert first.paired == PairedQuestion(
        id="q~", question="What is 4 + 20?", gold_answer="#### 24", answers=("24", "23")
    )
    assert second.paired == PairedQuestion(
        id="q", question=record.question, gold_answer=record.gold, answers=("23", "23")
    )


def test_what_replaces_a_group_without_variance_is_no_pair(portal: BlockingPortal) -> None:
    client = FakeClient()
    records = [
        Record(id=f"q{i}", question=f"What is {i} + 4?", gold=f"<<{i}+4={i + 4}>>\n#### {i + 4}")
        for i in range(2, 6)
    ]
    made = [c for record in records if (c := Counterfactuals(records).of(record))]
    client.records = {record.id: record for record in (*records, *made)}
    client.all_right = set(client.records)
    stream = QuestionStream(
        records, seed=0, counterfactuals=Counterfactuals(records), counterfactual_share=0.5
    )
    pipeline = make_pipeline(
        client, portal, stream, questions_per_step=2, dynamic_sampling=True, max_staleness=0
    )
    batch = next_batch(pipeline, version=3, num_needed=1)
    assert [group.record.counterfactual_of is None for group in batch.replaced[:2]] == [True, False]
    assert all(group.paired is None for group in batch.groups)
    assert set(batch.solved) <= {record.id for record in records}


# --- requests ----------------------------------------------------------------------------------


def test_a_request_is_one_question_of_one_version_without_its_answer(
    portal: BlockingPortal,
) -> None:
    client = FakeClient()
    arms = (ArmSpec(name="solo", system_prompt="Be brief.", temperature=0.7, top_p=1.0),)
    pipeline = make_pipeline(
        client,
        portal,
        QuestionStream(RECORDS[:1], seed=0),
        questions_per_step=1,
        max_staleness=0,
        samples_per_arm=3,
        max_tokens=17,
        arms=arms,
    )
    next_batch(pipeline, version=12, num_needed=1)
    assert client.requests == [
        ArmsRequest(
            questions=[Question(id="r0", question=RECORDS[0].question)],
            arms=list(arms),
            samples_per_arm=3,
            max_tokens=17,
            seed=None,
            policy=12,
            priority=Priority.ROLLOUT,
        )
    ]
    assert client.requests[0].return_tokens


@pytest.mark.parametrize(("questions_per_step", "num_steps"), [(2, 3), (3, 2), (6, 1)])
def test_a_question_gets_another_seed_in_another_epoch(
    questions_per_step: int, num_steps: int, portal: BlockingPortal
) -> None:
    client = FakeClient()
    pipeline = make_pipeline(
        client,
        portal,
        QuestionStream(RECORDS[:2], seed=0),
        questions_per_step=questions_per_step,
        max_staleness=0,
        seed=3,
    )
    for step in range(num_steps):
        next_batch(pipeline, version=step, num_needed=10)
    for record in RECORDS[:2]:
        seeds = [r.seed for r in client.requests if asked_id(r) == record.id]
        assert len(set(seeds)) == 3
        assert None not in seeds


# --- failures ----------------------------------------------------------------------------------


def test_aborted_groups_are_asked_for_again_counted_and_never_scored(
    portal: BlockingPortal,
) -> None:
    client = FakeClient()
    client.aborts.update({"r1": 2, "r2": 1})
    pipeline = make_pipeline(
        client, portal, QuestionStream(RECORDS[:4], seed=0), questions_per_step=4, max_staleness=0
    )
    batch = next_batch(pipeline, version=7, num_needed=1)
    assert batch.num_dropped_groups == 3
    assert Counter(id for id, _ in client.asked()) == {"r0": 1, "r1": 3, "r2": 2, "r3": 1}
    assert sorted(group.record.id for group in batch.groups) == ["r0", "r1", "r2", "r3"]
    reasons = {arm.finish_reason for group in batch.groups for arm in group.group.arms}
    assert reasons == {FinishReason.STOP, FinishReason.LENGTH}


@pytest.mark.parametrize("served", [6, 8, None])
def test_another_version_than_the_one_asked_for_is_an_error(
    served: int | None, portal: BlockingPortal
) -> None:
    client = FakeClient()
    client.serves = lambda asked: served
    pipeline = make_pipeline(
        client, portal, QuestionStream(RECORDS, seed=0), questions_per_step=1, max_staleness=0
    )
    with pytest.raises(ServerError, match=f"asked version 7.*{served}"):
        next_batch(pipeline, version=7, num_needed=1)


def test_a_server_that_is_gone_ends_the_wait_and_consumes_nothing(portal: BlockingPortal) -> None:
    client, stream = FakeClient(), QuestionStream(RECORDS[:2], seed=0)
    client.fails_on = {"r0"}
    pipeline = make_pipeline(client, portal, stream, questions_per_step=2, max_staleness=0)
    with pytest.raises(ServerUnreachableError):
        next_batch(pipeline, version=7, num_needed=1)
    assert len(stream.state.pending) == 1


class StuckClient(FakeClient):
    """Answers r0 only when a request for another question is stuck; that one is never answered."""

    def __init__(self) -> None:
        super().__init__()
        self.stuck = anyio.Event()
        self.num_stuck = 0
        self.num_cancelled = 0

    async def generate(self, request: ArmsRequest) -> ArmsResponse:
        (question,) = request.questions
        assert isinstance(question, Question)
        if question.id != "r0":
            self.num_stuck += 1
            self.stuck.set()
            try:
                await anyio.sleep_forever()
            finally:
                self.num_cancelled += 1
        await self.stuck.wait()
        return await super().generate(request)


def test_a_batch_that_fails_gives_up_its_other_questions_at_once() -> None:
    def fail(*_: object) -> ScoredGroup:
        raise KeyError("no reward")

    with start_blocking_portal() as portal:
        client = portal.call(StuckClient)
        stream = QuestionStream(RECORDS[:2], seed=0)
        config = RolloutConfig(questions_per_step=2, max_staleness=0)
        with RolloutPipeline(
            versions_for(client, portal), stream, config, REWARD, fail
        ) as pipeline:
            with pytest.raises(KeyError, match="no reward"):
                next_batch(pipeline, version=1, num_needed=1)
            assert (client.num_stuck, client.num_cancelled) == (1, 1)


@pytest.mark.parametrize("fails", [False, True])
def test_leaving_the_pipeline_gives_up_what_is_in_flight(fails: bool) -> None:
    records = RECORDS[:2]
    seed = next(
        s
        for s in range(9)
        if QuestionStream(records, seed=s).take(1, version=0).records[0].id == "r0"
    )
    with start_blocking_portal() as portal:
        client = portal.call(StuckClient)
        stream = QuestionStream(records, seed=seed)
        config = RolloutConfig(questions_per_step=1, max_staleness=1)

        def leave() -> None:
            versions = versions_for(client, portal)
            with RolloutPipeline(versions, stream, config, REWARD, score_group) as pipeline:
                batch = next_batch(pipeline, version=1, num_needed=2)
                assert [group.record.id for group in batch.groups] == ["r0"]
                if fails:
                    raise KeyError("from the training loop")

        if fails:
            with pytest.raises(KeyError, match="from the training loop"):
                leave()
        else:
            leave()
    assert (client.num_stuck, client.num_cancelled) == (1, 1)

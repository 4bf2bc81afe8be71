"""The rollout pipeline against a server that answers from memory."""

import json
from collections import Counter
from collections.abc import Callable, Iterator

import anyio
import pytest
from anyio.from_thread import BlockingPortal, start_blocking_portal
from hypothesis import given, settings
from hypothesis import strategies as st

from inference_server.schemas import (
    ArmCompletion,
    ArmGroup,
    ArmsRequest,
    ArmsResponse,
    FinishReason,
    Priority,
    Question,
    Usage,
)
from regime_w import ArmSpec, RewardConfig
from trainer.config import RolloutConfig
from trainer.data import QuestionStream, Record
from trainer.errors import ServerError, ServerUnreachableError
from trainer.rollouts import RolloutPipeline, open_pipeline, score_group

RECORDS = [Record(id=f"r{i}", question=f"What is {i} + 1?", gold=f"#### {i + 1}") for i in range(7)]
REWARD = RewardConfig(formulas="original")


def completion(arm: str, text: str, finish_reason: FinishReason) -> ArmCompletion:
    return ArmCompletion(
        arm=arm,
        sample=0,
        text=text,
        finish_reason=finish_reason,
        temperature=0.25,
        top_p=0.9,
        seed=None,
        prompt_token_ids=[1, 2],
        token_ids=[3, 4, 5],
        logprobs=[-0.5, -0.25, -1.0],
    )


def group_of(record: Record, version: int | None, *reasons: FinishReason) -> ArmGroup:
    """One arm for each reason; the first is right, the others are not."""
    texts = [record.gold, *["#### 1000"] * (len(reasons) - 1)]
    return ArmGroup(
        id=record.id,
        question=record.question,
        policy_version=version,
        arms=[
            completion(f"arm_{i}", text, reason)
            for i, (text, reason) in enumerate(zip(texts, reasons, strict=True))
        ],
    )


class FakeClient:
    """Answers every request at once with the version that it names."""

    def __init__(self) -> None:
        self.requests: list[ArmsRequest] = []
        self.aborts: Counter[str] = Counter()
        """How many more times a question's group comes back aborted."""
        self.serves: Callable[[int], int | None] = lambda asked: asked
        self.fails_on: set[str] = set()

    async def generate(self, request: ArmsRequest) -> ArmsResponse:
        self.requests.append(request)
        (question,) = request.questions
        assert isinstance(question, Question)
        assert isinstance(request.policy, int)
        if question.id in self.fails_on:
            raise ServerUnreachableError("gone")
        record = next(record for record in RECORDS if record.id == question.id)
        reasons = [FinishReason.STOP, FinishReason.LENGTH]
        if self.aborts[record.id]:
            self.aborts[record.id] -= 1
            reasons[1] = FinishReason.ABORT
        version = self.serves(request.policy)
        return ArmsResponse(
            policy_version=version,
            boot_id="b",
            groups=[group_of(record, version, *reasons)],
            usage=Usage(prompt_tokens=0, completion_tokens=0),
        )

    def asked(self) -> list[tuple[str, int]]:
        """(question, version) of every request."""
        return [(request.questions[0].id, request.policy) for request in self.requests]


@pytest.fixture(scope="module")
def portal() -> Iterator[BlockingPortal]:
    with start_blocking_portal() as portal:
        yield portal


def make_pipeline(
    client: FakeClient, portal: BlockingPortal, stream: QuestionStream, **rollout: object
) -> RolloutPipeline:
    return RolloutPipeline(client, portal, stream, RolloutConfig(**rollout), REWARD)


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
        [record.id for record in same_stream.take(questions_per_step)] for _ in range(num_steps)
    ]
    generated_by: dict[int, int] = {}
    for step in range(num_steps):
        batch = pipeline.next_batch(version=100 + step, num_ahead=num_steps - 1 - step)
        assert [group.record.id for group in batch.groups] == expected[step]
        assert {sample.version for sample in batch.samples} == {batch.version}
        generated_by[step] = batch.version
        # As far ahead as staleness allows, but not past the last step.
        asked_batches = min(step + 1 + max_staleness, num_steps)
        assert stream.cursor == asked_batches * questions_per_step
        assert pipeline.consumed_cursor == (step + 1) * questions_per_step
    assert generated_by == {step: 100 + max(0, step - max_staleness) for step in range(num_steps)}
    assert len(client.requests) == num_steps * questions_per_step
    asked = Counter(client.asked())
    assert asked == Counter(
        (question, generated_by[step]) for step in range(num_steps) for question in expected[step]
    )


def test_a_resumed_pipeline_asks_again_for_what_was_in_flight(portal: BlockingPortal) -> None:
    client, stream = FakeClient(), QuestionStream(RECORDS, seed=0)
    pipeline = make_pipeline(client, portal, stream, questions_per_step=2, max_staleness=1, seed=5)
    pipeline.next_batch(version=1, num_ahead=9)
    lost = pipeline.next_batch(version=2, num_ahead=9)

    resumed_client = FakeClient()
    resumed_stream = QuestionStream(RECORDS, seed=0, cursor=2)
    resumed = make_pipeline(
        resumed_client, portal, resumed_stream, questions_per_step=2, max_staleness=0, seed=5
    )
    assert resumed.consumed_cursor == 2
    batch = resumed.next_batch(version=3, num_ahead=9)
    assert [group.record for group in batch.groups] == [group.record for group in lost.groups]
    seeds = {r.questions[0].id: r.seed for r in client.requests[:4]}
    assert all(seeds[r.questions[0].id] == r.seed for r in resumed_client.requests)


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
    pipeline.next_batch(version=12, num_ahead=0)
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


def test_a_question_gets_another_seed_in_another_epoch(portal: BlockingPortal) -> None:
    client = FakeClient()
    pipeline = make_pipeline(
        client,
        portal,
        QuestionStream(RECORDS[:2], seed=0),
        questions_per_step=2,
        max_staleness=0,
        seed=3,
    )
    for step in range(3):
        pipeline.next_batch(version=step, num_ahead=9)
    for record in RECORDS[:2]:
        seeds = [r.seed for r in client.requests if r.questions[0].id == record.id]
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
    batch = pipeline.next_batch(version=7, num_ahead=0)
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
        pipeline.next_batch(version=7, num_ahead=0)


def test_a_server_that_is_gone_ends_the_wait_and_consumes_nothing(portal: BlockingPortal) -> None:
    client = FakeClient()
    client.fails_on = {"r0"}
    pipeline = make_pipeline(
        client, portal, QuestionStream(RECORDS[:2], seed=0), questions_per_step=2, max_staleness=0
    )
    with pytest.raises(ServerUnreachableError):
        pipeline.next_batch(version=7, num_ahead=0)
    assert pipeline.consumed_cursor == 0


class StuckClient(FakeClient):
    """Answers for r0 once a request for another question is stuck for good."""

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


@pytest.mark.parametrize("fails", [False, True])
def test_leaving_the_pipeline_gives_up_what_is_in_flight(fails: bool) -> None:
    records = RECORDS[:2]
    seed = next(s for s in range(9) if QuestionStream(records, seed=s).take(1) == records[:1])
    with start_blocking_portal() as portal:
        client = portal.call(StuckClient)
        stream = QuestionStream(records, seed=seed)
        config = RolloutConfig(questions_per_step=1, max_staleness=1)

        def leave() -> None:
            with open_pipeline(client, portal, stream, config, REWARD) as pipeline:
                batch = pipeline.next_batch(version=1, num_ahead=1)
                assert [group.record.id for group in batch.groups] == ["r0"]
                if fails:
                    raise KeyError("from the training loop")

        if fails:
            with pytest.raises(KeyError, match="from the training loop"):
                leave()
        else:
            leave()
    assert (client.num_stuck, client.num_cancelled) == (1, 1)


# --- what a group becomes ----------------------------------------------------------------------


def test_a_group_becomes_samples_with_its_tokens_and_its_own_rewards() -> None:
    record = RECORDS[2]
    group = group_of(record, 12, FinishReason.STOP, FinishReason.LENGTH, FinishReason.STOP)
    scored = score_group(record, group, REWARD)
    right, wrong, other_wrong = scored.samples
    # Nobody agrees with the right arm; the texts are equally long, so s_path is 1; s_cf is 0.5.
    assert right.reward == pytest.approx(1 + 0.7 * (0.3 * 1 + 0.3 * 0.5), abs=1e-5)
    assert wrong.reward == other_wrong.reward == pytest.approx(-0.5)
    for sample, arm in zip(scored.samples, group.arms, strict=True):
        assert sample.prompt_ids == tuple(arm.prompt_token_ids)
        assert sample.completion_ids == tuple(arm.token_ids)
        assert sample.sampler_logprobs == tuple(arm.logprobs)
        assert (sample.temperature, sample.top_p, sample.version) == (0.25, 0.9, 12)
    assert [sample.truncated for sample in scored.samples] == [False, True, False]


@pytest.mark.parametrize("selection", ["best", "random"])
def test_a_selection_trains_one_completion_and_journals_all(selection: str) -> None:
    record = RECORDS[2]
    group = group_of(record, 12, FinishReason.STOP, FinishReason.LENGTH, FinishReason.STOP)
    config = REWARD.model_copy(update={"selection": selection})
    scored = score_group(record, group, config)
    (sample,) = scored.samples
    (place,) = scored.trained
    assert sample.reward == scored.rewards[place]
    assert selection == "random" or place == 0  # the only right one
    row = scored.to_json(step=5)
    assert [arm["trained"] for arm in row["arm_outputs"]] == [i == place for i in range(3)]  # type: ignore[attr-defined]
    assert score_group(record, group, config).trained == scored.trained  # decided by the record


def test_a_journal_line_holds_the_recipes_fields_and_every_token() -> None:
    record = RECORDS[2]
    group = group_of(record, 12, FinishReason.STOP, FinishReason.LENGTH)
    scored = score_group(record, group, REWARD)
    row = json.loads(json.dumps(scored.to_json(step=5)))
    assert row["step"] == 5
    assert (row["question"], row["gold_answer"]) == (record.question, record.gold)
    assert row["policy_version"] == 12
    assert row["reward"] == pytest.approx(sum(scored.rewards) / 2)
    assert row["scores"].keys() == {"s_end", "s_path", "s_cf", "s_wm"}
    first, second = row["arm_outputs"]
    assert [(arm["answer"], arm["correct"]) for arm in (first, second)] == [
        ("3", True),
        ("1000", False),
    ]
    assert [arm["reward"] for arm in (first, second)] == list(scored.rewards)
    assert [arm["finish_reason"] for arm in (first, second)] == ["stop", "length"]
    for arm in (first, second):
        assert arm["prompt_token_ids"] == [1, 2]
        assert arm["token_ids"] == [3, 4, 5]
        assert arm["sampler_logprobs"] == [-0.5, -0.25, -1.0]
        assert (arm["temperature"], arm["top_p"]) == (0.25, 0.9)

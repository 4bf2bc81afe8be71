"""Collecting rollouts from a server that answers from memory: every question once, whatever happens."""

import asyncio
import errno
import hashlib
import json
import tomllib
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import stamina

from inference_server.wire.adapters.infos import AdapterInfo
from inference_server.wire.schemas import (
    ArmCompletion,
    ArmGroup,
    ArmsRequest,
    ArmsResponse,
    FinishReason,
    Question,
    ServerStatus,
    Usage,
)
from tests.unit.server_answers import adapter_with, limits_with, status_with
from tests.unit.server_stub import ServerStub
from trainer.collect.collection import collect
from trainer.collect.counts import Collected
from trainer.commands import actions
from trainer.config.sections import CollectConfig
from trainer.console.stop_signals import Stopped, StopRequest
from trainer.data.sources import load_records
from trainer.data.word_problems import Split
from trainer.errors import (
    DataError,
    DiskFullError,
    NotFoundError,
    RewardFunctionError,
    ServerUnreachableError,
    UsageError,
)
from trainer.io.base_record import BaseRecord, write_base
from trainer.io.jsonl import read_lines

ARMS = ("wolfram_0", "maudlin_0")


class FakeServer(ServerStub):
    """Answers every question correctly, and is gone after ``gone_after`` groups."""

    def __init__(self, *, gone_after: int = 10**9, active: int | None = 3):
        self.gone_after = gone_after
        self.active = active
        self.has_chat_template = False
        self.asked: list[ArmsRequest] = []
        self.in_flight = self.most_in_flight = 0
        self.adapters: dict[int, str] = {}
        self.base_fingerprint: str | None = "served"
        self.log: list[str] = []

    async def status(self) -> ServerStatus:
        return status_with(
            base_model="base",
            base_fingerprint=self.base_fingerprint,
            has_chat_template=self.has_chat_template,
            active_version=self.active,
            next_version=8,
            versions=[
                adapter_with(version, sha256=sha256) for version, sha256 in self.adapters.items()
            ],
            limits=limits_with(max_model_len_tokens=256, max_groups_in_flight=5),
        )

    async def generate(self, request: ArmsRequest) -> ArmsResponse:
        self.in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        await asyncio.sleep(0)
        self.in_flight -= 1
        if len(self.asked) >= self.gone_after:
            raise ServerUnreachableError("gone")
        self.asked.append(request)
        (question,) = request.questions
        assert isinstance(question, Question)
        version = None if request.policy == "base" else request.policy
        assert isinstance(version, int | None)
        arms = [
            ArmCompletion(
                arm=arm,
                sample=0,
                text="#### 7",
                finish_reason=FinishReason.LENGTH if arm == "maudlin_0" else FinishReason.STOP,
                temperature=0.2,
                top_p=0.9,
                seed=None,
                prompt_token_ids=[1, 2],
                token_ids=[3, 4],
                logprobs=[-0.5, -0.25],
            )
            for arm in ARMS
        ]
        group = ArmGroup(
            id=question.id,
            question=question.question,
            policy_version=version,
            arms=arms,
            prompt_format="chat" if request.prompt_format == "chat" else "plain",
            stop=request.stop,
        )
        return ArmsResponse(
            policy_version=version,
            boot_id="b",
            groups=[group],
            usage=Usage(prompt_tokens=4, completion_tokens=4),
        )

    async def push_adapter(
        self, version: int, folder: Path, *, activate: bool = True
    ) -> AdapterInfo:
        assert not activate
        self.log.append(f"push {version}")
        return adapter_with(version)

    async def delete_adapter(self, version: int) -> None:
        self.log.append(f"delete {version}")


def config(output: Path, **changes: Any) -> CollectConfig:
    return CollectConfig.model_validate({"output": output, "limit": 40, **changes})


async def run(
    server: FakeServer, asked: CollectConfig, stop: StopRequest | None = None
) -> Collected:
    return await collect(asked, server, stop or StopRequest(), print)


def rows_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for _, line in read_lines(path)]


@pytest.mark.parametrize("suffix", ["", ".gz", ".zst"])
async def test_every_question_gets_one_row_with_the_recipes_fields(
    suffix: str, tmp_path: Path
) -> None:
    output, server = tmp_path / f"rows.jsonl{suffix}", FakeServer()
    found = await run(server, config(output))
    assert (found.num_before, found.num_questions, found.num_completions) == (0, 40, 80)
    rows = {row["id"]: row for row in rows_of(output)}
    records = load_records("word-problems", Split.TRAIN, num_records=40)
    assert sorted(rows) == [record.id for record in records]
    row = rows[records[0].id]
    assert (row["question"], row["gold_answer"]) == (records[0].question, records[0].gold)
    assert (row["policy_version"], row["dtype"]) == (3, "float32")
    assert row["reward"] == sum(arm["reward"] for arm in row["arm_outputs"]) / 2
    assert [arm["arm_name"] for arm in row["arm_outputs"]] == list(ARMS)
    arm = row["arm_outputs"][1]
    assert (arm["full_text"], arm["reasoning"], arm["answer"]) == ("#### 7", "#### 7", "7")
    assert (arm["token_ids"], arm["sampler_logprobs"]) == ([3, 4], [-0.5, -0.25])
    assert arm["finish_reason"] == "length"
    assert found.num_truncated == 40
    # Never more than the server takes.
    assert server.most_in_flight == 5


async def test_rows_are_rewarded_by_functions_of_the_users(tmp_path: Path) -> None:
    function = tmp_path / "mine.py"
    function.write_text(
        "def reward(arm, **columns):\n    return [float(a == 'wolfram_0') for a in arm]\n"
    )
    output, reward = tmp_path / "rows.jsonl", {"functions": [f"{function}:reward"]}
    found = await run(FakeServer(), config(output, limit=3, reward=reward))
    rewards = [[arm["reward"] for arm in row["arm_outputs"]] for row in rows_of(output)]
    assert rewards == [[1.0, 0.0]] * 3
    assert (sum(found.rewards), found.num_correct) == (3.0, 0)
    assert "reward +0.500, truncated" in found.line(output)
    with pytest.raises(UsageError, match=r"reward\.functions was "):
        await run(FakeServer(), config(output, limit=4))


@pytest.mark.parametrize(
    ("returned", "said"),
    [
        ("1.0 if a == 'wolfram_0' else None", "reward +1.000 (3 of 6 completions have none), "),
        ("None", "reward none (6 of 6 completions have none), "),
    ],
)
async def test_completions_without_a_reward_are_counted_and_in_no_mean(
    returned: str, said: str, tmp_path: Path
) -> None:
    function, output = tmp_path / "mine.py", tmp_path / "rows.jsonl"
    function.write_text(f"def reward(arm, **columns):\n    return [{returned} for a in arm]\n")
    reward = {"functions": [f"{function}:reward"]}
    found = await run(FakeServer(), config(output, limit=3, reward=reward))
    assert said in found.line(output)


async def test_a_function_that_needs_a_column_that_the_data_lacks_is_refused_before_a_question_is_asked(
    tmp_path: Path,
) -> None:
    function, output, server = tmp_path / "mine.py", tmp_path / "rows.jsonl", FakeServer()
    function.write_text("def reward(level, **columns):\n    return level\n")
    with pytest.raises(RewardFunctionError, match="needs level, which it is not passed"):
        await run(server, config(output, limit=3, reward={"functions": [f"{function}:reward"]}))
    assert server.asked == []


@pytest.mark.parametrize(("has_template", "expected"), [(True, "chat"), (False, "plain")])
async def test_the_file_and_its_settings_say_how_the_prompts_were_rendered(
    has_template: bool, expected: str, tmp_path: Path
) -> None:
    output, server = tmp_path / "rows.jsonl", FakeServer()
    server.has_chat_template = has_template
    asked = config(output, limit=2, rollout={"stop": ["\n\n"]})
    await run(server, asked)
    assert {request.prompt_format for request in server.asked} == {expected}
    assert {request.stop for request in server.asked} == {("\n\n",)}
    assert [(row["prompt_format"], row["stop"]) for row in rows_of(output)] == [
        (expected, ["\n\n"])
    ] * 2
    # It goes on as it began, whatever the server has by now.
    server.has_chat_template = not has_template
    await run(server, asked.model_copy(update={"limit": 4}))
    assert {row["prompt_format"] for row in rows_of(output)} == {expected}
    assert tomllib.loads(output.with_name("rows.jsonl.toml").read_text())["rollout"][
        "prompt_format"
    ] == (expected)


@pytest.mark.parametrize("suffix", ["", ".gz", ".zst"])
async def test_a_collection_that_is_killed_over_and_over_has_every_question_once(
    suffix: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output, num_asked = tmp_path / f"rows.jsonl{suffix}", 0
    for gone_after in (7, 0, 11):
        server = FakeServer(gone_after=gone_after)
        with pytest.raises(ServerUnreachableError):
            await run(server, config(output))
        num_asked += len(server.asked)
        # A kill in the middle of a write.
        with output.open("r+b") as file:
            file.truncate(output.stat().st_size - 9)
        num_asked -= 1
    server = FakeServer()
    found = await run(server, config(output))
    assert Counter(row["id"] for row in rows_of(output)).most_common(1)[0][1] == 1
    assert len(rows_of(output)) == 40
    assert (found.num_before, len(server.asked)) == (num_asked, 40 - num_asked)
    assert "removed a truncated row" in capsys.readouterr().out


@pytest.mark.parametrize("suffix", ["", ".gz", ".zst"])
async def test_a_second_collection_into_the_file_is_refused_and_asks_nobody(
    suffix: str, tmp_path: Path
) -> None:
    output = tmp_path / f"rows.jsonl{suffix}"
    second, refused = FakeServer(), list[str]()

    class First(FakeServer):
        async def generate(self, request: ArmsRequest) -> ArmsResponse:
            if len(self.asked) == 20:
                with pytest.raises(UsageError) as caught:
                    await run(second, config(output, limit=50))
                refused.append(str(caught.value))
            return await super().generate(request)

    found = await run(First(), config(output, num_in_flight=1))
    assert refused == [f"another process appends to {output}; stop it, or choose another output"]
    assert (found.num_questions, len(rows_of(output)), second.asked) == (40, 40, [])


async def test_a_finished_collection_asks_nobody_and_a_higher_limit_goes_on(tmp_path: Path) -> None:
    output = tmp_path / "rows.jsonl"
    await run(FakeServer(), config(output, limit=10))

    class Untouchable(FakeServer):
        async def status(self) -> ServerStatus:
            raise AssertionError("asked the server")

    found = await run(Untouchable(), config(output, limit=10))
    assert found.line(output) == f"10 questions in {output}, none of them new"
    server = FakeServer()
    await run(server, config(output, limit=15, num_in_flight=1))
    assert (len(server.asked), len(rows_of(output))) == (5, 15)
    assert server.most_in_flight == 1


async def test_a_request_to_stop_asks_no_further_question(tmp_path: Path) -> None:
    stop = StopRequest()

    class Stopping(FakeServer):
        async def generate(self, request: ArmsRequest) -> ArmsResponse:
            stop.requested = len(self.asked) >= 12
            return await super().generate(request)

    found = await run(Stopping(), config(tmp_path / "rows.jsonl"), stop)
    assert 12 <= found.num_questions < 40
    assert len(rows_of(tmp_path / "rows.jsonl")) == found.num_questions


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"rollout": {"max_tokens": 9}}, "rollout.max_tokens was 256 and is 9"),
        ({"data": {"seed": 4}}, "data.seed was 0 and is 4"),
    ],
)
async def test_other_settings_do_not_go_into_the_same_file(
    change: dict[str, Any], named: str, tmp_path: Path
) -> None:
    output = tmp_path / "rows.jsonl"
    await run(FakeServer(), config(output, limit=5))
    with pytest.raises(UsageError) as caught:
        await run(FakeServer(), config(output, **change))
    assert named in str(caught.value)
    assert "\n" not in str(caught.value)
    assert len(rows_of(output)) == 5


async def test_the_settings_of_a_collection_that_failed_before_its_first_row_hold_for_nothing(
    tmp_path: Path,
) -> None:
    output = tmp_path / "rows.jsonl"
    with pytest.raises(ServerUnreachableError):
        await run(
            FakeServer(gone_after=0),
            config(output, rollout={"max_tokens": 9, "prompt_format": "chat"}),
        )
    assert not output.exists()
    found = await run(FakeServer(), config(output, limit=5))
    assert {row["prompt_format"] for row in rows_of(output)} == {"plain"}
    assert found.num_questions == 5
    with pytest.raises(UsageError, match="max_tokens was 256 and is 9"):
        await run(FakeServer(), config(output, rollout={"max_tokens": 9}))
    # A kill has left the first row torn.
    output.write_bytes(output.read_bytes()[:20])
    await run(FakeServer(), config(output, rollout={"max_tokens": 9}))
    assert len(rows_of(output)) == 40


async def test_another_model_has_nothing_to_answer_in_a_finished_file(tmp_path: Path) -> None:
    output = tmp_path / "rows.jsonl"
    await run(FakeServer(), config(output, limit=5))
    server = FakeServer()
    with pytest.raises(UsageError, match="has 5 rows of version 3, but model base is the base now"):
        await run(server, config(output, limit=5, model="base"))
    assert server.asked == []


async def test_a_finished_file_may_be_asked_for_by_another_name_of_its_policy(
    tmp_path: Path,
) -> None:
    output, server = tmp_path / "rows.jsonl", FakeServer()
    server.adapters = {3: WEIGHTS["a"]}
    for model, limit, num_new in (
        *(("policy", 2, 2), ("policy-000003", 2, 0)),
        *(("policy", 4, 2), ("policy-000003", 4, 0), ("policy", 2, 0)),
    ):
        found = await run(server, config(output, limit=limit, model=model))
        assert found.num_questions == num_new


@pytest.mark.parametrize(
    ("row", "complaint"),
    [
        ('{"id": "x"}', ":1: question: Field required"),
        (
            '{"id": "word-problems-train-000002", "question": "Why?"}',
            ":1: word-problems-train-000002",
        ),
    ],
)
async def test_rows_of_something_else_are_an_error_that_names_the_line(
    row: str, complaint: str, tmp_path: Path
) -> None:
    output = tmp_path / "rows.jsonl"
    output.write_text(row + "\n")
    with pytest.raises(DataError) as caught:
        await run(FakeServer(), config(output))
    assert complaint in str(caught.value)


@pytest.mark.parametrize(
    ("before", "complaint"),
    [
        (
            {"gold_answer": "#### 8"},
            "gold_answer of q2 is '#### 8' in the file and '#### 7' in the data",
        ),
        ({"answer_type": "text"}, "answer_type of q2 is 'text' in the file and 'number' in the"),
        ({"choices": ["5", "7"]}, "choices of q2 is ('5', '7') in the file and () in the data"),
        ({"question": "Why?"}, "q2 is another question in the file than in the data"),
    ],
)
async def test_a_row_whose_question_or_answer_was_corrected_since_is_an_error_that_names_it(
    before: dict[str, Any], complaint: str, tmp_path: Path
) -> None:
    source, output = tmp_path / "data.jsonl", tmp_path / "rows.jsonl"
    source.write_text(
        "".join(
            f'{{"id": "q{i}", "question": "What is {i}?", "answer": "#### 7"}}\n' for i in range(5)
        )
    )
    asked = config(output, data={"source": str(source)})
    await run(FakeServer(), asked.model_copy(update={"limit": 3}))
    rows = rows_of(output)
    place = next(i for i, row in enumerate(rows) if row["id"].endswith("2"))
    name = rows[place]["id"]
    rows[place] |= before
    output.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(DataError) as caught:
        await run(FakeServer(), asked)
    assert f"{output}:{place + 1}: {complaint.replace('q2', name)}" in str(caught.value)
    assert "choose another output" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert len(rows_of(output)) == 3


WEIGHTS = {"a": "a" * 64, "b": "b" * 64}


@pytest.mark.parametrize(
    ("starts", "refusal"),
    [
        ([(3, "a"), (3, "a")], None),
        # The same weights under another number, such as after a restart of the server.
        ([(3, "a"), (5, "a")], None),
        (
            [(3, "a"), (4, "b")],
            "{} has 2 rows of version 3 (sha256 aaaaaaaaaaaa), but model policy is version 4 (sha256 bbbbbbbbbbbb) "
            "now: choose another output, or set model to the adapter folder of these rows, such as "
            "RUN/adapters/policy-000003",
        ),
        (
            [(3, "a"), (3, "b")],
            "{} has 2 rows of version 3 (sha256 aaaaaaaaaaaa), but model policy is version 3 (sha256 bbbbbbbbbbbb) now",
        ),
        (
            [(None, None), (3, "a")],
            "{} has 2 rows of the base, but model policy is version 3 (sha256 aaaaaaaaaaaa) now: choose another output, "
            "or set model to base",
        ),
        ([(3, "a"), (None, None)], "but model policy is the base now: choose another output, or "),
    ],
)
async def test_a_collection_does_not_resume_with_another_policy(
    starts: list[tuple[int | None, str | None]], refusal: str | None, tmp_path: Path
) -> None:
    output = tmp_path / "rows.jsonl"
    servers = [FakeServer(active=version) for version, _ in starts]
    for server, (version, weights) in zip(servers, starts, strict=True):
        if version is not None and weights is not None:
            server.adapters = {version: WEIGHTS[weights]}
    await run(servers[0], config(output, limit=2))
    settings = output.with_name("rows.jsonl.toml").read_text()
    if refusal is None:
        await run(servers[1], config(output, limit=4))
        assert len(rows_of(output)) == 4
        return
    with pytest.raises(UsageError) as caught:
        await run(servers[1], config(output, limit=4))
    assert refusal.format(output) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert (len(rows_of(output)), servers[1].asked) == (2, [])
    assert output.with_name("rows.jsonl.toml").read_text() == settings
    assert (await run(servers[1], config(output, limit=2))).num_questions == 0


async def test_a_refusal_counts_the_rows_of_a_policy_together_whatever_its_numbers_were(
    tmp_path: Path,
) -> None:
    output, server = tmp_path / "rows.jsonl", FakeServer()
    for limit, version in ((2, 6), (3, 2)):
        server.active, server.adapters = version, {version: WEIGHTS["a"]}
        await run(server, config(output, limit=limit))
    server.active, server.adapters = 3, {3: WEIGHTS["b"]}
    with pytest.raises(UsageError) as caught:
        await run(server, config(output, limit=4))
    assert str(caught.value) == (
        f"{output} has 3 rows of versions 6 and 2 (sha256 aaaaaaaaaaaa), but model policy is version 3 (sha256 "
        "bbbbbbbbbbbb) now: choose another output, or set model to the adapter folder of these rows, such as "
        "RUN/adapters/policy-000012"
    )
    server.adapters[4] = WEIGHTS["a"]
    with pytest.raises(UsageError, match="or set model to policy-000004, which the server holds"):
        await run(server, config(output, limit=4))


async def test_rows_of_version_0_are_no_rows_of_the_base(tmp_path: Path) -> None:
    output, server = tmp_path / "rows.jsonl", FakeServer(active=0)
    server.adapters = {0: WEIGHTS["a"]}
    await run(server, config(output, limit=2))
    with pytest.raises(UsageError, match=r"2 rows of version 0 .* but model base is the base now"):
        await run(server, config(output, limit=4, model="base"))


@pytest.mark.parametrize("model", ["base", "policy"])
async def test_a_collection_does_not_resume_on_another_base(model: str, tmp_path: Path) -> None:
    output, server = tmp_path / "rows.jsonl", FakeServer()
    await run(server, config(output, limit=1, model=model))
    server.base_fingerprint = "other"
    with pytest.raises(
        UsageError, match="has rows of a base with fingerprint served, but base, which"
    ):
        await run(server, config(output, limit=2, model=model))
    # What is not known is not compared, and rows that do not say it are not either.
    server.base_fingerprint = None
    await run(server, config(output, limit=2, model=model))
    server.base_fingerprint = "served"
    await run(server, config(output, limit=3, model=model))
    found = [row.get("base_fingerprint") for row in rows_of(output)]
    assert found == ["served", None, "served"]


async def test_one_row_of_another_policy_is_one_row(tmp_path: Path) -> None:
    output = tmp_path / "rows.jsonl"
    await run(FakeServer(active=None), config(output, limit=1))
    with pytest.raises(UsageError, match="has 1 row of the base, but"):
        await run(FakeServer(), config(output, limit=2))


async def test_a_collection_goes_on_with_its_policy_by_name_or_folder_once_another_is_active(
    tmp_path: Path,
) -> None:
    folder, output = tmp_path / "sft", tmp_path / "rows.jsonl"
    folder.mkdir()
    (folder / "adapter_config.json").write_text("{}")
    (folder / "adapter_model.safetensors").write_bytes(b"first")
    server = FakeServer(active=3)
    server.adapters = {3: hashlib.sha256(b"first").hexdigest()}
    await run(server, config(output, limit=2))
    server.active, server.adapters[4] = 4, WEIGHTS["b"]
    with pytest.raises(UsageError, match="or set model to policy-000003, which the server holds"):
        await run(server, config(output, limit=4))
    await run(server, config(output, limit=4, model="policy-000003"))
    del server.adapters[3]
    await run(server, config(output, limit=6, model=str(folder)))
    assert [row["policy_version"] for row in rows_of(output)] == [3, 3, 3, 3, 8, 8]
    assert len({row["adapter_sha256"] for row in rows_of(output)}) == 1


async def test_a_folder_of_other_weights_in_the_same_place_is_another_policy(
    tmp_path: Path,
) -> None:
    folder, output = tmp_path / "sft", tmp_path / "rows.jsonl"
    folder.mkdir()
    (folder / "adapter_config.json").write_text("{}")
    weights = folder / "adapter_model.safetensors"
    for limit in (1, 2):
        weights.write_bytes(b"first")
        await run(FakeServer(), config(output, limit=limit, model=str(folder)))
    weights.write_bytes(b"second")
    server = FakeServer()
    with pytest.raises(UsageError) as caught:
        await run(server, config(output, limit=3, model=str(folder)))
    first, second = (hashlib.sha256(b).hexdigest()[:12] for b in (b"first", b"second"))
    assert str(caught.value) == (
        f"{output} has 2 rows of version 8 (sha256 {first}), but model {folder} is the adapter in {folder} (sha256 "
        f"{second}) now: choose another output, or set model to the adapter folder of these rows, such as "
        "RUN/adapters/policy-000012"
    )
    # It is not uploaded in vain, where it might push out a version of a run.
    assert server.log == []


@pytest.mark.parametrize(
    ("model", "active", "asked"),
    [("policy", 3, 3), ("policy", None, "base"), ("base", 3, "base"), ("policy-000005", 3, 5)],
)
async def test_the_model_is_pinned_to_a_version(
    model: str, active: int | None, asked: int | str, tmp_path: Path
) -> None:
    server = FakeServer(active=active)
    server.adapters = {5: "other"}
    await run(server, config(tmp_path / "rows.jsonl", model=model, rollout={"seed": 9}))
    assert {request.policy for request in server.asked} == {asked}
    assert {request.seed for request in server.asked} == {9}


async def test_a_folder_is_uploaded_once_and_removed(tmp_path: Path) -> None:
    folder = tmp_path / "sft"
    folder.mkdir()
    (folder / "adapter_config.json").write_text("{}")
    (folder / "adapter_model.safetensors").write_bytes(b"weights")
    server = FakeServer()
    await run(server, config(tmp_path / "a.jsonl", model=str(folder)))
    assert server.log == ["push 8", "delete 8"]
    assert {request.policy for request in server.asked} == {8}
    # What a killed collection has left there is asked again, under the number that it has.
    again = FakeServer()
    again.adapters = {6: hashlib.sha256(b"weights").hexdigest()}
    await run(again, config(tmp_path / "b.jsonl", model=str(folder)))
    assert again.log == []
    assert {request.policy for request in again.asked} == {6}


async def test_a_folder_that_a_run_displaces_is_uploaded_again(tmp_path: Path) -> None:
    folder = tmp_path / "sft"
    folder.mkdir()
    (folder / "adapter_config.json").write_text("{}")
    (folder / "adapter_model.safetensors").write_bytes(b"weights")

    class Displacing(FakeServer):
        async def generate(self, request: ArmsRequest) -> ArmsResponse:
            if request.policy not in self.adapters:
                raise NotFoundError(404, f"version {request.policy} is not loaded")
            found = await super().generate(request)
            if len(self.asked) % 3 == 0:
                self.adapters.clear()
            return found

        async def push_adapter(
            self, version: int, folder: Path, *, activate: bool = True
        ) -> AdapterInfo:
            self.adapters[version] = hashlib.sha256(b"weights").hexdigest()
            return await super().push_adapter(version, folder, activate=activate)

    server, output = Displacing(), tmp_path / "a.jsonl"
    with stamina.set_testing(True, attempts=9):
        await run(server, config(output, model=str(folder), limit=10, num_in_flight=2))
    assert Counter(server.log)["push 8"] > 1
    assert server.log[-1] == "delete 8"
    assert Counter(row["policy_version"] for row in rows_of(output)) == {8: 10}


@pytest.mark.parametrize(
    "name",
    ["run/rollouts/step-000001.jsonl", "link.jsonl", "step-000001.jsonl", "run/rollouts/a/b.jsonl"],
)
async def test_a_run_s_own_rollouts_are_not_appended_to(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rollouts = tmp_path / "run/rollouts"
    own = rollouts / "step-000001.jsonl"
    rollouts.mkdir(parents=True)
    own.touch()
    (tmp_path / "run/checkpoints/step-000000").mkdir(parents=True)
    (tmp_path / "link.jsonl").symlink_to(own)
    monkeypatch.chdir(rollouts)
    output = Path(name) if name == own.name else tmp_path / name
    with pytest.raises(UsageError, match=r"output: .*rollouts is for the rollouts of the run"):
        await run(FakeServer(), config(output))
    assert own.read_bytes() == b""
    assert list(rollouts.iterdir()) == [own]


@pytest.mark.parametrize(
    "content",
    [
        b'{"question": "1+1?", "answer": "#### 2"}\n{"question": "2+2?", "answer": "#### 4"}',
        b'{\n  "peft_type": "LORA"\n}',
    ],
    ids=["a data set", "the settings of an adapter"],
)
async def test_no_byte_is_cut_off_a_file_of_something_else(content: bytes, tmp_path: Path) -> None:
    output = tmp_path / "data.jsonl"
    output.write_bytes(content)
    with pytest.raises(DataError, match=r"data\.jsonl:1: "):
        await run(FakeServer(), config(output))
    assert output.read_bytes() == content


@pytest.mark.parametrize("prompt_format", ["auto", "plain"])
async def test_a_stop_ends_the_wait_for_a_server(prompt_format: str, tmp_path: Path) -> None:
    stop, output = StopRequest(), tmp_path / "rows.jsonl"

    class Absent(FakeServer):
        async def status(self) -> ServerStatus:
            stop.requested = True
            await asyncio.Event().wait()
            raise AssertionError

    asked = config(output, rollout={"prompt_format": prompt_format})
    with pytest.raises(Stopped):
        await run(Absent(), asked, stop)
    assert (await run(FakeServer(), asked)).num_questions == 40


def test_a_full_disk_is_said_with_the_files_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def write(_: CollectConfig) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("trainer.collect.collection.run_collect", write)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DiskFullError, match=f"disk of {tmp_path}; ") as caught:
        actions.collect(config(Path("rows.jsonl")))
    assert caught.value.exit_code == 3


async def test_an_adapter_of_another_base_is_refused(tmp_path: Path) -> None:
    folder, output = tmp_path / "sft", tmp_path / "rows.jsonl"
    folder.mkdir()
    (folder / "adapter_config.json").write_text("{}")
    (folder / "adapter_model.safetensors").write_bytes(b"weights")
    server = FakeServer()
    write_base(folder, BaseRecord(base_model="theirs", fingerprint="trained"))
    with pytest.raises(UsageError, match=r"^model: .*sft was trained on theirs with fingerprint"):
        await run(server, config(output, model=str(folder)))
    assert (server.log, server.asked, output.exists()) == ([], [], False)
    write_base(folder, BaseRecord(base_model="theirs", fingerprint="served"))
    assert (await run(server, config(output, model=str(folder)))).num_questions == 40


@pytest.mark.parametrize(("limit", "key"), [(None, "data.num_questions"), (2, "limit"), (4, None)])
async def test_it_says_that_the_source_has_more_questions(
    limit: int | None, key: str | None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = tmp_path / "mine.jsonl"
    source.write_text(
        "".join(f'{{"question": "What is {i}?", "answer": "{i}"}}\n' for i in range(4))
    )
    data = {"source": str(source), "num_questions": 4 if limit else 3}
    await run(FakeServer(), config(tmp_path / "rows.jsonl", limit=limit, data=data))
    printed = capsys.readouterr().out
    said = f"{source} has more than {limit or 3} questions"
    assert (said in printed, f"as {key} says" in printed) == (key is not None, key is not None)

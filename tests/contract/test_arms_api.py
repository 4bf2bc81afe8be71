"""POST /v1/arms/generate, as its clients see it."""

import asyncio
import math
from dataclasses import replace
from typing import Any

import pytest
from fastapi import FastAPI

from inference_server.arms.request import sample_seed
from inference_server.engine import EngineAdapter, EngineCompletion, Sampling
from inference_server.service import Service
from inference_server.wire.errors import ErrorResponse
from inference_server.wire.schemas import ArmsResponse
from regime_w import build_all_arms, build_prompt
from regime_w.algebra import math_process
from tests.contract.client import Client, Connection
from tests.contract.fake_engine import FakeEngine


async def test_a_group_has_the_eight_arms_in_order_with_aligned_tokens(client: Client) -> None:
    response = await client.arms(questions=["1+1?", {"id": "two", "question": "2+2?"}], seed=3)
    assert response.status_code == 200
    body = ArmsResponse.model_validate(response.json())
    assert [group.id for group in body.groups] == ["q0", "two"]
    assert [group.question for group in body.groups] == ["1+1?", "2+2?"]
    for group in body.groups:
        assert [arm.arm for arm in group.arms] == [arm.name for arm in build_all_arms()]
        assert group.policy_version is None
        for arm, spec in zip(group.arms, build_all_arms(), strict=True):
            assert (arm.temperature, arm.top_p) == (spec.temperature, spec.top_p)
            assert bytes(arm.prompt_token_ids).decode() == build_prompt(
                spec.system_prompt, group.question
            )
            assert len(arm.token_ids) == len(arm.logprobs) == 8
    tokens = [arm for group in body.groups for arm in group.arms]
    assert body.usage.completion_tokens == sum(len(arm.token_ids) for arm in tokens)
    assert body.usage.prompt_tokens == sum(len(arm.prompt_token_ids) for arm in tokens)


async def test_each_system_prompt_of_a_question_is_tokenized_once(
    client: Client, engine: FakeEngine
) -> None:
    await client.arms(questions=["1?", "2?", "3?"], samples_per_arm=2)
    assert engine.num_encoded == 3 * 2


async def test_the_same_seed_gives_the_same_tokens_and_another_seed_others(client: Client) -> None:
    first, again, other = [(await client.arms(seed=seed)).json() for seed in (5, 5, 6)]
    assert first["groups"] == again["groups"]
    assert first["groups"] != other["groups"]


async def test_a_seed_belongs_to_a_completion_whatever_else_the_request_holds(
    client: Client,
) -> None:
    alone = (await client.arms(questions=[{"id": "b", "question": "?"}], seed=5)).json()
    beside = await client.arms(
        questions=[{"id": "a", "question": "?"}, {"id": "b", "question": "?"}],
        arms=["maudlin_0", "wolfram_0"],
        samples_per_arm=2,
        seed=5,
    )
    group = beside.json()["groups"][1]
    assert [(arm["arm"], arm["sample"]) for arm in group["arms"]] == [
        ("maudlin_0", 0),
        ("maudlin_0", 1),
        ("wolfram_0", 0),
        ("wolfram_0", 1),
    ]
    assert group["arms"][2] == alone["groups"][0]["arms"][0]
    assert group["arms"][3]["seed"] != group["arms"][2]["seed"]


async def test_no_seed_is_no_generator(client: Client) -> None:
    body = (await client.arms()).json()
    assert {arm["seed"] for arm in body["groups"][0]["arms"]} == {None}


def test_seeds_are_stable_and_exact_in_a_browser() -> None:
    assert sample_seed(1, "q", "wolfram_0", 0) == 4701271925891324
    seeds = {sample_seed(2**63 - 1, "q", "a", sample) for sample in range(1000)}
    assert len(seeds) == 1000
    assert all(0 <= seed < 2**53 for seed in seeds)


async def test_own_arms_are_sampled_as_they_say(client: Client) -> None:
    arm = {"name": "mine", "system_prompt": "Think.", "temperature": 1.0, "top_p": 1.0}
    body = (await client.arms(arms=[arm, "wolfram_1"])).json()
    assert [arm["arm"] for arm in body["groups"][0]["arms"]] == ["mine", "wolfram_1"]
    assert body["groups"][0]["arms"][0]["top_p"] == 1.0


async def test_scores_come_with_the_group_when_asked_for(client: Client) -> None:
    question = {"id": "a", "question": "?", "gold": "#### 7"}
    scores = (await client.arms(questions=[question, "?"], score=True)).json()["groups"]
    assert len(scores[0]["scores"]["answers"]) == 8
    assert all(0 <= scores[0]["scores"][name] <= 1 for name in ("s_end", "s_path", "s_cf", "s_wm"))
    assert len(scores[0]["scores"]["correct"]) == 8
    assert scores[1]["scores"]["correct"] is None
    assert (await client.arms()).json()["groups"][0]["scores"] is None


async def test_a_thought_that_the_template_began_is_part_of_the_text(
    client: Client, engine: FakeEngine
) -> None:
    engine.traits = replace(engine.traits, has_chat_template=True, opened_thought="<think>\n")
    engine.break_completion = lambda completion: replace(completion, text="3 + 4 = 7")
    question = {"id": "a", "question": "?", "gold": "7"}
    plain, chat = [
        (await client.arms(questions=[question], score=True, prompt_format=f)).json()["groups"][0]
        for f in ("plain", "chat")
    ]
    assert {arm["text"] for arm in chat["arms"]} == {"<think>\n3 + 4 = 7"}
    assert set(chat["scores"]["answers"]) == {None}
    assert {arm["text"] for arm in plain["arms"]} == {"3 + 4 = 7"}
    assert set(plain["scores"]["answers"]) == {"7"}


@pytest.mark.parametrize(
    "gold", ["", "seven", "3-5", "#### ?", "12:00", "1" + "0" * 70_000], ids=lambda gold: gold[:8]
)
async def test_a_gold_answer_that_is_no_number_is_refused_where_it_would_be_read(
    client: Client, engine: FakeEngine, gold: str
) -> None:
    questions = ["1+1?", {"id": "a", "question": "?", "gold": gold}]
    response = await client.arms(questions=questions, score=True)
    assert response.status_code == 400
    assert response.json()["error"]["param"] == "questions.1.gold"
    assert engine.num_encoded == 0


async def test_a_gold_answer_that_is_not_read_may_be_any_text(client: Client) -> None:
    question = {"id": "a", "question": "?", "gold": "seven"}
    assert (await client.arms(questions=[question])).status_code == 200


async def test_scores_are_of_the_questions_type_of_answer(client: Client) -> None:
    question = {"id": "a", "question": "?", "gold": "Rome", "answer_type": "choice"}
    question["choices"] = ["Paris", "Rome"]  # type: ignore[assignment]
    response = await client.arms(questions=[question], score=True)
    scores = response.json()["groups"][0]["scores"]
    assert scores["s_path"] is None
    assert scores["correct"] == [answer == "B" for answer in scores["answers"]]
    refused = await client.arms(questions=[{**question, "answer_type": "letters"}])
    assert refused.status_code == 400
    assert "answer_type" in refused.text


@pytest.mark.parametrize(
    ("choices", "answer_type", "complaint"),
    [
        (["Rome"], "choice", "one choice is not enough"),
        (["Rome", " "], "choice", "must not be blank"),
        (["Rome", "Bonn", "Rome "], "choice", "choices A and C are equal: 'Rome'"),
        (["Rome", "Bonn"], "number", "choices are for answer_type = choice, not number"),
        (["Rome", "Bonn"], "text", "choices are for answer_type = choice, not text"),
    ],
)
async def test_choices_of_which_none_can_be_chosen_are_refused(
    client: Client, engine: FakeEngine, choices: list[str], answer_type: str, complaint: str
) -> None:
    question = {"id": "a", "question": "?", "answer_type": answer_type, "choices": choices}
    error = (await client.arms(questions=["1+1?", question])).json()["error"]
    assert error["param"].startswith("questions.1.choices")
    assert complaint in error["message"]
    assert engine.num_encoded == 0


async def test_a_type_of_answer_whose_library_is_missing_is_refused_where_it_would_be_compared(
    client: Client, engine: FakeEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(math_process, "LIBRARY", "no_such_library")
    question = {"id": "a", "question": "?", "answer_type": "math"}
    refused = await client.arms(questions=[question], score=True)
    assert refused.status_code == 400
    assert refused.json()["error"]["param"] == "questions.0.answer_type"
    assert "pip install 'regime-w[math]'" in refused.text
    assert engine.num_encoded == 0
    assert (await client.arms(questions=[question])).status_code == 200


async def test_tokens_are_left_out_when_not_asked_for_but_are_counted(client: Client) -> None:
    body = (await client.arms(return_tokens=False)).json()
    arm = body["groups"][0]["arms"][0]
    assert arm["token_ids"] == arm["logprobs"] == arm["prompt_token_ids"] == []
    assert body["usage"]["completion_tokens"] == 64


async def test_policy_chooses_the_version(client: Client) -> None:
    for version in (1, 2):
        await client.put_adapter(version)
    texts: dict[int | None, str] = {}
    policies: list[tuple[str | int, int | None]] = [("latest", 2), (1, 1), ("base", None)]
    for policy, expected in policies:
        body = (await client.arms(policy=policy, seed=1)).json()
        assert body["policy_version"] == body["groups"][0]["policy_version"] == expected
        texts[expected] = body["groups"][0]["arms"][0]["text"]
    assert len(set(texts.values())) == 3


async def test_a_group_ends_on_the_version_on_which_it_began(
    client: Client, engine: FakeEngine
) -> None:
    await client.put_adapter(1)
    engine.open.clear()
    request = asyncio.create_task(client.arms())
    await engine.reaches(8, "policy-000001")
    for version in (2, 3, 4, 5):
        assert (await client.put_adapter(version)).status_code == 201
    engine.open.set()
    body = (await request).json()
    assert body["policy_version"] == body["groups"][0]["policy_version"] == 1


LONG = "x" * 600
ARM = {"name": "a", "system_prompt": "", "temperature": 1.0, "top_p": 1.0}
WRONG_TYPES: list[tuple[list[str], list[Any], str]] = [
    (["seed", "max_tokens", "samples_per_arm"], [True, "1", 1.0], "valid integer"),
    (["seed", "max_tokens", "samples_per_arm"], [10**30], "less than"),
    (["policy"], [True, "1", 1.0, -1, 10**30], ""),
    (["stream", "score", "greedy", "return_tokens"], [0, 1, "true"], "valid boolean"),
    (["timeout_s"], [True, "1", 10**400], "valid number"),
]
"""Fields, values of a wrong type for them, and words of the error."""


@pytest.mark.parametrize(
    ("body", "status", "param", "words"),
    [
        ({"questions": []}, 400, "questions", "at least 1"),
        ({"questions": [""]}, 400, "questions.0", "at least 1"),
        ({"questions": [{"id": "a"}]}, 400, "questions.0.question", "required"),
        ({"questions": ["?", " \n"]}, 400, "questions.1", "blank"),
        ({"questions": [{"id": "a", "question": " "}]}, 400, "questions.0.question", "blank"),
        ({"questions": [{"id": "", "question": "?"}]}, 400, "questions.0.id", "at least 1"),
        ({"questions": [3]}, 400, "questions.0", "valid"),
        ({"questions": ["?"] * 4}, 400, "questions", "4 questions; the server takes 3"),
        (
            {"questions": ["?", {"id": "q0", "question": "?"}]},
            400,
            "questions",
            "'q0' is given twice",
        ),
        ({"questions": ["?", LONG]}, 400, "questions.1", "question 'q1'"),
        (
            {"max_tokens": 601},
            400,
            "questions.0",
            "max_tokens 601 exceed the model's context of 600",
        ),
        ({"max_tokens": 0}, 400, "max_tokens", "greater than or equal to 1"),
        ({"samples_per_arm": 0}, 400, "samples_per_arm", "greater than or equal to 1"),
        ({"samples_per_arm": 3}, 400, "samples_per_arm", "the server takes 2"),
        ({"seed": -1}, 400, "seed", "greater than or equal to 0"),
        ({"seed": 2**63}, 400, "seed", "less than"),
        ({"arms": []}, 400, "arms", "0 arms"),
        ({"arms": ["wolfram_9"]}, 400, "arms.0", "known are wolfram_0, wolfram_1"),
        ({"arms": ["wolfram_0", "wolfram_0"]}, 400, "arms", "given twice"),
        (
            {
                "arms": [
                    {"name": "a", "system_prompt": "", "temperature": 0.001, "top_p": 1.0},
                ]
            },
            400,
            "arms.0.temperature",
            "under 0.01",
        ),
        (
            {"arms": [{"name": "a", "system_prompt": "", "temperature": 1.0, "top_p": 0.0}]},
            400,
            "arms.0.top_p",
            "greater than 0",
        ),
        *[
            ({name: value}, 400, name, words)
            for names, values, words in WRONG_TYPES
            for name in names
            for value in values
        ],
        ({"arms": [{**ARM, "temperature": True}]}, 400, "arms.0.temperature", "valid number"),
        ({"arms": [{**ARM, "top_p": "1"}]}, 400, "arms.0.top_p", "valid number"),
        *[
            ({"policy": value}, 400, "policy", "'latest', 'base' or the number of a version")
            for value in ("newest", "policy-000007", "7", -1, 10**9, 7.0, True, None, ["latest"])
        ],
        ({"policy": 7}, 404, "policy", "version 7 is not loaded"),
        ({"stream": True, "policy": 7}, 404, "policy", "version 7 is not loaded"),
        ({"stream": True, "max_tokens": 601}, 400, "questions.0", "exceed the model's context"),
        ({"prompt_format": "xml"}, 400, "prompt_format", "'chat' or 'plain'"),
        ({"stop": [""]}, 400, "stop.0", "at least 1 character"),
        ({"stop": ["x" * 129]}, 400, "stop.0", "at most 128 characters"),
        ({"stop": ["x"] * 17}, 400, "stop", "at most 16 items"),
        ({"stop": "x"}, 400, "stop", "valid tuple"),
        ({"priority": "high"}, 400, "priority", "'ad_hoc' or 'rollout'"),
        ({"timeout_s": 0}, 400, "timeout_s", "greater than 0"),
        ({"temperature": 1.0}, 400, "temperature", "not permitted"),
    ],
)
async def test_bad_requests_name_the_field(
    client: Client, engine: FakeEngine, body: dict[str, Any], status: int, param: str, words: str
) -> None:
    response = await client.arms(**{"max_tokens": 100, **body})
    error = ErrorResponse.model_validate(response.json()).error
    assert (response.status_code, error.param) == (status, param)
    assert words in error.message
    assert not engine.in_flight.total()


async def test_a_body_that_is_not_json_is_named_as_such(client: Client) -> None:
    headers = {"Content-Type": "application/json"}
    response = await client.post("/v1/arms/generate", content="{", headers=headers)
    assert response.status_code == 400
    assert "not JSON" in response.json()["error"]["message"]


@pytest.mark.parametrize("content_type", ["application/x-www-form-urlencoded", "text/plain"])
async def test_a_body_without_the_header_of_json_is_told_which(
    client: Client, content_type: str
) -> None:
    headers = {"Content-Type": content_type}  # the first is curl's with -d
    response = await client.post(
        "/v1/arms/generate", content='{"questions": ["1"]}', headers=headers
    )
    assert response.status_code == 400
    message = response.json()["error"]["message"]
    assert content_type in message
    assert "'Content-Type: application/json'" in message


async def test_groups_beyond_the_limit_are_turned_away_until_others_end(
    client: Client, engine: FakeEngine
) -> None:
    engine.open.clear()
    first = asyncio.create_task(client.arms(questions=["1", "2", "3"]))
    await engine.reaches(24)
    status = (await client.get("/v1/status")).json()
    assert status["groups_in_flight"] == 3
    turned_away = await client.arms(questions=["4", "5"])
    assert turned_away.status_code == 429
    assert turned_away.headers["Retry-After"] == "1"
    assert turned_away.json()["error"]["type"] == "busy"
    second = asyncio.create_task(client.arms())
    await engine.reaches(32)
    engine.open.set()
    assert [(await request).status_code for request in (first, second)] == [200, 200]
    assert (await client.arms(questions=["4", "5"])).status_code == 200


@pytest.mark.parametrize(
    ("broken", "words"),
    [
        ({"logprobs": [-1.0]}, "1 logprobs for 8 tokens"),
        ({"logprobs": [math.nan] * 8}, "not finite"),
        ({"logprobs": [-math.inf] * 8}, "not finite"),
    ],
)
async def test_what_must_not_be_trained_on_is_an_error(
    client: Client, engine: FakeEngine, service: Service, broken: dict[str, Any], words: str
) -> None:
    engine.break_completion = lambda completion: replace(completion, **broken)
    response = await client.arms()
    assert response.status_code == 500
    assert words in response.json()["error"]["message"]
    assert service.generator.num_groups_in_flight == 0


async def test_one_failure_aborts_the_rest_of_the_request(
    client: Client, engine: FakeEngine, service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    await client.put_adapter(1)
    calls = 0
    generate = engine.generate

    async def fail_on_the_third(
        prompt_token_ids: list[int],
        sampling: Sampling,
        adapter: EngineAdapter | None,
        replica: int | None,
    ) -> EngineCompletion:
        nonlocal calls
        calls += 1
        if calls == 3:
            await asyncio.sleep(0)
            raise ConnectionError("the engine is gone")
        return await generate(prompt_token_ids, sampling, adapter, replica)

    monkeypatch.setattr(engine, "generate", fail_on_the_third)
    engine.open.clear()
    with pytest.raises(ConnectionError, match="the engine is gone"):
        await client.arms(questions=["1", "2"])
    assert engine.num_aborted == 15
    assert not engine.in_flight.total()
    assert service.adapters.get(1).num_leases == service.generator.num_groups_in_flight == 0


async def test_a_client_that_disconnects_has_its_generation_aborted(
    app: FastAPI, client: Client, engine: FakeEngine, service: Service
) -> None:
    await client.put_adapter(1)
    engine.open.clear()
    connection = Connection(app, b'{"questions": ["?"]}')
    await engine.reaches(8, "policy-000001")
    assert service.adapters.get(1).num_leases == 8
    connection.leave()
    await connection.task
    assert engine.num_aborted == 8
    assert connection.sent[0]["status"] == 499
    assert service.adapters.get(1).num_leases == service.generator.num_groups_in_flight == 0

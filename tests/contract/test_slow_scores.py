"""Scores that take long, as those of mathematics, whose comparisons may take any amount of time."""

import asyncio
import threading
from collections.abc import AsyncIterator
from dataclasses import replace
from itertools import count
from typing import Any

import pytest
from fastapi import FastAPI

from inference_server.arms.scores import Scorer
from inference_server.engine import EngineCompletion
from inference_server.wire.schemas import ArmCompletion, Question
from regime_w import group
from regime_w.algebra import math_process
from regime_w.answer_types import mathematics
from regime_w.answer_types.number import Number
from tests.contract.client import Client, Connection
from tests.contract.fake_engine import WAIT_S, FakeEngine

QUESTION = {"id": "a", "question": "?", "gold": r"\boxed{x^2+1}", "answer_type": "math"}


class Comparisons:
    """Comparisons that do not end while `go_on` is not set; gold answers are read at once, unless `with_golds` is set."""

    def __init__(self) -> None:
        self.with_golds = False
        self.go_on = threading.Event()
        self.began = asyncio.Event()
        self.pairs: set[tuple[str, str]] = set()
        self.threads: set[str] = set()
        self._loop = asyncio.get_running_loop()

    def are_equal(self, a: str, b: str) -> bool:
        if a == b and not self.with_golds:
            return True
        self.pairs.add((a, b))
        self.threads.add(threading.current_thread().name)
        self._loop.call_soon_threadsafe(self.began.set)
        assert self.go_on.wait(WAIT_S)
        return a == b


@pytest.fixture
async def comparisons(
    engine: FakeEngine, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Comparisons]:
    """Each completion gives an answer of its own, which must be compared."""
    numbers = count(2)

    def answered(completion: EngineCompletion) -> EngineCompletion:
        return replace(completion, text=rf"\boxed{{x^2+{next(numbers)}x}}")

    comparisons = Comparisons()
    engine.break_completion = answered
    monkeypatch.setattr(math_process, "LIBRARY", "json")
    monkeypatch.setattr(math_process, "try_library", lambda: None)
    monkeypatch.setattr(mathematics, "are_equal", comparisons.are_equal)
    yield comparisons
    comparisons.go_on.set()


async def all_compared(client: Client) -> None:
    """Waits for the thread that compares, by a request that it answers last."""
    question = {**QUESTION, "gold": "7"}
    assert (await client.arms(questions=[question], arms=["wolfram_0"], score=True)).is_success


async def test_scores_that_are_not_ready_in_time_end_the_request(
    client: Client, comparisons: Comparisons
) -> None:
    late = await client.arms(questions=[QUESTION], score=True, timeout_s=0.2)
    assert late.status_code == 408
    assert "raise timeout_s" in late.json()["error"]["message"]
    assert len(comparisons.pairs) == 1
    comparisons.go_on.set()
    await all_compared(client)
    assert len(comparisons.pairs) == 2, "a request that has ended was compared further"


async def test_a_gold_answer_that_is_not_read_in_time_holds_up_nobody(
    client: Client, comparisons: Comparisons
) -> None:
    """Each of its parts is compared with itself, to see that it can be read."""
    comparisons.with_golds = True
    question = {**QUESTION, "gold": ", ".join(f"x = a^{power}" for power in range(2, 20))}
    late = await client.arms(questions=[question], score=True, timeout_s=0.2)
    assert late.status_code == 408
    assert len(comparisons.pairs) == 1
    comparisons.go_on.set()
    await all_compared(client)
    assert len(comparisons.pairs) == 2, "a gold answer was read further than anybody waited"


async def test_one_pair_of_answers_may_be_many_comparisons(
    client: Client, engine: FakeEngine, comparisons: Comparisons
) -> None:
    """Two lists of equations are compared equation by equation."""
    listed = ", ".join(f"x = {{}}^{power}" for power in range(2, 20))
    engine.break_completion = lambda each: replace(
        each, text=rf"\boxed{{{listed.replace('{}', 'a')}, y = 1}}"
    )
    question = {**QUESTION, "gold": rf"\boxed{{{listed.replace('{}', 'b')}, y = 1}}"}
    late = await client.arms(questions=[question], score=True, timeout_s=0.2)
    assert late.status_code == 408
    assert len(comparisons.pairs) == 1
    comparisons.go_on.set()
    await all_compared(client)
    assert len(comparisons.pairs) == 1, "a request that has ended was compared further"


async def test_a_client_that_leaves_ends_the_comparisons(
    app: FastAPI, client: Client, comparisons: Comparisons
) -> None:
    question = r'{"id": "a", "question": "?", "gold": "\\boxed{x^2+1}", "answer_type": "math"}'
    connection = Connection(app, f'{{"questions": [{question}], "score": true}}'.encode())
    async with asyncio.timeout(WAIT_S):
        await comparisons.began.wait()
        connection.leave()
        await connection.task
    comparisons.go_on.set()
    await all_compared(client)
    assert len(comparisons.pairs) == 2, "a request that has ended was compared further"


async def test_all_mathematics_is_compared_in_one_thread_that_does_nothing_else(
    client: Client, comparisons: Comparisons
) -> None:
    """Uploads and tokenization share the other threads."""
    questions = [{**QUESTION, "id": name} for name in "abc"]
    asked = asyncio.create_task(client.arms(questions=questions, score=True))
    async with asyncio.timeout(WAIT_S):
        await comparisons.began.wait()
        assert (await client.put_adapter(1)).status_code == 201
        number = {"id": "n", "question": "?", "gold": "7"}
        assert (await client.arms(questions=[number], score=True)).status_code == 200
        comparisons.go_on.set()
        assert (await asked).status_code == 200
    assert len(comparisons.threads) == 1


@pytest.mark.parametrize("place", [(Number, "extract"), (Number, "read"), (group, "read_path")])
async def test_numbers_are_read_no_further_than_anybody_waits(
    place: tuple[object, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A thousand long completions take seconds."""
    began, go_on, texts = threading.Event(), threading.Event(), []
    read = getattr(*place)

    def slow(*args: Any) -> object:
        texts.append(args)
        began.set()
        assert go_on.wait(WAIT_S)
        return read(*args)

    monkeypatch.setattr(*place, slow)
    completions = [
        ArmCompletion(
            arm="wolfram_0",
            sample=number,
            text=f"#### {number}",
            finish_reason="stop",
            temperature=0.2,
            top_p=0.95,
            seed=None,
            prompt_token_ids=[],
            token_ids=[],
            logprobs=[],
        )
        for number in range(20)
    ]
    question = Question(id="a", question="?", gold="7")
    scored = asyncio.create_task(Scorer().score(question, completions))
    assert await asyncio.to_thread(began.wait, WAIT_S)
    scored.cancel()
    await asyncio.gather(scored, return_exceptions=True)
    go_on.set()
    await asyncio.get_running_loop().shutdown_default_executor()
    assert len(texts) == 1

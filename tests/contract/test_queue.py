"""The places that completions have in the engine: their bound, whose turn it is, and what a group holds while it waits."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from inference_server.arms import generator
from inference_server.arms.queue import Queue
from tests.contract.client import Client, Restart
from tests.contract.fake_engine import WAIT_S, FakeEngine

NUM_PLACES = 5


@pytest.fixture(autouse=True)
def few_places(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(generator, "_MAX_QUEUED", NUM_PLACES)


@pytest.fixture
async def client(restart: Restart, engine: FakeEngine) -> AsyncIterator[Client]:
    client, _ = await restart(engine, max_groups_in_flight=100)
    engine.samplings.clear()  # the warm-up
    async with client:
        yield client


async def settle() -> None:
    """Lets every task run until it waits."""
    for _ in range(50):
        await asyncio.sleep(0)


@pytest.mark.parametrize("num_replicas", [1, 2])
async def test_the_engine_gets_completions_as_it_ends_others(
    num_replicas: int, restart: Restart, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(generator, "_MAX_QUEUED", 5)
    engine = FakeEngine()
    engine.has_replicas(num_replicas)
    client, _ = await restart(engine)
    num_before = len(engine.samplings)  # the warm-up's
    engine.open.clear()
    asking = asyncio.create_task(client.arms(questions=["1", "2"]))
    await engine.reaches(5 * num_replicas)
    for _ in range(20):
        await asyncio.sleep(0)
    assert len(engine.samplings) == num_before + 5 * num_replicas
    engine.open.set()
    groups = (await asking).json()["groups"]
    assert [len(group["arms"]) for group in groups] == [8, 8]


@pytest.mark.parametrize("stream", [False, True])
async def test_many_small_requests_share_the_places(
    client: Client, engine: FakeEngine, stream: bool
) -> None:
    engine.open.clear()
    asking = [asyncio.create_task(client.arms(stream=stream)) for _ in range(20)]
    await engine.reaches(NUM_PLACES)
    await settle()
    assert len(engine.samplings) == NUM_PLACES
    engine.open.set()
    assert [answer.status_code for answer in await asyncio.gather(*asking)] == [200] * 20
    assert len(engine.samplings) == 20 * 8


async def test_rollouts_that_wait_keep_no_ad_hoc_request_waiting(
    client: Client, engine: FakeEngine
) -> None:
    engine.open.clear()
    rollouts = asyncio.create_task(client.arms(questions=["1", "2"], priority="rollout"))
    await engine.reaches(NUM_PLACES)
    ad_hoc = asyncio.create_task(client.arms(arms=["wolfram_0"]))
    await engine.reaches(NUM_PLACES + 1)
    assert engine.samplings[-1].priority == "ad_hoc"
    engine.open.set()
    await asyncio.gather(rollouts, ad_hoc)


async def test_who_waits_and_leaves_or_is_too_late_takes_no_place_along(
    client: Client, engine: FakeEngine
) -> None:
    engine.open.clear()
    first = asyncio.create_task(client.arms())
    await engine.reaches(NUM_PLACES)
    leaving = [asyncio.create_task(client.arms()) for _ in range(3)]
    await settle()
    late = await client.arms(timeout_s=0.01)
    assert (late.status_code, late.json()["error"]["type"]) == (408, "timeout")
    for each in leaving:
        each.cancel()
    await asyncio.gather(*leaving, return_exceptions=True)
    first.cancel()
    await asyncio.gather(first, return_exceptions=True)
    await engine.reaches(0)
    engine.samplings.clear()
    again = asyncio.create_task(client.arms())
    await engine.reaches(NUM_PLACES)
    engine.open.set()
    assert (await again).status_code == 200


async def test_a_group_that_waits_leases_only_the_version_that_it_names(
    client: Client, engine: FakeEngine
) -> None:
    await client.put_adapter(1)
    engine.open.clear()
    running = asyncio.create_task(client.arms(policy="base"))
    await engine.reaches(NUM_PLACES)
    latest = asyncio.create_task(client.arms(policy="latest"))
    await settle()
    await client.put_adapter(2)
    assert (await client.delete("/v1/adapters/1")).status_code == 204
    named = asyncio.create_task(client.arms(policy=2))
    await settle()
    await client.put_adapter(3)
    assert (await client.delete("/v1/adapters/2")).status_code == 409
    engine.open.set()
    versions = [(await each).json()["policy_version"] for each in (running, latest, named)]
    assert versions == [None, 3, 2]


async def test_requests_take_turns() -> None:
    queue, order = Queue(num_places=2), []
    end = asyncio.Semaphore(0)

    async def run(name: str, turn: asyncio.Lock) -> None:
        async with queue.group(turn, 2) as place:

            async def complete() -> None:
                async with place():
                    order.append(name)
                    await end.acquire()

            await asyncio.gather(complete(), complete())

    large, small = asyncio.Lock(), asyncio.Lock()
    tasks = [asyncio.create_task(run(f"large {number}", large)) for number in range(3)]
    tasks += [asyncio.create_task(run(f"small {number}", small)) for number in range(2)]
    async with asyncio.timeout(WAIT_S):
        await settle()
        assert order == ["large 0", "large 0"]
        end.release()
        await settle()
        assert order == ["large 0", "large 0", "small 0"]
        for _ in range(9):
            end.release()
        await asyncio.gather(*tasks)
    assert order[::2] == order[1::2] == ["large 0", "small 0", "large 1", "small 1", "large 2"]


async def test_a_group_that_ends_early_lets_the_next_one_begin() -> None:
    queue = Queue(num_places=1)

    async def fail() -> None:
        async with queue.group(asyncio.Lock(), 2) as place, place():
            raise ConnectionError

    with pytest.raises(ConnectionError):
        await fail()
    async with asyncio.timeout(WAIT_S), queue.group(asyncio.Lock(), 1) as place, place():
        pass

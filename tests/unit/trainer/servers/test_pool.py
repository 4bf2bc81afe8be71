"""Several servers as one: who is asked, what is asked elsewhere, and who comes back with what."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from inference_server.wire.adapters.infos import AdapterInfo
from tests.unit.several_servers import RatedServer, group_request_of, write_version
from trainer.client.protocol import GreedyPrompt
from trainer.errors import (
    ConflictError,
    ServerError,
    ServerRejectedError,
    ServerUnreachableError,
    SyncError,
    UsageError,
)
from trainer.rollouts.groups import ServedGroup
from trainer.servers import dispatch, first_results, membership, time_limit
from trainer.servers.pool import ServerPool

PROMPT = GreedyPrompt(system_prompt="", prompt_format="plain", max_tokens=4)


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(membership, "FIRST_WAIT_S", 0.01)
    monkeypatch.setattr(membership, "TICK_S", 0.01)
    monkeypatch.setattr(dispatch, "_LEAST_LATE_S", 0.05)
    monkeypatch.setattr(first_results, "_LEAST_S", 0.05)


def servers_named(names: str, **settings: Any) -> list[RatedServer]:
    return [RatedServer(name=name, **settings) for name in names]


@asynccontextmanager
async def pool_of(
    servers: list[RatedServer], *, give_up_after_s: float = 60.0
) -> AsyncIterator[ServerPool]:
    clients = {f"http://{server.name}:1": server for server in servers}
    async with ServerPool(clients, give_up_after_s=give_up_after_s) as pool:
        yield pool


async def ask_all(pool: ServerPool, numbers: range, version: int | None = 1) -> list[ServedGroup]:
    answers = await asyncio.gather(
        *(pool.generate(group_request_of(number, version)) for number in numbers)
    )
    groups = [group for answer in answers for group in answer.groups]
    assert [group.id for group in groups] == [f"q{number}" for number in numbers]
    return [group for group in groups if isinstance(group, ServedGroup)]


async def until(holds: Callable[[], bool]) -> None:
    while not holds():  # noqa: ASYNC110
        await asyncio.sleep(0.005)


async def most_in_flight(servers: list[RatedServer], work: Coroutine[Any, Any, object]) -> int:
    """The most requests that a server works on at once until the work is done."""
    most, asked = 0, asyncio.create_task(work)
    while not asked.done():
        most = max(most, *(server.num_in_flight for server in servers))
        await asyncio.sleep(0)
    await asked
    return most


async def test_every_server_is_given_a_version_and_each_makes_a_part(tmp_path: Path) -> None:
    servers = servers_named("abc", seconds=0.01)
    async with pool_of(servers) as pool:
        info = await pool.push_adapter(1, write_version(tmp_path))
        assert info.active
        assert [server.active for server in servers] == [1, 1, 1]
        groups = await ask_all(pool, range(30))
    by_server = Counter(group.server for group in groups)
    assert by_server.keys() == {f"http://{name}:1" for name in "abc"}
    assert {group.server_boot_id for group in groups} == {"a-1", "b-1", "c-1"}
    # The seed, and so the answer, does not depend on who is asked.
    assert [group.arms[0].text for group in groups] == [f"1/q{i}" for i in range(30)]


async def test_the_pool_never_seems_to_be_restarted(tmp_path: Path) -> None:
    (server, other) = servers_named("ab")
    async with pool_of([server, other]) as pool:
        boot_id = (await pool.status()).boot_id
        await pool.push_adapter(1, write_version(tmp_path))
        server.restart()
        answers = [await pool.generate(group_request_of(i)) for i in range(4)]
        assert {answer.boot_id for answer in answers} == {boot_id}
        await until(lambda: server.active == 1)


async def test_a_request_goes_to_the_server_with_the_least_to_do(tmp_path: Path) -> None:
    busy, idle = servers_named("ab")
    busy.num_others = 50
    async with pool_of([busy, idle]) as pool:
        await pool.status()
        await ask_all(pool, range(10), None)
    assert (len(busy.answered), len(idle.answered)) == (0, 10)


async def test_no_server_is_sent_more_than_it_takes() -> None:
    servers = servers_named("ab", seconds=0.01, limit_change={"max_groups_in_flight": 2})
    async with pool_of(servers) as pool:
        most = await most_in_flight(servers, ask_all(pool, range(20), None))
    assert most == 2


async def test_pieces_of_an_evaluation_count_with_all_their_questions() -> None:
    servers = servers_named("ab", seconds=0.01, limit_change={"max_groups_in_flight": 12})
    questions = [str(number) for number in range(80)]
    async with pool_of(servers) as pool:
        most = await most_in_flight(servers, pool.complete(None, questions, PROMPT))
    # Eight questions each, one request of which is in flight here.
    assert most == 1


async def test_a_dead_servers_groups_are_asked_elsewhere_and_it_comes_back(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    servers = servers_named("abc", seconds=0.02)
    dying = servers[0]
    async with pool_of(servers) as pool:
        await pool.push_adapter(1, write_version(tmp_path / "1", "one"))
        asked = asyncio.create_task(ask_all(pool, range(24)))
        await until(lambda: dying.num_in_flight > 3)
        dying.is_down = True
        groups = await asked
        assert len(groups) == 24
        assert len(pool.origins) == 2
        await pool.push_adapter(2, write_version(tmp_path / "2", "two"))
        dying.restart()
        await until(lambda: len(pool.origins) == 3)
        # Before it is asked it holds the version in use, and only that.
        assert (list(dying.held), dying.active) == ([2], 2)
        # A request of an earlier one is preceded by its push.
        dying.log.clear()
        await ask_all(pool, range(30, 60), 1)
        assert (pool.metrics["servers/up"], pool.metrics["servers/left"]) == (3, 1)
    lines = [line for line in caplog.messages if "event=server_" in line]
    assert len(lines) == 2
    assert "event=server_left server=http://a:1" in lines[0]
    assert "a is down" in lines[0]
    assert "event=server_back server=http://a:1" in lines[1]
    assert "boot_id=a-2 was=a-1 given=2" in lines[1]


async def test_an_answer_of_a_server_that_was_restarted_unseen_does_not_count(
    tmp_path: Path,
) -> None:
    first, second = servers_named("ab", seconds=0.01)
    async with pool_of([first, second]) as pool:
        await pool.push_adapter(1, write_version(tmp_path))
        first.boot += 1
        groups = await ask_all(pool, range(8))
        assert "a-1" not in {group.server_boot_id for group in groups}
        await until(lambda: len(pool.origins) == 2)
        assert first.log == ["push 1", "push 1"]


async def test_what_waits_on_a_slow_server_is_asked_again_and_answered_once(
    tmp_path: Path,
) -> None:
    servers = servers_named("abc", seconds=0.01)
    async with pool_of(servers) as pool:
        await pool.push_adapter(1, write_version(tmp_path))
        await ask_all(pool, range(12))
        servers[0].hangs = True
        groups = await ask_all(pool, range(100, 124))
        assert "http://a:1" not in {group.server for group in groups}
        answered = Counter(server for s in servers for server in s.answered)
        assert all(answered[f"q{number}"] == 1 for number in range(100, 124))
        assert len(servers[0].cancelled) > 0
        assert pool.metrics["servers/asked_again"] == len(servers[0].cancelled)
        assert pool.metrics["servers/up"] == 3
        # Nothing of them is counted as in flight.
        servers[0].hangs = False
        assert len(await ask_all(pool, range(200, 212))) == 12


async def test_a_slow_push_holds_nobody_up_and_its_server_is_asked_afterwards(
    tmp_path: Path,
) -> None:
    quick, slow = servers_named("ab")
    slow.push_seconds = 0.3
    async with pool_of([quick, slow]) as pool:
        await pool.push_adapter(1, write_version(tmp_path))
        assert 1 not in slow.held
        await ask_all(pool, range(8))
        assert len(quick.answered) == 8
        await until(lambda: 1 in slow.held)
        await ask_all(pool, range(8, 24))
        assert slow.answered


async def test_pushes_that_nobody_needs_any_more_are_left_out(tmp_path: Path) -> None:
    quick, slow = servers_named("ab")
    slow.pushes_end.clear()
    async with pool_of([quick, slow]) as pool:
        for version in range(1, 6):
            await pool.push_adapter(version, write_version(tmp_path / f"{version}", f"{version}"))
        assert len(await ask_all(pool, range(8), 5)) == 8
        slow.pushes_end.set()
        await until(lambda: slow.active == 5)
        assert slow.log == ["push 1", "push 5"]
        assert pool.metrics["servers/up"] == 2


async def test_a_server_that_hangs_holds_up_no_publication_and_leaves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    servers = servers_named("ab", seconds=0.01)
    hanging = servers[1]
    async with pool_of(servers) as pool:
        await pool.push_adapter(1, write_version(tmp_path))
        only = pool.only(pool.origins[1])
        assert only is not None
        hanging.pushes_end.clear()
        await pool.push_adapter(2, write_version(tmp_path / "2", "two"))
        # What it holds already is not behind the push that hangs.
        assert (await only.adapter(1)).version == 1
        hanging.is_silent = hanging.hangs = True
        asked = asyncio.create_task(ask_all(pool, range(24)))
        assert (await pool.status()).next_version == 3
        waiting = asyncio.create_task(only.adapter(2))
        await asyncio.sleep(0)
        monkeypatch.setattr(time_limit, "LOOKED_WITHIN_S", 0.05)
        with pytest.raises(ServerUnreachableError, match="has left: no answer within"):
            await waiting
        assert pool.metrics["servers/up"] == 1
        assert len(await asked) == 24
        hanging.is_silent = hanging.hangs = False
        hanging.pushes_end.set()
        await until(lambda: pool.metrics["servers/up"] == 2)
        assert hanging.active == 2


async def test_a_status_that_comes_too_late_throws_nobody_out(tmp_path: Path) -> None:
    servers = servers_named("ab")
    late = servers[1]
    async with pool_of(servers) as pool:
        await pool.push_adapter(1, write_version(tmp_path))
        late.is_silent = True
        await pool.status()
        # It leaves and is back before its status of then fails.
        late.is_down = True
        await ask_all(pool, range(8))
        await until(lambda: pool.metrics["servers/up"] == 1)
        late.is_silent = late.is_down = False
        await until(lambda: pool.metrics["servers/up"] == 2)
        late.answers_end.set()
        await asyncio.sleep(0)
        await ask_all(pool, range(8, 16))
        assert pool.metrics["servers/up"] == 2
        assert pool.metrics["servers/left"] == 1


async def test_a_proof_waits_for_the_push_and_gives_again_what_was_lost(tmp_path: Path) -> None:
    quick, slow = servers_named("ab")
    slow.push_seconds = 0.3
    async with pool_of([quick, slow]) as pool:
        await pool.push_adapter(1, write_version(tmp_path))
        only = pool.only(pool.origins[1])
        assert only is not None
        assert 1 not in slow.held
        assert (await only.adapter(1)).active
        slow.held.clear()
        assert (await only.adapter(1)).active
        assert slow.log == ["push 1", "push 1"]
        with pytest.raises(ServerRejectedError, match="version 7 is not loaded"):
            await only.adapter(7)


async def test_a_version_that_a_server_has_lost_is_given_again(tmp_path: Path) -> None:
    (server, other) = servers_named("ab")
    async with pool_of([server, other]) as pool:
        await pool.push_adapter(1, write_version(tmp_path))
        server.held.clear()
        assert len(await ask_all(pool, range(6))) == 6
        await until(lambda: 1 in server.held)
    with pytest.raises(ServerRejectedError, match="version 7 is not loaded"):
        async with pool_of([server, other]) as pool:
            await pool.generate(group_request_of(0, 7))


async def test_greedy_answers_are_spread_and_stay_in_order() -> None:
    servers = servers_named("ab")
    questions = [str(number) for number in range(40)]
    async with pool_of(servers) as pool:
        answers = await pool.complete(None, questions, PROMPT)
    assert [answer.text for answer in answers] == questions
    assert all(server.answered for server in servers)


@pytest.mark.parametrize(
    ("status", "limits", "field"),
    [
        ({"base_fingerprint": "g"}, {}, "base_fingerprint is g at http://b:1 and f at http://a:1"),
        ({"base_dtype": "bfloat16"}, {}, "base_dtype"),
        ({"has_chat_template": False}, {}, "has_chat_template"),
        ({"base_fingerprint": None, "base_model": "n"}, {}, "base_model is n"),
        ({}, {"max_model_len_tokens": 32}, "limits.max_model_len_tokens is 32"),
    ],
)
async def test_servers_that_differ_are_refused_in_one_line(
    status: dict[str, object], limits: dict[str, object], field: str
) -> None:
    servers = servers_named("ab")
    servers[1].status_change, servers[1].limit_change = status, limits
    with pytest.raises(UsageError, match=field) as caught:
        async with pool_of(servers) as pool:
            await pool.status()
    assert "\n" not in str(caught.value)


async def test_together_they_can_what_each_of_them_can() -> None:
    servers = servers_named("ab")
    servers[0].limit_change = {"max_completions": 64}
    servers[1].limit_change = {"max_lora_rank": 8, "max_completions": 128}
    servers[1].status_change = {"num_replicas": 4}
    servers[0].held, servers[1].held = {1: "x", 2: "y"}, {1: "x", 2: "z", 6: "w"}
    async with pool_of(servers) as pool:
        status = await pool.status()
    assert status.limits.max_lora_rank == 8
    assert status.limits.max_completions == 64
    assert status.num_replicas == 1 + 4
    assert [info.version for info in status.versions] == [1]
    assert status.next_version == 7


async def test_one_that_is_away_at_the_start_joins_later(caplog: pytest.LogCaptureFixture) -> None:
    servers = servers_named("ab")
    servers[1].is_down = True
    async with pool_of(servers) as pool:
        await pool.status()
        assert [origin.server for origin in pool.origins] == ["http://a:1"]
        servers[1].is_down = False
        await until(lambda: len(pool.origins) == 2)
    assert ["server_not_asked" in line or "server_joined" in line for line in caplog.messages] == [
        True,
        True,
    ]


async def test_one_that_comes_back_as_another_stays_out(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    servers = servers_named("ab")
    async with pool_of(servers) as pool:
        await pool.push_adapter(1, write_version(tmp_path))
        servers[1].restart()
        servers[1].status_change = {"base_dtype": "bfloat16"}
        await ask_all(pool, range(8))
        await until(lambda: any("server_not_asked" in line for line in caplog.messages))
        await asyncio.sleep(0.1)
        assert [origin.server for origin in pool.origins] == ["http://a:1"]
    refused = [line for line in caplog.messages if "server_not_asked" in line]
    assert len(refused) == 1
    assert "base_dtype is bfloat16 at http://b:1" in refused[0]


@pytest.mark.parametrize("give_up_after_s", [0.0, 0.2])
async def test_when_all_are_gone_what_waits_is_given_up_in_the_end(give_up_after_s: float) -> None:
    servers = servers_named("ab", seconds=0.05)
    async with pool_of(servers, give_up_after_s=give_up_after_s) as pool:
        asked = asyncio.create_task(pool.generate(group_request_of(0, None)))
        await until(lambda: any(server.num_in_flight for server in servers))
        for server in servers:
            server.is_down = True
        with pytest.raises(ServerUnreachableError, match="none of the 2 servers") as caught:
            await asked
        assert "http://a:1: a is down" in str(caught.value)
        with pytest.raises(ServerUnreachableError):
            await pool.status()


async def test_all_gone_for_a_while_is_waited_for(tmp_path: Path) -> None:
    servers = servers_named("ab", seconds=0.02)
    async with pool_of(servers) as pool:
        await pool.push_adapter(1, write_version(tmp_path))
        asked = asyncio.create_task(ask_all(pool, range(12)))
        await until(lambda: servers[0].num_in_flight > 1)
        for server in servers:
            server.is_down = True
        await until(lambda: not pool.origins)
        servers[1].restart()
        assert {group.server_boot_id for group in await asked} <= {"a-1", "b-1", "b-2"}


async def test_a_number_of_another_run_is_refused_as_by_one_server(tmp_path: Path) -> None:
    servers = servers_named("ab")
    async with pool_of(servers) as pool:
        await pool.push_adapter(1, write_version(tmp_path / "1", "one"))
        servers[1].refusal = ConflictError(409, "another adapter")
        with pytest.raises(ServerRejectedError) as caught:
            await pool.push_adapter(2, write_version(tmp_path / "2", "two"))
        assert caught.value.status == 409
        servers[1].refusal = None
        await pool.push_adapter(3, write_version(tmp_path / "3", "three"))
        assert [server.active for server in servers] == [3, 3]


async def test_other_weights_acknowledged_stop_the_run(tmp_path: Path) -> None:
    servers = servers_named("ab")

    async def lie(version: int, folder: Path, *, activate: bool = True) -> AdapterInfo:
        info = await RatedServer.push_adapter(servers[1], version, folder, activate=activate)
        return info.model_copy(update={"sha256": "0" * 64})

    servers[1].push_adapter = lie  # type: ignore[method-assign]
    async with pool_of(servers) as pool:
        with pytest.raises(SyncError, match="http://b:1 acknowledges"):
            await pool.push_adapter(1, write_version(tmp_path))


async def test_one_alone_is_asked_for_its_proof_until_it_leaves(tmp_path: Path) -> None:
    servers = servers_named("ab")
    async with pool_of(servers) as pool:
        await pool.push_adapter(1, write_version(tmp_path))
        origin = pool.origins[1]
        only = pool.only(origin)
        assert only is not None
        for number in range(5):
            (group,) = (await only.generate(group_request_of(number))).groups
            assert isinstance(group, ServedGroup)
            assert group.server == "http://b:1"
        assert (await only.adapter(1)).version == 1
        servers[1].is_down = True
        with pytest.raises(ServerUnreachableError, match="http://b:1 has left"):
            await only.generate(group_request_of(9))
        with pytest.raises(ServerUnreachableError, match="http://b:1 has left"):
            pool.only(origin)
        servers[1].restart()
        await until(lambda: len(pool.origins) == 2)
        with pytest.raises(ServerUnreachableError, match="http://b:1 has left"):
            pool.only(origin)
        with pytest.raises(ServerUnreachableError):
            await only.generate(group_request_of(9))


async def test_a_cancelled_request_leaves_nothing_behind() -> None:
    servers = servers_named("ab", seconds=30.0, limit_change={"max_groups_in_flight": 1})
    async with pool_of(servers) as pool:
        await pool.status()
        asked = [asyncio.create_task(pool.generate(group_request_of(i, None))) for i in range(4)]
        await until(lambda: all(server.num_in_flight for server in servers))
        for one in asked:
            one.cancel()
        await asyncio.gather(*asked, return_exceptions=True)
        await until(lambda: not any(server.num_in_flight for server in servers))
        for server in servers:
            server.seconds = 0.0
        assert len(await ask_all(pool, range(4), None)) == 4


async def test_a_request_at_fault_is_refused_by_whoever_is_asked() -> None:
    servers = servers_named("ab")

    async def refuse(request: object) -> None:
        raise ServerRejectedError(400, "too long")

    for server in servers:
        server.generate = refuse  # type: ignore[assignment, method-assign]
    async with pool_of(servers) as pool:
        with pytest.raises(ServerError, match="too long"):
            await pool.generate(group_request_of(0, None))
        assert len(pool.origins) == 2

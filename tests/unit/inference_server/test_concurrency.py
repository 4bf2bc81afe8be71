"""A call that many callers share: it runs once at a time, and a caller that goes away ends it for no other."""

import asyncio

import pytest

from inference_server.concurrency import SharedCall


class Counted:
    """A call that counts itself and ends only once ``go`` is set."""

    def __init__(self) -> None:
        self.num_calls = 0
        self.go = asyncio.Event()
        self.error: Exception | None = None

    async def __call__(self) -> int:
        self.num_calls += 1
        number = self.num_calls
        await self.go.wait()
        if self.error is not None:
            raise self.error
        return number


async def test_who_asks_meanwhile_gets_the_same_result() -> None:
    shared, call = SharedCall(), Counted()
    asked = [asyncio.create_task(shared.run(call)) for _ in range(5)]
    await asyncio.sleep(0)
    call.go.set()
    assert await asyncio.gather(*asked) == [1] * 5
    assert await shared.run(call) == 2


async def test_a_caller_that_goes_ends_it_for_no_other() -> None:
    shared, call = SharedCall(), Counted()
    first, second = (asyncio.create_task(shared.run(call)) for _ in range(2))
    await asyncio.sleep(0)
    first.cancel()
    await asyncio.sleep(0)
    call.go.set()
    assert await second == 1
    with pytest.raises(asyncio.CancelledError):
        await first


async def test_an_error_is_everybodys_and_the_next_call_is_a_new_one() -> None:
    shared, call = SharedCall(), Counted()
    call.error = ValueError("no")
    asked = [asyncio.create_task(shared.run(call)) for _ in range(2)]
    await asyncio.sleep(0)
    call.go.set()
    results = await asyncio.gather(*asked, return_exceptions=True)
    assert [str(result) for result in results] == ["no", "no"]
    call.error = None
    assert await shared.run(call) == 2

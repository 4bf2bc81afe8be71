"""An engine that hangs is killed; one that is slow, answers or is dead is not."""

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from inference_server.engine import EngineDied
from inference_server.launch import watchdog
from inference_server.launch.watchdog import end_if_hung, kill_processes


class Answers:
    """An engine that answers ``num_answers`` times, the first time with an error, and then hangs or is dead."""

    def __init__(self, num_answers: int, *, dies: bool = False) -> None:
        self.num_answers, self.num_asked, self.dies = num_answers, 0, dies

    async def loaded_ids(self) -> set[int]:
        self.num_asked += 1
        if self.num_asked == 1:
            raise RuntimeError("no such method")
        if self.num_asked > self.num_answers:
            if self.dies:
                raise EngineDied("its process has ended")
            await asyncio.Event().wait()
        return set()


@pytest.mark.parametrize(("dies", "num_killed"), [(False, 1), (True, 0)])
async def test_an_engine_is_killed_where_it_hangs(
    dies: bool, num_killed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watchdog, "_PAUSE_S", 0)
    monkeypatch.setattr(watchdog, "_HUNG_AFTER_S", 0.01)
    engine: Any = Answers(3, dies=dies)
    killed: list[bool] = []
    await end_if_hung(engine, lambda: killed.append(True))
    assert engine.num_asked == 4
    assert len(killed) == num_killed


def test_all_processes_of_the_engine_are_killed() -> None:
    killed: list[int] = []
    processes = [SimpleNamespace(kill=lambda i=i: killed.append(i)) for i in range(2)]
    manager = SimpleNamespace(processes=processes)
    client = SimpleNamespace(
        engine_core=SimpleNamespace(resources=SimpleNamespace(engine_manager=manager))
    )
    kill_processes(client)
    assert killed == [0, 1]

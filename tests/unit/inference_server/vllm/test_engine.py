"""Loads of an adapter that one of several replicas or workers refuses."""

import asyncio
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from inference_server.engine import AdapterRejected, EngineAdapter

if TYPE_CHECKING:
    from inference_server.vllm.engine import VllmEngine

ADAPTER = EngineAdapter(lora_id=7, name="policy-000007", path=Path("adapter"))


class Replicas:
    """A stand-in for vLLM's engine client: each replica holds ids of adapters, or refuses to load one."""

    def __init__(self, refuses: list[bool | Exception]) -> None:
        self.errored = False
        self.engine_core = self
        self.held: list[set[int]] = [{1} for _ in refuses]
        self._refuses = refuses

    async def call_utility_all_async(self, method: str, *arguments: Any) -> list[Any]:
        if method == "list_loras":
            return self.held
        if method == "remove_lora":
            held = [arguments[0] in ids for ids in self.held]
            for ids in self.held:
                ids.discard(arguments[0])
            return held
        answers: list[bool] = []
        for ids, refuses in zip(self.held, self._refuses, strict=True):
            if refuses is False:
                ids.add(arguments[0].lora_int_id)
            answers.append(refuses is False)
        for refuses in self._refuses:
            if isinstance(refuses, Exception):
                raise refuses
        return answers


def engine_of(replicas: Replicas) -> "VllmEngine":
    with warnings.catch_warnings(action="ignore"):  # of what vLLM imports
        from inference_server.vllm.engine import VllmEngine

    engine = VllmEngine.__new__(VllmEngine)
    engine._client = replicas
    engine._held_adapters = {1}
    return engine


async def test_an_adapter_is_loaded_on_every_replica() -> None:
    replicas = Replicas([False, False])
    engine = engine_of(replicas)
    await engine.load(ADAPTER)
    assert replicas.held == [{1, 7}, {1, 7}]
    assert engine._held_adapters == {1, 7}
    assert await engine.loaded_ids() == {1, 7}
    unloading = asyncio.create_task(engine.unload(ADAPTER))
    await asyncio.sleep(0)
    # Refused at once, not only when the engine has unloaded it.
    assert engine._held_adapters == {1}
    await unloading
    assert replicas.held == [{1}, {1}]


@pytest.mark.parametrize(
    ("refuses", "reason"),
    [
        ([False, True], "did not keep policy-000007"),
        ([True, False], "did not keep policy-000007"),
        ([False, Exception("too large")], "too large"),
        ([True], "did not keep policy-000007"),
    ],
)
async def test_what_one_replica_refuses_none_keeps(
    refuses: list[bool | Exception], reason: str
) -> None:
    replicas = Replicas(refuses)
    engine = engine_of(replicas)
    with pytest.raises(AdapterRejected, match=reason):
        await engine.load(ADAPTER)
    assert all(ids == {1} for ids in [*replicas.held, engine._held_adapters])


async def test_only_what_all_replicas_hold_is_loaded() -> None:
    replicas = Replicas([False, False])
    replicas.held = [{1, 2}, {2, 3}]
    assert await engine_of(replicas).loaded_ids() == {2}

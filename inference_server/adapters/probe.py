"""Tries a loaded adapter with one token on each replica, before any client can reach it."""

import math

from inference_server.concurrency import gather_or_cancel
from inference_server.engine import AdapterRejected, Engine, EngineAdapter, Sampling
from inference_server.errors import EngineUnavailable
from inference_server.wire.schemas import FinishReason

# Every vocabulary has these ids. They are fewer than a block of the KV cache holds: the engine caches whole blocks
# under an adapter's name and path, and the next upload of a refused version's number has the same name and path.
_PROMPT_TOKEN_IDS = range(8)
PROBE = Sampling(temperature=0.0, top_p=1.0, max_tokens=1, seed=None)


async def require_finite(engine: Engine, adapter: EngineAdapter) -> None:
    """Has a loaded adapter generate one token, on every replica.

    Raises:
        AdapterRejected: A token's logprob is not finite.
        EngineUnavailable: The engine aborted a completion.
    """
    # No probe may still be in flight when the adapter is unloaded: the engine would load the adapter again for it.
    await gather_or_cancel(
        _require_finite_on(engine, adapter, replica)
        for replica in range(engine.traits.num_replicas)
    )


async def _require_finite_on(engine: Engine, adapter: EngineAdapter, replica: int) -> None:
    completion = await engine.generate(list(_PROMPT_TOKEN_IDS), PROBE, adapter, replica)
    if completion.finish_reason is FinishReason.ABORT:
        raise EngineUnavailable(f"the engine aborted the first completion of {adapter.name}")
    if not all(map(math.isfinite, completion.logprobs)):
        raise AdapterRejected("its first completion has logprobs that are not finite")

"""The first question to a loaded adapter, before anybody else can reach it."""

import math

from inference_server.concurrency import gather_or_cancel
from inference_server.engine import AdapterRejected, Engine, EngineAdapter, Sampling
from inference_server.errors import EngineUnavailable
from inference_server.wire.schemas import FinishReason

# Every vocabulary has these ids. Fewer than a block of the KV cache: the engine caches whole blocks by an
# adapter's name and path, which a refused version leaves to the next upload of its number.
_PROMPT_TOKEN_IDS = range(8)
PROBE = Sampling(temperature=0.0, top_p=1.0, max_tokens=1, seed=None)


async def require_finite(engine: Engine, adapter: EngineAdapter) -> None:
    """Has a loaded adapter generate one token, on every replica.

    Raises:
        AdapterRejected: A token's logprob is not finite.
        EngineUnavailable: The engine aborted a completion.
    """
    # None may be on its way when the adapter is unloaded: the engine would load it again for it.
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

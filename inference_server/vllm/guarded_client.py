r"""Wraps the vLLM client that all routes use: refuses what the engine cannot take, reports what it did not finish.

vLLM registers a request before it encodes it for the engine's process. A request that cannot be encoded
("\ud83d" is not UTF-8) stays in flight forever: its adapter then counts as used until a restart. vLLM's routes
take any number of completions and logprobs in one request, and answer 200 with half a completion when the engine stops
meanwhile.
"""

from collections.abc import AsyncGenerator, Awaitable, Callable, Set
from contextlib import aclosing, suppress
from typing import Any

import structlog
from vllm.exceptions import (
    RetryableRequestError,
    VLLMError,
    VLLMNotFoundError,
    VLLMValidationError,
)
from vllm.v1.engine.exceptions import EngineDeadError

from inference_server.vllm.http_requests import current_request
from inference_server.vllm.sampling_limits import check_sampling, num_logprobs

_MAX_REASON_CHARS = 200
_STOPPED = "the engine stopped before the completion ended"

_log = structlog.get_logger()


def guard_client(client: Any, held_adapters: Set[int]) -> None:
    """Makes an ``AsyncLLM`` forget a request that it could not queue, and report a completion that did not end.

    Written against vLLM 0.32. A request that cannot be queued raises vLLM's ``VLLMValidationError``
    (400 on its routes); one whose adapter has been unloaded raises ``VLLMNotFoundError`` (404), since the engine
    would load it once more from its files and would die without them; a completion that the engine's end cuts off
    raises ``RetryableRequestError`` (503).

    Args:
        client: The engine's client, which vLLM's routes hold too: its methods are replaced.
        held_adapters: The ``lora_id`` of every adapter that may be asked for, as it is at the time.
    """
    client.engine_core.add_request_async = _forgetting(
        client, client.engine_core.add_request_async, held_adapters
    )
    client.add_request = _refusing(client, client.add_request)
    client.generate = _ending(client.generate)


async def end_requests(client: Any) -> None:
    """Ends every request of a guarded client with an error (503), those that are still to come included."""

    async def add_request(*args: Any, **kwargs: Any) -> Any:
        raise EngineDeadError  # which `generate` reports as such

    client.add_request = add_request
    await client.abort(list(client.output_processor.request_states), internal=True)


def _forgetting(
    client: Any, send: Callable[[Any], Awaitable[None]], held_adapters: Set[int]
) -> Any:
    async def add_request_async(request: Any) -> None:
        adapter = request.lora_request
        try:
            # Only here is the request counted as one of its adapter, which cannot be unloaded from now on.
            if adapter is not None and adapter.lora_int_id not in held_adapters:
                raise VLLMNotFoundError(f"The model `{adapter.lora_name}` has been removed.")
            await send(request)
        except BaseException:  # also if the caller is cancelled
            # This also tells the engine, which fails if it is the id that cannot be encoded.
            with suppress(Exception):
                await client.abort(request.request_id, internal=True)
            raise

    return add_request_async


def _refusing(client: Any, add: Callable[..., Awaitable[Any]]) -> Any:
    async def add_request(request_id: str, prompt: Any, params: Any, **kwargs: Any) -> Any:
        if (http_request := current_request()) is not None:
            http_request.add(
                num_completions=getattr(params, "n", 1),
                num_logprobs=num_logprobs(params, prompt, client.model_config),
            )
        check_sampling(params)
        try:
            return await add(request_id, prompt, params, **kwargs)
        except VLLMError:
            raise
        except Exception as error:
            if client.errored:
                raise
            _log.warning("request_refused", exc_info=True)
            reason = str(error).encode("ascii", "backslashreplace").decode()[:_MAX_REASON_CHARS]
            raise VLLMValidationError(f"the engine cannot take the request: {reason}") from error

    return add_request


def _ending(generate: Callable[..., AsyncGenerator[Any, None]]) -> Any:
    async def generate_to_the_end(
        prompt: Any, sampling_params: Any, *args: Any, **kwargs: Any
    ) -> AsyncGenerator[Any, None]:
        async with aclosing(generate(prompt, sampling_params, *args, **kwargs)) as outputs:
            try:
                async for output in outputs:
                    reasons = {completion.finish_reason for completion in output.outputs}
                    if "abort" in reasons:
                        raise RetryableRequestError(_STOPPED)
                    if "error" in reasons and sampling_params.structured_outputs is not None:
                        raise VLLMValidationError("the grammar of the request cannot be used")
                    yield output
            except EngineDeadError as error:
                raise RetryableRequestError(_STOPPED) from error

    return generate_to_the_end

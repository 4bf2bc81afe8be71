r"""Wraps the vLLM client that all routes use: refuses what the engine cannot take, reports what it did not finish.

vLLM registers a request before it encodes it for the engine's process. A request that cannot be encoded
("\ud83d" is not UTF-8) stays in flight forever: its adapter then counts as used until a restart. vLLM's routes
take any number of completions in one request, and answer 200 with half a completion when the engine stops
meanwhile.
"""

from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing, suppress
from contextvars import ContextVar
from typing import Any

import structlog
from starlette.types import ASGIApp, Receive, Scope, Send
from vllm.exceptions import RetryableRequestError, VLLMError, VLLMValidationError
from vllm.v1.engine.exceptions import EngineDeadError

from inference_server.vllm.sampling_limits import check_sampling

_MAX_REASON_CHARS = 200
_STOPPED = "the engine stopped before the completion ended"

# Holds one number: how many completions an HTTP request has asked for so far.
_num_asked: ContextVar[list[int] | None] = ContextVar("num_asked", default=None)

_log = structlog.get_logger()


class CompletionCount:
    """ASGI middleware: lets a guarded client count the completions of each HTTP request."""

    def __init__(self, app: ASGIApp) -> None:
        """See the class."""
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Passes the request on."""
        _num_asked.set([0])
        await self._app(scope, receive, send)


def guard_client(client: Any, max_completions: int) -> None:
    """Makes an ``AsyncLLM`` forget a request that it could not queue, and report a completion that did not end.

    Written against vLLM 0.32. A request that cannot be queued raises vLLM's ``VLLMValidationError``
    (400 on its routes); a completion that the engine's end cuts off raises ``RetryableRequestError`` (503).

    Args:
        client: The engine's client, which vLLM's routes hold too: its methods are replaced.
        max_completions: Most completions of one HTTP request.
    """
    client.engine_core.add_request_async = _forgetting(client, client.engine_core.add_request_async)
    client.add_request = _refusing(client, client.add_request, max_completions)
    client.generate = _ending(client.generate)


def _forgetting(client: Any, send: Callable[[Any], Awaitable[None]]) -> Any:
    async def add_request_async(request: Any) -> None:
        try:
            await send(request)
        except BaseException:  # also if the caller is cancelled
            # This also tells the engine, which fails if it is the id that cannot be encoded.
            with suppress(Exception):
                await client.abort(request.request_id, internal=True)
            raise

    return add_request_async


def _refusing(client: Any, add: Callable[..., Awaitable[Any]], max_completions: int) -> Any:
    async def add_request(request_id: str, prompt: Any, params: Any, **kwargs: Any) -> Any:
        if (asked := _num_asked.get()) is not None:
            asked[0] += getattr(params, "n", 1)
            if asked[0] > max_completions:
                raise VLLMValidationError(
                    f"the server takes {max_completions} completions (prompts × n) a request: ask in "
                    "several requests"
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

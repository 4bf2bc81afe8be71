r"""Wraps the vLLM client that all routes use: refuses what the engine cannot take, reports what it did not finish.

vLLM registers a request before it encodes it for the engine's process. A request that cannot be encoded
("\ud83d" is not UTF-8) stays in flight forever: its adapter then counts as used until a restart. vLLM's routes
take any number of completions and logprobs in one request, and answer 200 with half a completion when the engine stops
meanwhile.
"""

import json
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Set
from contextlib import aclosing, suppress
from functools import wraps
from typing import Any, NoReturn

import structlog
from vllm.exceptions import (
    GenerationError,
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
_ERROR_OF_CHAT = 'data: {"error":'

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


def report_errors_of_streams() -> None:
    """Makes the streams of ``/v1/messages`` and ``/v1/responses`` end with the error of a completion that did not end.

    vLLM 0.32 reads that error as a part of the answer, which fails: the client gets pydantic's message or a connection
    that is cut, the log a traceback. What ``/v1/messages`` refuses is logged in a line too, as on the other routes.
    """
    # Not at the top: they take seconds to import, and vLLM's server has done so when it calls this.
    from vllm.entrypoints.anthropic import api_router  # noqa: PLC0415
    from vllm.entrypoints.anthropic.serving import AnthropicServingMessages  # noqa: PLC0415
    from vllm.entrypoints.openai.responses.serving import OpenAIServingResponses  # noqa: PLC0415

    convert = AnthropicServingMessages.message_stream_converter
    if hasattr(convert, "__wrapped__"):
        return
    AnthropicServingMessages.message_stream_converter = _ending_messages(convert)
    respond = OpenAIServingResponses.responses_stream_generator
    OpenAIServingResponses.responses_stream_generator = _ending_responses(respond)
    # Here vLLM makes the JSON that it cannot read.
    OpenAIServingResponses._convert_generation_error_to_streaming_response = _raise
    api_router.logger.addFilter(_in_one_line)


def _ending_messages(convert: Callable[..., AsyncGenerator[str, None]]) -> Any:
    @wraps(convert)
    async def message_stream_converter(
        serving: Any, generator: AsyncGenerator[str, None]
    ) -> AsyncGenerator[str, None]:
        message: str | None = None

        async def without_error() -> AsyncIterator[str]:
            nonlocal message
            async for chunk in generator:
                if chunk.startswith(_ERROR_OF_CHAT):
                    message = json.loads(chunk.removeprefix("data:"))["error"]["message"]
                elif message is None:
                    yield chunk

        async with aclosing(convert(serving, without_error())) as events:
            async for event in events:
                yield event
        if message is not None:
            error = {"type": "error", "error": {"type": "api_error", "message": message}}
            yield f"event: error\ndata: {json.dumps(error)}\n\n"

    return message_stream_converter


def _ending_responses(respond: Callable[..., AsyncGenerator[Any, None]]) -> Any:
    @wraps(respond)
    async def responses_stream_generator(*args: Any, **kwargs: Any) -> AsyncGenerator[Any, None]:
        from openai.types.responses import ResponseErrorEvent  # noqa: PLC0415 - as above

        num_events = 0
        async with aclosing(respond(*args, **kwargs)) as events:
            try:
                async for event in events:
                    yield event
                    num_events += 1
            except GenerationError as error:
                yield ResponseErrorEvent(
                    type="error",
                    code="server_error",
                    message=str(error),
                    param=None,
                    sequence_number=num_events,
                )

    return responses_stream_generator


def _raise(_: Any, error: GenerationError) -> NoReturn:
    raise error


def _in_one_line(record: logging.LogRecord) -> bool:
    """Drops the traceback of an error that is the client's answer; the line has its message."""
    if record.exc_info and isinstance(record.exc_info[1], VLLMError):
        record.exc_info = None
    return True

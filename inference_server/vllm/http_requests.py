"""What each HTTP request has asked of the engine so far, and the adapters that it has looked up.

vLLM's routes look an adapter up by its name long before the engine gets the request: ``/v1/responses`` tokenizes in
between, and a stream begins only when its client reads. A beam search asks the engine anew for each token.
"""

import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from contextvars import ContextVar
from functools import wraps
from typing import Any

from starlette.types import ASGIApp, Receive, Scope, Send
from vllm.exceptions import VLLMValidationError
from vllm.lora.request import LoRARequest
from vllm.sampling_params import BeamSearchParams

MAX_LOGPROBS = 2**19
"""Most logprobs in the answer to one HTTP request. One takes 10 µs of the event loop, in which every other request
waits, and 90 bytes."""


class HttpRequest:
    """One HTTP request in flight.

    Args:
        max_completions: Most completions that it may ask for.
        max_lease_s: Longest time that it leases an adapter; what it has in the engine then still does.
    """

    def __init__(self, max_completions: int, max_lease_s: float) -> None:
        """See the class."""
        self.adapter_names: set[str] = set()
        self._max_completions = max_completions
        self._num_completions = 0
        self._num_logprobs = 0
        self._is_beam_search = False
        self._leases_until_s = time.monotonic() + max_lease_s

    def add(self, num_completions: int, num_logprobs: int) -> None:
        """Counts what it asks the engine for, except for the steps of its beam searches.

        Raises:
            VLLMValidationError: It asks for too much in all.
        """
        if not self._is_beam_search:
            self._count(num_completions, num_logprobs)

    def add_beam_search(self, beam_width: int, max_tokens: int) -> None:
        """Counts a beam search once: it asks the engine anew for every token of every beam.

        Raises:
            VLLMValidationError: It asks for too much in all.
        """
        # vLLM makes a beam search of every prompt of a request, or of none.
        self._is_beam_search = True
        # Each token of a beam keeps the likeliest ones that it was chosen from.
        self._count(beam_width, num_logprobs=beam_width * max_tokens * 2 * beam_width)

    def _count(self, num_completions: int, num_logprobs: int) -> None:
        self._num_completions += num_completions
        if self._num_completions > self._max_completions:
            raise VLLMValidationError(
                f"the server takes {self._max_completions} completions (prompts × n) a request: ask in several requests"
            )
        self._num_logprobs += num_logprobs
        if self._num_logprobs > MAX_LOGPROBS:
            raise VLLMValidationError(
                f"the server returns {MAX_LOGPROBS} logprobs a request, and this one may have more: n × (max_tokens × "
                "(logprobs + 1) + prompt tokens × (prompt_logprobs + 1)) of every prompt, where echo makes logprobs "
                "prompt_logprobs too, and a beam search has n × max_tokens × 2n; lower logprobs, n or max_tokens, or "
                "ask in several requests"
            )

    def leases(self, adapter_name: str) -> bool:
        """Whether it may still ask the engine for an adapter."""
        return adapter_name in self.adapter_names and time.monotonic() < self._leases_until_s


_current: ContextVar[HttpRequest | None] = ContextVar("http_request", default=None)
_in_flight: set[HttpRequest] = set()


def current_request() -> HttpRequest | None:
    """The HTTP request that is being served; None outside of one, as at the start."""
    return _current.get()


class TrackedRequests:
    """ASGI middleware: knows the HTTP requests in flight.

    Args:
        app: The application.
        max_completions: Most completions of a request.
        max_lease_s: Longest time that a request leases an adapter: a client that does not read may stay forever.
    """

    def __init__(self, app: ASGIApp, max_completions: int, max_lease_s: float) -> None:
        """See the class."""
        self._app = app
        self._max_completions = max_completions
        self._max_lease_s = max_lease_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Passes the request on."""
        request = HttpRequest(self._max_completions, self._max_lease_s)
        _current.set(request)
        _in_flight.add(request)
        try:
            await self._app(scope, receive, send)
        finally:
            _in_flight.remove(request)


def count_beam_searches() -> None:
    """Makes vLLM's routes count each beam search at its start."""
    # Not at the top: it takes seconds to import, and vLLM's server has done so when it calls this.
    from vllm.entrypoints.generate.beam_search.online import BeamSearchOnlineMixin  # noqa: PLC0415

    original = BeamSearchOnlineMixin.beam_search
    if hasattr(original, "__wrapped__"):
        return

    @wraps(original)
    async def beam_search(
        serving: Any, prompt: Any, request_id: str, params: BeamSearchParams, **kwargs: Any
    ) -> AsyncGenerator[Any, None]:
        if (request := current_request()) is not None:
            request.add_beam_search(params.beam_width, params.max_tokens)
        async with aclosing(original(serving, prompt, request_id, params, **kwargs)) as outputs:
            async for output in outputs:
                yield output

    BeamSearchOnlineMixin.beam_search = beam_search


class LeasingTable(dict[str, LoRARequest]):
    """vLLM's table of adapters by model name: an HTTP request leases what it looks up until it ends."""

    def __getitem__(self, name: str) -> LoRARequest:
        """Looks an adapter up, for a request of vLLM's routes."""
        adapter = super().__getitem__(name)
        if (request := current_request()) is not None:
            request.adapter_names.add(adapter.lora_name)
        return adapter


def num_leasing(adapter_name: str) -> int:
    """Number of HTTP requests in flight that have looked an adapter up."""
    return sum(request.leases(adapter_name) for request in _in_flight)

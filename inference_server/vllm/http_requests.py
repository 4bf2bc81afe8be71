"""What each HTTP request has asked of the engine so far, and the adapters that it has looked up.

vLLM's routes look an adapter up by its name long before the engine gets the request: ``/v1/responses`` tokenizes in
between, and a stream begins only when its client reads. A beam search asks the engine anew for each token.
"""

import time
from contextvars import ContextVar

from starlette.types import ASGIApp, Receive, Scope, Send
from vllm.exceptions import VLLMValidationError
from vllm.lora.request import LoRARequest

MAX_LOGPROBS = 2**18
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
        self._leases_until_s = time.monotonic() + max_lease_s

    def add(self, num_completions: int, num_logprobs: int) -> None:
        """Counts what it asks for.

        Raises:
            VLLMValidationError: It asks for too much in all.
        """
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
                "prompt_logprobs too; lower logprobs or max_tokens, or ask in several requests"
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

"""What each HTTP request has asked of the engine so far, and the adapters that it has looked up.

vLLM's routes look an adapter up by its name long before the engine gets the request: ``/v1/responses`` tokenizes in
between, and a stream begins only when its client reads. A beam search asks the engine anew for each token.
"""

import time
from contextvars import ContextVar

from starlette.types import ASGIApp, Receive, Scope, Send
from vllm.lora.request import LoRARequest


class HttpRequest:
    """One HTTP request in flight.

    Args:
        max_lease_s: Longest time that it leases an adapter; what it has in the engine then still does.
    """

    def __init__(self, max_lease_s: float) -> None:
        """See the class."""
        self.num_completions = 0
        self.adapter_names: set[str] = set()
        self._leases_until_s = time.monotonic() + max_lease_s

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
        max_lease_s: Longest time that a request leases an adapter: a client that does not read may stay forever.
    """

    def __init__(self, app: ASGIApp, max_lease_s: float) -> None:
        """See the class."""
        self._app = app
        self._max_lease_s = max_lease_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Passes the request on."""
        request = HttpRequest(self._max_lease_s)
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

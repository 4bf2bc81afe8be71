"""What the trainer asks of an inference server: `ArmsClient` over HTTP, or a stand-in in memory."""

from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self

from inference_server.wire.adapters.infos import AdapterInfo
from inference_server.wire.prompt_options import PromptFormatChoice, StopStrings
from inference_server.wire.schemas import ArmsRequest, ArmsResponse, ServerStatus


@dataclass(frozen=True, kw_only=True)
class TextCompletion:
    """A greedy completion."""

    text: str
    num_tokens: int
    """Includes the token that ended it."""
    truncated: bool
    """Whether the token limit ended it."""


@dataclass(frozen=True, kw_only=True)
class GreedyPrompt:
    """How questions are asked for greedy answers."""

    system_prompt: str
    prompt_format: PromptFormatChoice
    max_tokens: int
    stop: StopStrings = ()


class GroupServer(Protocol):
    """Something that generates groups: a server, or one of several."""

    async def generate(self, request: ArmsRequest) -> ArmsResponse:
        """A group of arms for each question of a request, in order."""


class InferenceServer(Protocol):
    """One server, used as an async context manager.

    Every request may be repeated: generation has no side effect, a push of the same digest is a no-op,
    activation is idempotent.

    Every method may raise `ServerRejectedError` if the request is at fault,
    `ServerUnreachableError` if no good answer came in time, and `ServerError` if the answer was not
    what its schema says.
    """

    async def __aenter__(self) -> Self:
        """Open the connection."""

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Close it; what is in flight is aborted."""

    async def status(self) -> ServerStatus:
        """What the server is and which versions it holds."""

    async def generate(self, request: ArmsRequest) -> ArmsResponse:
        """A group of arms for each question of a request, in order."""

    async def complete(
        self, version: int | None, questions: list[str], prompt: GreedyPrompt
    ) -> list[TextCompletion]:
        """Greedy answers of a version, in order; None asks the base model."""

    async def push_adapter(
        self, version: int, folder: Path, *, activate: bool = True
    ) -> AdapterInfo:
        """Make the server hold an adapter folder as an immutable version; with ``activate``, also as ``policy``."""

    async def adapter(self, version: int) -> AdapterInfo:
        """A version as the server holds it; rejected with 404 if the server does not hold it."""

    async def activate_adapter(self, version: int) -> AdapterInfo:
        """Make ``policy`` name a version that the server holds, newer or older."""


class AdapterServer(InferenceServer, Protocol):
    """A server from which versions can also be removed."""

    async def delete_adapter(self, version: int) -> None:
        """Remove a version that is neither active nor in use."""

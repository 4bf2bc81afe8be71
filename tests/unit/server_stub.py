"""A server that answers nothing: stand-ins for tests implement what their tests ask for."""

from pathlib import Path
from typing import Self

from inference_server.wire.adapters.infos import AdapterInfo
from inference_server.wire.schemas import ArmsRequest, ArmsResponse, ServerStatus
from trainer.client.protocol import GreedyPrompt, TextCompletion


class ServerStub:
    """An `InferenceServer` each of whose calls fails the test, unless a subclass answers it."""

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *error: object) -> None:
        pass

    async def status(self) -> ServerStatus:
        raise AssertionError("status")

    async def generate(self, request: ArmsRequest) -> ArmsResponse:
        raise AssertionError("generate")

    async def complete(
        self, version: int | None, questions: list[str], prompt: GreedyPrompt
    ) -> list[TextCompletion]:
        raise AssertionError("complete")

    async def push_adapter(
        self, version: int, folder: Path, *, activate: bool = True
    ) -> AdapterInfo:
        raise AssertionError("push_adapter")

    async def adapter(self, version: int) -> AdapterInfo:
        raise AssertionError("adapter")

    async def activate_adapter(self, version: int) -> AdapterInfo:
        raise AssertionError("activate_adapter")

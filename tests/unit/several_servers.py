"""Inference servers that work at a known rate, and die and come back on command, for tests of pools."""

import asyncio
import hashlib
import time
from dataclasses import dataclass, field
from pathlib import Path

from inference_server.wire.adapters.infos import AdapterInfo
from inference_server.wire.schemas import (
    ADAPTER_WEIGHTS_FILE,
    ArmCompletion,
    ArmGroup,
    ArmsRequest,
    ArmsResponse,
    FinishReason,
    Question,
    ServerStatus,
    Usage,
)
from tests.unit.server_answers import adapter_with, limits_with, status_with
from tests.unit.server_stub import ServerStub
from trainer.client.protocol import GreedyPrompt, TextCompletion
from trainer.errors import NotFoundError, ServerUnreachableError


@dataclass(eq=False)
class RatedServer(ServerStub):
    """Works on ``places`` groups at once, each for ``seconds``; the others wait."""

    name: str = "a"
    seconds: float = 0.0
    places: int = 4
    status_change: dict[str, object] = field(default_factory=dict)
    limit_change: dict[str, object] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.boot = 1
        self.is_down = False
        self.hangs = False
        self.held: dict[int, str] = {}
        self.active: int | None = None
        self.log: list[str] = []
        self.answered: list[str] = []
        self.cancelled: list[str] = []
        self.num_in_flight = 0
        self.num_others = 0
        self.push_seconds = 0.0
        self.pushes_end = asyncio.Event()
        """While it is not set, pushes do not end."""
        self.pushes_end.set()
        self.is_silent = False
        """If true, requests for its state get no answer until `answers_end` is set, and then an error."""
        self.answers_end = asyncio.Event()
        self.refusal: Exception | None = None
        self._free = asyncio.Semaphore(self.places)

    @property
    def boot_id(self) -> str:
        return f"{self.name}-{self.boot}"

    def restart(self) -> None:
        """Restart the server, which then knows no version any more."""
        self.boot += 1
        self.held, self.active, self.is_down = {}, None, False
        self._free = asyncio.Semaphore(self.places)

    def _require_up(self) -> None:
        if self.is_down:
            raise ServerUnreachableError(f"{self.name} is down")

    async def _require_answer(self) -> None:
        self._require_up()
        if self.is_silent:
            await self.answers_end.wait()
            raise ServerUnreachableError(f"{self.name} answered too late")

    async def status(self) -> ServerStatus:
        await self._require_answer()
        status = status_with(
            boot_id=self.boot_id,
            base_fingerprint="f",
            has_chat_template=True,
            active_version=self.active,
            next_version=max(self.held, default=-1) + 1,
            versions=[self._info(version) for version in self.held],
            groups_in_flight=self.num_in_flight + self.num_others,
            limits=limits_with(**self.limit_change),
        )
        return status.model_copy(update=self.status_change)

    def _info(self, version: int) -> AdapterInfo:
        if version not in self.held:
            raise NotFoundError(404, f"version {version} is not loaded", "version")
        return adapter_with(version, sha256=self.held[version], active=version == self.active)

    async def push_adapter(
        self, version: int, folder: Path, *, activate: bool = True
    ) -> AdapterInfo:
        self._require_up()
        await asyncio.sleep(self.push_seconds)
        await self.pushes_end.wait()
        self.log.append(f"push {version}")
        if self.refusal is not None:
            raise self.refusal
        weights = (folder / ADAPTER_WEIGHTS_FILE).read_bytes()
        self.held[version] = hashlib.sha256(weights).hexdigest()
        if activate:
            self.active = version
        return self._info(version)

    async def adapter(self, version: int) -> AdapterInfo:
        await self._require_answer()
        return self._info(version)

    async def complete(
        self, version: int | None, questions: list[str], prompt: GreedyPrompt
    ) -> list[TextCompletion]:
        await self._work(f"complete {len(questions)}", version)
        return [TextCompletion(text=q, num_tokens=1, truncated=False) for q in questions]

    async def generate(self, request: ArmsRequest) -> ArmsResponse:
        (question,) = request.questions
        assert isinstance(question, Question)
        version = request.policy if isinstance(request.policy, int) else None
        await self._work(question.id, version)
        arm = ArmCompletion(
            arm="a",
            sample=0,
            text=f"{request.seed}/{question.id}",
            finish_reason=FinishReason.STOP,
            temperature=1,
            top_p=1,
            seed=None,
            prompt_token_ids=[1],
            token_ids=[2],
            logprobs=[-1.0],
        )
        group = ArmGroup(
            id=question.id, question=question.question, policy_version=version, arms=[arm]
        )
        usage = Usage(prompt_tokens=0, completion_tokens=0)
        return ArmsResponse(
            policy_version=version, boot_id=self.boot_id, groups=[group], usage=usage
        )

    async def _work(self, what: str, version: int | None) -> None:
        self._require_up()
        if version is not None:
            self._info(version)
        boot, self.num_in_flight = self.boot, self.num_in_flight + 1
        try:
            async with self._free:
                until_s = time.monotonic() + self.seconds
                while self.hangs or time.monotonic() < until_s:
                    await asyncio.sleep(
                        0.01 if self.hangs else max(0.0, until_s - time.monotonic())
                    )
                    self._require_up()
            if boot != self.boot:
                raise ServerUnreachableError(f"{self.name}: the connection broke")
            if version is not None:
                self._info(version)
            self.answered.append(what)
        except asyncio.CancelledError:
            self.cancelled.append(what)
            raise
        finally:
            self.num_in_flight -= 1


def write_version(folder: Path, text: str = "weights") -> Path:
    """Write a folder that can be pushed."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / ADAPTER_WEIGHTS_FILE).write_text(text)
    return folder


def group_request_of(number: int, version: int | None = 1) -> ArmsRequest:
    """A request for one group."""
    return ArmsRequest(
        questions=[Question(id=f"q{number}", question="?")],
        seed=1,
        policy="base" if version is None else version,
    )

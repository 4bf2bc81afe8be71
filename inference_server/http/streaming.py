"""A streamed response: one line of NDJSON per finished group, and a last line with the usage.

If the client asked for completions, each completion is also sent as a line as soon as it is finished.

If the client asked for heartbeats, an empty line is sent while no group is finished, as long as the
engine answers. The client then needs no deadline on the whole answer, which a slow server may exceed, but
only one on the time since the last line; and no proxy on the way sees an idle connection.
"""

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Callable, Coroutine
from contextlib import AsyncExitStack, suppress
from typing import Any

from pydantic import BaseModel
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from inference_server.arms.run import ArmsRun, FinishedGroup
from inference_server.arms.totals import newest, total
from inference_server.errors import RequestError
from inference_server.http.disconnects import disconnected
from inference_server.http.errors import error_body
from inference_server.wire.errors import ErrorResponse
from inference_server.wire.streams import NDJSON, StreamedCompletion, StreamEnd

# Time to send the line that says that the deadline has passed.
LAST_LINE_WITHIN_S = 5.0


class GroupStream(Response):
    """Sends the groups of a run as they finish; aborts the rest if the client disconnects.

    A client that does not read is cut off soon after the run's deadline.

    Args:
        run: An admitted request.
        admission: Closed when the response ends; the request then no longer counts as in flight.
        boot_id: Sent in the last line.
        heartbeat_s: Seconds between empty lines while nothing else is sent; None sends none.
        with_completions: Whether each completion is a line too, ahead of its group.
        check_engine: Raises if the engine does not answer.
    """

    media_type = NDJSON

    def __init__(
        self,
        run: ArmsRun,
        admission: AsyncExitStack,
        boot_id: str,
        *,
        heartbeat_s: float | None,
        with_completions: bool,
        check_engine: Callable[[], Coroutine[Any, Any, None]],
    ) -> None:
        """See the class."""
        super().__init__()
        self._run = run
        self._admission = admission
        self._boot_id = boot_id
        self._heartbeat_s = heartbeat_s
        self._with_completions = with_completions
        self._completions: deque[StreamedCompletion] = deque()
        self._arrived = asyncio.Event()
        self._check_engine = check_engine
        # Otherwise nginx would hold lines back until it has some kilobytes of them.
        self.headers["X-Accel-Buffering"] = "no"
        del self.headers["Content-Length"]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Streams until the last group, an error or the client's disconnect."""
        async with self._admission:
            lines = asyncio.ensure_future(self._send_lines(send))
            gone = asyncio.ensure_future(disconnected(Request(scope, receive)))
            left_s = self._run.deadline - asyncio.get_running_loop().time()
            try:
                await asyncio.wait(
                    (lines, gone),
                    timeout=max(0.0, left_s) + LAST_LINE_WITHIN_S,
                    return_when=asyncio.FIRST_COMPLETED,
                )
            finally:
                gone.cancel()
                lines.cancel()
                # Aborts take a moment; only then are leases and the admission released.
                with suppress(asyncio.CancelledError):
                    await lines

    async def _send_lines(self, send: Send) -> None:
        start = {"type": "http.response.start", "status": self.status_code}
        await send({**start, "headers": self.raw_headers})
        last = await self._send_groups(send)
        await _send_line(send, last)
        await send({"type": "http.response.body", "body": b""})

    async def _send_groups(self, send: Send) -> StreamEnd | ErrorResponse:
        """Sends every group; returns the last line of the response."""
        versions, usages = [], []
        groups = self._run.groups(self._keep if self._with_completions else None)
        try:
            while (finished := await self._next_group(groups, send)) is not None:
                versions.append(finished.group.policy_version)
                usages.append(finished.usage)
                await _send_line(send, finished.group)
        except RequestError as error:
            body = error_body(error)
            self._run.serving.metrics.rejects.labels(body.type).inc()
            return ErrorResponse(error=body)
        finally:
            await groups.aclose()
        return StreamEnd(
            policy_version=newest(versions),
            boot_id=self._boot_id,
            usage=total(usages),
        )

    async def _next_group(
        self, groups: AsyncGenerator[FinishedGroup, None], send: Send
    ) -> FinishedGroup | None:
        """The next finished group, with completions and heartbeats until then; None after the last."""
        group = asyncio.ensure_future(anext(groups, None))
        try:
            while not group.done():
                if await self._something_finished(group):
                    await self._send_completions(send)
                elif await self._engine_answers_before(group):
                    await send({"type": "http.response.body", "body": b"\n", "more_body": True})
            await self._send_completions(send)
            return group.result()
        finally:
            await _cancel(group)

    def _keep(self, completion: StreamedCompletion) -> None:
        self._completions.append(completion)
        self._arrived.set()

    async def _something_finished(self, group: asyncio.Future[FinishedGroup | None]) -> bool:
        """Waits for a group or a completion; false if a heartbeat is due first."""
        arrived = asyncio.ensure_future(self._arrived.wait())
        try:
            done, _ = await asyncio.wait(
                (group, arrived),
                timeout=self._heartbeat_s,
                return_when=asyncio.FIRST_COMPLETED,
            )
            return bool(done)
        finally:
            await _cancel(arrived)

    async def _send_completions(self, send: Send) -> None:
        self._arrived.clear()
        while self._completions:
            await _send_line(send, self._completions.popleft())

    async def _engine_answers_before(self, group: asyncio.Future[FinishedGroup | None]) -> bool:
        check = asyncio.ensure_future(self._check_engine())
        try:
            await asyncio.wait((group, check), return_when=asyncio.FIRST_COMPLETED)
            return check.done() and check.exception() is None
        finally:
            await _cancel(check)


async def _cancel(future: asyncio.Future[Any]) -> None:
    """Cancels a future and waits until it ends; its error is left to whoever asked for its result."""
    future.cancel()
    await asyncio.gather(future, return_exceptions=True)


async def _send_line(send: Send, line: BaseModel) -> None:
    body = line.model_dump_json().encode() + b"\n"
    await send({"type": "http.response.body", "body": body, "more_body": True})

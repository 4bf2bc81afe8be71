"""Our routes: they translate between HTTP and `Service` and contain no other logic."""

import json
import time
from contextlib import AsyncExitStack, aclosing
from http import HTTPStatus
from importlib import resources
from typing import Annotated, Any

import structlog
from fastapi import APIRouter, Depends, FastAPI, Path, Query, Request, Response
from pydantic import BeforeValidator
from starlette.exceptions import HTTPException
from starlette.responses import HTMLResponse
from starlette_compress import CompressMiddleware, add_compress_type

from inference_server.arms.run import ArmsRun
from inference_server.arms.totals import newest, total
from inference_server.errors import EngineUnavailable
from inference_server.http.auth import PLAYGROUND_PATH, BearerAuth
from inference_server.http.body_limit import BodyLimit
from inference_server.http.disconnects import unless_disconnected
from inference_server.http.errors import ErrorRoute, answer_unrouted, error_response
from inference_server.http.json_body import JsonBody
from inference_server.http.loopback import LoopbackGuard
from inference_server.http.request_log import CLIENT_CLOSED_REQUEST, RequestLog
from inference_server.http.streaming import GroupStream
from inference_server.http.uploads import UPLOAD_BODY, read_upload
from inference_server.service import Service
from inference_server.settings import Settings
from inference_server.wire.adapters.infos import AdapterInfo, AdapterList
from inference_server.wire.adapters.references import NUM_VERSIONS
from inference_server.wire.errors import ErrorResponse
from inference_server.wire.schemas import ArmsRequest, ArmsResponse, ServerStatus
from inference_server.wire.streams import NDJSON
from regime_w import build_all_arms

_PLAYGROUND = (
    resources.files("inference_server.http")
    .joinpath("playground.html")
    .read_text("utf-8")
    .replace("ARMS_OF_THE_SERVER", json.dumps([arm.model_dump() for arm in build_all_arms()]))
)
_PLAYGROUND_POLICY = (
    "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; connect-src 'self'; "
    "frame-ancestors 'none'"
)

_log = structlog.get_logger()


async def _service(request: Request) -> Service:  # async: FastAPI runs sync ones in a thread
    service: Service = request.app.state.regime_w
    return service


def _digits(text: str) -> str:
    """Checks a version number in a URL: refuses ``1_0`` and ``+1``, which Python would accept."""
    if not (text.isascii() and text.isdecimal()):
        raise ValueError("must be a number in decimal digits")
    return text


_Service = Annotated[Service, Depends(_service)]
_Version = Annotated[int, BeforeValidator(_digits), Path(ge=0, lt=NUM_VERSIONS)]
_Heartbeat = Annotated[float | None, Query(ge=0.1, le=3600, allow_inf_nan=False)]


def _errors(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The errors in a route's OpenAPI entry; every route has 401."""
    return {status: {"model": ErrorResponse} for status in (401, *statuses)}


router = APIRouter(prefix="/v1", tags=["regime-w"], route_class=ErrorRoute)


@router.post(
    "/arms/generate",
    response_model=ArmsResponse,
    responses=_errors(400, 404, 408, 413, 429, 500, 503)
    | {200: {"content": {NDJSON: {"schema": {"type": "string"}}}}},
)
async def generate_arms(
    body: ArmsRequest,
    request: Request,
    service: _Service,
    heartbeat_s: _Heartbeat = None,
    completions: bool = False,
) -> Response:
    """Batched multi-arm generation; aborted if the client disconnects.

    With ``stream``, each group is sent as a line of NDJSON as soon as it is finished; the last line holds
    the usage, or the error that ended the response. With ``completions``, each completion is also sent as
    a line of its own as soon as it is finished, before the line of its group. With ``heartbeat_s``, an empty
    line is also sent every so many seconds while nothing is finished, as long as the engine answers: the
    client then needs no deadline for the whole answer, only one for the time since the last line.
    """
    response = None
    async with AsyncExitStack() as stack:
        opening = stack.enter_async_context(service.generator.open(body))
        run = await unless_disconnected(request, opening)
        if run is not None and body.stream:
            return GroupStream(
                run,
                stack.pop_all(),
                service.boot_id,
                heartbeat_s=heartbeat_s,
                with_completions=completions,
                check_engine=service.check_engine,
            )
        if run is not None:
            response = await unless_disconnected(request, _all_groups(run, service.boot_id))
    if response is None:
        return Response(status_code=CLIENT_CLOSED_REQUEST)
    # Serialized by pydantic directly; FastAPI would validate and copy it first.
    return Response(response.model_dump_json(), media_type="application/json")


async def _all_groups(run: ArmsRun, boot_id: str) -> ArmsResponse:
    async with aclosing(run.groups()) as groups:
        finished = sorted([group async for group in groups], key=lambda group: group.index)
    return ArmsResponse.model_construct(
        policy_version=newest([one.group.policy_version for one in finished]),
        boot_id=boot_id,
        groups=[one.group for one in finished],
        usage=total([one.usage for one in finished]),
    )


@router.put(
    "/adapters/{version}",
    openapi_extra={"requestBody": UPLOAD_BODY},
    responses=_errors(400, 403, 404, 409, 413, 429, 503, 507) | {201: {"model": AdapterInfo}},
)
async def put_adapter(
    version: _Version,
    request: Request,
    response: Response,
    service: _Service,
    activate: bool = True,
) -> AdapterInfo:
    """Uploads a version or reads it from a path: 201 if new, 200 if unchanged, 409 if different."""
    started = time.monotonic()
    async with read_upload(request, service.settings) as upload:
        info, created = await service.adapters.put(version, upload, activate=activate)
    if created:
        service.metrics.push_seconds.observe(time.monotonic() - started)
        _log.info("adapter_loaded", version=version, sha256=info.sha256, active=info.active)
    response.status_code = HTTPStatus.CREATED if created else HTTPStatus.OK
    return info


@router.get("/adapters")
async def list_adapters(service: _Service) -> AdapterList:
    """Every loaded version, in order of upload."""
    return service.adapters.list()


@router.get("/adapters/{version}", responses=_errors(400, 404))
async def get_adapter(version: _Version, service: _Service) -> AdapterInfo:
    """One version."""
    return service.adapters.get(version)


@router.delete(
    "/adapters/{version}",
    status_code=HTTPStatus.NO_CONTENT,
    responses=_errors(400, 404, 409, 503),
)
async def delete_adapter(version: _Version, service: _Service) -> None:
    """Unloads a version that is neither active nor in use."""
    await service.adapters.delete(version)


@router.post("/adapters/{version}/activate", responses=_errors(400, 404, 507))
async def activate_adapter(version: _Version, service: _Service) -> AdapterInfo:
    """Moves ``policy`` to a loaded version."""
    return await service.adapters.activate(version)


@router.get("/status", responses=_errors(503))
async def status(service: _Service) -> ServerStatus:
    """State and limits of the server; asks the engine itself."""
    return await service.status()


async def health(request: Request) -> Response:
    """200 while the engine answers; needs no key.

    vLLM's own route checks a flag, which a hung engine does not set.
    """
    try:
        await (await _service(request)).check_engine()
    except EngineUnavailable as error:
        return error_response(error)
    return Response()


async def playground() -> Response:
    """The playground page; it loads nothing and talks to this server only."""
    return HTMLResponse(_PLAYGROUND, headers={"Content-Security-Policy": _PLAYGROUND_POLICY})


def attach_routes(app: FastAPI, settings: Settings) -> None:
    """Adds our routes, middleware and error shape to an app.

    ``app.state.regime_w`` must hold the `Service` before the first request.
    """
    key = settings.api_key
    add_compress_type(NDJSON, streaming=True)
    # The middleware added last sees a request first.
    app.add_middleware(CompressMiddleware, brotli=False, zstd_level=1, gzip_level=1)
    app.add_middleware(JsonBody)
    app.add_middleware(BodyLimit, settings=settings)
    if key is None:
        app.add_middleware(LoopbackGuard)
    else:
        app.add_middleware(BearerAuth, key=key.get_secret_value())
    app.add_middleware(RequestLog)
    app.add_exception_handler(HTTPException, answer_unrouted)
    app.add_api_route("/health", health, methods=["GET"], include_in_schema=False)
    app.add_api_route(PLAYGROUND_PATH, playground, methods=["GET"], include_in_schema=False)
    app.include_router(router)

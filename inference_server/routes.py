"""Our routes. They translate between HTTP and `Service`, and decide nothing."""

import asyncio
from collections.abc import Coroutine
from http import HTTPStatus
from typing import Annotated, Any, TypeVar

from fastapi import APIRouter, Depends, FastAPI, Path, Request, Response

from inference_server.auth import BearerAuth
from inference_server.errors import (
    ErrorRoute,
    install_error_handlers,
    invalid_adapter,
)
from inference_server.schemas import (
    AdapterInfo,
    AdapterList,
    ArmsRequest,
    ArmsResponse,
    ServerStatus,
)
from inference_server.service import Service
from inference_server.settings import Settings
from inference_server.uploads import read_upload

# Nobody reads the answer to a request whose client has gone; logs show this status, as nginx's do.
_CLIENT_CLOSED_REQUEST = 499

_T = TypeVar("_T")


def _service(request: Request) -> Service:
    service: Service = request.app.state.regime_w
    return service


_Service = Annotated[Service, Depends(_service)]
_Version = Annotated[int, Path(ge=0, lt=10**9)]

router = APIRouter(prefix="/v1", tags=["regime-w"], route_class=ErrorRoute)


@router.post("/arms/generate", response_model=ArmsResponse)
async def generate_arms(body: ArmsRequest, request: Request, service: _Service) -> Any:
    """Batched multi-arm generation; a client that disconnects has it aborted."""
    response = await _unless_disconnected(request, service.generator.generate(body))
    return Response(status_code=_CLIENT_CLOSED_REQUEST) if response is None else response


@router.put("/adapters/{version}")
async def put_adapter(
    version: _Version,
    request: Request,
    response: Response,
    service: _Service,
    activate: bool = True,
) -> AdapterInfo:
    """Uploads a version: 201 new, 200 the same again, 409 where it is another adapter."""
    async with read_upload(request, service.settings.max_adapter_bytes) as upload:
        staged = await asyncio.to_thread(
            service.folder.stage,
            upload.config_json,
            upload.weights,
            service.settings.max_adapter_bytes,
        )
    if staged.sha256 != upload.sha256:
        await asyncio.to_thread(service.folder.discard, staged.folder)
        raise invalid_adapter(f"the weights file has digest {staged.sha256}", "sha256")
    info, created = await service.adapters.put(version, staged, activate=activate)
    response.status_code = HTTPStatus.CREATED if created else HTTPStatus.OK
    return info


@router.get("/adapters")
async def list_adapters(service: _Service) -> AdapterList:
    """Every loaded version, in order of upload."""
    return service.adapters.list()


@router.get("/adapters/{version}")
async def get_adapter(version: _Version, service: _Service) -> AdapterInfo:
    """One version."""
    return service.adapters.get(version)


@router.delete("/adapters/{version}", status_code=HTTPStatus.NO_CONTENT)
async def delete_adapter(version: _Version, service: _Service) -> None:
    """Unloads a version that is neither active nor in use."""
    await service.adapters.delete(version)


@router.post("/adapters/{version}/activate")
async def activate_adapter(version: _Version, service: _Service) -> AdapterInfo:
    """Moves ``policy`` to a loaded version."""
    return await service.adapters.activate(version)


@router.get("/status")
async def status(service: _Service) -> ServerStatus:
    """State and limits of the server."""
    return await service.status()


def attach_routes(app: FastAPI, settings: Settings) -> None:
    """Adds our routes, the key and the error shape to an app.

    The routes work once ``app.state.regime_w`` holds the `Service`.
    """
    key = settings.api_key
    app.add_middleware(BearerAuth, key=None if key is None else key.get_secret_value())
    install_error_handlers(app)
    app.include_router(router)


async def _unless_disconnected(request: Request, work: Coroutine[Any, Any, _T]) -> _T | None:
    """Result of ``work``, or None where the client went away and it was cancelled."""
    task = asyncio.ensure_future(work)
    watch = asyncio.ensure_future(_disconnected(request))
    try:
        await asyncio.wait((task, watch), return_when=asyncio.FIRST_COMPLETED)
        return task.result() if task.done() else None
    finally:
        watch.cancel()
        task.cancel()
        # Aborts take a moment; only then are leases and places in the queue given back.
        await asyncio.gather(task, return_exceptions=True)


async def _disconnected(request: Request) -> None:
    # The body has been read, so the next message is the end of the connection.
    while (await request.receive())["type"] != "http.disconnect":
        pass

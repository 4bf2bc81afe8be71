"""The entry point that adds our routes to vLLM's server (``vllm.endpoint_plugins``).

vLLM constructs the plugin without arguments, so the launcher passes a `Launch` in vLLM's own argument
namespace.
"""

import asyncio
from argparse import Namespace
from dataclasses import dataclass
from functools import partial
from typing import Any

import structlog
import torch
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse
from prometheus_client import REGISTRY
from starlette.datastructures import State

from inference_server.http.routes import attach_routes
from inference_server.http.vllm_routes import VLLM_ROUTES, keep_routes
from inference_server.launch.environment import ENDPOINT_PLUGIN
from inference_server.launch.shutdown import Shutdown
from inference_server.launch.starting import Starting, playground_url
from inference_server.launch.watchdog import end_if_hung, kill_processes
from inference_server.service import Service
from inference_server.settings import Settings
from inference_server.vllm.engine import VllmEngine
from inference_server.vllm.guarded_client import end_requests, guard_client
from inference_server.vllm.http_requests import TrackedRequests, count_beam_searches

_ATTRIBUTE = "regime_w"

_log = structlog.get_logger()


@dataclass(frozen=True, kw_only=True)
class Launch:
    """What the launcher passes to the plugin."""

    settings: Settings
    shutdown: Shutdown
    starting: Starting

    def put_into(self, args: Namespace) -> None:
        """Adds it to vLLM's arguments, where the plugin finds it."""
        setattr(args, _ATTRIBUTE, self)


class RegimeWPlugin:
    """Adds arms, adapters and status to vLLM's server. See vLLM's ``EndpointPlugin``."""

    name = ENDPOINT_PLUGIN
    required_tasks = ("generate",)

    def attach_router(self, app: FastAPI) -> None:
        """Adds the routes, before the engine exists."""
        keep_routes(app, VLLM_ROUTES)
        settings = _launch(app.state.args).settings
        attach_routes(app, settings)
        app.add_middleware(
            TrackedRequests,
            max_completions=settings.max_completions,
            max_lease_s=settings.max_request_s,
        )
        app.add_api_route("/v1/models", list_models, methods=["GET"])
        self._app = app
        self._paths = frozenset(getattr(route, "path", "") for route in app.routes)

    def drop_later_routes(self) -> None:
        """Removes routes that were added since: vLLM attaches its SageMaker routes after the plugins'."""
        keep_routes(self._app, self._paths)

    async def init_state(self, engine_client: Any, state: State, args: Namespace) -> None:
        """Builds the service that the routes use."""
        self.drop_later_routes()
        launch = _launch(args)
        # Torch only checks uploads here; waking a second thread takes longer than the checks.
        torch.set_num_threads(1)
        held_adapters: set[int] = set()
        guard_client(engine_client, held_adapters)
        count_beam_searches()
        engine = VllmEngine(engine_client, state.openai_serving_models, held_adapters)
        state.regime_w = await Service.start(engine, launch.settings, REGISTRY)
        # Kept, since a task without a reference may be garbage-collected.
        self._signals = asyncio.create_task(
            launch.shutdown.take_over(state, partial(end_requests, engine_client))
        )
        self._watch = asyncio.create_task(
            end_if_hung(engine, partial(kill_processes, engine_client))
        )
        # From here on connections wait for the server, which is about to listen.
        launch.starting.stop()
        _log.info("ready", playground=playground_url(args.host, args.port, bool(args.ssl_certfile)))


async def list_models(request: Request) -> JSONResponse:
    """Lists the served models as vLLM does, but the active version only once.

    vLLM's table has two entries for the active adapter, the alias and the version's own name, and lists
    both under the adapter's name; ``policy`` itself is listed as a name of the base model.
    """
    models = await request.app.state.openai_serving_models.show_available_models()
    content = models.model_dump()
    content["data"] = list({card["id"]: card for card in content["data"]}.values())
    return JSONResponse(content)


def _launch(args: Namespace) -> Launch:
    launch = getattr(args, _ATTRIBUTE, None)
    if not isinstance(launch, Launch):
        # Without the launcher there would be no API key, and sampling settings unsuitable for rollouts.
        raise RuntimeError(
            "the regime_w plugin works only in a server started with python -m inference_server"
        )
    return launch

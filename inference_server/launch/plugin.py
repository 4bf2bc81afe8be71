"""The entry point by which vLLM's server gets our routes (``vllm.endpoint_plugins``).

vLLM makes the plugin itself, without arguments; the launcher hands the settings on in vLLM's own
namespace of arguments.
"""

import asyncio
from argparse import Namespace
from typing import Any

import torch
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse
from prometheus_client import REGISTRY
from starlette.datastructures import State

from inference_server.http.routes import attach_routes
from inference_server.service import Service
from inference_server.settings import Settings
from inference_server.vllm.engine import VllmEngine

SETTINGS_ATTRIBUTE = "regime_w_settings"
SHUTDOWN_ATTRIBUTE = "regime_w_shutdown"

# vLLM registers them whatever its settings; they would stop or resize the engine.
_CONTROL_ROUTES = frozenset({"/scale_elastic_ep", "/is_scaling_elastic_ep"})


class RegimeWPlugin:
    """Adds arms, adapters and status to vLLM's server. See vLLM's ``EndpointPlugin``."""

    name = "regime_w"
    required_tasks = ("generate",)

    def attach_router(self, app: FastAPI) -> None:
        """Adds the routes; the engine is not known yet."""
        app.router.routes[:] = [
            route
            for route in app.router.routes
            if getattr(route, "path", "") not in _CONTROL_ROUTES
        ]
        attach_routes(app, _settings(app.state.args))
        app.add_api_route("/v1/models", list_models, methods=["GET"])

    async def init_state(self, engine_client: Any, state: State, args: Namespace) -> None:
        """Puts the service behind the routes."""
        # All that it computes here is checks of uploads; to wake a second thread takes longer than they do.
        torch.set_num_threads(1)
        engine = VllmEngine(engine_client, state.openai_serving_models)
        state.regime_w = await Service.start(engine, _settings(args), REGISTRY)
        # Kept, since a task that nobody holds may be collected.
        self._signals = asyncio.create_task(getattr(args, SHUTDOWN_ATTRIBUTE).take_over(state))


async def list_models(request: Request) -> JSONResponse:
    """Lists the served models as vLLM does, but the active version once.

    The alias and the version's own name are two entries of one adapter in vLLM's table, and vLLM lists
    an entry by the adapter's name; ``policy`` itself is listed as a name of the base.
    """
    models = await request.app.state.openai_serving_models.show_available_models()
    content = models.model_dump()
    content["data"] = list({card["id"]: card for card in content["data"]}.values())
    return JSONResponse(content)


def _settings(args: Namespace) -> Settings:
    settings = getattr(args, SETTINGS_ATTRIBUTE, None)
    if not isinstance(settings, Settings):
        # Without the launcher there would be no key, and sampling settings that rollouts cannot use.
        raise RuntimeError(
            "the regime_w plugin works only in a server started with python -m inference_server"
        )
    return settings

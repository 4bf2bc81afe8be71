"""Which of vLLM's routes are served.

A route is served if it takes no model, or if it resolves ``policy`` and the versions correctly and within
the server's limits. All others are removed, whatever a newer vLLM adds: some resolve ``policy`` to the base
model, change adapters behind the registry, stop the engine, or tokenize texts of any length.
"""

from fastapi import FastAPI

VLLM_ROUTES = frozenset(
    {
        "/v1/chat/completions",
        "/v1/completions",
        "/v1/messages",
        "/v1/responses",
        "/metrics",
        "/version",
        # FastAPI's own
        "/docs",
        "/docs/oauth2-redirect",
        "/openapi.json",
        "/redoc",
    }
)
"""Paths of the routes that stay."""


def keep_routes(app: FastAPI, paths: frozenset[str]) -> None:
    """Removes every route except those of the given paths; requests to the others are answered with 404."""
    app.router.routes[:] = [
        route for route in app.router.routes if getattr(route, "path", None) in paths
    ]

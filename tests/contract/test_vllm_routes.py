"""Only the listed routes of vLLM stay, so that a route that vLLM adds does not appear by itself."""

import httpx
from fastapi import FastAPI, WebSocket
from starlette.routing import Mount

from inference_server.http.vllm_routes import VLLM_ROUTES, keep_routes


async def test_a_route_that_is_not_named_is_not_there() -> None:
    app = FastAPI()

    @app.post("/v1/completions")
    @app.post("/invocations")
    @app.post("/v1/completions/render")
    @app.post("/v2/new")
    def answer() -> None: ...

    @app.websocket("/v1/realtime")
    async def realtime(websocket: WebSocket) -> None: ...

    app.mount("/metrics", FastAPI())
    app.mount("/static", FastAPI())
    keep_routes(app, VLLM_ROUTES)
    paths = {getattr(route, "path", None) for route in app.routes}
    assert paths == {
        *("/v1/completions", "/metrics"),
        *("/docs", "/docs/oauth2-redirect", "/openapi.json", "/redoc"),
    }
    assert any(isinstance(route, Mount) for route in app.routes)
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://server") as client:
        for path in ("/invocations", "/v1/completions/render", "/v2/new", "/static"):
            assert (await client.post(path)).status_code == 404
        assert (await client.post("/v1/completions")).status_code == 200
        assert list((await client.get("/openapi.json")).json()["paths"]) == ["/v1/completions"]

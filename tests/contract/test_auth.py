"""The API key, and the playground page behind it."""

import base64
import re

import httpx
import pytest
from fastapi import FastAPI
from pydantic import SecretStr
from starlette.routing import Route

from inference_server.settings import Settings
from inference_server.wire.errors import ErrorResponse
from tests.contract.client import Client, started_app
from tests.contract.fake_engine import FakeEngine


def _basic(password: str) -> str:
    return f"Basic {base64.b64encode(f'me:{password}'.encode()).decode()}"


@pytest.mark.parametrize(
    ("path", "site", "status"),
    [
        ("/", None, 200),
        ("/", "cross-site", 200),  # a link to the page; it changes nothing
        ("/metrics", "same-origin", 200),
        ("/metrics", None, 401),
        ("/metrics", "none", 401),
        ("/metrics", "same-site", 401),
        ("/metrics", "cross-site", 401),
    ],
)
async def test_a_password_counts_only_for_the_page_and_what_it_asks(
    settings: Settings, path: str, site: str | None, status: int
) -> None:
    """A browser attaches the password to the requests that any page sends to this server."""
    app = FastAPI()

    @app.get("/metrics")
    def metrics() -> None: ...

    await started_app(
        FakeEngine(), settings.model_copy(update={"api_key": SecretStr("s3cret")}), app
    )
    headers = {"Authorization": _basic("s3cret")} | (
        {} if site is None else {"Sec-Fetch-Site": site}
    )
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://server") as client:
        assert (await client.get(path, headers=headers)).status_code == status


async def test_the_playground_loads_nothing_from_elsewhere(client: Client) -> None:
    response = await client.get("/")
    assert response.headers["Content-Type"].startswith("text/html")
    assert "default-src 'none'" in response.headers["Content-Security-Policy"]
    assert not re.findall(r"(?:src|href)=|https?://", response.text)


async def test_every_route_but_health_asks_for_the_key(settings: Settings) -> None:
    app = FastAPI()

    @app.get("/health")
    def health() -> None: ...

    @app.get("/metrics")
    def metrics() -> None: ...

    await started_app(
        FakeEngine(), settings.model_copy(update={"api_key": SecretStr("s3cret")}), app
    )
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://server") as client:
        assert (await client.get("/health")).status_code == 200
        calls = [
            (method, route.path.replace("{version}", "1"))
            for route in app.routes
            if isinstance(route, Route)
            if route.path != "/health"
            for method in route.methods or ()
        ]
        assert ("POST", "/v1/arms/generate") in calls
        assert ("GET", "/metrics") in calls
        assert ("GET", "/openapi.json") in calls
        for method, path in [*calls, ("GET", "/nowhere"), ("GET", "/health/")]:
            for headers in (
                {},
                {"Authorization": "Bearer wrong"},
                {"Authorization": "Basic s3cret"},
                {"Authorization": _basic("wrong"), "Sec-Fetch-Site": "same-origin"},
                {"Authorization": "s3cret"},
                {"Authorization": "Bearer s3cret2"},
                {"X-Api-Key": "s3cret"},
            ):
                response = await client.request(method, path, headers=headers)
                assert response.status_code == 401, (method, path)
                scheme = response.headers["WWW-Authenticate"].partition(" ")[0]
                assert scheme == ("Basic" if path == "/" else "Bearer")
                if method != "HEAD":
                    error = ErrorResponse.model_validate(response.json()).error
                    assert (error.type, error.param) == ("unauthorized", "Authorization")
        response = await client.get("/metrics", headers={"Authorization": "Bearer s3cret"})
        assert response.status_code == 200

"""A server without a key answers this machine's programs and its own page, and no other web page."""

import re

import pytest
from pydantic import SecretStr

from inference_server.wire.errors import ErrorResponse
from tests.contract.client import Client, Restart
from tests.contract.fake_engine import FakeEngine

STATUS = ("GET", "/v1/status")
ACTIVATE = ("POST", "/v1/adapters/1/activate")
PAGE = ("GET", "/")


@pytest.mark.parametrize(
    ("host", "is_answered"),
    [
        ("127.0.0.1", True),
        ("127.0.0.1:8000", True),
        ("127.8.9.10:1", True),
        ("localhost", True),
        ("LocalHost:8000", True),
        ("[::1]", True),
        ("[::1]:8000", True),
        ("0.0.0.0:8000", False),
        ("[::1]rebound.example", False),
        ("[::1", False),
        ("rebound.example", False),
        ("rebound.example:8000", False),
        ("127.0.0.1.rebound.example", False),
        ("localhost.rebound.example:8000", False),
        ("192.168.0.7:8000", False),
        ("[::2]:8000", False),
        ("", False),
        ("localhost@rebound.example", False),
        ("localhost:evil.com", False),
        ("localhost:80@evil.com", False),
        ("user@localhost", False),
        ("localhost:", False),
        ("[::1]:", False),
        ("[::1]x", False),
        ("[::1]:x", False),
        ("[localhost]", False),
        ("[127.0.0.1]", False),
        ("[::1%lo]", False),
        ("::1", False),
        ("localhost:65535", True),
        ("localhost:65536", False),
        ("localhost:99999999", False),
        ("localhost:-1", False),
        ("localhost:+1", False),
        ("localhost:8000:8000", False),
        ("localhost.", False),
        ("localhost/", False),
        ("127.1", False),
        ("2130706433", False),
    ],
)
async def test_only_loopback_names_are_answered(
    client: Client, host: str, is_answered: bool
) -> None:
    for method, path in (STATUS, PAGE, ("GET", "/health"), ("GET", "/nowhere")):
        response = await client.request(method, path, headers={"Host": host})
        if is_answered:
            assert response.status_code == (404 if path == "/nowhere" else 200)
        else:
            error = ErrorResponse.model_validate(response.json()).error
            assert (response.status_code, error.type, error.param) == (403, "forbidden", "Host")
            assert "\n" not in error.message
            assert "set REGIME_W_API_KEY" in error.message


@pytest.mark.parametrize(
    ("call", "headers", "is_answered"),
    [
        (ACTIVATE, {}, True),  # no browser
        (ACTIVATE, {"Origin": "http://localhost:8000", "Sec-Fetch-Site": "same-origin"}, True),
        (ACTIVATE, {"Origin": "http://localhost:8000"}, True),  # a browser without Sec-Fetch-Site
        (ACTIVATE, {"Origin": "https://evil.example", "Sec-Fetch-Site": "cross-site"}, False),
        (ACTIVATE, {"Origin": "https://evil.example"}, False),
        (ACTIVATE, {"Origin": "https://localhost:8000.evil.example"}, False),
        (ACTIVATE, {"Origin": "null"}, False),  # a page in a sandbox, or a file
        (ACTIVATE, {"Origin": ""}, False),
        (ACTIVATE, {"Origin": "http://localhost:3000", "Sec-Fetch-Site": "same-site"}, False),
        (ACTIVATE, {"Sec-Fetch-Site": "cross-site"}, False),
        (STATUS, {"Sec-Fetch-Site": "cross-site"}, False),
        (STATUS, {"Sec-Fetch-Site": "none"}, True),  # typed by the user
        (PAGE, {"Sec-Fetch-Site": "none"}, True),
        (PAGE, {"Sec-Fetch-Site": "cross-site"}, True),  # a link to it
    ],
)
async def test_other_pages_are_refused(
    client: Client, call: tuple[str, str], headers: dict[str, str], is_answered: bool
) -> None:
    await client.put_adapter(1)
    await client.put_adapter(2)
    response = await client.request(*call, headers={"Host": "localhost:8000", **headers})
    active = (await client.get("/v1/status")).json()["active_version"]
    if is_answered:
        assert response.status_code == 200
        return
    error = ErrorResponse.model_validate(response.json()).error
    assert (response.status_code, error.type, error.param) == (403, "forbidden", "Origin")
    assert "set REGIME_W_API_KEY" in error.message
    assert active == 2


async def test_the_page_does_what_it_offers_and_shows_in_no_frame(
    client: Client, engine: FakeEngine
) -> None:
    """Each request that the page's script makes, as a browser sends it."""
    page = await client.get("/", headers={"Sec-Fetch-Site": "none", "Sec-Fetch-Mode": "navigate"})
    assert "frame-ancestors 'none'" in page.headers["Content-Security-Policy"]
    assert set(re.findall(r'call\("([^"]+)"', page.text)) == {
        "v1/status",
        "v1/arms/generate?completions=true",
    }
    headers = {"Origin": "http://127.0.0.1", "Sec-Fetch-Site": "same-origin"}
    assert (await client.get("/v1/status", headers=headers)).status_code == 200
    body = {"questions": ["1+1?"], "score": True, "return_tokens": False, "stream": True}
    response = await client.post("/v1/arms/generate?completions=true", json=body, headers=headers)
    assert response.status_code == 200
    assert engine.samplings


async def test_with_a_key_any_name_is_answered(restart: Restart) -> None:
    client, _ = await restart(api_key=SecretStr("s3cret"))
    headers = {
        "Host": "box.example:8000",
        "Origin": "https://tool.example",
        "Authorization": "Bearer s3cret",
    }
    async with client:
        assert (await client.get("/v1/status", headers=headers)).status_code == 200

"""The app that vLLM builds, with our plugin in it: which routes it has, and how its flags are read."""

import logging
from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.routing import Route

from inference_server.http.routes import router
from inference_server.http.vllm_routes import VLLM_ROUTES
from inference_server.launch.launcher import ROOT_LOG_LEVEL_VARIABLE
from inference_server.launch.shutdown import Shutdown
from inference_server.launch.starting import Starting
from inference_server.settings import Settings
from inference_server.wire.settings.errors import SettingsError

pytestmark = [
    pytest.mark.slow,  # vLLM's server takes 20 s to import
    pytest.mark.filterwarnings("ignore"),
]

SETTINGS = Settings(model="org/model")


@pytest.fixture
def vllm_server(monkeypatch: pytest.MonkeyPatch) -> Any:
    pytest.importorskip("vllm")
    monkeypatch.setenv("VLLM_PLUGINS", "regime_w")
    monkeypatch.setenv(ROOT_LOG_LEVEL_VARIABLE, "WARNING")
    from inference_server.launch import vllm_server

    return vllm_server


@pytest.fixture
def with_device(vllm_server: Any) -> None:
    if vllm_server.current_platform.is_unspecified():
        pytest.skip("vLLM's build for a GPU, without one, cannot parse its flags")


def test_a_build_for_a_gpu_without_one_is_a_one_line_error(
    vllm_server: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(type(vllm_server.current_platform), "is_unspecified", lambda self: True)
    with pytest.raises(SettingsError, match="build for a GPU finds none: nvidia-smi") as caught:
        vllm_server.serve(SETTINGS, [], None)
    assert "\n" not in str(caught.value)


@pytest.mark.usefixtures("with_device")
async def test_every_route_is_ours_or_a_named_one_of_vllms(
    vllm_server: Any, tmp_path: Path
) -> None:
    """A route that a newer vLLM adds is not there, whenever it is attached."""
    from vllm.entrypoints.launchers.app import build_app

    args = vllm_server._parse(SETTINGS, [], on_cpu=True)
    with pytest.raises(RuntimeError, match="only in a server started with"):
        build_app(args, ("generate",), None)
    starting = Starting(None, tmp_path / "phase")
    vllm_server.Launch(settings=SETTINGS, shutdown=Shutdown(0), starting=starting).put_into(args)
    app = build_app(args, ("generate",), None)
    (plugin,) = app.state.endpoint_plugins
    plugin.drop_later_routes()
    assert logging.getLogger().level == logging.WARNING  # An import of vLLM's sets it.
    ours = {route.path for route in router.routes if isinstance(route, Route)}
    found = {getattr(route, "path", None) for route in app.routes}
    assert found == {*VLLM_ROUTES, *ours, "/", "/health", "/v1/models"}
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
        for path in ("/invocations", "/ping", "/tokenize", "/v1/chat/completions/render"):
            response = await client.post(path, json={"model": "policy", "prompt": "x"})
            assert response.status_code == 404
        assert (await client.get("/version")).status_code == 200


@pytest.mark.usefixtures("with_device")
@pytest.mark.parametrize("flag", ["--hos=0.0.0.0", "--por=1", "--api-ke=x"])
def test_no_flag_may_be_abbreviated(vllm_server: Any, flag: str) -> None:
    """An abbreviation would pass by the checks of the flag that it stands for."""
    with pytest.raises(SettingsError, match=f"unrecognized arguments: {flag}"):
        vllm_server._parse(SETTINGS, [flag], on_cpu=True)


@pytest.mark.usefixtures("with_device")
def test_room_for_fewer_versions_than_may_be_loaded_is_refused(vllm_server: Any) -> None:
    flags = ["--max-loras=2", "--max-cpu-loras=2"]
    with pytest.raises(SettingsError, match="--max-cpu-loras 2 is below --max-loaded-versions 4"):
        vllm_server._parse(SETTINGS, flags, on_cpu=True)

"""Fixtures: the server's routes in process, around a hand-written engine."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI

from inference_server.adapters import tidying, versions
from inference_server.service import Service
from inference_server.settings import Settings
from tests.contract.client import Client, Restart, started_app
from tests.contract.fake_engine import FakeEngine


@pytest.fixture
def state_dir(tmp_path: Path) -> Path:
    return tmp_path


@pytest.fixture
def settings(state_dir: Path) -> Settings:
    return Settings(
        model="fake/base",
        state_dir=state_dir,
        max_loaded_versions=3,
        max_adapter_bytes=100_000,
        max_questions=3,
        max_samples_per_arm=2,
        max_groups_in_flight=4,
    )


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Removes the server's short delays before it retires versions."""
    monkeypatch.setattr(tidying, "_TIDY_AFTER_S", 0)
    monkeypatch.setattr(versions, "_ABORT_GRACE_S", 0)


@pytest.fixture
def engine() -> FakeEngine:
    return FakeEngine()


@pytest.fixture
async def app(engine: FakeEngine, settings: Settings) -> FastAPI:
    app = await started_app(engine, settings)
    engine.samplings.clear()  # the warm-up
    return app


@pytest.fixture
def service(app: FastAPI) -> Service:
    service: Service = app.state.regime_w
    return service


@pytest.fixture
async def client(app: FastAPI) -> AsyncIterator[Client]:
    async with Client(app) as client:
        yield client


@pytest.fixture
def restart(settings: Settings) -> Restart:
    async def start(engine: FakeEngine | None = None, **changes: Any) -> tuple[Client, FakeEngine]:
        engine = FakeEngine() if engine is None else engine
        app = await started_app(engine, settings.model_copy(update=changes))
        return Client(app), engine

    return start

"""Our routes answer any request as their OpenAPI document says, and never with 5xx."""

import asyncio
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis import Case, GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.core.result import Ok
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)
from schemathesis.specs.openapi.schemas import OpenApiSchema

from inference_server.settings import Settings
from tests.contract.client import started_app
from tests.contract.fake_engine import FakeEngine

CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
]
OPERATIONS = [
    ("post", "/v1/arms/generate"),
    ("get", "/v1/adapters"),
    ("put", "/v1/adapters/{version}"),
    ("get", "/v1/adapters/{version}"),
    ("delete", "/v1/adapters/{version}"),
    ("post", "/v1/adapters/{version}/activate"),
    ("get", "/v1/status"),
]
# The number of valid and of invalid requests for each operation: about 1,300 requests in all.
NUM_CASES = 130
# A server without a key answers to loopback names only.
HEADERS = {"Host": "localhost"}


@pytest.fixture(scope="module")
def api_schema(tmp_path_factory: pytest.TempPathFactory) -> OpenApiSchema:
    engine = FakeEngine()
    server = Settings(
        model="fake/base",
        state_dir=tmp_path_factory.mktemp("state"),
        adapter_root=tmp_path_factory.mktemp("volume"),
        max_questions=3,
        max_groups_in_flight=4,
    )
    app = asyncio.run(started_app(engine, server))
    return schemathesis.openapi.from_asgi("/openapi.json", app, headers=HEADERS)


# A request without parameters cannot be invalid.
ALWAYS_RIGHT = {("get", "/v1/adapters"), ("get", "/v1/status")}


@pytest.mark.parametrize("mode", GenerationMode, ids=lambda mode: mode.value)
@pytest.mark.parametrize(("method", "path"), OPERATIONS)
def test_any_request_is_answered_as_documented(
    api_schema: OpenApiSchema, method: str, path: str, mode: GenerationMode
) -> None:
    if mode.is_negative and (method, path) in ALWAYS_RIGHT:
        return
    operation = api_schema[path][method]

    @settings(
        max_examples=NUM_CASES,
        # The same requests each time, so that a failure can be repeated.
        derandomize=True,
        deadline=None,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
    )
    @given(case=operation.as_strategy(generation_mode=mode))
    def answer(case: Case[Any]) -> None:
        case.call_and_validate(checks=CHECKS, headers=HEADERS)

    answer()


def test_no_operation_is_left_out(api_schema: OpenApiSchema) -> None:
    operations = [one.ok() for one in api_schema.get_all_operations() if isinstance(one, Ok)]
    found = [(operation.method, operation.path) for operation in operations]
    assert sorted(found) == sorted(OPERATIONS)

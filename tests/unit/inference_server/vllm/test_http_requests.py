"""An HTTP request leases the adapters that vLLM's routes look up for it, until it ends."""

import warnings
from collections.abc import AsyncIterator
from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any

import pytest

http_requests = pytest.importorskip("inference_server.vllm.http_requests")

from vllm.exceptions import VLLMValidationError  # noqa: E402
from vllm.lora.request import LoRARequest  # noqa: E402
from vllm.sampling_params import BeamSearchParams  # noqa: E402

NAME = "policy-000007"


@pytest.mark.parametrize(
    ("model", "max_lease_s", "num_leasing"),
    [
        ("policy", 3600, 1),
        (NAME, 3600, 1),
        ("base", 3600, 0),
        # A client that does not read cannot lease it forever.
        (NAME, 0, 0),
    ],
)
@pytest.mark.parametrize("fails", [False, True])
async def test_a_lookup_of_vllms_routes_is_a_lease(
    model: str, max_lease_s: float, num_leasing: int, *, fails: bool
) -> None:
    with warnings.catch_warnings(action="ignore"):  # of what vLLM imports
        from vllm.entrypoints.serve.engine.serving import BaseServing

    adapter = LoRARequest(NAME, 7, "folder")
    table = http_requests.LeasingTable({"policy": adapter, NAME: adapter})
    models = SimpleNamespace(lora_requests=table, is_base_model=lambda name: name == "base")
    serving = BaseServing(models, None)
    leasing = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await serving._check_model(SimpleNamespace(model=model))
        leasing.append(http_requests.num_leasing(NAME))
        serving._maybe_get_adapters(SimpleNamespace(model=model))
        leasing.append(http_requests.num_leasing(NAME))
        if fails:
            raise ConnectionError

    tracked = http_requests.TrackedRequests(app, max_completions=4, max_lease_s=max_lease_s)
    with pytest.raises(ConnectionError) if fails else nullcontext():
        await tracked({"type": "http"}, None, None)
    assert leasing == [0, num_leasing]
    assert http_requests.num_leasing(NAME) == 0


def test_a_lookup_outside_of_an_http_request_leases_nothing() -> None:
    table = http_requests.LeasingTable({NAME: LoRARequest(NAME, 7, "folder")})
    assert table[NAME].lora_int_id == 7
    assert http_requests.num_leasing(NAME) == 0


@pytest.mark.parametrize(
    ("asked", "refusal"),
    [
        ([(4, http_requests.MAX_LOGPROBS)], None),
        ([(1, http_requests.MAX_LOGPROBS // 4)] * 4, None),
        ([(1, 0)] * 5, r"takes 4 completions \(prompts × n\)"),
        (
            [(1, http_requests.MAX_LOGPROBS - 1), (1, 1), (1, 1)],
            r"returns \d+ logprobs .*max_tokens .*echo",
        ),
    ],
)
def test_an_http_request_may_ask_for_so_much_in_all(
    asked: list[tuple[int, int]], refusal: str | None
) -> None:
    request = http_requests.HttpRequest(max_completions=4, max_lease_s=60)
    for completions, logprobs in asked[:-1]:
        request.add(completions, logprobs)
    refused = pytest.raises(VLLMValidationError, match=refusal) if refusal else nullcontext()
    with refused:
        request.add(*asked[-1])


@pytest.mark.parametrize(
    ("widths", "max_tokens", "refusal"),
    [
        # 600 and more steps of a beam each.
        ([2, 2], 300, None),
        ([8], 300, "takes 4 completions"),
        ([1, 1, 1, 1, 1], 1, "takes 4 completions"),
        ([4], http_requests.MAX_LOGPROBS // 16, "a beam search has n"),
    ],
)
async def test_a_beam_search_is_counted_once_and_at_its_start(
    monkeypatch: pytest.MonkeyPatch, widths: list[int], max_tokens: int, refusal: str | None
) -> None:
    with warnings.catch_warnings(action="ignore"):  # of what vLLM imports
        from vllm.entrypoints.generate.beam_search import online

    num_steps = 0

    async def beam_search(
        serving: Any, prompt: Any, request_id: str, params: BeamSearchParams
    ) -> AsyncIterator[str]:
        nonlocal num_steps
        for _ in range(params.beam_width * params.max_tokens):
            http_requests.current_request().add(num_completions=1, num_logprobs=21)
            num_steps += 1
        yield "done"

    monkeypatch.setattr(online.BeamSearchOnlineMixin, "beam_search", beam_search)
    http_requests.count_beam_searches()
    http_requests.count_beam_searches()
    searches = [BeamSearchParams(beam_width=width, max_tokens=max_tokens) for width in widths]
    serving = online.BeamSearchOnlineMixin()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        outputs = [serving.beam_search([1], "r", params) for params in searches]
        assert [await anext(each) for each in outputs] == ["done"] * len(searches)

    tracked = http_requests.TrackedRequests(app, max_completions=4, max_lease_s=60)
    with pytest.raises(VLLMValidationError, match=refusal) if refusal else nullcontext():
        await tracked({"type": "http"}, None, None)
    if refusal is None:
        assert num_steps == sum(widths) * max_tokens
    elif len(widths) == 1:
        assert num_steps == 0

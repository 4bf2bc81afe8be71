"""What vLLM's client cannot queue is refused and forgotten; what a stopping engine cuts off is an error."""

import asyncio
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any

import pytest

async_llm = pytest.importorskip("vllm.v1.engine.async_llm")
guarded_client = pytest.importorskip("inference_server.vllm.guarded_client")
http_requests = pytest.importorskip("inference_server.vllm.http_requests")

from vllm.exceptions import (  # noqa: E402
    RetryableRequestError,
    VLLMNotFoundError,
    VLLMValidationError,
)
from vllm.inputs.engine import tokens_input  # noqa: E402
from vllm.lora.request import LoRARequest  # noqa: E402
from vllm.sampling_params import (  # noqa: E402
    RequestOutputKind,
    SamplingParams,
    StructuredOutputsParams,
)
from vllm.v1.engine import (  # noqa: E402
    EngineCoreOutput,
    EngineCoreOutputs,
    EngineCoreRequest,
    FinishReason,
)
from vllm.v1.engine.input_processor import InputProcessor  # noqa: E402
from vllm.v1.engine.output_processor import OutputProcessor  # noqa: E402
from vllm.v1.serial_utils import MsgpackEncoder  # noqa: E402

HALF_AN_EMOJI = "\ud83d"


class Core:
    """A stand-in for the engine's process, which encodes requests as vLLM's own client does."""

    def __init__(self) -> None:
        self.resources = SimpleNamespace(engine_dead=False)
        self.finish_reason: FinishReason | None = None
        self.hangs = False
        self.num_added = 0
        self.aborted: list[str] = []
        self._encoder = MsgpackEncoder()
        self._outputs: asyncio.Queue[EngineCoreOutputs] = asyncio.Queue()

    async def get_supported_tasks_async(self) -> tuple[str, ...]:
        return ("generate",)

    async def add_request_async(self, request: EngineCoreRequest) -> None:
        self._encoder.encode(request)
        if self.hangs:
            await asyncio.Event().wait()
        self.num_added += 1
        if self.finish_reason is not None:
            output = EngineCoreOutput(request.request_id, [], finish_reason=self.finish_reason)
            await self._outputs.put(EngineCoreOutputs(outputs=[output]))

    async def abort_requests_async(self, request_ids: list[str]) -> None:
        self._encoder.encode(request_ids)
        self.aborted += request_ids

    async def get_output_async(self) -> EngineCoreOutputs:
        return await self._outputs.get()

    def shutdown(self, timeout: float | None = None) -> None:
        pass


class Inputs:
    """vLLM's input processor without a model."""

    error: Exception | None = None
    assign_request_id = staticmethod(InputProcessor.assign_request_id)

    def process_inputs(
        self, request_id: str, prompt: Any, params: SamplingParams, **kwargs: Any
    ) -> EngineCoreRequest:
        if self.error is not None:
            raise self.error
        return EngineCoreRequest(
            request_id=request_id,
            prompt_token_ids=prompt["prompt_token_ids"],
            mm_features=None,
            sampling_params=params.clone(),
            pooling_params=None,
            arrival_time=0.0,
            lora_request=kwargs.get("lora_request"),
            cache_salt=None,
            data_parallel_rank=None,
        )


@pytest.fixture
def held_adapters() -> set[int]:
    return {7}


@pytest.fixture
async def client(held_adapters: set[int]) -> AsyncIterator[Any]:
    """vLLM's own `AsyncLLM` with `Core` as its engine, guarded by `guard_client`."""
    client = async_llm.AsyncLLM.__new__(async_llm.AsyncLLM)
    off = SimpleNamespace(kv_sharing_fast_prefill=False, otlp_traces_endpoint=None)
    client.vllm_config = SimpleNamespace(cache_config=off)
    client.observability_config = off
    client.model_config = SimpleNamespace(is_encoder_decoder=False)
    client.scheduler_config = SimpleNamespace(max_num_queued_reqs=None, max_num_queued_tokens=None)
    client.renderer = SimpleNamespace(mm_processor_cache=None, shutdown=lambda: None)
    client.log_requests = client.log_stats = False
    client.logger_manager = client.output_handler = client.admission_stats = None
    client.output_processor = OutputProcessor(None, log_stats=False)
    client.input_processor = Inputs()
    client.engine_core = Core()
    guarded_client.guard_client(client, held_adapters)
    yield client
    if client.output_handler is not None:
        client.output_handler.cancel()
        await asyncio.gather(client.output_handler, return_exceptions=True)


async def ask(
    client: Any, request_id: str = "r", *, adapter: LoRARequest | None = None, **sampling: Any
) -> list[Any]:
    params = SamplingParams(output_kind=RequestOutputKind.FINAL_ONLY, **sampling)
    outputs = client.generate(tokens_input([1, 2]), params, request_id, lora_request=adapter)
    return [output async for output in outputs]


def in_flight(client: Any) -> tuple[Any, ...]:
    """Everything that vLLM keeps of a request until it ends."""
    processor = client.output_processor
    return (
        *processor.request_states,
        *processor.parent_requests,
        *(name for name, ids in processor.external_req_ids.items() if ids),
    )


@pytest.mark.parametrize(
    ("request_id", "sampling"),
    [
        ("r", {"stop": [HALF_AN_EMOJI], "detokenize": True}),
        (HALF_AN_EMOJI, {}),
        ("r", {"stop": [HALF_AN_EMOJI], "n": 2}),
        (HALF_AN_EMOJI, {"n": 3}),
        ("r", {"seed": 2**70}),
        ("r", {"extra_args": {"x": HALF_AN_EMOJI}}),
    ],
)
async def test_what_cannot_be_encoded_is_refused_and_forgotten(
    client: Any, request_id: str, sampling: dict[str, Any]
) -> None:
    with pytest.raises(VLLMValidationError, match="cannot take the request") as refusal:
        await ask(client, request_id, **sampling)
    assert str(refusal.value).isascii()
    assert in_flight(client) == ()


@pytest.mark.parametrize("error", [TypeError("TextEncodeInput"), KeyError("x"), AssertionError()])
async def test_whatever_fails_before_the_queue_is_the_requests_fault(
    client: Any, error: Exception
) -> None:
    client.input_processor.error = error
    with pytest.raises(VLLMValidationError):
        await ask(client)
    assert in_flight(client) == ()


@pytest.mark.parametrize("n", [1, 2])
async def test_an_adapter_that_the_engine_no_longer_holds_is_not_asked_for(
    client: Any, held_adapters: set[int], n: int
) -> None:
    """The engine would load it again from files that are gone, and die."""
    client.engine_core.finish_reason = FinishReason.STOP
    adapter = LoRARequest("policy-000007", 7, "folder")
    await ask(client, adapter=adapter, n=n)
    held_adapters.clear()
    with pytest.raises(VLLMNotFoundError, match="policy-000007"):
        await ask(client, adapter=adapter, n=n)
    assert client.engine_core.num_added == n
    assert in_flight(client) == ()


async def test_a_dead_engine_is_no_fault_of_the_request(client: Any) -> None:
    client.engine_core.resources.engine_dead = True
    with pytest.raises(RetryableRequestError):
        await ask(client)


async def test_a_client_that_leaves_while_its_request_is_queued_is_forgotten(client: Any) -> None:
    client.engine_core.hangs = True
    asking = asyncio.create_task(ask(client))
    while not in_flight(client):  # noqa: ASYNC110
        await asyncio.sleep(0)
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking
    assert in_flight(client) == ()
    assert len(client.engine_core.aborted) == 1


@pytest.mark.parametrize(
    ("reason", "sampling", "error"),
    [
        (FinishReason.ABORT, {}, RetryableRequestError),
        (FinishReason.ABORT, {"n": 2}, RetryableRequestError),
        (
            FinishReason.ERROR,
            {"structured_outputs": StructuredOutputsParams(regex="a")},
            VLLMValidationError,
        ),
    ],
)
async def test_a_completion_without_an_end_is_an_error(
    client: Any, reason: FinishReason, sampling: dict[str, Any], error: type[Exception]
) -> None:
    client.engine_core.finish_reason = reason
    with pytest.raises(error):
        await ask(client, **sampling)
    assert in_flight(client) == ()


async def test_a_server_that_stops_ends_the_requests_in_flight_and_those_to_come(
    client: Any,
) -> None:
    asking = [asyncio.create_task(ask(client, name, n=n)) for name, n in (("a", 1), ("b", 3))]
    while client.engine_core.num_added < 4:  # noqa: ASYNC110
        await asyncio.sleep(0)
    await guarded_client.end_requests(client)
    asking.append(asyncio.create_task(ask(client, "c")))
    for each in asking:
        with pytest.raises(RetryableRequestError):
            await each
    assert in_flight(client) == ()
    assert len(client.engine_core.aborted) == client.engine_core.num_added == 4


@pytest.mark.parametrize("reason", [FinishReason.STOP, FinishReason.LENGTH, FinishReason.ERROR])
async def test_other_completions_pass(client: Any, reason: FinishReason) -> None:
    client.engine_core.finish_reason = reason
    (output,) = await ask(client)
    assert output.outputs[0].finish_reason == str(reason)
    assert in_flight(client) == ()


async def test_an_http_request_has_so_many_completions_and_logprobs(
    client: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether by ``n`` or by prompts; those of another request are not counted with them."""
    client.engine_core.finish_reason = FinishReason.STOP
    refused: list[bool] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        for sampling in scope["asks"]:
            # As vLLM's routes do: each prompt in a task of its own.
            ending = await asyncio.gather(
                asyncio.create_task(ask(client, **sampling)), return_exceptions=True
            )
            refused.append(isinstance(ending[0], VLLMValidationError))

    count = http_requests.TrackedRequests(app, max_completions=4, max_lease_s=60)
    most = {"logprobs": 1, "max_tokens": 100}
    monkeypatch.setattr(http_requests, "MAX_LOGPROBS", 200)
    for asks in ([{}, {}, {"n": 2}, {}], [{"n": 4}], [{"n": 5}], [most, {"logprobs": 0}], [most]):
        await count({"type": "http", "asks": asks}, None, None)
    assert refused == [False, False, False, True, False, True, False, True, False]
    assert in_flight(client) == ()

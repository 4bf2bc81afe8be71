"""vLLM behind the `Engine` protocol.

Written against vLLM 0.32; `inference_server.vllm` says what the package uses that is not public there.
"""

import asyncio
import uuid
from collections.abc import Awaitable, Sequence
from contextlib import suppress
from typing import Any, TypeVar

import structlog
from transformers import AutoTokenizer
from vllm.exceptions import RetryableRequestError
from vllm.inputs.engine import tokens_input
from vllm.lora.request import LoRARequest
from vllm.sampling_params import RequestOutputKind, SamplingParams
from vllm.v1.engine.detokenizer import uses_fast_detokenizer
from vllm.v1.engine.exceptions import EngineDeadError

from inference_server.engine import (
    AdapterRejected,
    EngineAdapter,
    EngineCompletion,
    EngineDied,
    EngineTraits,
    Sampling,
)
from inference_server.vllm.decoding import decode
from inference_server.vllm.http_requests import LeasingTable, num_leasing
from inference_server.vllm.metric_series import remove_adapter_series
from inference_server.vllm.traits import engine_traits
from inference_server.wire.prompt_frames import Prompt
from inference_server.wire.prompt_options import PromptFormat
from inference_server.wire.prompts import PromptRenderer
from inference_server.wire.schemas import FinishReason, Priority

# vLLM's other reasons ("error", "repetition", "abort") mean that a completion was not sampled to its end.
_FINISH_REASONS = {"stop": FinishReason.STOP, "length": FinishReason.LENGTH}

_POLL_S = 0.5
_T = TypeVar("_T")
_log = structlog.get_logger()

# Lower is scheduled sooner; requests of the OpenAI routes have 0 by default.
_PRIORITIES = {Priority.AD_HOC: 0, Priority.ROLLOUT: 1}


class VllmEngine:
    """The running vLLM engine and its OpenAI layer's table of served adapters.

    Args:
        client: vLLM's ``AsyncLLM``, guarded by `guard_client`.
        serving_models: vLLM's ``OpenAIServingModels``; its ``lora_requests`` maps a model name of the
            OpenAI routes to an adapter and takes precedence over the base model's names.
        held_adapters: Filled with the ``lora_id`` of every adapter that the engine holds.
    """

    def __init__(self, client: Any, serving_models: Any, held_adapters: set[int]) -> None:
        """See the class."""
        self._client = client
        self._served = serving_models.lora_requests = LeasingTable(serving_models.lora_requests)
        self._held_adapters = held_adapters
        self._has_priorities = client.vllm_config.scheduler_config.policy == "priority"
        self._tokenizer = client.get_tokenizer()
        self._detokenizes = uses_fast_detokenizer(self._tokenizer)
        self._renderer = _renderer(self._tokenizer, client.vllm_config.model_config)
        if line := self._renderer.unusable_template:
            _log.warning("chat_template_unusable", reason=line.removeprefix("warning: "))
        self._traits = engine_traits(client.vllm_config, self._renderer)

    @property
    def traits(self) -> EngineTraits:
        """Properties that do not change while it runs."""
        return self._traits

    async def encode(
        self, prompts: Sequence[Prompt], prompt_format: PromptFormat
    ) -> list[list[int]]:
        """Token ids of each prompt, computed in a thread.

        Raises:
            NoChatTemplate: A chat prompt is asked for, and the model has no template for one.
        """
        return await asyncio.to_thread(self._renderer.prompts, prompts, prompt_format)

    async def generate(
        self,
        prompt_token_ids: list[int],
        sampling: Sampling,
        adapter: EngineAdapter | None,
        replica: int | None,
    ) -> EngineCompletion:
        """Generates one completion, on the replica named; cancelling the call aborts it in the engine."""
        params = self._sampling_params(sampling)
        try:
            outputs = [
                output
                async for output in self._client.generate(
                    tokens_input(prompt_token_ids),
                    params,
                    f"arms-{uuid.uuid4().hex}",
                    lora_request=None if adapter is None else _lora_request(adapter),
                    priority=_PRIORITIES[sampling.priority] if self._has_priorities else 0,
                    data_parallel_rank=replica,
                )
            ]
        except RetryableRequestError as error:  # from the guarded client
            raise EngineDied(str(error)) from error
        (completed,) = outputs  # FINAL_ONLY: a single output, after the last token
        output = completed.outputs[0]
        token_ids = list(output.token_ids)
        flat = output.logprobs
        if list(flat.token_ids) != token_ids:
            raise RuntimeError(f"{len(flat)} logprobs for {len(token_ids)} sampled tokens")
        finish_reason = _FINISH_REASONS.get(output.finish_reason, FinishReason.ABORT)
        text = output.text
        if self._detokenizes:
            # A token that stops a completion is not part of the text; a stop string is.
            by_token = finish_reason is FinishReason.STOP and not isinstance(
                output.stop_reason, str
            )
            text_ids = token_ids[:-1] if by_token else token_ids
            text = decode(self._tokenizer, prompt_token_ids, text_ids)
        return EngineCompletion(
            text=text,
            token_ids=token_ids,
            logprobs=list(flat.logprobs),
            finish_reason=finish_reason,
        )

    def _sampling_params(self, sampling: Sampling) -> SamplingParams:
        """The parameters with which vLLM samples one completion.

        vLLM itself stops at the tokenizer's EOS and at every ``eos_token_id`` of the model's
        ``generation_config.json``, which is read for nothing else (``--generation-config vllm``).
        """
        end_of_turn = self._renderer.end_token_id("chat") if sampling.ends_turn else None
        return SamplingParams(
            temperature=sampling.temperature,
            top_p=sampling.top_p,
            max_tokens=sampling.max_tokens,
            seed=sampling.seed,
            stop=list(sampling.stop),
            # Ids, logprobs and text of a completion all keep the stop string: they go together.
            include_stop_str_in_output=bool(sampling.stop),
            stop_token_ids=None if end_of_turn is None else [end_of_turn],
            logprobs=0,
            flat_logprobs=True,
            # vLLM would detokenize every token twice, step by step: for the text and for its logprob
            # entry. Only the final text is needed, unless stop strings are looked for.
            detokenize=bool(sampling.stop) or not self._detokenizes,
            output_kind=RequestOutputKind.FINAL_ONLY,
        )

    async def load(self, adapter: EngineAdapter) -> None:
        """Loads an adapter, on every replica, and checks that they hold it.

        Raises:
            AdapterRejected: A replica cannot use it; nothing changed.
        """
        try:
            are_held = await self._answer(self._call_all("add_lora", _lora_request(adapter)))
            if not all(are_held):
                raise AdapterRejected(f"the engine did not keep {adapter.name}")
            self._held_adapters.add(adapter.lora_id)
        except EngineDied:
            raise
        except Exception as error:  # vLLM's utility calls raise every refusal as a bare Exception
            await self._drop(adapter)
            raise AdapterRejected(str(error)) from error

    async def _drop(self, adapter: EngineAdapter) -> None:
        """Unloads an adapter, which some replica or worker refused, from those that took it."""
        with suppress(Exception):  # the caller raises the reason, a later call finds a dead engine
            await self.unload(adapter)

    async def unload(self, adapter: EngineAdapter) -> None:
        """Unloads an adapter from every replica."""
        self._held_adapters.discard(adapter.lora_id)
        await self._answer(self._call_all("remove_lora", adapter.lora_id))

    async def loaded_ids(self) -> set[int]:
        """Asks for the ``lora_id`` of every adapter that all replicas hold."""
        return set.intersection(*map(set, await self._answer(self._call_all("list_loras"))))

    def _call_all(self, method: str, *arguments: object) -> Awaitable[list[Any]]:
        """Calls each replica; vLLM's own methods return only the first replica's answer."""
        answers: Awaitable[list[Any]] = self._client.engine_core.call_utility_all_async(
            method, *arguments
        )
        return answers

    async def _answer(self, call: Awaitable[_T]) -> _T:
        """Awaits a call other than a completion; vLLM itself never ends these if the engine is dead.

        Raises:
            EngineDied: The engine is dead.
        """
        task = asyncio.ensure_future(call)
        try:
            while not task.done():
                if self._client.errored:
                    raise EngineDied("its process has ended")
                await asyncio.wait((task,), timeout=_POLL_S)
            return task.result()
        except EngineDeadError as error:
            raise EngineDied(str(error)) from error
        finally:
            task.cancel()

    def num_requests(self, adapter: EngineAdapter | None = None) -> int:
        """Number of unfinished requests of all routes, on one adapter or in total."""
        states = self._client.output_processor.request_states
        if adapter is None:
            return len(states)
        # An HTTP request may have none, one or many of them.
        num_in_engine: int = sum(state.lora_name == adapter.name for state in states.values())
        return max(num_in_engine, num_leasing(adapter.name))

    def publish(self, name: str, adapter: EngineAdapter) -> None:
        """Serves an adapter under ``name`` in the OpenAI routes, starting with the next request."""
        self._served[name] = _lora_request(adapter)

    def withdraw(self, name: str) -> None:
        """Stops serving ``name``; requests in flight keep their adapter."""
        self._served.pop(name, None)
        remove_adapter_series(self._client, name)


def _renderer(tokenizer: Any, model_config: Any) -> PromptRenderer:
    """Renders prompts as the trainer does, with Transformers' tokenizer if vLLM uses one of its own."""
    if not hasattr(tokenizer, "backend_tokenizer"):
        tokenizer = AutoTokenizer.from_pretrained(
            model_config.tokenizer,
            revision=model_config.tokenizer_revision,
            mistral_format=False,
        )
    return PromptRenderer(tokenizer)


def _lora_request(adapter: EngineAdapter) -> Any:
    return LoRARequest(
        lora_name=adapter.name, lora_int_id=adapter.lora_id, lora_path=str(adapter.path)
    )

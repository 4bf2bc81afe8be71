"""vLLM behind the `Engine` protocol.

Written against vLLM 0.32. Uses ``AsyncLLM``'s public methods only, except that requests in flight are
counted in its output processor, the one place that sees the requests of every route.
"""

import asyncio
import uuid
from collections.abc import Awaitable, Sequence
from typing import Any, TypeVar

import tokenizers
from jinja2 import TemplateError
from vllm.inputs.engine import tokens_input
from vllm.lora.request import LoRARequest
from vllm.renderers.params import TokenizeParams
from vllm.sampling_params import RequestOutputKind, SamplingParams
from vllm.v1.engine.detokenizer import uses_fast_detokenizer
from vllm.v1.engine.exceptions import EngineDeadError

from inference_server.engine import (
    AdapterRejected,
    Chat,
    EngineAdapter,
    EngineCompletion,
    EngineDied,
    EngineTraits,
    NoChatTemplate,
    Sampling,
)
from inference_server.vllm.traits import engine_traits
from inference_server.wire.schemas import FinishReason, Priority

# vLLM's other reasons ("error", "repetition", "abort") end a completion that was not sampled to its end.
_FINISH_REASONS = {"stop": FinishReason.STOP, "length": FinishReason.LENGTH}

_POLL_S = 0.5

_T = TypeVar("_T")

# Lower is scheduled sooner; requests of the OpenAI routes have 0 by default.
_PRIORITIES = {Priority.AD_HOC: 0, Priority.ROLLOUT: 1}


class VllmEngine:
    """The running vLLM engine and its OpenAI layer's table of served adapters.

    Args:
        client: vLLM's ``AsyncLLM``.
        serving_models: vLLM's ``OpenAIServingModels``; its ``lora_requests`` maps a model name of the
            OpenAI routes to an adapter and takes precedence over the base model's names.
    """

    def __init__(self, client: Any, serving_models: Any) -> None:
        """See the class."""
        self._client = client
        self._served: dict[str, Any] = serving_models.lora_requests
        self._traits = engine_traits(client.vllm_config)
        self._has_priorities = client.vllm_config.scheduler_config.policy == "priority"
        self._tokenizer = client.get_tokenizer()
        self._detokenizes = uses_fast_detokenizer(self._tokenizer)
        # No length limit here: we refuse prompts that are too long ourselves, naming the question.
        self._plain_params = TokenizeParams(max_total_tokens=None, add_special_tokens=True)
        self._rendered_params = TokenizeParams(max_total_tokens=None, add_special_tokens=False)

    @property
    def traits(self) -> EngineTraits:
        """Properties that do not change while it runs."""
        return self._traits

    async def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of each text, computed in vLLM's tokenizer threads."""
        return await self._tokenize(texts, self._plain_params)

    async def encode_chats(self, chats: Sequence[Chat]) -> list[list[int]]:
        """Token ids of each chat; the template itself adds the special tokens.

        Raises:
            NoChatTemplate: The model has no template for these messages.
        """
        return await self._tokenize([self._render(chat) for chat in chats], self._rendered_params)

    async def _tokenize(self, texts: Sequence[str], params: TokenizeParams) -> list[list[int]]:
        prompts = await self._client.renderer.tokenize_prompts_async(
            [{"prompt": text} for text in texts], params
        )
        return [list(prompt["prompt_token_ids"]) for prompt in prompts]

    def _render(self, chat: Chat) -> str:
        messages = [{"role": "user", "content": chat.question}]
        if chat.system_prompt:
            messages.insert(0, {"role": "system", "content": chat.system_prompt})
        try:
            rendered: str = self._tokenizer.apply_chat_template(
                messages, tokenize=False, add_generation_prompt=True
            )
        except (ValueError, TemplateError) as error:
            raise NoChatTemplate(str(error).partition("\n")[0]) from error
        return rendered

    async def generate(
        self, prompt_token_ids: list[int], sampling: Sampling, adapter: EngineAdapter | None
    ) -> EngineCompletion:
        """Generates one completion; cancelling the call aborts it in the engine."""
        params = SamplingParams(
            temperature=sampling.temperature,
            top_p=sampling.top_p,
            max_tokens=sampling.max_tokens,
            seed=sampling.seed,
            logprobs=0,
            flat_logprobs=True,
            # vLLM would detokenize every token twice, step by step: for the text and for its logprob
            # entry. Only the final text is needed.
            detokenize=not self._detokenizes,
            output_kind=RequestOutputKind.FINAL_ONLY,
        )
        try:
            outputs = [
                output
                async for output in self._client.generate(
                    tokens_input(prompt_token_ids),
                    params,
                    f"arms-{uuid.uuid4().hex}",
                    lora_request=None if adapter is None else _lora_request(adapter),
                    priority=_PRIORITIES[sampling.priority] if self._has_priorities else 0,
                )
            ]
        except EngineDeadError as error:
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
            # Without stop strings a completion is stopped by a token, which is not part of the text.
            text_ids = token_ids[:-1] if finish_reason is FinishReason.STOP else token_ids
            text = _decode(self._tokenizer, prompt_token_ids, text_ids)
        return EngineCompletion(
            text=text,
            token_ids=token_ids,
            logprobs=list(flat.logprobs),
            finish_reason=finish_reason,
        )

    async def load(self, adapter: EngineAdapter) -> None:
        """Loads an adapter and checks that the engine holds it.

        Raises:
            AdapterRejected: The engine cannot use it; nothing changed.
        """
        try:
            is_held = await self._answer(self._client.add_lora(_lora_request(adapter)))
        except EngineDied:
            raise
        except Exception as error:  # vLLM's utility calls raise every refusal as a bare Exception
            raise AdapterRejected(str(error)) from error
        if not is_held:
            raise AdapterRejected(f"the engine did not keep {adapter.name}")

    async def unload(self, adapter: EngineAdapter) -> None:
        """Unloads an adapter."""
        await self._answer(self._client.remove_lora(adapter.lora_id))

    async def loaded_ids(self) -> set[int]:
        """Asks the engine for the ``lora_id`` of every adapter that it holds."""
        return set(await self._answer(self._client.list_loras()))

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
        return sum(state.lora_name == adapter.name for state in states.values())

    def publish(self, name: str, adapter: EngineAdapter) -> None:
        """Serves an adapter under ``name`` in the OpenAI routes, starting with the next request."""
        self._served[name] = _lora_request(adapter)

    def withdraw(self, name: str) -> None:
        """Stops serving ``name``; requests in flight keep their adapter."""
        self._served.pop(name, None)
        self._remove_series(name)

    def _remove_series(self, name: str) -> None:
        """Removes an adapter's Prometheus series, which vLLM would keep forever."""
        manager = self._client.logger_manager  # None if statistics are off
        for logger in () if manager is None else manager.stat_loggers:
            gauge = getattr(logger, "gauge_lora_info", None)
            if gauge is None:
                continue
            for metric in gauge.collect():
                for sample in metric.samples:
                    if any(name in names.split(",") for names in sample.labels.values()):
                        gauge.remove_by_labels(sample.labels)


def _lora_request(adapter: EngineAdapter) -> Any:
    return LoRARequest(
        lora_name=adapter.name, lora_int_id=adapter.lora_id, lora_path=str(adapter.path)
    )


def _decode(tokenizer: Any, prompt_token_ids: Sequence[int], token_ids: Sequence[int]) -> str:
    """The text of a completion, as vLLM's own routes return it.

    A token's text depends on the tokens before it (a leading space, a character split over tokens), so
    the stream starts with the prompt.
    """
    stream = tokenizers.decoders.DecodeStream(ids=list(prompt_token_ids), skip_special_tokens=True)
    backend = tokenizer._tokenizer
    try:
        return "".join(stream.step(backend, token_id) or "" for token_id in token_ids)
    # The stream raises bare Exceptions on bytes that are not UTF-8 and ids outside the vocabulary.
    except Exception:
        text: str = tokenizer.decode(list(token_ids), skip_special_tokens=True)
        return text

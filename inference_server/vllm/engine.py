"""vLLM behind the `Engine` protocol: the only module that names vLLM's classes.

Written against vLLM 0.32. Everything goes through ``AsyncLLM``'s public methods, except that requests
in flight are counted in its output processor, the one place that sees those of every route.
"""

import asyncio
import uuid
from collections.abc import Awaitable, Mapping, Sequence
from typing import Any, TypeVar

import tokenizers
import torch
import transformers
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
    Completion,
    EngineAdapter,
    EngineDied,
    EngineTraits,
    LinearShape,
    NoChatTemplate,
    Sampling,
)
from inference_server.wire.base_fingerprint import base_folder, fingerprint
from inference_server.wire.schemas import FinishReason, Priority

# vLLM also says "error" and "repetition": ends that no one sampled.
_FINISH_REASONS = {"stop": FinishReason.STOP, "length": FinishReason.LENGTH}

_LOOK_EVERY_S = 0.5

_T = TypeVar("_T")

# Lower is sooner; requests of the OpenAI routes have 0 where they do not say.
_PRIORITIES = {Priority.AD_HOC: 0, Priority.ROLLOUT: 1}


class VllmEngine:
    """The running vLLM engine and its OpenAI layer's table of served adapters.

    Args:
        client: vLLM's ``AsyncLLM``.
        serving_models: vLLM's ``OpenAIServingModels``; its ``lora_requests`` maps a model name of the
            OpenAI routes to an adapter and is looked at before the base model's own names.
    """

    def __init__(self, client: Any, serving_models: Any) -> None:
        self._client = client
        self._served: dict[str, Any] = serving_models.lora_requests
        config = client.vllm_config
        lora_config = config.lora_config
        if lora_config is None:
            raise RuntimeError("the server needs LoRA: start it with python -m inference_server")
        model, revision = config.model_config.model, config.model_config.revision
        folder = base_folder(model, revision)
        self._traits = EngineTraits(
            base_model=model,
            base_fingerprint=None if folder is None else fingerprint(folder),
            max_model_len_tokens=config.model_config.max_model_len,
            max_lora_rank=lora_config.max_lora_rank,
            max_loaded_adapters=lora_config.max_cpu_loras,
            lora_dtype=str(lora_config.lora_dtype).removeprefix("torch."),
            linear_shapes=_linear_shapes(config.model_config.hf_config),
        )
        self._has_priorities = config.scheduler_config.policy == "priority"
        self._tokenizer = client.get_tokenizer()
        self._detokenizes = uses_fast_detokenizer(self._tokenizer)
        # Without a length: prompts that are too long are refused by us, with the question's id.
        self._plain_params = TokenizeParams(max_total_tokens=None, add_special_tokens=True)
        self._rendered_params = TokenizeParams(max_total_tokens=None, add_special_tokens=False)

    @property
    def traits(self) -> EngineTraits:
        """What does not change while it runs."""
        return self._traits

    async def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of each text, by vLLM's own tokenizer threads."""
        return await self._tokenize(texts, self._plain_params)

    async def encode_chats(self, chats: Sequence[Chat]) -> list[list[int]]:
        """Token ids of each chat; the template writes the special tokens itself.

        Raises:
            NoChatTemplate: The model has none that fits.
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
    ) -> Completion:
        """Generates one completion; cancelling the call aborts it in the engine."""
        params = SamplingParams(
            temperature=sampling.temperature,
            top_p=sampling.top_p,
            max_tokens=sampling.max_tokens,
            seed=sampling.seed,
            logprobs=0,
            flat_logprobs=True,
            # vLLM would turn every token into text twice, step by step: for the text, and beside its
            # logprob. The text is wanted once, at the end.
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
        (completed,) = outputs  # FINAL_ONLY: one output, when all is sampled
        output = completed.outputs[0]
        token_ids = list(output.token_ids)
        flat = output.logprobs
        if list(flat.token_ids) != token_ids:
            raise RuntimeError(f"{len(flat)} logprobs for {len(token_ids)} sampled tokens")
        finish_reason = _FINISH_REASONS.get(output.finish_reason, FinishReason.ABORT)
        text = output.text
        if self._detokenizes:
            # Without stop strings, what ended it is a token, and the text ends before it.
            said = token_ids[:-1] if finish_reason is FinishReason.STOP else token_ids
            text = _decode(self._tokenizer, prompt_token_ids, said)
        return Completion(
            text=text,
            token_ids=token_ids,
            logprobs=list(flat.logprobs),
            finish_reason=finish_reason,
        )

    async def load(self, adapter: EngineAdapter) -> None:
        """Loads an adapter; the engine says whether it holds it.

        Raises:
            AdapterRejected: The engine cannot use it; nothing changed.
        """
        try:
            is_held = await self._answer(self._client.add_lora(_lora_request(adapter)))
        except EngineDied:
            raise
        except Exception as error:  # vLLM's utility calls hand every refusal on as a bare Exception
            raise AdapterRejected(str(error)) from error
        if not is_held:
            raise AdapterRejected(f"the engine did not keep {adapter.name}")

    async def unload(self, adapter: EngineAdapter) -> None:
        """Drops a loaded adapter."""
        await self._answer(self._client.remove_lora(adapter.lora_id))

    async def loaded_ids(self) -> set[int]:
        """Asks the engine itself for the ``lora_id`` of every adapter that it holds."""
        return set(await self._answer(self._client.list_loras()))

    async def _answer(self, call: Awaitable[_T]) -> _T:
        """What the engine answers to a call that is no completion; vLLM never ends those of a dead one.

        Raises:
            EngineDied: It is dead.
        """
        task = asyncio.ensure_future(call)
        try:
            while not task.done():
                if self._client.errored:
                    raise EngineDied("its process has ended")
                await asyncio.wait((task,), timeout=_LOOK_EVERY_S)
            return task.result()
        except EngineDeadError as error:
            raise EngineDied(str(error)) from error
        finally:
            task.cancel()

    def num_requests(self, adapter: EngineAdapter | None = None) -> int:
        """Unfinished requests from any route, on one adapter or over all."""
        states = self._client.output_processor.request_states
        if adapter is None:
            return len(states)
        return sum(state.lora_name == adapter.name for state in states.values())

    def publish(self, name: str, adapter: EngineAdapter) -> None:
        """Serves an adapter under ``name`` in the OpenAI routes, from the next request on."""
        self._served[name] = _lora_request(adapter)

    def withdraw(self, name: str) -> None:
        """Stops serving ``name``; requests in flight keep their adapter."""
        self._served.pop(name, None)
        self._forget_series(name)

    def _forget_series(self, name: str) -> None:
        """Removes the time series of an adapter, which vLLM would keep and list for ever."""
        manager = self._client.logger_manager  # None where statistics are off.
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
    """The text that follows the prompt, as vLLM's own routes give it.

    A token's text depends on what stands before it (a leading space, a character of several tokens), so
    the stream begins with the prompt.
    """
    stream = tokenizers.decoders.DecodeStream(ids=list(prompt_token_ids), skip_special_tokens=True)
    backend = tokenizer._tokenizer
    try:
        return "".join(stream.step(backend, token_id) or "" for token_id in token_ids)
    # The stream raises bare Exceptions, on text whose bytes are no UTF-8 and ids beyond the vocabulary.
    except Exception:
        text: str = tokenizer.decode(list(token_ids), skip_special_tokens=True)
        return text


def _linear_shapes(hf_config: Any) -> Mapping[str, LinearShape]:
    """Linear layers by the names that PEFT gives them, which vLLM's fused modules do not have."""
    with torch.device("meta"):
        model = transformers.AutoModelForCausalLM.from_config(hf_config)
    return {
        name: LinearShape(in_features=module.in_features, out_features=module.out_features)
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Linear)
    }

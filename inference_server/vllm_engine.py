"""vLLM behind the `Engine` protocol: the only module that names vLLM's classes.

Written against vLLM 0.32. Everything goes through ``AsyncLLM``'s public methods, except that requests
in flight are counted in its output processor, the one place that sees those of every route.
"""

import uuid
from collections.abc import Mapping, Sequence
from typing import Any

import torch
import transformers
from vllm.inputs.engine import tokens_input
from vllm.lora.request import LoRARequest
from vllm.renderers.params import TokenizeParams
from vllm.sampling_params import RequestOutputKind, SamplingParams
from vllm.v1.engine.exceptions import EngineDeadError

from inference_server.engine import (
    AdapterRejected,
    Completion,
    EngineAdapter,
    EngineTraits,
    LinearShape,
    Sampling,
)
from inference_server.schemas import FinishReason

# vLLM also says "error" and "repetition": ends that no one sampled.
_FINISH_REASONS = {"stop": FinishReason.STOP, "length": FinishReason.LENGTH}


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
        self._traits = EngineTraits(
            base_model=config.model_config.model,
            max_model_len_tokens=config.model_config.max_model_len,
            max_lora_rank=lora_config.max_lora_rank,
            max_loaded_adapters=lora_config.max_cpu_loras,
            lora_dtype=str(lora_config.lora_dtype).removeprefix("torch."),
            linear_shapes=_linear_shapes(config.model_config.hf_config),
        )
        # Without a length: prompts that are too long are refused by us, with the question's id.
        self._tokenize_params = TokenizeParams(max_total_tokens=None, add_special_tokens=True)

    @property
    def traits(self) -> EngineTraits:
        """What does not change while it runs."""
        return self._traits

    async def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of each text, by vLLM's own tokenizer threads."""
        prompts = await self._client.renderer.tokenize_prompts_async(
            [{"prompt": text} for text in texts], self._tokenize_params
        )
        return [list(prompt["prompt_token_ids"]) for prompt in prompts]

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
            output_kind=RequestOutputKind.FINAL_ONLY,
        )
        outputs = [
            output
            async for output in self._client.generate(
                tokens_input(prompt_token_ids),
                params,
                f"arms-{uuid.uuid4().hex}",
                lora_request=None if adapter is None else _lora_request(adapter),
            )
        ]
        (completed,) = outputs  # FINAL_ONLY: one output, when all is sampled
        output = completed.outputs[0]
        token_ids = list(output.token_ids)
        flat = output.logprobs
        if list(flat.token_ids) != token_ids:
            raise RuntimeError(f"{len(flat)} logprobs for {len(token_ids)} sampled tokens")
        return Completion(
            text=output.text,
            token_ids=token_ids,
            logprobs=list(flat.logprobs),
            finish_reason=_FINISH_REASONS.get(output.finish_reason, FinishReason.ABORT),
        )

    async def load(self, adapter: EngineAdapter) -> None:
        """Loads an adapter and asks the engine whether it is there.

        Raises:
            AdapterRejected: The engine cannot use it; nothing changed.
        """
        try:
            await self._client.add_lora(_lora_request(adapter))
        except EngineDeadError:
            raise
        except Exception as error:  # vLLM's utility calls hand every refusal on as a bare Exception
            raise AdapterRejected(str(error)) from error
        if adapter.lora_id not in await self.loaded_ids():
            raise AdapterRejected(f"the engine did not keep {adapter.name}")

    async def unload(self, adapter: EngineAdapter) -> None:
        """Drops a loaded adapter."""
        await self._client.remove_lora(adapter.lora_id)

    async def loaded_ids(self) -> set[int]:
        """Asks the engine itself for the ``lora_id`` of every adapter that it holds."""
        return set(await self._client.list_loras())

    def num_requests(self, adapter: EngineAdapter) -> int:
        """Unfinished requests on the adapter, from any route."""
        states = self._client.output_processor.request_states.values()
        return sum(state.lora_name == adapter.name for state in states)

    def publish(self, name: str, adapter: EngineAdapter) -> None:
        """Serves an adapter under ``name`` in the OpenAI routes, from the next request on."""
        self._served[name] = _lora_request(adapter)

    def withdraw(self, name: str) -> None:
        """Stops serving ``name``; requests in flight keep their adapter."""
        self._served.pop(name, None)


def _lora_request(adapter: EngineAdapter) -> Any:
    return LoRARequest(
        lora_name=adapter.name, lora_int_id=adapter.lora_id, lora_path=str(adapter.path)
    )


def _linear_shapes(hf_config: Any) -> Mapping[str, LinearShape]:
    """Linear layers by the names that PEFT gives them, which vLLM's fused modules do not have."""
    with torch.device("meta"):
        model = transformers.AutoModelForCausalLM.from_config(hf_config)
    return {
        name: LinearShape(in_features=module.in_features, out_features=module.out_features)
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Linear)
    }

"""Properties of a running vLLM engine, read from its configuration."""

from collections.abc import Mapping
from typing import Any

import torch
import transformers

from inference_server.engine import EngineTraits, LinearShape
from inference_server.wire.base_files import known_fingerprint
from inference_server.wire.prompts import PromptRenderer


def engine_traits(vllm_config: Any, renderer: PromptRenderer) -> EngineTraits:
    """Traits of an engine with LoRA enabled.

    Args:
        vllm_config: vLLM's ``VllmConfig``.
        renderer: Renders prompts with its tokenizer.

    Raises:
        RuntimeError: LoRA is off.
    """
    lora_config = vllm_config.lora_config
    if lora_config is None:
        raise RuntimeError("the server needs LoRA: start it with python -m inference_server")
    model_config = vllm_config.model_config
    return EngineTraits(
        base_model=model_config.model,
        base_fingerprint=known_fingerprint(model_config.model, model_config.revision),
        max_model_len_tokens=model_config.max_model_len,
        max_lora_rank=lora_config.max_lora_rank,
        max_loaded_adapters=lora_config.max_cpu_loras,
        num_replicas=_num_replicas(vllm_config.parallel_config),
        lora_dtype=str(lora_config.lora_dtype).removeprefix("torch."),
        has_chat_template=renderer.has_chat_template,
        opened_thought=renderer.opened_thought,
        linear_shapes=_linear_shapes(model_config.hf_config),
    )


def _num_replicas(parallel: Any) -> int:
    """How many replicas requests may name, as vLLM's ``InputProcessor`` counts them."""
    local: int = parallel.data_parallel_size_local
    everywhere: int = parallel.data_parallel_size
    return local if parallel.local_engines_only else everywhere


def _linear_shapes(hf_config: Any) -> Mapping[str, LinearShape]:
    """Linear layers by the names that PEFT uses; vLLM's fused modules do not have these names."""
    with torch.device("meta"):
        model = transformers.AutoModelForCausalLM.from_config(hf_config)
    return {
        name: LinearShape(in_features=module.in_features, out_features=module.out_features)
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Linear)
    }

"""The frozen base that adapters are trained on, whole or in 4 bits."""

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig

from trainer.config.sections import PolicyConfig
from trainer.errors import UsageError
from trainer.io.durable import finish_folder, new_folder


def load_base(config: PolicyConfig, device: torch.device) -> Any:
    """The base model, frozen, from a folder or a Hub id.

    Raises:
        UsageError: ``policy.quantization`` is set and bitsandbytes is not installed.
    """
    dtype = getattr(torch, config.dtype)
    if config.quantization is None:
        model = AutoModelForCausalLM.from_pretrained(config.base_model, dtype=dtype).to(device)
    else:
        if find_spec("bitsandbytes") is None:
            raise UsageError(
                f"policy.quantization = {config.quantization} needs bitsandbytes (for CUDA and CPU), "
                "which is not installed: pip install bitsandbytes, or leave policy.quantization out"
            )
        # Only where it is asked for: it is no dependency of the rest.
        from bitsandbytes.nn import Linear4bit  # noqa: PLC0415

        model = AutoModelForCausalLM.from_pretrained(
            config.base_model,
            dtype=dtype,
            device_map={"": device},
            quantization_config=BitsAndBytesConfig(
                load_in_4bit=True,
                bnb_4bit_quant_type=config.quantization,
                bnb_4bit_use_double_quant=True,
                bnb_4bit_compute_dtype=dtype,
            ),
        )
        for module in model.modules():
            if isinstance(module, Linear4bit):
                # In evaluation mode this would compute in bfloat16, whatever the dtype.
                module.support_avx512bf16_for_cpu = False
    return model.requires_grad_(False)


def save_dequantized(config: PolicyConfig, output: Path, device: torch.device) -> None:
    """Write the base with the weights that its 4 bits stand for, for a server that has none.

    Trained on the one and served on the other, an adapter means the same.

    Raises:
        UsageError: There is something at ``output``, or bitsandbytes is not installed.
    """
    if output.exists():
        raise UsageError(f"output: {output} exists already")
    model = load_base(config, device).dequantize()
    folder = new_folder(output)
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(config.base_model).save_pretrained(folder)
    finish_folder(output)

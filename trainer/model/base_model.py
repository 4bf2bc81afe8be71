"""The frozen base that adapters are trained on, in full precision or in 4 bits."""

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, BitsAndBytesConfig

from trainer.config.sections import PolicyConfig
from trainer.errors import UsageError
from trainer.io.durable import finish_folder, new_folder
from trainer.model.base_files import load_tokenizer, reading_base
from trainer.model.dtype import torch_dtype


def load_base(config: PolicyConfig, device: torch.device) -> Any:
    """The base model, frozen, from a folder or a Hub id.

    Raises:
        UsageError: Its files cannot be read, or ``policy.quantization`` is set and bitsandbytes is not
            installed.
    """
    dtype = torch_dtype(config, device)
    if config.quantization is None:
        with reading_base(config.base_model):
            model = AutoModelForCausalLM.from_pretrained(config.base_model, dtype=dtype)
        model = model.to(device)
    else:
        if find_spec("bitsandbytes") is None:
            raise UsageError(
                f"policy.quantization = {config.quantization} needs bitsandbytes (for CUDA and CPU), "
                "which is not installed: pip install bitsandbytes, or leave policy.quantization out"
            )
        # An optional dependency, imported only if quantization is on.
        from bitsandbytes.nn import Linear4bit  # noqa: PLC0415

        with reading_base(config.base_model):
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
                # Otherwise evaluation mode computes in bfloat16, whatever the dtype.
                module.support_avx512bf16_for_cpu = False
    return model.requires_grad_(False)


def require_full_attention(config: Any, base_model: str) -> None:
    """Refuse a base whose layers do not all attend to everything before.

    Raises:
        UsageError: Names the kind of layer.
    """
    kinds = set(getattr(config, "layer_types", None) or ()) - {"full_attention"}
    if kinds or getattr(config, "sliding_window", None):
        raise UsageError(
            f"policy.base_model {base_model}: {min(kinds, default='sliding_attention')} "
            "layers; prefix trees need full attention"
        )


def save_dequantized(config: PolicyConfig, output: Path, device: torch.device) -> None:
    """Write the base with its 4-bit weights dequantized, for a server without quantization.

    An adapter trained on the quantized base then gives the same policy on the server.

    Raises:
        UsageError: ``output`` exists, or bitsandbytes is not installed.
    """
    if output.exists():
        raise UsageError(f"output: {output} exists already")
    model = load_base(config, device).dequantize()
    folder = new_folder(output)
    model.save_pretrained(folder)
    load_tokenizer(config.base_model).save_pretrained(folder)
    finish_folder(output)

"""Loads the frozen base that adapters are trained on, in full precision or in 4 bits."""

from pathlib import Path
from typing import Any

import torch
from huggingface_hub.utils.tqdm import are_progress_bars_disabled, enable_progress_bars
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    BitsAndBytesConfig,
)
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.utils.logging import disable_progress_bar

from trainer.config.sections import PolicyConfig
from trainer.errors import UsageError
from trainer.io.durable import whole_folder
from trainer.io.installed import is_installed
from trainer.model.base_files import load_tokenizer, one_line, reading_base, require_text_alone
from trainer.model.dtype import torch_dtype
from trainer.model.sharded_base import is_divided, load_sharded


def hide_progress_bars() -> None:
    """Turn off Transformers' progress bars for reading and writing weights; the Hub's bars for downloads stay."""
    shows_downloads = not are_progress_bars_disabled()
    disable_progress_bar()
    if shows_downloads:
        # The call above has turned off the Hub's progress bars as well.
        enable_progress_bars()


def load_base(config: PolicyConfig, device: torch.device) -> Any:
    """The base model, frozen, from a folder or a Hub id.

    Raises:
        UsageError: Its files cannot be read, its architecture names its modules differently, or
            ``policy.quantization`` is set and bitsandbytes is not installed.
    """
    hide_progress_bars()
    require_text_alone(config.base_model)
    dtype = torch_dtype(config, device)
    if config.shard_base and is_divided():
        model = load_sharded(config.base_model, dtype, device)
    elif config.quantization is None:
        with reading_base(config.base_model):
            model, loaded = AutoModelForCausalLM.from_pretrained(
                config.base_model, dtype=dtype, output_loading_info=True
            )
        _require_all_weights(config.base_model, model, loaded)
        model = model.to(device)
    else:
        if not is_installed("bitsandbytes"):
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
    # Checked again, because the files of a Hub id may have been downloaded only just now.
    require_text_alone(config.base_model)
    if not (hasattr(model, "model") and hasattr(model, "lm_head")):
        raise UsageError(
            f"policy.base_model {config.base_model}: {type(model).__name__} has no modules called model and "
            "lm_head, which the trainer computes with"
        )
    return model.requires_grad_(False)


def _require_all_weights(base_model: str, model: Any, loaded: dict[str, Any]) -> None:
    """Refuse files that lack some of a model's weights, because Transformers would draw these at random."""
    if missing := sorted(loaded["missing_keys"]):
        raise UsageError(
            f"policy.base_model {base_model}: its files lack {len(missing)} weights of {type(model).__name__}, such "
            f"as {missing[0]}; download or copy the model again"
        )


def recompute_activations(base: Any) -> None:
    """Let the layers recompute their activations in the backward pass instead of keeping them."""
    base.gradient_checkpointing_enable({"use_reentrant": False})
    # Layers recompute only in training mode; their submodules stay in evaluation mode.
    for module in base.modules():
        if isinstance(module, GradientCheckpointingLayer):
            module.training = True


def save_language_model(base_model: str, output: Path) -> None:
    """Write only the language model of a model of text and images, in the dtype of its files.

    Raises:
        UsageError: ``output`` exists, the model takes text alone, its files cannot be read or lack weights, or
            Transformers has no class for its language model.
    """
    if output.exists():
        raise UsageError(f"output: {output} exists already")
    hide_progress_bars()
    with reading_base(base_model):
        config = AutoConfig.from_pretrained(base_model)
    if config.get_text_config() is config:
        raise UsageError(
            f"base_model {base_model}: {config.model_type} takes text alone; use it as it is"
        )
    with reading_base(base_model):
        whole, loaded = AutoModelForImageTextToText.from_pretrained(
            base_model, dtype="auto", output_loading_info=True
        )
    _require_all_weights(base_model, whole, loaded)
    text_config = config.get_text_config()
    head = whole.get_output_embeddings()
    # The configuration's text part may contradict the whole model about tied embeddings; the whole model is right.
    text_config.tie_word_embeddings = head.weight is whole.get_input_embeddings().weight
    try:
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(text_config, dtype=whole.dtype)
        model.model.load_state_dict(whole.get_decoder().state_dict(), assign=True)
        model.lm_head.load_state_dict(head.state_dict(), assign=True)
    except (ValueError, RuntimeError, AttributeError) as error:
        raise UsageError(
            f"base_model {base_model}: Transformers has no class for the language model of {type(whole).__name__} "
            f"alone ({one_line(error)})"
        ) from error
    model.tie_weights()
    model.generation_config = whole.generation_config
    with whole_folder(output) as folder:
        model.save_pretrained(folder)
        load_tokenizer(base_model).save_pretrained(folder)


def save_dequantized(config: PolicyConfig, output: Path, device: torch.device) -> None:
    """Write the base with its 4-bit weights dequantized, for a server without quantization.

    An adapter trained on the quantized base then gives the same policy on the server.

    Raises:
        UsageError: ``output`` exists, or bitsandbytes is not installed.
    """
    if output.exists():
        raise UsageError(f"serve.model or --output: {output} exists already")
    model = load_base(config, device).dequantize()
    with whole_folder(output) as folder:
        model.save_pretrained(folder)
        load_tokenizer(config.base_model).save_pretrained(folder)

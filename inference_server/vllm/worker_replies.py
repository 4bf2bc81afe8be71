"""Makes a worker's refusal of an adapter a reply, so that the replies of several workers stay in step.

vLLM 0.32 asks all workers of an engine and raises at the first that fails, before it has read what the others
replied: their replies then answer later calls. Here, with several workers, a refusal is a reply like any other.
"""

import logging
from typing import Any

_log = logging.getLogger(__name__)
_REAL_NAME = "add_lora_or_raise"


def install() -> None:
    """Makes each of several workers reply False if it cannot load an adapter; a second call does nothing."""
    # Not at the top: it loads much that most importers of this package do not need.
    from vllm.v1.worker.lora_model_runner_mixin import LoRAModelRunnerMixin  # noqa: PLC0415

    if hasattr(LoRAModelRunnerMixin, _REAL_NAME):
        return
    setattr(LoRAModelRunnerMixin, _REAL_NAME, LoRAModelRunnerMixin.add_lora)
    LoRAModelRunnerMixin.add_lora = _add_lora


def _add_lora(runner: Any, lora_request: Any) -> bool:
    try:
        is_held: bool = getattr(runner, _REAL_NAME)(lora_request)
    except Exception:
        if runner.vllm_config.parallel_config.world_size == 1:
            raise
        _log.exception("%s cannot be loaded", lora_request.lora_name)
        return False
    return is_held

"""Finds settings to change if a memory plan does not fit."""

import json
import math
from collections.abc import Iterator, Mapping

from inference_server.wire.hardware import gpu
from inference_server.wire.hardware.cpu import CPU_MAX_NUM_SEQS
from trainer.config.sections import DoctorConfig
from trainer.doctor.device import Card
from trainer.doctor.memory_plan import PROMPT_TOKENS, MemoryPlan, plan_memory
from trainer.doctor.model_shape import ModelShape

_MAX_SERVER_SHARE = 0.92
"""Largest ``serve.gpu_memory_utilization`` to advise."""
_MIN_TOKEN_BUDGET = 1024
"""Smallest ``ppo.token_budget`` to advise."""
_MIN_MODEL_LEN = 4096
"""Smallest ``serve.max_model_len`` to advise."""
_MIN_NUM_SEQS = 64
"""Smallest ``serve.max_num_seqs`` to advise."""

Setting = str | int | float | bool
"""Value of a setting."""


def advise(shape: ModelShape, config: DoctorConfig, card: Card) -> tuple[str, ...] | None:
    """A few changes of settings with which the plan fits; None if none are found.

    Changes are tried in the order of their cost; then those that turned out to be unnecessary are dropped.

    Args:
        shape: The base model's.
        config: Settings that need not fit.
        card: The memory that the services have.

    Returns:
        The changes, each as ``section.field = value``.
    """

    def plan_with(changes: Mapping[str, Setting]) -> MemoryPlan:
        changed = config
        for setting, value in changes.items():
            section, field = setting.split(".")
            new = getattr(changed, section).model_copy(update={field: value})
            changed = changed.model_copy(update={section: new})
        return plan_memory(shape, changed, card)

    def balanced(changes: dict[str, Setting]) -> dict[str, Setting]:
        """The changes, and the share of the card for the server with which the trainer just fits."""
        return {**changes, **_server_share(plan_with(changes))} if card.on_gpu else changes

    tried: dict[str, Setting] = {}
    changes = balanced(tried)
    for setting, value in _cheapest_first(shape, config, on_gpu=card.on_gpu):
        if plan_with(changes).fits:
            break
        tried[setting] = value
        changes = balanced(tried)
    if not plan_with(changes).fits:
        return None
    for setting in list(changes):
        without = {other: value for other, value in changes.items() if other != setting}
        if plan_with(without).fits:
            changes = without
    return tuple(f"{setting} = {json.dumps(value)}" for setting, value in changes.items())


def _server_share(plan: MemoryPlan) -> dict[str, Setting]:
    """The largest share for the server that leaves room for the trainer; empty if the plan fits or there is none."""
    others = plan.trainer_bytes + plan.margin_bytes
    share = math.floor(100 * (1 - others / plan.card_bytes)) / 100
    share = min(share, _MAX_SERVER_SHARE)
    if plan.fits or not plan.server or share <= 0:
        return {}
    return {"serve.gpu_memory_utilization": share}


def _cheapest_first(
    shape: ModelShape, config: DoctorConfig, *, on_gpu: bool
) -> Iterator[tuple[str, Setting]]:
    """Changes of settings in the order of their cost: first those that cost nothing, then time, then precision."""
    policy, serve = config.policy, config.serve
    max_position_tokens = shape.max_position_tokens
    longest = max(_MIN_MODEL_LEN, 2 * (PROMPT_TOKENS + config.rollout.max_tokens))
    longest = min(longest, max_position_tokens)
    if on_gpu and (serve.max_model_len or max_position_tokens) > longest:
        yield "serve.max_model_len", longest
    if on_gpu and policy.dtype == "float32":
        yield "policy.dtype", "bfloat16"
    if not policy.gradient_checkpointing:
        yield "policy.gradient_checkpointing", True
    budget = config.ppo.token_budget
    while budget > _MIN_TOKEN_BUDGET:
        budget = max(_MIN_TOKEN_BUDGET, budget // 2)
        yield "ppo.token_budget", budget
    at_a_time = serve.max_num_seqs or (gpu.MAX_NUM_SEQS if on_gpu else CPU_MAX_NUM_SEQS)
    while at_a_time > _MIN_NUM_SEQS:
        at_a_time = max(_MIN_NUM_SEQS, at_a_time // 2)
        yield "serve.max_num_seqs", at_a_time
    if on_gpu and policy.quantization is None:
        yield "policy.quantization", "nf4"

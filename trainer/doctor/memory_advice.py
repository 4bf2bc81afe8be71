"""Which settings to change where server and trainer do not fit one card."""

import json
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from trainer.config.sections import TrainConfig
from trainer.doctor.memory_plan import MemoryPlan, ModelShape, ServeConfig, plan_memory

_MAX_SHARE = 0.92
_LEAST_TOKEN_BUDGET = 1024


def advise(
    shape: ModelShape, config: TrainConfig, serve: ServeConfig, *, card_bytes: float, on_gpu: bool
) -> tuple[str, ...] | None:
    """The fewest changes of settings found under which the plan fits, or None where none were.

    Args:
        shape: Of the base model.
        config: Of the run, which need not fit.
        serve: Of the server.
        card_bytes: Memory of the GPU, or of the machine.
        on_gpu: Whether both compute on a GPU.
    """

    def plan_with(changes: Sequence[_Change]) -> MemoryPlan:
        changed, served = config, serve
        for change in changes:
            changed, served = change.apply(changed, served)
        return plan_memory(shape, changed, served, card_bytes=card_bytes, on_gpu=on_gpu)

    def balanced(changes: list[_Change]) -> list[_Change]:
        """The same, and the card divided anew."""
        share = _fairest_share(plan_with(changes)) if on_gpu else None
        return changes if share is None else [*changes, share]

    changes: list[_Change] = []
    made = balanced(changes)
    for change in _cheapest_first(config, on_gpu=on_gpu):
        if plan_with(made).fits:
            break
        changes = [*(other for other in changes if other.setting != change.setting), change]
        made = balanced(changes)
    if not plan_with(made).fits:
        return None
    for change in list(made):
        without = [other for other in made if other is not change]
        if plan_with(without).fits:
            made = without
    return tuple(f"{change.setting} = {change.value}" for change in made)


@dataclass(frozen=True, kw_only=True)
class _Change:
    """One setting of another value."""

    setting: str
    value: str | int | float
    apply: Callable[[TrainConfig, ServeConfig], tuple[TrainConfig, ServeConfig]]


def _of_trainer(setting: str, value: str | int | bool) -> _Change:
    section, field = setting.split(".")

    def apply(config: TrainConfig, serve: ServeConfig) -> tuple[TrainConfig, ServeConfig]:
        changed = getattr(config, section).model_copy(update={field: value})
        return config.model_copy(update={section: changed}), serve

    shown = json.dumps(value)
    return _Change(setting=setting, value=shown, apply=apply)


def _fairest_share(plan: MemoryPlan) -> _Change | None:
    """The server's share as large as the trainer allows; None where it is well as it is."""
    share = math.floor(100 * (1 - plan.trainer_bytes / plan.card_bytes)) / 100
    if plan.fits or not 0 < share <= _MAX_SHARE:
        return None

    def apply(config: TrainConfig, serve: ServeConfig) -> tuple[TrainConfig, ServeConfig]:
        return config, serve.model_copy(update={"gpu_memory_utilization": share})

    return _Change(setting="serve.gpu_memory_utilization", value=share, apply=apply)


def _cheapest_first(config: TrainConfig, *, on_gpu: bool) -> Iterator[_Change]:
    """Changes in the order of what they cost: nothing, then time, then precision."""
    policy = config.policy
    if on_gpu and policy.dtype == "float32":
        yield _of_trainer("policy.dtype", "bfloat16")
    if on_gpu and not policy.autocast:
        yield _of_trainer("policy.autocast", True)
    if not policy.gradient_checkpointing:
        yield _of_trainer("policy.gradient_checkpointing", True)
    budget = config.ppo.token_budget
    while budget > _LEAST_TOKEN_BUDGET:
        budget = max(_LEAST_TOKEN_BUDGET, budget // 2)
        yield _of_trainer("ppo.token_budget", budget)
    if on_gpu and policy.quantization is None:
        yield _of_trainer("policy.quantization", "nf4")

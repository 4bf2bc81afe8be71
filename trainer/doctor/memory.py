"""Whether server and trainer fit the card together."""

from collections.abc import Iterator

from trainer.config.sections import DoctorConfig
from trainer.doctor.device import Card
from trainer.doctor.memory_plan import MemoryPlan, advise
from trainer.doctor.model_shape import ModelShape
from trainer.doctor.results import CheckResult, bad, ok, size_text

_TOLERANCE = 0.05
"""Part of the card that may be in use beyond the plan, such as by a desktop."""


def check_memory(
    plan: MemoryPlan, shape: ModelShape, config: DoctorConfig, card: Card
) -> Iterator[CheckResult]:
    """Whether both services fit, and which settings to change where they do not."""
    advice = _advice(plan, shape, config)
    share = size_text(plan.server_share_bytes)
    if plan.server_fits:
        yield ok(
            "memory, server",
            f"{share}, of which the key-value cache is {size_text(plan.kv_cache_bytes)}: "
            f"{plan.kv_tokens:,} tokens",
        )
    else:
        yield bad(
            "memory, server",
            f"needs {size_text(plan.server_bytes)} before the key-value cache, of {share}: the cache "
            f"would hold {plan.kv_tokens:,} tokens, and the arms of one question need "
            f"{plan.kv_tokens_needed:,}",
            advice,
        )
    needed, left = size_text(plan.trainer_bytes), size_text(plan.trainer_share_bytes)
    if plan.trainer_fits:
        yield ok("memory, trainer", f"{needed} of the {left} that the server leaves")
    else:
        yield bad("memory, trainer", f"needs {needed}; the server leaves {left}", advice)
    if card.used_bytes and plan.fits:
        # Before the server starts the card must be empty; afterwards it holds the server's share.
        expected = plan.server_share_bytes if config.ask_server else 0.0
        if card.used_bytes > expected + _TOLERANCE * plan.card_bytes:
            yield bad(
                "memory, others",
                f"{size_text(card.used_bytes)} of the card are in use, but {size_text(expected)} "
                "are planned",
                "end the other processes on the card (nvidia-smi lists them), or set GPU_ID",
            )


def _advice(plan: MemoryPlan, shape: ModelShape, config: DoctorConfig) -> str:
    if plan.fits:
        return ""
    changes = advise(shape, config, config.serve, card_bytes=plan.card_bytes, on_gpu=plan.on_gpu)
    if changes is None:
        return f"a smaller base model, or a larger {'card' if plan.on_gpu else 'machine'}"
    return ", ".join(changes)

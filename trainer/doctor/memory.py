"""Checks whether the services of this machine fit the card, and whether the one that starts now finds room on it."""

import math
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import torch

from inference_server.wire.hardware import gpu
from trainer.config.sections import DoctorConfig, OfflineRunConfig, TrainConfig
from trainer.doctor.device import Card
from trainer.doctor.memory_advice import advise
from trainer.doctor.memory_plan import MemoryPlan, planned_trainer_bytes
from trainer.doctor.model_shape import ModelShape, read_shape
from trainer.doctor.results import CheckResult, bad, note, ok, size_text
from trainer.errors import OutOfMemoryError, UsageError
from trainer.model.adapter_files import shaped_as_adapter


def check_memory(
    plan: MemoryPlan, shape: ModelShape, config: DoctorConfig, card: Card
) -> Iterator[CheckResult]:
    """Whether the services that run here fit, and which settings to change if they do not."""
    advice = _advice(plan, shape, config, card)
    share = size_text(plan.server_share_bytes)
    if plan.server and plan.server_fits:
        yield ok(
            "memory, server",
            f"{share}, of which the key-value cache is {size_text(plan.kv_cache_bytes)}: "
            f"{plan.kv_tokens:,} tokens",
        )
    elif plan.server:
        yield bad(
            "memory, server",
            f"needs {size_text(plan.server_bytes)} before the key-value cache, of {share}: the cache "
            f"would hold {plan.kv_tokens:,} tokens, and the arms of one question or a sequence of "
            f"serve.max_model_len need {plan.kv_tokens_needed:,}",
            advice,
        )
    needed, left = size_text(plan.trainer_bytes), size_text(plan.trainer_share_bytes)
    room = f"the {left} that the server leaves" if plan.server else left
    if plan.trainer and plan.trainer_fits:
        yield ok("memory, trainer", f"{needed} of {room}")
    elif plan.trainer:
        yield bad("memory, trainer", f"needs {needed} of {room}", advice)
    if plan.fits and (taken := _taken_by_others(plan, config, card)) is not None:
        yield taken


def _taken_by_others(plan: MemoryPlan, config: DoctorConfig, card: Card) -> CheckResult | None:
    """A result if the service that is about to start does not fit beside what runs on the card now.

    ``starts`` names this service. By default it is the trainer, beside the running server, if ``ask_server`` is set;
    else it is the server, beside which a trainer may already be waiting for it.
    """
    role = config.starts or ("trainer" if config.ask_server else "server")
    if config.role != "both":
        role = config.role
    of_trainer = plan.trainer_bytes + plan.margin_bytes
    of_server = plan.server_share_bytes
    if config.serve.gpu_memory_utilization is not None:
        of_server *= gpu.START_SHARE
    needed = of_trainer if role == "trainer" else of_server
    free = card.memory_bytes - card.used_bytes
    if not card.used_bytes or free >= needed:
        return None
    return bad(
        "memory, others",
        f"{size_text(card.used_bytes)} of the card are in use: {size_text(free)} are free, and the {role} "
        f"needs {size_text(needed)}",
        "end the other processes on the card (nvidia-smi lists them), or set GPU_ID",
    )


def check_server_flags(config: DoctorConfig, *, on_gpu: bool) -> Iterator[CheckResult]:
    """The server's flags on a GPU, and whether a step's completions run in one wave, that is all at a time."""
    if not on_gpu:
        return
    rollout = config.rollout
    batch = rollout.questions_per_step * len(rollout.arms) * rollout.samples_per_arm
    chosen = gpu.flags(config.serve)
    at_a_time = int(chosen["--max-num-seqs"])
    sizes = gpu.capture_sizes(at_a_time)
    text = " ".join(f"{flag} {value}" for flag, value in chosen.items())
    text = f"{text}, {len(sizes)} sizes of CUDA graphs"
    if batch > at_a_time:
        waves = math.ceil(batch / at_a_time)
        text = f"{text}; the {batch} completions of a step run in {waves} waves"
        yield note("server's batch", text, f"serve.max_num_seqs = {batch}")
    else:
        yield ok("server's batch", f"{text}: a step's {batch} completions run in one wave")


def _advice(plan: MemoryPlan, shape: ModelShape, config: DoctorConfig, card: Card) -> str:
    if plan.fits:
        return ""
    changes = advise(shape, config, card)
    if changes is None:
        return f"a smaller base model, or a larger {'card' if card.on_gpu else 'machine'}"
    return ", ".join(changes)


@contextmanager
def plan_in_message(config: TrainConfig | OfflineRunConfig) -> Iterator[None]:
    """A block that trains with a configuration; if memory runs out, the error also says what the plan estimated.

    Raises:
        OutOfMemoryError: As the block raises it, with the plan's estimate if the base model's shape can be read.
    """
    try:
        yield
    except OutOfMemoryError as error:
        plan = ""
        with suppress(UsageError, ValueError, AttributeError):
            policy = shaped_as_adapter(config.policy)
            shape = read_shape(policy.base_model, policy.target_modules)
            ppo = config.ppo.model_copy(update={"token_budget": error.token_budget})
            planned = planned_trainer_bytes(
                shape, config.model_copy(update={"policy": policy, "ppo": ppo})
            )
            plan = f"the memory plan has {size_text(planned)} for the trainer then"
            if torch.cuda.is_available():
                plan += f", of {size_text(torch.cuda.mem_get_info()[1])} on the card"
        raise OutOfMemoryError(error.token_budget, plan=plan) from None

"""One part: experience and update of a mini-batch with random weights, and the doctor's memory plan for it."""

import statistics
import tempfile
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from torch.nn.attention import sdpa_kernel
from transformers import PretrainedConfig

from benchmarks.model_shapes import random_groups
from benchmarks.random_model import random_base
from benchmarks.trainer.gpu_step.counters import GIB, Memory, counted, device_name, on_gpu, timed
from benchmarks.trainer.gpu_step.part import ATTENTIONS, SHAPES, Part
from inference_server.wire.settings.errors import first_line
from trainer.config.loading import load_config
from trainer.config.sections import DoctorConfig, TrainConfig
from trainer.doctor.device import Card
from trainer.doctor.memory_parts import Rows
from trainer.doctor.memory_plan import plan_memory
from trainer.doctor.model_shape import read_shape
from trainer.model.batches.sample import Sample
from trainer.model.roles import PolicyRoles, Role
from trainer.ppo.experience import MiniBatch
from trainer.ppo.update import PPOUpdate

CONFIGS = Path(__file__).parents[3] / "deploy/configs"
PROMPT_TOKENS, COMPLETION_TOKENS = 60, 256
DENSE_BF16 = {
    "H200": 989e12,
    "H100 PCIe": 756e12,
    "H100 NVL": 835e12,
    "H100": 989e12,
    "A100": 312e12,
    "A10G": 70e12,
    "A10": 125e12,
    "L40S": 362e12,
    "L4": 121e12,
    "RTX 4090": 165e12,
}
"""Dense bfloat16 FLOP/s by NVIDIA's data sheets; the first name that occurs in the card's own name counts."""
_NOT_TENSORS = ("CUDA context", "fragmentation")
_REFUSED = ("No available kernel", "No viable backend")
"""Words of PyTorch's errors, on a GPU and on a CPU, if the kernel that attention is restricted to cannot compute it."""


def attempt(part: Part, device: torch.device, rounds: int) -> dict[str, Any]:
    """The result of `measure`, or why the part cannot be measured."""
    try:
        return {"status": "done", **measure(part, device, rounds)}
    except torch.OutOfMemoryError as error:
        return {"status": "out of memory", "error": first_line(error)}
    except RuntimeError as error:
        if not any(words in str(error) for words in _REFUSED):
            raise
        return {"status": "refused", "error": first_line(error)}


def measure(part: Part, device: torch.device, rounds: int) -> dict[str, Any]:
    """Experience and update of one mini-batch, which is an optimizer step."""
    _, shape = SHAPES[part.shape]
    with tempfile.TemporaryDirectory() as folder, kernel(part.attention):
        shape.save_pretrained(folder)
        config = configuration(part, folder)
        memory = Memory(device)
        roles = random_roles(config, shape, device)
        loaded = memory.phase()
        update = PPOUpdate(roles, config.ppo)
        groups = mini_batch_of(config, part, seed=0)
        mini_batches: list[MiniBatch] = []

        def experience() -> None:
            mini_batches[:] = update.experience(groups, seed="0")

        def step() -> None:
            update.step(mini_batches, train_policy=True)

        experience()
        step()  # makes the optimizers' moments and warms up
        memory.phase()
        seconds: dict[str, list[float]] = {"experience": [], "update": []}
        peaks: dict[str, list[float]] = {"experience": [], "update": []}
        for seed in range(1, rounds + 1):
            # New shapes, as a run meets them too: an attention kernel may have to be planned for them.
            groups = mini_batch_of(config, part, seed=seed)
            for name, work in (("experience", experience), ("update", step)):
                seconds[name].append(timed(work, device))
                peaks[name].append(memory.phase())
        medians = {name: statistics.median(times) for name, times in seconds.items()}
        flops, operations = counted(step)
        busy_s, launches = on_gpu(step, device)
        rows = max(
            (e.batch.rows.token_ids for m in mini_batches for e in m), key=lambda ids: ids.numel()
        )
        peak = DENSE_BF16.get(next((n for n in DENSE_BF16 if n in device_name(device.type)), ""))
        return {
            "completion_tokens": sum(len(s.completion_ids) for group in groups for s in group),
            "micro_batches": sum(map(len, mini_batches)),
            "experience_s": medians["experience"],
            "update_s": medians["update"],
            "experience_flop": counted(experience)[0],
            "update_flop": flops,
            "mfu": flops / medians["update"] / peak if peak else None,
            "operations": operations,
            "launches": launches,
            "busy": busy_s / medians["update"] if busy_s is not None else None,
            "loaded_gib": loaded,
            "experience_gib": max(peaks["experience"]),
            "update_gib": max(peaks["update"]),
            "reserved_gib": memory.reserved,
            **planned(config, folder, Rows(num_tokens=rows.numel(), width=rows.shape[1])),
        }


def mini_batch_of(config: TrainConfig, part: Part, *, seed: int) -> list[list[Sample]]:
    """Random completions of a mini-batch's questions, in the preset's arms."""
    num_tokens = 8 if part.shape == "tiny" else COMPLETION_TOKENS
    return random_groups(
        config.ppo.questions_per_mini_batch,
        prompt_tokens=PROMPT_TOKENS,
        completion_tokens=num_tokens,
        spread_tokens=num_tokens // 2,
        vocabulary=SHAPES[part.shape][1].vocab_size,
        arms=config.rollout.arms,
        seed=seed,
    )


def configuration(part: Part, base: str) -> DoctorConfig:
    """The preset's configuration with the part's settings, for the trainer alone on its card."""
    preset, _ = SHAPES[part.shape]
    path = CONFIGS / f"{preset}.toml"
    config = load_config(
        DoctorConfig, ["--config", str(path), "--role", "trainer"], prog="gpu_step"
    )
    policy = config.policy.model_copy(
        update={
            "base_model": base,
            "dtype": "bfloat16",
            "gradient_checkpointing": part.checkpointing,
        }
    )
    ppo = config.ppo.model_copy(update={"token_budget": part.budget})
    return config.model_copy(update={"policy": policy, "ppo": ppo})


def random_roles(config: TrainConfig, shape: PretrainedConfig, device: torch.device) -> PolicyRoles:
    """Roles on a base with random weights, and adapters that differ a little."""

    def load_base(*_: object) -> Any:
        return random_base(shape, device)

    with patch("trainer.model.roles.load_base", load_base):
        roles = PolicyRoles(config.policy, device=device, serve_dtype=torch.bfloat16)
    with torch.no_grad():
        for role in Role:
            for parameter in roles.adapter_parameters(role):
                parameter.add_(1e-3 * torch.randn_like(parameter))
    return roles


def kernel(attention: str) -> AbstractContextManager[None]:
    """A block in which attention is computed by that kernel alone, or refused."""
    backend = ATTENTIONS[attention]
    return nullcontext() if backend is None else sdpa_kernel([backend])


def planned(config: DoctorConfig, folder: str, rows: Rows) -> dict[str, float]:
    """The doctor's memory plan for the same micro-batch, in GiB, without CUDA context and fragmentation.

    The figure for loading has the weights and adapters; that for the update also has the optimizers' parts and the
    activations. The plan has no figure for experience, which keeps no activations.
    """
    plan = plan_memory(
        read_shape(folder, config.policy.target_modules),
        config,
        Card(on_gpu=True, memory_bytes=80 * GIB),
        rows=rows,
    )
    sizes = {p.name: p.num_bytes / GIB for p in plan.trainer if p.name not in _NOT_TENSORS}
    loaded = sum(size for name, size in sizes.items() if name == "weights" or "adapters" in name)
    return {"planned_loaded_gib": loaded, "planned_update_gib": sum(sizes.values())}

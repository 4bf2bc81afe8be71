"""An optimizer step at the presets' shapes, with random weights made on the device: speed, launches, memory.

    python -m benchmarks.trainer.gpu_step                         # all parts, as many as fit in ten minutes
    python -m benchmarks.trainer.gpu_step                         # the same again: those that are left
    python -m benchmarks.trainer.gpu_step --device cpu --shapes tiny --budgets 512

A part is one shape, token budget, checkpointing and attention, in a process of its own. Its record is added
to ``--results``, a JSONL file; a part that has one on the same device is not done again, unless it failed. The
table is printed at the end, or with ``--table`` alone.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from rich.console import Console
from rich.table import Table
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry
from transformers import PretrainedConfig, Qwen2Config

from benchmarks.random_model import random_base
from tests.unit.model_shapes import PRESETS, random_groups
from trainer.config.loading import load_config
from trainer.config.sections import ServeConfig, TrainConfig
from trainer.console.environment import prepare_environment
from trainer.doctor.memory_parts import Rows
from trainer.doctor.memory_plan import plan_memory
from trainer.doctor.model_shape import read_shape
from trainer.model.roles import PolicyRoles, Role
from trainer.ppo.experience import MiniBatch
from trainer.ppo.update import PPOUpdate

CONFIGS = Path(__file__).parents[2] / "deploy/configs"
TINY = Qwen2Config(
    vocab_size=512,
    hidden_size=64,
    intermediate_size=128,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
)
SHAPES: dict[str, tuple[str, PretrainedConfig]] = {
    "1.5b": ("gsm8k_a100", PRESETS["gsm8k_a100"]),
    "8b": ("gsm8k_a100_8b", PRESETS["gsm8k_a100_8b"]),
    "tiny": ("demo", TINY),
}
"""The preset and the shape of its base; ``tiny`` is to try this program with."""
ATTENTIONS: dict[str, SDPBackend | None] = {
    "default": None,
    "efficient": SDPBackend.EFFICIENT_ATTENTION,
    "cudnn": SDPBackend.CUDNN_ATTENTION,
    "math": SDPBackend.MATH,
}
"""Kernels of scaled_dot_product_attention that take a mask, which FlashAttention does not; the default is PyTorch's
choice."""
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
"""FLOP/s in bfloat16 without sparsity, by NVIDIA's data sheets; the first name that occurs in the card's counts."""
_GIB = 2**30
_NOT_TENSORS = ("CUDA context", "fragmentation")
_NOT_A_KERNEL = ("Memcpy", "Memset")


@dataclass(frozen=True, kw_only=True)
class Part:
    shape: str
    budget: int
    checkpointing: bool
    attention: str

    @property
    def name(self) -> str:
        kept = "checkpointing" if self.checkpointing else "all kept"
        return f"{self.shape}, {self.budget} tokens, {kept}, {self.attention}"


def main() -> None:
    prepare_environment()
    arguments = parse()
    if arguments.part is not None:
        part = Part(**json.loads(arguments.part))
        print(json.dumps(attempt(part, torch.device(arguments.device), arguments.rounds)))
        return
    if not arguments.table:
        parts = selected(arguments)
        if arguments.list:
            print("\n".join(part.name for part in parts))
            return
        run_parts(parts, arguments)
    show(records(arguments.results))


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=(__doc__ or "").splitlines()[0], allow_abbrev=False
    )
    add = parser.add_argument
    add("--device", choices=["cuda", "cpu"], default="cuda", help="[%(default)s]")
    add("--shapes", nargs="+", choices=SHAPES, default=["1.5b", "8b"], help="[%(default)s]")
    add("--budgets", nargs="+", type=int, default=[4096, 8192, 16384], help="[%(default)s]")
    both = ["on", "off"]
    add("--checkpointing", nargs="+", choices=both, default=both, help="[%(default)s]")
    add("--attentions", nargs="+", choices=ATTENTIONS, default=list(ATTENTIONS), help="[all]")
    add("--rounds", type=int, default=3, help="repetitions of each measure [%(default)s]")
    add("--results", type=Path, default=Path("runs/gpu_step/results.jsonl"), help="[%(default)s]")
    add(
        "--limit_s", type=float, default=540, help="seconds in which no part is begun [%(default)s]"
    )
    add("--list", action="store_true", help="name the parts and end")
    add("--table", action="store_true", help="only print the table of what is in --results")
    add("--part", help=argparse.SUPPRESS)
    return parser.parse_args()


def selected(arguments: argparse.Namespace) -> list[Part]:
    """The parts in order of use: other kernels than PyTorch's choice only at the budget in the middle."""
    parts = [
        Part(shape=s, budget=b, checkpointing=c == "on", attention=a)
        for a, s, b, c in product(
            arguments.attentions, arguments.shapes, arguments.budgets, arguments.checkpointing
        )
    ]
    middle = sorted(arguments.budgets)[len(arguments.budgets) // 2]
    return [p for p in parts if ATTENTIONS[p.attention] is None or p.budget == middle]


# --- parts, one process each -----------------------------------------------------------------------


def run_parts(parts: Sequence[Part], arguments: argparse.Namespace) -> None:
    """Do the parts that have no record on this device, as long as there is time for the next one."""
    device = device_name(arguments.device)
    done = {(r["name"], r["device"]) for r in records(arguments.results) if r["status"] != "failed"}
    left = [part for part in parts if (part.name, device) not in done]
    started, longest_s = time.monotonic(), 0.0
    for i, part in enumerate(left):
        rest_s = arguments.limit_s - (time.monotonic() - started)
        if i and rest_s < 1.5 * longest_s:
            print(f"{len(left) - i} parts are left: run it again")
            return
        print(f"{part.name} … ", end="", flush=True)
        began = time.monotonic()
        record = in_process(part, arguments, max(1.0, rest_s))
        if record["status"] == "too long" and i:
            # It did not have all of the time, and comes first the next time.
            print(f"cut short; {len(left) - i} parts are left: run it again")
            return
        longest_s = max(longest_s, time.monotonic() - began)
        record |= {"name": part.name, "device": device, **asdict(part)}
        record |= {"seconds": time.monotonic() - began, "torch": torch.__version__}
        arguments.results.parent.mkdir(parents=True, exist_ok=True)
        with arguments.results.open("a") as file:
            file.write(json.dumps(record) + "\n")
            file.flush()
            os.fsync(file.fileno())
        print(f"{record['status']}, {record['seconds']:.0f} s", flush=True)


def in_process(part: Part, arguments: argparse.Namespace, limit_s: float) -> dict[str, Any]:
    """What a process of its own finds, or how it ended."""
    command = [
        sys.executable,
        "-m",
        "benchmarks.trainer.gpu_step",
        "--part",
        json.dumps(asdict(part)),
    ]
    command += ["--device", arguments.device, "--rounds", str(arguments.rounds)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=limit_s)
    except subprocess.TimeoutExpired:
        return {"status": "too long"}
    lines = done.stdout.splitlines()
    if done.returncode or not lines:
        last = [*done.stderr.strip().splitlines(), ""][-2:]
        return {"status": "failed", "error": f"exit code {done.returncode}: {' '.join(last)}"}
    found: dict[str, Any] = json.loads(lines[-1])
    return found


def attempt(part: Part, device: torch.device, rounds: int) -> dict[str, Any]:
    """`measure`, or why it cannot be done."""
    try:
        return {"status": "done", **measure(part, device, rounds)}
    except torch.OutOfMemoryError as error:
        return {"status": "out of memory", "error": str(error).splitlines()[0]}
    except RuntimeError as error:
        if "No available kernel" not in str(error):
            raise
        return {"status": "refused", "error": str(error).splitlines()[0]}


def records(results: Path) -> list[dict[str, Any]]:
    if not results.exists():
        return []
    return [json.loads(line) for line in results.read_text().splitlines() if line.endswith("}")]


def device_name(device: str) -> str:
    return torch.cuda.get_device_name() if device == "cuda" else "cpu"


# --- one part ----------------------------------------------------------------------------------------


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
        groups = random_groups(
            config.ppo.questions_per_mini_batch,
            prompt_tokens=PROMPT_TOKENS,
            completion_tokens=8 if part.shape == "tiny" else COMPLETION_TOKENS,
            vocabulary=shape.vocab_size,
        )

        def experience() -> list[MiniBatch]:
            return update.experience(groups, seed="0")

        mini_batches = experience()

        def step() -> None:
            update.step(mini_batches, train_policy=True)

        step()  # makes the optimizers' moments and warms up
        memory.phase()
        seconds: dict[str, list[float]] = {"experience": [], "update": []}
        peaks: dict[str, list[float]] = {"experience": [], "update": []}
        for _ in range(rounds):
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


def configuration(part: Part, base: str) -> TrainConfig:
    """The preset's, with the part's settings."""
    preset, _ = SHAPES[part.shape]
    path = CONFIGS / f"{preset}.toml"
    config = load_config(TrainConfig, ["--config", str(path)], prog="gpu_step")
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


class Memory:
    """Peaks of PyTorch's allocator in GiB; 0 on a CPU."""

    def __init__(self, device: torch.device) -> None:
        self._counts = device.type == "cuda"
        self.reserved = 0.0

    def phase(self) -> float:
        """The peak since the last call."""
        if not self._counts:
            return 0.0
        peak = torch.cuda.max_memory_allocated() / _GIB
        self.reserved = max(self.reserved, torch.cuda.max_memory_reserved() / _GIB)
        torch.cuda.reset_peak_memory_stats()
        return peak


def planned(config: TrainConfig, folder: str, rows: Rows) -> dict[str, float]:
    """What the doctor's plan has for the same micro-batch, in GiB, without the CUDA context.

    Loaded are the weights and adapters; the optimizers' parts and activations come with the update. The
    plan has no figure of its own for experience, which keeps no activations.
    """
    plan = plan_memory(
        read_shape(folder, config.policy.target_modules),
        config,
        ServeConfig(),
        card_bytes=80 * _GIB,
        on_gpu=True,
        rows=rows,
        role="trainer",
    )
    sizes = {p.name: p.num_bytes / _GIB for p in plan.trainer if p.name not in _NOT_TENSORS}
    loaded = sum(size for name, size in sizes.items() if name == "weights" or "adapters" in name)
    return {"planned_loaded_gib": loaded, "planned_update_gib": sum(sizes.values())}


def timed(work: Callable[[], object], device: torch.device) -> float:
    synchronize(device)
    started = time.perf_counter()
    work()
    synchronize(device)
    return time.perf_counter() - started


def synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


FORMULAS: dict[Any, Any] = {
    **flop_registry,
    torch.ops.aten.addmm_: flop_registry[torch.ops.aten.addmm],
}


class Counter(TorchDispatchMode):
    """Counts dispatched operations, and the floating-point operations of products and attention."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.flop = self.operations = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        self.operations += 1
        if formula := FORMULAS.get(func._overloadpacket):
            self.flop += formula(*args, **(kwargs or {}), out_val=out)
        return out


def counted(work: Callable[[], object]) -> tuple[int, int]:
    """Floating-point operations, recomputation included, and dispatched operations."""
    with Counter() as counter:
        work()
    return counter.flop, counter.operations


def on_gpu(work: Callable[[], object], device: torch.device) -> tuple[float | None, int | None]:
    """Seconds that the GPU worked, and the kernels that were launched; None on a CPU."""
    if device.type != "cuda":
        return None, None
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
        work()
        synchronize(device)
    ran = [
        (event.name, event.time_range.elapsed_us())
        for event in profile.events()
        if str(event.device_type) == "DeviceType.CUDA"
        and not getattr(event, "is_user_annotation", False)
    ]
    launches = sum(not name.startswith(_NOT_A_KERNEL) for name, _ in ran)
    return sum(elapsed_us for _, elapsed_us in ran) / 1e6, launches


# --- table -------------------------------------------------------------------------------------------


def show(found: Sequence[dict[str, Any]]) -> None:
    if not found:
        print("no results yet")
        return
    table = Table(
        title="one optimizer step (a mini-batch), and its experience", title_justify="left"
    )
    for heading in ("device", "part"):
        table.add_column(heading, overflow="fold")
    for heading in (
        "tokens/s",
        "experience, s",
        "update, s",
        "update, TFLOP",
        "MFU",
        "launches",
        "GPU busy",
        "GiB loaded (plan)",
        "experience",
        "update (plan)",
        "reserved",
    ):
        table.add_column(heading, justify="right", overflow="fold")
    for record in found:
        table.add_row(record["device"].removeprefix("NVIDIA "), record["name"], *cells(record))
    Console(width=180).print(table)
    print(
        "tokens/s: generated tokens, by experience and update together; MFU: of the card's dense bfloat16 "
        "rate, recomputation counted;\nlaunches without a GPU: dispatched operations; GiB: the most that was "
        "allocated, without the CUDA context"
    )


def cells(record: dict[str, Any]) -> Iterator[str]:
    """A record's numbers, or why it has none."""
    if record["status"] != "done":
        yield record["status"]
        return
    step_s = record["experience_s"] + record["update_s"]
    launches = record["launches"]
    yield f"{record['completion_tokens'] / step_s:,.0f}"
    yield f"{record['experience_s']:.2f}"
    yield f"{record['update_s']:.2f}"
    yield f"{record['update_flop'] / 1e12:,.1f}"
    yield percent(record["mfu"])
    yield f"{record['operations'] if launches is None else launches:,}"
    yield percent(record["busy"])
    yield f"{record['loaded_gib']:.1f} ({record['planned_loaded_gib']:.1f})"
    yield f"{record['experience_gib']:.1f}"
    yield f"{record['update_gib']:.1f} ({record['planned_update_gib']:.1f})"
    yield f"{record['reserved_gib']:.1f}"


def percent(share: float | None) -> str:
    return "" if share is None else f"{100 * share:.0f} %"


if __name__ == "__main__":
    main()

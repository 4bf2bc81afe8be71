"""A PPO step compared with the bare passes of a plain PEFT model, on one device; see benchmarks/README.md.

On completions that the tiny model samples for the eight arms, it times experience and update (a) as the trainer does
them, (b) with the length-sorted padded rows that the trainer used to have, and (c) as their floor, the bare forward and
backward passes of a plain PEFT model over the same rows. It then times them for several sequence lengths and numbers of
questions, and measures the peak memory of a logprob pass for two sizes of vocabulary.

    python -m benchmarks.trainer.ppo_step --model models/tiny-base
"""

import argparse
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from unittest.mock import patch

import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor
from transformers import AutoModelForCausalLM

from benchmarks.arguments import add_model, benchmark_parser
from benchmarks.trainer.padded_batches import padded_micro_batches
from benchmarks.trainer.ppo_step_data import Groups, random_roles, sampled_groups, synthetic_groups
from benchmarks.trainer.ppo_step_memory import measure_memory
from trainer.config.sections import PolicyConfig, PPOConfig
from trainer.model import roles as trainer_roles
from trainer.model.batches.batch import TokenRows
from trainer.ppo.experience import MiniBatch
from trainer.ppo.update import PPOUpdate

CONFIG = PPOConfig()


def main() -> None:
    parser = benchmark_parser(__doc__)
    add_model(parser)
    parser.add_argument("--rounds", type=int, default=7, help="repetitions of each [%(default)s]")
    parser.add_argument("--num-threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--parts", default="step,shape,memory", help="[%(default)s]")
    # Memory is measured in a separate process for each vocabulary.
    parser.add_argument("--vocabulary", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.vocabulary is not None:
        measure_memory(arguments.vocabulary)
        return
    parts = arguments.parts.split(",")
    if "step" in parts:
        groups = sampled_groups(arguments.model, num_questions=16)
        for num_threads in arguments.num_threads:
            torch.set_num_threads(num_threads)
            compare(arguments.model, groups, rounds=arguments.rounds)
    if "shape" in parts:
        torch.set_num_threads(arguments.num_threads[-1])
        for num_questions in (4, 16, 64):
            groups = synthetic_groups(num_questions, num_prompt=40, num_completion=20)
            compare(arguments.model, groups, rounds=3)
        for length in (128, 384):
            groups = synthetic_groups(8, num_prompt=length // 2, num_completion=length // 2)
            compare(arguments.model, groups, rounds=3)
    if "memory" in parts:
        for vocabulary in (512, 150_000):
            # Freed memory goes back to the system at once, so that a peak is what was in use.
            environment = os.environ | {"MALLOC_MMAP_THRESHOLD_": "65536"}
            command = [
                sys.executable,
                "-m",
                "benchmarks.trainer.ppo_step",
                "--vocabulary",
                str(vocabulary),
            ]
            subprocess.run(command, env=environment, check=True)


def compare(model: Path, groups: Groups, *, rounds: int) -> None:
    """Time trainer, padding and floor in turn, so that a busy machine slows all of them."""
    roles = random_roles(model)
    update = PPOUpdate(roles, CONFIG)
    mini_batches = update.experience(groups, seed="0")
    rows = [e.batch.rows for mini_batch in mini_batches for e in mini_batch]
    padded = with_padding(update, groups)
    floor = floor_model(model)
    times = in_turn(
        {
            "experience": lambda: update.experience(groups, seed="0"),
            "experience, floor": lambda: [forward(floor, r) for r in rows for _ in range(3)],
            "experience, padded": lambda: with_padding(update, groups),
            "update": lambda: update.step(mini_batches, train_policy=True),
            "update, floor": lambda: backward(floor, [*rows, *rows]),
            "update, padded": lambda: update.step(padded, train_policy=True),
        },
        rounds,
    )
    samples = [sample for group in groups for sample in group]
    num_tokens = sum(len(s.prompt_ids) + len(s.completion_ids) for s in samples)
    print(
        f"\n{len(samples)} completions, {num_tokens} tokens, "
        f"{sum(r.token_ids.numel() for r in rows)} in rows, "
        f"{sum(e.batch.num_tokens for m in padded for e in m)} padded; "
        f"{torch.get_num_threads()} threads"
    )
    for part in ("experience", "update"):
        ours, bare, old = (times[part + name] for name in ("", ", floor", ", padded"))
        print(
            f"{part:10}  {1e3 * ours:7.1f} ms  {num_tokens / ours:8.0f} tokens/s  "
            f"floor {1e3 * bare:7.1f} ms = {bare / ours:.2f} of it  "
            f"padded {1e3 * old:7.1f} ms = {old / ours:.2f} x",
            flush=True,
        )
    print(f"experience + update  {1e3 * (times['experience'] + times['update']):.0f} ms")


def with_padding(update: PPOUpdate, groups: Groups) -> list[MiniBatch]:
    with patch.object(trainer_roles, "micro_batches", padded_micro_batches):
        return update.experience(groups, seed="0")


def in_turn(work: dict[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Median seconds of each, after one round that does not count."""
    seconds: dict[str, list[float]] = {name: [] for name in work}
    for _ in range(rounds + 1):
        for name, run in work.items():
            started = time.perf_counter()
            run()
            seconds[name].append(time.perf_counter() - started)
    return {name: statistics.median(times[1:]) for name, times in seconds.items()}


def floor_model(model: Path) -> torch.nn.Module:
    """The body of the same base with one adapter of the same shape, as PEFT makes it."""
    config = PolicyConfig()
    lora = LoraConfig(
        r=config.lora_rank,
        lora_alpha=config.lora_alpha,
        target_modules=list(config.target_modules),
        task_type="CAUSAL_LM",
    )
    base = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    body: torch.nn.Module = get_peft_model(base, lora).eval().get_base_model().model
    return body


def backward(body: torch.nn.Module, batches: Sequence[TokenRows]) -> None:
    for rows in batches:
        hidden(body, rows).sum().backward()


@torch.no_grad()
def forward(body: torch.nn.Module, rows: TokenRows) -> None:
    hidden(body, rows)


def hidden(body: torch.nn.Module, rows: TokenRows) -> Tensor:
    states: Tensor = body(
        input_ids=rows.token_ids,
        position_ids=rows.position_ids,
        attention_mask=rows.attention_mask,
        use_cache=False,
    )[0]
    return states


if __name__ == "__main__":
    main()

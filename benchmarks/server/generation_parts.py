"""Where a step's generation time goes: ``LLM.generate`` with its parts added one after another, then the server.

    python -m benchmarks.server.generation_parts --model models/random-1.5b --questions 64 --max-tokens 256

The first rows each add one thing to the row before: logprobs, seeds, the temperatures of the 1.5B preset's arms, an
adapter. Further rows have the recipe's arms, which have a top-p; the same as with an adapter, but through
`POST /v1/arms/generate`; and logits in the model's dtype instead of float32. In an offline row every completion has
``--max-tokens`` tokens, and ``ms a step`` is the time for one token of all completions. The server's completions end at
EOS, which a model with random weights hardly ever samples. Below it is the processor time of the server's threads: one
whose microseconds for a token are the inverse of the row's tokens/s is what limits the server. Each row is printed as
soon as it is measured, so that a run that is cut short still shows something.
"""

import argparse
import asyncio
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from benchmarks.arguments import benchmark_parser
from benchmarks.questions import fresh_questions
from benchmarks.server.offline_engine import OfflineEngine, Prompt, Timing, offline_engine
from benchmarks.server.processor_time import thread_seconds
from benchmarks.server.workload import OFFLINE, RANK, ask_arms, prompts, save_adapter
from inference_server.launch.server_process import ServerProcess, running_server
from inference_server.vllm.cpu.settings import cpu_environment
from inference_server.wire.hardware import gpu
from inference_server.wire.hardware.prerequisites import PATCHES_PLUGIN
from regime_w import ArmSpec, build_all_arms, build_exploring_arms
from trainer.client.arms_client import ArmsClient
from trainer.config.sections import ServerConfig

ARMS = build_exploring_arms()
"""The arms of the 1.5B preset."""
NUM_ARMS = len(ARMS)


def main() -> int:
    """Returns the exit code."""
    parser = benchmark_parser(__doc__)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument(
        "--questions", type=int, default=64, help="with eight arms each [%(default)s]"
    )
    parser.add_argument("--max-tokens", type=int, default=256, help="[%(default)s]")
    parser.add_argument(
        "--rounds", type=int, default=2, help="per row, of which the best counts [%(default)s]"
    )
    parser.add_argument("--gpu-memory-utilization", type=float, default=0.6, help="[%(default)s]")
    arguments = parser.parse_args()
    if not (arguments.model / "config.json").is_file():
        print(f"--model {arguments.model}: no folder with a config.json in it", file=sys.stderr)
        return 2
    print(f"{'':34} tokens/s  ms a step")
    with tempfile.TemporaryDirectory() as folder:
        adapter = save_adapter(arguments.model, Path(folder) / "adapter", 0)
        with engine(arguments, "float32") as offline:
            offline_rows(offline, adapter, arguments)
            whole(offline, "all with the recipe's arms", build_all_arms(), adapter, arguments)
        served(adapter, Path(folder), arguments)
        with engine(arguments, "model") as offline:
            whole(offline, "all, logits in the model's dtype", ARMS, adapter, arguments)
    return 0


@contextmanager
def engine(arguments: argparse.Namespace, head_dtype: str) -> Iterator[OfflineEngine]:
    """``LLM`` with the flags that the server gives it."""
    settings: dict[str, Any] = {"hf_overrides": {"head_dtype": head_dtype}}
    environment = {"VLLM_PLUGINS": PATCHES_PLUGIN}
    if torch.cuda.is_available():
        num_seqs = NUM_ARMS * arguments.questions
        settings |= {
            "enable_lora": True,
            "max_lora_rank": RANK,
            "max_loras": 4,
            "max_cpu_loras": 4,
            "logprobs_mode": "processed_logprobs",
            "scheduling_policy": "priority",
            "max_model_len": 4096,
            "max_num_seqs": num_seqs,
            "max_num_batched_tokens": gpu.MAX_BATCHED_TOKENS,
            "cudagraph_capture_sizes": gpu.capture_sizes(num_seqs),
            "gpu_memory_utilization": arguments.gpu_memory_utilization,
        }
        environment |= gpu.ENVIRONMENT
    else:
        settings |= OFFLINE
        environment |= {**cpu_environment(None), "VLLM_CPU_KVCACHE_SPACE": "1"}
    with offline_engine(arguments.model.absolute(), settings, environment) as offline:
        yield offline


def asked(arguments: argparse.Namespace, arms: Sequence[ArmSpec] = ARMS) -> list[Prompt]:
    """A step's prompts with seeds, as the server samples them; each call takes new questions."""
    records = [next(QUESTIONS) for _ in range(arguments.questions)]
    return [replace(prompt, seed=i) for i, prompt in enumerate(prompts(records, arms))]


QUESTIONS = fresh_questions()


def offline_rows(offline: OfflineEngine, adapter: Path, arguments: argparse.Namespace) -> None:
    """Measure rows with one engine, each of which adds one thing to the row before."""

    def row(name: str, *, arms: bool, seeds: bool, logprobs: bool) -> None:
        def once() -> Timing:
            chosen = asked(arguments)
            if not seeds:
                chosen = [replace(prompt, seed=None) for prompt in chosen]
            if not arms:
                chosen = [replace(prompt, temperature=1.0) for prompt in chosen]
            return offline.generate(
                chosen,
                max_tokens=arguments.max_tokens,
                adapter=None,
                logprobs=logprobs,
                ignore_eos=True,
            )

        report(name, [once() for _ in range(1 + arguments.rounds)], arguments)

    row("base, temperature 1", arms=False, seeds=False, logprobs=False)
    row("+ logprobs", arms=False, seeds=False, logprobs=True)
    row("+ seeds", arms=False, seeds=True, logprobs=True)
    row("+ the arms' temperatures", arms=True, seeds=True, logprobs=True)
    whole(offline, "+ an adapter", ARMS, adapter, arguments)


def whole(
    offline: OfflineEngine,
    name: str,
    arms: Sequence[ArmSpec],
    adapter: Path,
    arguments: argparse.Namespace,
) -> None:
    """Measure a row with everything that rollouts need."""
    timings = [
        offline.generate(
            asked(arguments, arms),
            max_tokens=arguments.max_tokens,
            adapter=adapter,
            ignore_eos=True,
        )
        for _ in range(1 + arguments.rounds)
    ]
    report(name, timings, arguments)


def served(adapter: Path, folder: Path, arguments: argparse.Namespace) -> None:
    """Measure the same through the server, asked as the trainer does: one request per question, all at once."""
    flags = ["--max-num-seqs", str(NUM_ARMS * arguments.questions), "--max-lora-rank", str(RANK)]
    if torch.cuda.is_available():
        share = str(arguments.gpu_memory_utilization)
        flags += ["--gpu-memory-utilization", share, "--max-model-len", "4096"]

    async def ask(server: ServerProcess) -> tuple[list[Timing], Counter[str]]:
        async with ArmsClient(ServerConfig(url=server.url)) as client:
            await client.push_adapter(1, adapter)
            timings = []
            before = thread_seconds(server.process.pid)
            for _ in range(1 + arguments.rounds):
                records = [next(QUESTIONS) for _ in range(arguments.questions)]
                changes = {"seed": 1, "arms": ARMS}
                timing, _ = await ask_arms(
                    client, records, len(records), arguments.max_tokens, changes
                )
                timings.append(timing)
            return timings, thread_seconds(server.process.pid) - before

    started = time.perf_counter()
    with running_server(
        model=arguments.model, log_path=folder / "server.log", flags=flags
    ) as server:
        seconds = time.perf_counter() - started
        timings, spent = asyncio.run(ask(server))
        report("the server, POST /v1/arms/generate", timings, arguments)
    num_tokens = sum(timing.num_tokens for timing in timings)
    shares = [f"{name} {1e6 * spent[name] / num_tokens:.1f}" for name in spent]
    print(f"  processor time for a token, in µs: {', '.join(shares)}")
    print(f"the server answered after {seconds:.0f} s")


def report(name: str, timings: list[Timing], arguments: argparse.Namespace) -> None:
    """Print the best of the rounds after the first, which is the warm-up."""
    best = max(timings[1:], key=lambda timing: timing.tokens_per_s)
    steps = best.num_tokens / (NUM_ARMS * arguments.questions)
    milliseconds = 1000 * best.seconds / steps
    print(f"{name:34} {best.tokens_per_s:8.0f} {milliseconds:9.1f}", flush=True)


if __name__ == "__main__":
    sys.exit(main())

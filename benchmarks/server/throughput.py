"""Throughput of the server compared with vLLM alone, in one run on one model; see benchmarks/README.md.

It compares (a) offline ``LLM.generate``, (b) ``POST /v1/arms/generate`` with 1, 4, 16 and 64 questions in flight, and
(c) the same kind of prompts through vLLM's own ``/v1/completions``. It also measures the cost of seeds, of tokens on the
wire and of an adapter, a push against vLLM's own ``/v1/load_lora_adapter``, and how much pushes slow down generation.

    python -m benchmarks.server.throughput --model models/tiny-base
"""

import argparse
import asyncio
import contextlib
import os
import random
import statistics
import tempfile
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import httpx
from transformers import AutoConfig

from benchmarks.arguments import add_model, benchmark_parser
from benchmarks.figures import spread
from benchmarks.questions import fresh_questions
from benchmarks.server.offline_engine import OfflineEngine, offline_engine
from benchmarks.server.push_times import VLLM_FLAGS, dip, pushes
from benchmarks.server.workload import (
    FLAGS,
    OFFLINE,
    QUESTIONS,
    ask_arms,
    ask_completions,
    prompts,
    save_adapter,
)
from benchmarks.vllm_server import vllm_server
from inference_server.launch.server_process import ServerProcess, running_server
from inference_server.vllm.cpu.settings import cpu_environment
from inference_server.wire.hardware.prerequisites import PATCHES_PLUGIN
from trainer.client.arms_client import ArmsClient
from trainer.config.sections import ServerConfig
from trainer.data.sources import Record

RATIOS = (
    ("(b) arms, 64 in one request", "(a) offline, vLLM's processes"),
    ("(b) arms, 64 in one request", "(c) /v1/completions"),
    ("(b) arms, 64", "(a) offline, vLLM's processes"),
    ("(b) arms, 64", "(a) offline, one process"),
    ("(b) arms, 64", "(c) /v1/completions"),
    ("(b) arms, 64, seeds", "(b) arms, 64"),
    ("(b) arms, 64", "(b) arms, 64, base"),
    ("(a) offline, one process", "offline, base"),
    ("offline, vLLM's kernels, adapter", "offline, vLLM's kernels, base"),
)
"""Pairs of rows; the rates of the first are divided by those of the second."""


def main() -> None:
    parser = benchmark_parser(__doc__)
    add_model(parser)
    parser.add_argument("--rounds", type=int, default=7, help="repetitions of each [%(default)s]")
    parser.add_argument("--max-tokens", type=int, default=64)
    parser.add_argument("--parts", default="generate,push", help="[%(default)s]")
    arguments = parser.parse_args()
    questions = fresh_questions()
    hidden_size = AutoConfig.from_pretrained(arguments.model).hidden_size
    cpu = {**cpu_environment(hidden_size), "VLLM_CPU_KVCACHE_SPACE": "1"}
    with tempfile.TemporaryDirectory() as folder:
        adapters = [save_adapter(arguments.model, Path(folder) / f"{n}", n) for n in range(2)]
        with running_server(
            model=arguments.model,
            log_path=Path(folder) / "server.log",
            flags=[*FLAGS, "--adapter-root", folder],
        ) as server:
            if "generate" in arguments.parts:
                with contextlib.ExitStack() as stack:
                    environments = {
                        "ours": {**cpu, "VLLM_PLUGINS": PATCHES_PLUGIN},
                        # As vLLM runs by default, with a process for the scheduler and one for the model.
                        "processes": {
                            **cpu,
                            "VLLM_PLUGINS": PATCHES_PLUGIN,
                            "VLLM_ENABLE_V1_MULTIPROCESSING": "1",
                        },
                        "vllm's": {**cpu, "VLLM_PLUGINS": ""},
                    }
                    model = arguments.model.absolute()
                    engines = {
                        name: stack.enter_context(offline_engine(model, OFFLINE, environment))
                        for name, environment in environments.items()
                    }
                    asyncio.run(generation(server, engines, adapters[0], questions, arguments))
            if "push" in arguments.parts:
                log_path = Path(folder) / "vllm.log"
                # The endpoint plugin refuses to run outside our launcher; only the kernels are wanted here.
                environment = {**os.environ, **cpu, "VLLM_PLUGINS": PATCHES_PLUGIN}
                with vllm_server(
                    arguments.model, log_path, *VLLM_FLAGS, environment=environment
                ) as url:
                    asyncio.run(pushes(server, url, adapters, Path(folder), arguments))
                asyncio.run(dip(server, adapters, questions, arguments))


@dataclass(frozen=True, kw_only=True)
class Generation:
    """The ways to generate completions of fresh questions; each returns tokens/s."""

    engines: Mapping[str, OfflineEngine]
    url: str
    client: ArmsClient
    plain: httpx.AsyncClient
    """Asks vLLM's own route at the same URL."""
    adapter: Path
    questions: Iterator[Record]
    max_tokens: int
    latencies: dict[int, list[float]] = field(default_factory=dict)
    """Seconds of every request, by the number in flight."""

    def _take(self, count: int = QUESTIONS) -> list[Record]:
        return [next(self.questions) for _ in range(count)]

    async def offline(self, name: str, adapter: Path | None) -> float:
        timing = self.engines[name].generate(
            prompts(self._take()), max_tokens=self.max_tokens, adapter=adapter
        )
        return timing.tokens_per_s

    async def arms(self, in_flight: int, **changes: object) -> float:
        records = self._take(max(in_flight, 16))
        timing, seconds = await ask_arms(self.client, records, in_flight, self.max_tokens, changes)
        if not changes:
            self.latencies.setdefault(in_flight, []).extend(seconds)
        return timing.tokens_per_s

    async def one_request(self) -> float:
        timing, _ = await ask_arms(
            self.client, self._take(), 1, self.max_tokens, {}, questions_per_request=64
        )
        return timing.tokens_per_s

    async def completions(self, model: str = "policy") -> float:
        timing = await ask_completions(self.plain, self.url, model, self._take(), self.max_tokens)
        return timing.tokens_per_s

    async def warm_up(self) -> None:
        """Use every kernel and every batch size once."""
        for name in self.engines:
            for lora in (self.adapter, None):
                await self.offline(name, lora)
        for in_flight in (64, 16, 4, 1):
            for policy in (1, "base"):
                await self.arms(in_flight, policy=policy)

    def measures(self) -> dict[str, Callable[[], Awaitable[float]]]:
        """The rows of the table."""
        return {
            "(a) offline, vLLM's processes": partial(self.offline, "processes", self.adapter),
            "(a) offline, one process": partial(self.offline, "ours", self.adapter),
            "(b) arms, 64": partial(self.arms, 64),
            "(b) arms, 64 in one request": self.one_request,
            "(b) arms, 16": partial(self.arms, 16),
            "(b) arms, 4": partial(self.arms, 4),
            "(b) arms, 1": partial(self.arms, 1),
            "(b) arms, 64, seeds": partial(self.arms, 64, seed=1),
            "(b) arms, 64, text only": partial(self.arms, 64, return_tokens=False),
            "(b) arms, 64, base": partial(self.arms, 64, policy="base"),
            "(c) /v1/completions": self.completions,
            "(c) /v1/completions, base": partial(self.completions, "base"),
            "offline, base": partial(self.offline, "ours", None),
            "offline, vLLM's kernels, adapter": partial(self.offline, "vllm's", self.adapter),
            "offline, vLLM's kernels, base": partial(self.offline, "vllm's", None),
        }


async def generation(
    server: ServerProcess,
    engines: dict[str, OfflineEngine],
    adapter: Path,
    questions: Iterator[Record],
    arguments: argparse.Namespace,
) -> None:
    """Tokens/s of every way to generate, measured in turns."""
    config = ServerConfig(url=server.url)
    async with ArmsClient(config) as client, httpx.AsyncClient(timeout=None) as plain:
        await client.push_adapter(1, adapter)
        ways = Generation(
            engines=engines,
            url=server.url,
            client=client,
            plain=plain,
            adapter=adapter,
            questions=questions,
            max_tokens=arguments.max_tokens,
        )
        await ways.warm_up()
        rows = await by_turns(ways.measures(), arguments.rounds)
    print_rates(rows)
    print("\ngroup latency of (b), s: in flight  p50  p95")
    for in_flight, seconds in sorted(ways.latencies.items()):
        twentieths = statistics.quantiles(seconds, n=20)
        print(f"{in_flight:34} {statistics.median(seconds):5.2f} {twentieths[-1]:5.2f}")


async def by_turns(
    measures: Mapping[str, Callable[[], Awaitable[float]]], rounds: int
) -> dict[str, list[float]]:
    """The result of each measure in each round."""
    rows: dict[str, list[float]] = {}
    shuffle = random.Random(0).shuffle
    for _ in range(rounds):
        # In another order each time, since every measure affects the next one.
        names = list(measures)
        shuffle(names)
        for name in names:
            # vLLM's processes spin for a second after their last step.
            await asyncio.sleep(1.5)
            rows.setdefault(name, []).append(await measures[name]())
    return rows


def print_rates(rows: Mapping[str, Sequence[float]]) -> None:
    print(f"\n{'tokens/s, 64 questions = 512 completions':40} median  spread")
    for name, values in rows.items():
        print(f"{name:40} {statistics.median(values):6.0f}  {spread(values)}")
    for top, bottom in RATIOS:
        ratios = [one / other for one, other in zip(rows[top], rows[bottom], strict=True)]
        print(f"{top} / {bottom}: {statistics.median(ratios):.2f}  {spread(ratios)}")


if __name__ == "__main__":
    main()

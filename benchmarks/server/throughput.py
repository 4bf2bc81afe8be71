"""The server beside what it stands on, in one run on one model; see benchmarks/README.md.

Side by side: (a) offline ``LLM.generate``, (b) ``POST /v1/arms/generate`` with 1, 4, 16 and 64 questions in
flight, (c) the same kind of prompts through vLLM's own ``/v1/completions``; what seeds, tokens on the wire
and an adapter cost; a push against vLLM's own ``/v1/load_lora_adapter``, and what pushing costs generation.

    python -m benchmarks.server.throughput --model models/tiny-base
"""

import argparse
import asyncio
import contextlib
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path

import httpx
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoConfig, AutoModelForCausalLM

from benchmarks.server.offline_engine import OfflineEngine, Prompt, Timing, offline_engine
from inference_server.launch.server_process import ServerProcess, free_port, running_server
from inference_server.vllm.cpu_settings import CPU_LORA_PLUGIN, cpu_environment
from inference_server.wire.schemas import ArmsRequest, Question
from regime_w import build_all_arms, build_prompt
from trainer.client.arms_client import ArmsClient
from trainer.config.sections import ServerConfig
from trainer.data.sources import Record, load_records
from trainer.data.word_problems import Split

RANK = 16
MAX_MODEL_LEN = 512
MAX_NUM_SEQS = 256
QUESTIONS = 64
PAUSE_S = 0.6
"""Between pushes: no trainer's step is shorter, and what a push displaces has left by then."""
ARMS = build_all_arms()
# The settings of both servers; the offline engine gets the same below.
FLAGS = ["--max-model-len", str(MAX_MODEL_LEN), "--max-num-seqs", str(MAX_NUM_SEQS)]
OFFLINE = {
    "dtype": "float32",
    "enforce_eager": True,
    "max_model_len": MAX_MODEL_LEN,
    "max_num_seqs": MAX_NUM_SEQS,
    "enable_lora": True,
    "max_lora_rank": RANK,
    "max_loras": 4,
    "max_cpu_loras": 4,
    "logprobs_mode": "processed_logprobs",
    "block_size": 32,
    "enable_chunked_prefill": False,
    "max_num_batched_tokens": 8192,
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=(__doc__ or "").splitlines()[0], allow_abbrev=False
    )
    parser.add_argument("--model", type=Path, default=Path("models/tiny-base"))
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
                        "ours": {**cpu, "VLLM_PLUGINS": CPU_LORA_PLUGIN},
                        # As vLLM runs by itself, with a process for the scheduler and one for the model.
                        "processes": {
                            **cpu,
                            "VLLM_PLUGINS": CPU_LORA_PLUGIN,
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
                with vllm_server(arguments.model, Path(folder) / "vllm.log", cpu) as url:
                    asyncio.run(pushes(server, url, adapters, Path(folder), arguments))
                asyncio.run(dip(server, adapters, questions, arguments))


async def generation(
    server: ServerProcess,
    engines: dict[str, OfflineEngine],
    adapter: Path,
    questions: Iterator[Record],
    arguments: argparse.Namespace,
) -> None:
    max_tokens: int = arguments.max_tokens

    def take(count: int = QUESTIONS) -> list[Record]:
        return [next(questions) for _ in range(count)]

    def offline(name: str, adapter: Path | None) -> Timing:
        return engines[name].generate(prompts(take()), max_tokens=max_tokens, adapter=adapter)

    config = ServerConfig(url=server.url)
    async with ArmsClient(config) as client, httpx.AsyncClient(timeout=None) as plain:
        await client.push_adapter(1, adapter)
        latencies: dict[int, list[float]] = {}

        async def arms_rate(in_flight: int, **changes: object) -> float:
            records = take(max(in_flight, 16))
            timing, seconds = await ask_arms(client, records, in_flight, max_tokens, changes)
            if not changes:
                latencies.setdefault(in_flight, []).extend(seconds)
            return timing.tokens_per_s

        async def one_request_rate() -> float:
            timing, _ = await ask_arms(client, take(), 1, max_tokens, {}, questions_per_request=64)
            return timing.tokens_per_s

        async def completions_rate(model: str = "policy") -> float:
            timing = await ask_completions(plain, server.url, model, take(), max_tokens)
            return timing.tokens_per_s

        async def offline_rate(name: str, adapter: Path | None) -> float:
            return offline(name, adapter).tokens_per_s

        # Every kernel and every batch size once.
        for name in engines:
            for lora in (adapter, None):
                offline(name, lora)
        for in_flight in (64, 16, 4, 1):
            for policy in (1, "base"):
                await arms_rate(in_flight, policy=policy)
        rows: dict[str, list[float]] = {}
        measures: dict[str, Callable[[], Awaitable[float]]] = {
            "(a) offline, vLLM's processes": partial(offline_rate, "processes", adapter),
            "(a) offline, one process": partial(offline_rate, "ours", adapter),
            "(b) arms, 64": partial(arms_rate, 64),
            "(b) arms, 64 in one request": one_request_rate,
            "(b) arms, 16": partial(arms_rate, 16),
            "(b) arms, 4": partial(arms_rate, 4),
            "(b) arms, 1": partial(arms_rate, 1),
            "(b) arms, 64, seeds": partial(arms_rate, 64, seed=1),
            "(b) arms, 64, text only": partial(arms_rate, 64, return_tokens=False),
            "(b) arms, 64, base": partial(arms_rate, 64, policy="base"),
            "(c) /v1/completions": completions_rate,
            "(c) /v1/completions, base": partial(completions_rate, "base"),
            "offline, base": partial(offline_rate, "ours", None),
            "offline, vLLM's kernels, adapter": partial(offline_rate, "vllm's", adapter),
            "offline, vLLM's kernels, base": partial(offline_rate, "vllm's", None),
        }
        shuffle = random.Random(0).shuffle
        for _ in range(arguments.rounds):
            # In another order each time: whatever ran before leaves its mark.
            names = list(measures)
            shuffle(names)
            for name in names:
                # vLLM's processes spin for a second after their last step.
                await asyncio.sleep(1.5)
                rows.setdefault(name, []).append(await measures[name]())
    print(f"\n{'tokens/s, 64 questions = 512 completions':40} median  spread")
    for name, values in rows.items():
        print(f"{name:40} {statistics.median(values):6.0f}  {spread(values)}")
    for top, bottom in (
        ("(b) arms, 64 in one request", "(a) offline, vLLM's processes"),
        ("(b) arms, 64 in one request", "(c) /v1/completions"),
        ("(b) arms, 64", "(a) offline, vLLM's processes"),
        ("(b) arms, 64", "(a) offline, one process"),
        ("(b) arms, 64", "(c) /v1/completions"),
        ("(b) arms, 64, seeds", "(b) arms, 64"),
        ("(b) arms, 64", "(b) arms, 64, base"),
        ("(a) offline, one process", "offline, base"),
        ("offline, vLLM's kernels, adapter", "offline, vLLM's kernels, base"),
    ):
        ratios = [one / other for one, other in zip(rows[top], rows[bottom], strict=True)]
        print(f"{top} / {bottom}: {statistics.median(ratios):.2f}  {spread(ratios)}")
    print("\ngroup latency of (b), s: in flight  p50  p95")
    for in_flight, seconds in sorted(latencies.items()):
        twentieths = statistics.quantiles(seconds, n=20)
        print(f"{in_flight:34} {statistics.median(seconds):5.2f} {twentieths[-1]:5.2f}")


async def pushes(
    server: ServerProcess,
    vllm_url: str,
    adapters: Sequence[Path],
    folder: Path,
    arguments: argparse.Namespace,
) -> None:
    """From the push to the first token of the new version, by turns: ours, and vLLM's own route.

    A trainer writes the adapter first, and names its folder or uploads it.
    """
    seconds: dict[str, list[float]] = {"upload": [], "path": [], "vllm": []}
    arm = ARMS[0]
    prompt = build_prompt(arm.system_prompt, "2+2?")
    async with (
        ArmsClient(ServerConfig(url=server.url)) as uploads,
        ArmsClient(ServerConfig(url=server.url, push_by_path=True)) as paths,
        httpx.AsyncClient(base_url=vllm_url, timeout=60) as vllm,
    ):
        versions = iter(range((await uploads.status()).next_version, 10**6))
        for turn in range(4 * arguments.rounds):
            for kind, client in (("upload", uploads), ("path", paths)):
                version = next(versions)
                await asyncio.sleep(PAUSE_S)
                started = time.perf_counter()
                copy_adapter(adapters[turn % 2], folder / f"{kind}-{turn}")
                await client.push_adapter(version, folder / f"{kind}-{turn}")
                await client.generate(
                    ArmsRequest(questions=["2+2?"], arms=[arm], max_tokens=1, policy=version)
                )
                seconds[kind].append(time.perf_counter() - started)
            name = f"push-{turn}"
            await asyncio.sleep(PAUSE_S)
            started = time.perf_counter()
            copy_adapter(adapters[turn % 2], folder / name)
            await post(vllm, "/v1/load_lora_adapter", lora_name=name, lora_path=str(folder / name))
            await post(vllm, "/v1/completions", model=name, prompt=prompt, max_tokens=1)
            seconds["vllm"].append(time.perf_counter() - started)
            if turn >= 2:
                await post(vllm, "/v1/unload_lora_adapter", lora_name=f"push-{turn - 2}")
    print("\nwrite and push to first token, s  median  spread")
    for kind, title in (
        ("upload", "PUT /v1/adapters, upload"),
        ("path", "PUT /v1/adapters, path"),
        ("vllm", "vLLM's /v1/load_lora_adapter"),
    ):
        ratios = [one / other for one, other in zip(seconds[kind], seconds["vllm"], strict=True)]
        print(
            f"{title:33} {statistics.median(seconds[kind]):.3f}  {spread(seconds[kind])}  "
            f"ratio {statistics.median(ratios):.2f}"
        )


async def dip(
    server: ServerProcess,
    adapters: Sequence[Path],
    questions: Iterator[Record],
    arguments: argparse.Namespace,
) -> None:
    """Throughput with a push a second against throughput without, by turns."""
    ratios, disturbed, undisturbed = [], [], []
    async with ArmsClient(ServerConfig(url=server.url)) as client:
        versions = iter(range((await client.status()).next_version, 10**6))

        async def push_every_second() -> None:
            while True:
                version = next(versions)
                await asyncio.gather(
                    client.push_adapter(version, adapters[version % 2]), asyncio.sleep(1)
                )

        async def measure() -> float:
            records = [next(questions) for _ in range(4 * QUESTIONS)]
            timing, _ = await ask_arms(client, records, QUESTIONS, arguments.max_tokens, {})
            return timing.tokens_per_s

        await measure()
        for _ in range(arguments.rounds):
            undisturbed.append(await measure())
            pusher = asyncio.create_task(push_every_second())
            disturbed.append(await measure())
            pusher.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await pusher
            ratios.append(disturbed[-1] / undisturbed[-1])
    print("\ntokens/s, 64 questions in flight  median  spread")
    print(
        f"no push                           {statistics.median(undisturbed):6.0f}  {spread(undisturbed)}"
    )
    print(
        f"a push every second               {statistics.median(disturbed):6.0f}  {spread(disturbed)}"
    )
    print(f"ratio                             {statistics.median(ratios):.2f}  {spread(ratios)}")


async def ask_arms(
    client: ArmsClient,
    records: Sequence[Record],
    in_flight: int,
    max_tokens: int,
    changes: dict[str, object],
    *,
    questions_per_request: int = 1,
) -> tuple[Timing, list[float]]:
    """So many requests at once; also the seconds of each."""
    places, seconds = asyncio.Semaphore(in_flight), []

    async def ask(records: Sequence[Record]) -> int:
        questions = [Question(id=record.id, question=record.question) for record in records]
        request = ArmsRequest.model_validate(
            {"questions": questions, "max_tokens": max_tokens, **changes}
        )
        async with places:
            started = time.perf_counter()
            answer = await client.generate(request)
            seconds.append(time.perf_counter() - started)
        return answer.usage.completion_tokens

    starts = range(0, len(records), questions_per_request)
    started = time.perf_counter()
    tokens = sum(
        await asyncio.gather(*(ask(records[i : i + questions_per_request]) for i in starts))
    )
    return Timing(num_tokens=tokens, seconds=time.perf_counter() - started), seconds


async def ask_completions(
    client: httpx.AsyncClient, url: str, model: str, records: Sequence[Record], max_tokens: int
) -> Timing:
    """A request an arm with all questions in it, which is the least that this route can do with."""
    started = time.perf_counter()
    answers = await asyncio.gather(
        *(
            post(
                client,
                f"{url}/v1/completions",
                model=model,
                prompt=[build_prompt(arm.system_prompt, record.question) for record in records],
                temperature=arm.temperature,
                top_p=arm.top_p,
                max_tokens=max_tokens,
                logprobs=0,
                return_token_ids=True,
            )
            for arm in ARMS
        )
    )
    tokens = sum(answer["usage"]["completion_tokens"] for answer in answers)
    return Timing(num_tokens=tokens, seconds=time.perf_counter() - started)


async def post(client: httpx.AsyncClient, url: str, **body: object) -> dict[str, dict[str, int]]:
    response = await client.post(url, json=body)
    response.raise_for_status()
    is_json = response.headers.get("Content-Type", "").startswith("application/json")
    answer: dict[str, dict[str, int]] = response.json() if is_json else {}
    return answer if isinstance(answer, dict) else {}


def prompts(records: Sequence[Record]) -> list[Prompt]:
    return [
        Prompt(
            text=build_prompt(arm.system_prompt, record.question),
            temperature=arm.temperature,
            top_p=arm.top_p,
        )
        for record in records
        for arm in ARMS
    ]


def fresh_questions() -> Iterator[Record]:
    """Questions that no cache has seen: every measurement takes new ones."""
    for seed in range(10**6):
        yield from load_records("word-problems", Split.TRAIN, num_records=5000, seed=seed)


def save_adapter(model: Path, folder: Path, seed: int) -> Path:
    """An adapter on every linear layer that changes the model a little."""
    torch.manual_seed(seed)
    config = LoraConfig(r=RANK, lora_alpha=RANK, target_modules="all-linear", task_type="CAUSAL_LM")
    policy = get_peft_model(AutoModelForCausalLM.from_pretrained(model), config)
    with torch.no_grad():
        for name, parameter in policy.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.02)
    policy.save_pretrained(folder)
    return folder


def copy_adapter(source: Path, target: Path) -> None:
    """Writes an adapter where the other server finds it; neither server waits for the disk."""
    target.mkdir()
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        (target / name).write_bytes((source / name).read_bytes())


@contextlib.contextmanager
def vllm_server(model: Path, log_path: Path, cpu: Mapping[str, str]) -> Iterator[str]:
    """vLLM's own server with our kernels and settings, and its route that loads adapters."""
    port = free_port()
    command = [sys.executable, "-m", "vllm.entrypoints.launchers.api_server.entry"]
    command += ["--model", str(model), "--port", str(port), "--enable-lora", *FLAGS]
    command += ["--max-lora-rank", str(RANK), "--max-loras", "4", "--max-cpu-loras", "4"]
    command += ["--dtype", "float32", "--enforce-eager", "--block-size", "32"]
    command += ["--no-enable-chunked-prefill", "--max-num-batched-tokens", "8192"]
    environment = {
        **os.environ,
        **cpu,
        # The endpoint plugin refuses to run outside our launcher; only the kernels are wanted here.
        "VLLM_PLUGINS": CPU_LORA_PLUGIN,
        "VLLM_ALLOW_RUNTIME_LORA_UPDATING": "1",
    }
    with log_path.open("wb") as log:
        process = subprocess.Popen(
            command, stdout=log, stderr=log, env=environment, start_new_session=True
        )
    server = ServerProcess(url=f"http://127.0.0.1:{port}", process=process, log_path=log_path)
    try:
        server.wait_until_healthy()
        yield server.url
    finally:
        server.stop()


def spread(values: Sequence[float]) -> str:
    return f"({min(values):.3g} to {max(values):.3g})"


if __name__ == "__main__":
    main()

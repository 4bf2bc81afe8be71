"""How long a push takes, in turns with vLLM's own route, and how much pushes slow down generation."""

import asyncio
import contextlib
import statistics
import time
from argparse import Namespace
from collections.abc import Iterator, Sequence
from pathlib import Path

import httpx

from benchmarks.figures import spread
from benchmarks.server.workload import ARMS, FLAGS, QUESTIONS, RANK, ask_arms, post
from inference_server.launch.server_process import ServerProcess
from inference_server.wire.schemas import ArmsRequest
from regime_w import build_prompt
from trainer.client.arms_client import ArmsClient
from trainer.config.sections import ServerConfig
from trainer.data.sources import Record

VLLM_FLAGS = (
    *FLAGS,
    *("--max-lora-rank", str(RANK), "--max-loras", "4", "--max-cpu-loras", "4"),
)
"""Of vLLM's own server, with which ours is compared."""
PAUSE_S = 0.6
"""Between pushes: no trainer's step is shorter, and by then the version that a push displaces is gone."""


async def pushes(
    server: ServerProcess,
    vllm_url: str,
    adapters: Sequence[Path],
    folder: Path,
    arguments: Namespace,
) -> None:
    """Seconds from a push to the first token of the new version, in turns through our route and vLLM's own.

    They include writing the adapter, as a trainer does first. Our route then gets an upload or the folder's path.
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
    arguments: Namespace,
) -> None:
    """Throughput with a push every second against throughput without pushes, measured in turns."""
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


def copy_adapter(source: Path, target: Path) -> None:
    """Writes an adapter where the other server finds it; neither server waits for the disk."""
    target.mkdir()
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        (target / name).write_bytes((source / name).read_bytes())

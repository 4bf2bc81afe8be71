"""What the server's benchmarks share: prompts, adapters, and many requests at once."""

import asyncio
import time
from collections.abc import Sequence
from pathlib import Path

import httpx
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM

from benchmarks.server.offline_engine import Prompt, Timing
from benchmarks.vllm_server import cpu_engine_arguments
from inference_server.wire.schemas import ArmsRequest, Question
from regime_w import ArmSpec, build_all_arms, build_prompt
from trainer.client.arms_client import ArmsClient
from trainer.data.sources import Record

RANK = 16
MAX_MODEL_LEN = 512
MAX_NUM_SEQS = 256
QUESTIONS = 64
ARMS = build_all_arms()
# The settings of both servers; the offline engine gets the same below.
FLAGS = ["--max-model-len", str(MAX_MODEL_LEN), "--max-num-seqs", str(MAX_NUM_SEQS)]
OFFLINE = {
    **cpu_engine_arguments(),
    "max_model_len": MAX_MODEL_LEN,
    "max_num_seqs": MAX_NUM_SEQS,
    "enable_lora": True,
    "max_lora_rank": RANK,
    "max_loras": 4,
    "max_cpu_loras": 4,
    "logprobs_mode": "processed_logprobs",
}


async def ask_arms(
    client: ArmsClient,
    records: Sequence[Record],
    in_flight: int,
    max_tokens: int,
    changes: dict[str, object],
    *,
    questions_per_request: int = 1,
) -> tuple[Timing, list[float]]:
    """Send all requests, ``in_flight`` of them at once; returns the timing, and the seconds of each request."""
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
    """Send one request per arm with all questions in it, which is the smallest number that this route allows."""
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


def prompts(records: Sequence[Record], arms: Sequence[ArmSpec] = ARMS) -> list[Prompt]:
    return [
        Prompt(
            text=build_prompt(arm.system_prompt, record.question),
            temperature=arm.temperature,
            top_p=arm.top_p,
        )
        for record in records
        for arm in arms
    ]


def save_adapter(model: Path, folder: Path, seed: int) -> Path:
    """Write an adapter for every linear layer that changes the model a little."""
    torch.manual_seed(seed)
    config = LoraConfig(r=RANK, lora_alpha=RANK, target_modules="all-linear", task_type="CAUSAL_LM")
    policy = get_peft_model(AutoModelForCausalLM.from_pretrained(model), config)
    with torch.no_grad():
        for name, parameter in policy.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.02)
    policy.save_pretrained(folder)
    return folder

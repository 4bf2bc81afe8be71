"""Does vLLM give the same answers with an exported, merged model as with base and adapter?

python -m benchmarks.server.exported --run runs/demo

Serves the run's base with its newest adapter and then the folder of ``export --merged``, both in float32 by default, and
asks both the same held-out questions greedily.
"""

import asyncio
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import httpx

from benchmarks.arguments import benchmark_parser
from inference_server.launch.server_process import running_server
from inference_server.wire.prompt_frames import Prompt
from inference_server.wire.schemas import adapter_name
from trainer.client.arms_client import ArmsClient
from trainer.config.sections import ExportCommand, ServerConfig
from trainer.data.held_out import require_held_out
from trainer.data.sources import load_records
from trainer.data.word_problems import Split
from trainer.export.export import export
from trainer.export.versions import choose_version
from trainer.io.kept_settings import read_run_config
from trainer.model.prompts import load_renderer

VERSION = 1
BATCH = 25
TIMEOUT_S = 600.0


@dataclass(frozen=True, kw_only=True)
class GreedyAnswer:
    tokens: list[str]
    logprobs: list[float]


def main() -> None:
    parser = benchmark_parser(__doc__)
    parser.add_argument("--run", type=Path, default=Path("runs/demo"))
    parser.add_argument("--questions", type=int, default=100)
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    arguments = parser.parse_args()
    config = read_run_config(arguments.run)
    records = load_records(
        require_held_out(config.data, "this benchmark"),
        Split.HELD_OUT,
        num_records=arguments.questions,
        shape=config.data.shape,
    )
    renderer = load_renderer(config.policy.base_model)
    system = config.rollout.arms[0].system_prompt
    prompts = renderer.prompts(
        [Prompt(system_prompt=system, question=record.question) for record in records],
        renderer.resolve(config.rollout.prompt_format),
    )
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        command = ExportCommand(
            run=arguments.run, to=str(folder / "merged"), merged=True, dtype=arguments.dtype
        )
        export(command, print)
        flags = ["--dtype", arguments.dtype, "--max-model-len", "512"]
        served: dict[str, list[GreedyAnswer]] = {}
        for name, model in (("adapter", config.policy.base_model), ("merged", folder / "merged")):
            with running_server(
                model=Path(model),
                log_path=folder / f"{name}.log",
                flags=[*flags, "--state-dir", str(folder / f"{name}-state")],
            ) as server:
                adapter = choose_version(arguments.run, step=None, best=False).folder
                served[name] = asyncio.run(
                    answers(
                        server.url,
                        prompts,
                        config.rollout.max_tokens,
                        adapter if name == "adapter" else None,
                    )
                )
    compare(served["adapter"], served["merged"])


async def answers(
    url: str, prompts: Sequence[list[int]], max_tokens: int, adapter: Path | None
) -> list[GreedyAnswer]:
    """The greedy answer to every prompt: the adapter's, or the served model's own if ``adapter`` is None."""
    async with (
        ArmsClient(ServerConfig(url=url)) as client,
        httpx.AsyncClient(base_url=url, timeout=TIMEOUT_S) as http,
    ):
        if adapter is not None:
            await client.push_adapter(VERSION, adapter)
        model = "base" if adapter is None else adapter_name(VERSION)
        found = []
        for start in range(0, len(prompts), BATCH):
            response = await http.post(
                "/v1/completions",
                json={
                    "model": model,
                    "prompt": list(prompts[start : start + BATCH]),
                    "temperature": 0,
                    "max_tokens": max_tokens,
                    "logprobs": 1,
                },
            )
            response.raise_for_status()
            choices = sorted(response.json()["choices"], key=lambda choice: choice["index"])
            found += [
                GreedyAnswer(
                    tokens=choice["logprobs"]["tokens"],
                    logprobs=choice["logprobs"]["token_logprobs"],
                )
                for choice in choices
            ]
        return found


def compare(by_adapter: Sequence[GreedyAnswer], merged: Sequence[GreedyAnswer]) -> None:
    """Print how many answers are equal, and how far the logprobs of equal ones are apart."""
    equal = [(a, b) for a, b in zip(by_adapter, merged, strict=True) if a.tokens == b.tokens]
    gaps = [abs(x - y) for a, b in equal for x, y in zip(a.logprobs, b.logprobs, strict=True)]
    print(f"{len(equal)} of {len(by_adapter)} greedy answers are equal, token by token")
    print(f"largest difference of a logprob among them: {max(gaps, default=0.0):.2g} nats")


if __name__ == "__main__":
    main()

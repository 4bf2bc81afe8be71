"""`collect` compared with the arms endpoint that it collects from: tokens per second of both, measured in turns.

python -m benchmarks.trainer.collect --model models/tiny-base
"""

import argparse
import asyncio
import statistics
import tempfile
import time
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path

from benchmarks.arguments import add_model, benchmark_parser
from benchmarks.figures import spread
from benchmarks.questions import fresh_questions
from inference_server.launch.server_process import running_server
from inference_server.wire.schemas import ArmsRequest, Priority, Question
from trainer.client.arms_client import ArmsClient
from trainer.client.ask_groups import policy_of
from trainer.collect.collection import collect
from trainer.config.sections import CollectConfig, ServerConfig
from trainer.console.environment import prepare_environment
from trainer.console.stop_signals import StopRequest
from trainer.data.sources import Record
from trainer.io.jsonl import write_jsonl

IN_FLIGHT = 64


def main() -> None:
    parser = benchmark_parser(__doc__)
    add_model(parser)
    parser.add_argument("--adapter", default="base", help="adapter folder to collect from")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--questions", type=int, default=512, help="per measurement")
    parser.add_argument("--max-tokens", type=int, default=40)
    parser.add_argument("--suffix", default=".jsonl.zst", help="of the collected file")
    arguments = parser.parse_args()
    prepare_environment()
    with (
        tempfile.TemporaryDirectory() as folder,
        running_server(
            model=arguments.model,
            log_path=Path(folder) / "server.log",
            flags=["--state-dir", str(Path(folder) / "state")],
        ) as server,
    ):
        asyncio.run(measure(server.url, Path(folder), arguments))


async def measure(url: str, folder: Path, arguments: argparse.Namespace) -> None:
    questions = fresh_questions()
    endpoint, collected = [], []
    async with ArmsClient(ServerConfig(url=url)) as client:
        version: int | None = None
        if arguments.adapter != "base":
            version = (await client.status()).next_version
            await client.push_adapter(version, Path(arguments.adapter))
        await ask(
            client, list(islice(questions, arguments.questions)), version, arguments.max_tokens
        )
        for number in range(arguments.rounds):
            for is_collect in (number % 2 == 0, number % 2 != 0):
                records = list(islice(questions, arguments.questions))
                if is_collect:
                    rate = await collect_all(
                        url, client, folder / f"round-{number}", records, arguments
                    )
                    collected.append(rate)
                else:
                    endpoint.append(await ask(client, records, version, arguments.max_tokens))
    ratios = [one / other for one, other in zip(collected, endpoint, strict=True)]
    print(f"{arguments.questions} questions, {IN_FLIGHT} in flight; tokens/s  median  spread")
    for name, values in (("arms endpoint", endpoint), ("collect", collected)):
        print(f"{name:16} {statistics.median(values):8,.0f}  {spread(values)}")
    print(f"collect / endpoint  {statistics.median(ratios):.2f}  {spread(ratios)}")


async def ask(
    client: ArmsClient, records: Sequence[Record], version: int | None, max_tokens: int
) -> float:
    """Measure the endpoint's own throughput: nothing is scored or written."""
    waiting = iter(records)

    async def ask_on(waiting: Iterator[Record]) -> int:
        num_tokens = 0
        for record in waiting:
            answer = await client.generate(
                ArmsRequest(
                    questions=[Question(id=record.id, question=record.question)],
                    max_tokens=max_tokens,
                    policy=policy_of(version),
                    priority=Priority.ROLLOUT,
                )
            )
            num_tokens += answer.usage.completion_tokens
        return num_tokens

    started = time.perf_counter()
    num_tokens = sum(await asyncio.gather(*(ask_on(waiting) for _ in range(IN_FLIGHT))))
    return num_tokens / (time.perf_counter() - started)


async def collect_all(
    url: str,
    client: ArmsClient,
    stem: Path,
    records: Sequence[Record],
    arguments: argparse.Namespace,
) -> float:
    rows = [{"question": record.question, "answer": record.gold} for record in records]
    questions = stem.with_suffix(".jsonl")
    write_jsonl(questions, rows)
    config = CollectConfig.model_validate(
        {
            "output": stem.with_name(f"{stem.name}-rows{arguments.suffix}"),
            "model": "base" if arguments.adapter == "base" else "policy",
            "num_in_flight": IN_FLIGHT,
            "data": {"source": str(questions)},
            "server": {"url": url},
            "rollout": {"max_tokens": arguments.max_tokens},
        }
    )
    started = time.perf_counter()
    found = await collect(config, client, StopRequest(), lambda line: None)
    seconds = time.perf_counter() - started
    assert found.num_questions == len(records)
    return found.num_tokens / seconds


if __name__ == "__main__":
    main()

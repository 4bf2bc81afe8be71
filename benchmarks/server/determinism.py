"""How often do tokens differ for the same seeds and version: asked alone, in a batch, and after a restart?

python -m benchmarks.server.determinism --model models/tiny-base
"""

import asyncio
import tempfile
from collections.abc import Sequence
from pathlib import Path

from benchmarks.arguments import add_model, benchmark_parser
from benchmarks.questions import fresh_questions
from benchmarks.server.workload import FLAGS, save_adapter
from inference_server.launch.server_process import running_server
from inference_server.wire.schemas import ArmsRequest, Question
from trainer.client.arms_client import ArmsClient
from trainer.config.sections import ServerConfig

NUM_QUESTIONS = 128
"""Each has eight completions."""
BATCH = 64

# The tokens of each completion, by question and arm.
_Tokens = dict[tuple[str, str], list[int]]


def main() -> None:
    parser = benchmark_parser(__doc__)
    add_model(parser)
    arguments = parser.parse_args()
    source = fresh_questions()
    records = [next(source) for _ in range(NUM_QUESTIONS)]
    questions = [Question(id=record.id, question=record.question) for record in records]
    with tempfile.TemporaryDirectory() as folder:
        adapter = save_adapter(arguments.model, Path(folder) / "adapter", 0)
        flags = [*FLAGS, "--state-dir", f"{folder}/state"]
        results: dict[str, _Tokens] = {}
        for start in ("first start", "after a restart"):
            with running_server(
                model=arguments.model, log_path=Path(folder) / "server.log", flags=flags
            ) as server:
                for size in (1, BATCH):
                    name = f"{start}, {'alone' if size == 1 else f'in a batch of {size}'}"
                    results[name] = asyncio.run(sample(server.url, adapter, questions, size))
    (reference_name, reference), *others = results.items()
    for name, tokens in others:
        differing = sum(tokens[key] != reference[key] for key in reference)
        print(f"{reference_name} | {name}: {differing} of {len(reference)} completions differ")


async def sample(
    url: str, adapter: Path, questions: Sequence[Question], batch_size: int
) -> _Tokens:
    """Ask all questions, ``batch_size`` of them in each request."""
    tokens: _Tokens = {}
    async with ArmsClient(ServerConfig(url=url)) as client:
        await client.push_adapter(1, adapter)
        for start in range(0, len(questions), batch_size):
            batch = list(questions[start : start + batch_size])
            answer = await client.generate(
                ArmsRequest(questions=batch, max_tokens=64, seed=7, policy=1)
            )
            for group in answer.groups:
                tokens |= {(group.id, arm.arm): arm.token_ids for arm in group.arms}
    return tokens


if __name__ == "__main__":
    main()

"""The server's logprobs compared with the trainer's for one version, with and without replaying the nucleus mask.

Every arm samples at its own temperature and top_p on a real server; the trainer scores the same tokens with the
adapter that it pushed. See benchmarks/README.md.

    python -m benchmarks.trainer.mismatch --model models/tiny-base
"""

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.arguments import add_model, benchmark_parser
from benchmarks.learning.demo_runs import benchmark_server
from benchmarks.learning.tasks import BUILT_IN, TASKS
from benchmarks.markdown import markdown_table
from benchmarks.sft import task_adapter
from inference_server.wire.schemas import ArmGroup, ArmsRequest, Priority, Question
from trainer.client.arms_client import ArmsClient
from trainer.config.sections import PolicyConfig, ServerConfig
from trainer.console.environment import prepare_environment
from trainer.data.sources import load_records
from trainer.data.word_problems import Split
from trainer.model.roles import PolicyRoles, Role
from trainer.online.weight_sync.mismatch import Mismatch
from trainer.rollouts.groups import as_sample

CPU = torch.device("cpu")


def main() -> None:
    parser = benchmark_parser(__doc__)
    add_model(parser)
    parser.add_argument("--folder", type=Path, default=Path("runs/learning"), help="[%(default)s]")
    parser.add_argument("--questions", type=int, default=64)
    arguments = parser.parse_args()
    prepare_environment()
    sft = task_adapter(arguments.model, arguments.folder / "sft")
    with benchmark_server(arguments.model, arguments.folder) as url:
        groups = asyncio.run(sample(url, sft, arguments.questions))
    roles = PolicyRoles(
        PolicyConfig(base_model=str(arguments.model), adapter=sft),
        device=CPU,
        serve_dtype=torch.float32,
    )
    arms = [arm for group in groups for arm in group.arms]
    samples = [as_sample(arm, version=0) for arm in arms]
    server = [torch.tensor(sample.sampler_logprobs) for sample in samples]
    masked = roles.completion_logprobs(Role.PROXIMAL, samples, token_budget=8192)
    unmasked = roles.completion_logprobs(
        Role.PROXIMAL, [replace(sample, top_p=1.0) for sample in samples], token_budget=8192
    )
    rows = []
    for name in dict.fromkeys(arm.arm for arm in arms):
        chosen = [place for place, arm in enumerate(arms) if arm.arm == name]
        first = arms[chosen[0]]
        settings = f"{first.temperature}, {first.top_p}"
        rows.append((name, settings, *cells(server, masked, unmasked, chosen)))
    rows.append(("all", "", *cells(server, masked, unmasked, range(len(arms)))))
    heads = ("arm", "temperature, top_p", "tokens", "mean", "largest")
    print(markdown_table((*heads, "mean without the mask", "largest"), rows))


async def sample(url: str, adapter: Path, num_questions: int) -> list[ArmGroup]:
    """Completions of all arms for some questions, by one version."""
    records = load_records("word-problems", Split.TRAIN, num_records=num_questions)
    async with ArmsClient(ServerConfig(url=url)) as client:
        await client.push_adapter(0, adapter)
        response = await client.generate(
            ArmsRequest(
                questions=[Question(id=r.id, question=r.question) for r in records],
                max_tokens=TASKS[BUILT_IN].max_tokens,
                seed=0,
                policy=0,
                priority=Priority.ROLLOUT,
            )
        )
    return response.groups


def cells(
    server: Sequence[Tensor],
    masked: Sequence[Tensor],
    unmasked: Sequence[Tensor],
    chosen: Sequence[int],
) -> tuple[str, ...]:
    """The number of chosen tokens, and mean and largest difference with and without the mask."""
    found = [
        Mismatch.between(
            torch.cat([server[i] for i in chosen]), torch.cat([trainer[i] for i in chosen])
        )
        for trainer in (masked, unmasked)
    ]
    figures = (f"{number:.1e}" for m in found for number in (m.mean, m.max))
    return str(found[0].num_tokens), *figures


if __name__ == "__main__":
    main()

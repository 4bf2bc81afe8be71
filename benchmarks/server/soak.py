"""Hundreds of pushes under load: does anything grow, fail, or mix versions?

python -m benchmarks.server.soak --model models/tiny-base --pushes 500
"""

import asyncio
import tempfile
from pathlib import Path

import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

from benchmarks.arguments import add_model, benchmark_parser
from benchmarks.memory import memory_mib
from benchmarks.questions import fresh_questions
from benchmarks.server.workload import FLAGS, save_adapter
from inference_server.launch.server_process import ServerProcess, running_server
from inference_server.wire.schemas import ArmGroup, ArmsRequest, Priority, Question
from trainer.client.arms_client import ArmsClient
from trainer.config.sections import ServerConfig

MAX_LOADED_VERSIONS = 4
NUM_SAMPLERS = 8
CHECKED_EVERY = 40
LOGPROB_TOLERANCE = 2e-3


def main() -> None:
    parser = benchmark_parser(__doc__)
    add_model(parser)
    parser.add_argument("--pushes", type=int, default=500)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        adapters = [save_adapter(arguments.model, Path(folder) / f"{n}", n) for n in range(3)]
        state = Path(folder) / "state"
        flags = [*FLAGS, "--state-dir", str(state)]
        flags += ["--max-loaded-versions", str(MAX_LOADED_VERSIONS)]
        log_path = Path(folder) / "server.log"
        with running_server(model=arguments.model, log_path=log_path, flags=flags) as server:
            checked = asyncio.run(soak(server, adapters, state, arguments.pushes))
        check_logprobs(arguments.model, adapters, checked)


async def soak(
    server: ServerProcess, adapters: list[Path], state: Path, num_pushes: int
) -> list[ArmGroup]:
    """Push under load; returns some groups, to check which version generated them."""
    questions, groups, num_failed, checked = fresh_questions(), 0, 0, []
    most_loaded = most_on_disk = 0
    used_mib: list[float] = []
    async with ArmsClient(ServerConfig(url=server.url)) as client:
        await client.push_adapter(0, adapters[0])

        async def sample() -> None:
            nonlocal groups, num_failed
            while True:
                record = next(questions)
                request = ArmsRequest(
                    questions=[Question(id=record.id, question=record.question)],
                    max_tokens=64,
                    priority=Priority.ROLLOUT,
                )
                try:
                    (group,) = (await client.generate(request)).groups
                except Exception as error:
                    num_failed += 1
                    print(f"failed: {error!r}", flush=True)
                    continue
                groups += 1
                if groups % CHECKED_EVERY == 0:
                    checked.append(group)

        samplers = [asyncio.create_task(sample()) for _ in range(NUM_SAMPLERS)]
        for version in range(1, num_pushes + 1):
            await client.push_adapter(version, adapters[version % len(adapters)])
            status = await client.status()
            most_loaded = max(most_loaded, len(status.versions))
            most_on_disk = max(most_on_disk, versions_on_disk(state))
            used_mib.append(memory_mib(server.process.pid))
            if version % 50 == 0:
                print(
                    f"pushes {version:4}  groups {groups:6}  memory {used_mib[-1]:7.0f} MiB",
                    flush=True,
                )
        for sampler in samplers:
            sampler.cancel()
        await asyncio.gather(*samplers, return_exceptions=True)
    after_50 = sum(used_mib[45:55]) / len(used_mib[45:55])
    at_end = sum(used_mib[-10:]) / len(used_mib[-10:])
    print(f"most versions in the engine {most_loaded}, on disk {most_on_disk}")
    print(
        f"memory after 50 pushes {after_50:.0f} MiB, at the end {at_end:.0f}: {at_end / after_50 - 1:+.1%}"
    )
    print(f"{groups} groups, {num_failed} failed")
    return checked


def versions_on_disk(state: Path) -> int:
    return len(list(state.glob("policy-*")))


def check_logprobs(model: Path, adapters: list[Path], groups: list[ArmGroup]) -> None:
    """Recompute every token's logprob with PEFT, under the one version that its group names."""
    base = AutoModelForCausalLM.from_pretrained
    policies = [PeftModel.from_pretrained(base(model), path).eval() for path in adapters]
    worst, num_tokens = 0.0, 0
    for group in groups:
        assert group.policy_version is not None
        policy = policies[group.policy_version % len(adapters)]
        for arm in group.arms:
            ids = torch.tensor([arm.prompt_token_ids + arm.token_ids])
            with torch.no_grad():
                logits = policy(input_ids=ids).logits[0, len(arm.prompt_token_ids) - 1 : -1]
            probs, order = (logits.double() / arm.temperature).softmax(-1).sort(descending=True)
            outside = probs.cumsum(-1) - probs >= arm.top_p
            nucleus = torch.zeros_like(probs).scatter(-1, order, probs.masked_fill(outside, 0))
            chosen = nucleus.gather(-1, torch.tensor(arm.token_ids)[:, None])[:, 0]
            expected = (chosen / nucleus.sum(-1)).log()
            difference = (torch.tensor(arm.logprobs, dtype=torch.float64) - expected).abs()
            worst = max(worst, float(difference.max()))
            num_tokens += len(arm.token_ids)
    verdict = "one version each" if worst < LOGPROB_TOLERANCE else "MIXED VERSIONS"
    print(
        f"{len(groups)} groups, {num_tokens} tokens recomputed: worst difference {worst:.1e}, {verdict}"
    )


if __name__ == "__main__":
    main()

"""The weight-sync check on a real server: healthy pushes, and the same pushes sabotaged; see benchmarks/README.md.

`collect` pushes the adapters of a finished run (`make demo`) to a real server, asks each for rollouts, and keeps them
with what the trainer computes for them under every explanation. For another learning rate than the run's, it puts the
neighbouring versions at another distance: the run's own step from one version to the next, times the ratio of the rates.

    python -m benchmarks.weight_sync collect --run runs/demo --dtype bfloat16
    python -m benchmarks.weight_sync table runs/weight_sync/bfloat16-recipe.pt
"""

import argparse
import asyncio
import signal
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.arguments import add_model, benchmark_parser
from benchmarks.weight_sync.rounded_products import RoundedProducts
from benchmarks.weight_sync.table import table
from inference_server.launch.server_process import running_server
from inference_server.wire.schemas import ADAPTER_CONFIG_FILE, ADAPTER_WEIGHTS_FILE
from regime_w import build_all_arms
from trainer.client.arms_client import ArmsClient
from trainer.client.ask_groups import ask_groups, group_request
from trainer.client.request_thread import RequestThread, open_requests
from trainer.config.sections import PolicyConfig, RolloutConfig, ServerConfig
from trainer.console.environment import prepare_environment
from trainer.data.sources import Record, load_records
from trainer.data.word_problems import Split
from trainer.io.kept_settings import read_run_config
from trainer.model.adapter import AdapterState, read_adapter, serialized
from trainer.model.batches.sample import Sample
from trainer.model.roles import PolicyRoles, Role
from trainer.online.published import Published
from trainer.online.weight_sync.alternatives import ComputedExplanations
from trainer.rollouts.groups import as_sample
from trainer.run_state.journal_reader import JournalReader

RATES = {"5e-4": 1.0, "2e-5": 0.04, "2e-6": 0.004}
"""Learning rates, each with the length of its steps relative to the run's, which is taken to have the first rate."""
Kept = dict[str, Any]


def main() -> None:
    parser = benchmark_parser(__doc__, prog="python -m benchmarks.weight_sync")
    commands = parser.add_subparsers(dest="command", required=True)
    collect_parser = commands.add_parser(
        "collect", allow_abbrev=False, help="push, ask and compute; takes minutes"
    )
    collect_parser.add_argument("--run", type=Path, default=Path("runs/demo"), help="[%(default)s]")
    add_model(collect_parser)
    collect_parser.add_argument(
        "--folder", type=Path, default=Path("runs/weight_sync"), help="[%(default)s]"
    )
    collect_parser.add_argument("--dtype", choices=("bfloat16", "float32"), default="bfloat16")
    collect_parser.add_argument(
        "--arms", choices=("recipe", "hot"), default="recipe", help="hot: T 1, top_p 1"
    )
    collect_parser.add_argument("--sets", type=int, default=44, help="of questions [%(default)s]")
    collect_parser.add_argument(
        "--sabotaged", type=int, default=22, help="sets also sabotaged [%(default)s]"
    )
    collect_parser.add_argument("--questions", type=int, default=16, help="per set [%(default)s]")
    collect_parser.add_argument(
        "--rates", nargs="+", choices=list(RATES), default=list(RATES), help="[all]"
    )
    table_parser = commands.add_parser(
        "table", allow_abbrev=False, help="how the check judges what was kept"
    )
    table_parser.add_argument("files", type=Path, nargs="+", help="made by collect")
    table_parser.add_argument(
        "--pushes", type=int, default=200, help="healthy, per rate [%(default)s]"
    )
    table_parser.add_argument(
        "--sabotages", type=int, default=100, help="of each kind [%(default)s]"
    )
    arguments = parser.parse_args()
    if arguments.command == "table":
        for path in arguments.files:
            print(
                table(
                    path,
                    pushes=arguments.pushes,
                    sabotaged=arguments.sabotages,
                )
            )
        return
    prepare_environment()
    # On SIGTERM the benchmark ends its server, as it does when it is interrupted.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    torch.set_num_threads(1)
    collect(arguments)


def collect(arguments: argparse.Namespace) -> None:
    """Push a run's versions, and keep what server and trainer compute for them."""
    folder: Path = arguments.folder
    folder.mkdir(parents=True, exist_ok=True)
    with (
        RoundedProducts(),
        tempfile.TemporaryDirectory() as state,
        running_server(
            model=arguments.model,
            log_path=folder / "server.log",
            flags=["--state-dir", f"{state}/server", "--dtype", arguments.dtype],
        ) as server,
        open_requests(ArmsClient(ServerConfig(url=server.url))) as requests,
    ):
        Pushes(arguments, requests).make(folder / f"{arguments.dtype}-{arguments.arms}.pt")


class Pushes:
    """The versions of a run, with healthy and with sabotaged rollouts of them."""

    def __init__(self, arguments: argparse.Namespace, requests: RequestThread) -> None:
        self.arguments, self.requests = arguments, requests
        self.folders = sorted((arguments.run / "adapters").glob("policy-*"))
        self.last_step = read_run_config(arguments.run).run.num_steps
        """The last step of the run; its learning rate falls linearly to 0."""
        step_of = {
            adapter.version: adapter.step for adapter in JournalReader(arguments.run).adapters
        }
        self.steps = [step_of[int(folder.name.removeprefix("policy-"))] for folder in self.folders]
        arms = list(build_all_arms())
        if arguments.arms == "hot":
            arms = [arm.model_copy(update={"temperature": 1.0, "top_p": 1.0}) for arm in arms]
        self.rollout = RolloutConfig(arms=tuple(arms), max_tokens=40)
        self.records = load_records("word-problems", Split.TRAIN, num_records=5000, seed=0)
        self.dtype = getattr(torch, arguments.dtype)
        self.roles = PolicyRoles(
            PolicyConfig(
                base_model=str(arguments.model), adapter=self.folders[0], dtype=arguments.dtype
            ),
            device=torch.device("cpu"),
            serve_dtype=self.dtype,
        )
        self.scratch = Path(tempfile.mkdtemp())
        self.version = 0

    def make(self, path: Path) -> None:
        kept: list[Kept] = []
        started, size = time.monotonic(), self.arguments.questions
        # In the run's last steps the adapter hardly moves.
        inner = range(1, len(self.folders) - 1)
        moving = [k for k in inner if self.steps[k] < 5 * self.last_step // 6]
        for number in range(self.arguments.sets):
            k = moving[number % len(moving)]
            records = self.records[number * size : (number + 1) * size]
            kept.append({"k": k, **self.asked(k, records, number)})
            torch.save(kept, path)
            print(f"{path.name}: {number + 1} sets, {time.monotonic() - started:.0f} s", flush=True)

    def asked(self, k: int, records: Sequence[Record], number: int) -> Kept:
        before, now, after = (read_adapter(folder) for folder in self.folders[k - 1 : k + 2])
        served = self.published(now)
        samples = self.ask(served, records, number)
        explained = self.explanations(samples, served)
        for rate in self.arguments.rates:
            length = RATES[rate]
            step, last = self.steps[k], self.last_step
            for name, other, done in (("previous", before, step - 1), ("next", after, step)):
                by = length * last / (last - done)
                moved = {n: now[n] + by * (other[n] - now[n]) for n in now}
                explained[f"{name} {rate}"] = self.pushed_logprobs(samples, moved)
        found: Kept = {"healthy": flat(samples, explained)}
        if number < self.arguments.sabotaged:
            doubled = self.published(scaled(now, 2.0))
            samples = self.ask(doubled, records, number)
            found["scaled"] = self.explained(samples, served)
            samples = self.ask(served, records, number, heat=2.0)
            found["heated"] = self.explained(samples, served)
        return found

    def explanations(self, samples: Sequence[Sample], served: Published) -> dict[str, list[Tensor]]:
        computed = ComputedExplanations(roles=self.roles, published=served, token_budget=4096)
        return computed.usual(samples) | computed.scaled_adapters(samples)

    def explained(self, samples: Sequence[Sample], served: Published) -> Kept:
        return flat(samples, self.explanations(samples, served))

    def pushed_logprobs(self, samples: Sequence[Sample], state: AdapterState) -> list[Tensor]:
        self.roles.load_adapter_state(
            Role.PROXIMAL, {n: t.to(self.dtype) for n, t in state.items()}
        )
        return self.roles.completion_logprobs(Role.PROXIMAL, samples, token_budget=4096)

    def published(self, state: AdapterState) -> Published:
        """Push an adapter, rounded to what the server holds, under a new number."""
        version, self.version = self.version, self.version + 1
        folder = self.scratch / f"policy-{version:06d}"
        folder.mkdir()
        (folder / ADAPTER_CONFIG_FILE).write_bytes(
            (self.folders[0] / ADAPTER_CONFIG_FILE).read_bytes()
        )
        rounded = {name: tensor.to(self.dtype) for name, tensor in state.items()}
        (folder / ADAPTER_WEIGHTS_FILE).write_bytes(serialized(rounded))
        info = self.requests.call(self.requests.server.push_adapter, version, folder)
        return Published(version=version, folder=folder, sha256=info.sha256)

    def ask(
        self, published: Published, records: Sequence[Record], seed: int, heat: float = 1.0
    ) -> list[Sample]:
        """Rollouts at ``heat`` times the arms' temperatures, labelled as if sampled at the arms' own."""
        arms = tuple(
            arm.model_copy(update={"temperature": arm.temperature * heat})
            for arm in self.rollout.arms
        )
        rollout = self.rollout.model_copy(update={"arms": arms})

        async def one(record: Record) -> list[Sample]:
            request = group_request(record, rollout, version=published.version, seed=seed)
            (group,), _ = await ask_groups(self.requests.server, request)
            found = [as_sample(arm, version=None) for arm in group.arms]
            return [replace(sample, temperature=sample.temperature / heat) for sample in found]

        async def every() -> list[Sample]:
            groups = await asyncio.gather(*(one(record) for record in records))
            return [sample for group in groups for sample in group]

        return self.requests.call(every)


def scaled(state: AdapterState, factor: float) -> AdapterState:
    return {n: t * factor if ".lora_B." in n else t for n, t in state.items()}


def flat(samples: Sequence[Sample], explained: Mapping[str, Sequence[Tensor]]) -> Kept:
    return {
        "samples": list(samples),
        "logprobs": {name: torch.cat(list(each)) for name, each in explained.items()},
    }


if __name__ == "__main__":
    main()

"""The weight-sync check on a real server: healthy pushes, and the same pushes sabotaged; see benchmarks/README.md.

Real PPO steps move a policy, every version is pushed to a real server and asked for rollouts, and the trainer's
logprobs of them under every explanation are kept. The table is made from what is kept, so that it can be made again:

    python -m benchmarks.trainer.weight_sync --model models/tiny-base --dtype bfloat16 --learning-rate 5e-4
    python -m benchmarks.trainer.weight_sync --table runs/weight_sync/*.pt
"""

import argparse
import asyncio
import shutil
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from benchmarks.trainer.learning import sft_adapter
from inference_server.launch.server_process import running_server
from inference_server.wire.schemas import ADAPTER_WEIGHTS_FILE
from regime_w import build_all_arms
from trainer.client.arms_client import ArmsClient
from trainer.client.ask_groups import ask_groups, group_request
from trainer.client.request_thread import RequestThread, open_requests
from trainer.config.loading import load_config
from trainer.config.sections import ServerConfig, TrainConfig
from trainer.console.environment import prepare_environment
from trainer.data.sources import Record, load_records
from trainer.data.word_problems import Split
from trainer.model.adapter import read_adapter, serialized
from trainer.model.batch import Sample
from trainer.model.roles import PolicyRoles, Role
from trainer.online.sync_alternatives import Published, usual
from trainer.ppo.learner import Learner
from trainer.rollouts.groups import ScoredGroup, score_group

CONFIG = Path(__file__).resolve().parents[2] / "deploy/configs/demo.toml"
STEPS_OF_A_RUN = 24


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", type=Path, default=Path("models/tiny-base"))
    parser.add_argument("--adapter", type=Path, help="to start from [made by SFT in FOLDER]")
    parser.add_argument(
        "--folder", type=Path, default=Path("runs/weight_sync"), help="[%(default)s]"
    )
    parser.add_argument(
        "--dtype", choices=("bfloat16", "float32"), default="bfloat16", help="of both sides"
    )
    parser.add_argument("--learning-rate", type=float, nargs="+", default=[5e-4, 2e-5, 2e-6])
    parser.add_argument(
        "--arms", choices=("recipe", "hot"), default="recipe", help="hot: T 1, top_p 1"
    )
    parser.add_argument("--pushes", type=int, default=200, help="healthy ones [%(default)s]")
    parser.add_argument(
        "--sabotaged", type=int, default=100, help="pushes also sabotaged [%(default)s]"
    )
    parser.add_argument("--questions", type=int, default=16, help="of a step [%(default)s]")
    parser.add_argument("--table", type=Path, nargs="+", help="only the table of what was kept")
    arguments = parser.parse_args()
    prepare_environment()
    torch.set_num_threads(1)
    if arguments.table is None:
        arguments.table = collect(arguments)


def collect(arguments: argparse.Namespace) -> list[Path]:
    """Make the pushes; returns a file for each learning rate."""
    folder: Path = arguments.folder
    sft = arguments.adapter or sft_adapter(arguments.model, folder / "sft")
    files = []
    with (
        tempfile.TemporaryDirectory() as state,
        running_server(
            model=arguments.model,
            log_path=folder / "server.log",
            flags=["--state-dir", f"{state}/server", "--dtype", arguments.dtype],
        ) as server,
        open_requests(ArmsClient(ServerConfig(url=server.url))) as requests,
    ):
        for learning_rate in arguments.learning_rate:
            name = f"{arguments.dtype}-{arguments.arms}-{learning_rate:g}.pt"
            pushes = Pushes(arguments, sft, requests, server.url, learning_rate)
            files.append(folder / name)
            pushes.make(files[-1])
    return files


class Pushes:
    """One policy after another, from the same start, each asked honestly and dishonestly."""

    def __init__(
        self,
        arguments: argparse.Namespace,
        sft: Path,
        requests: RequestThread,
        url: str,
        learning_rate: float,
    ) -> None:
        self.arguments, self.requests = arguments, requests
        overrides = {
            "--policy.base_model": arguments.model,
            "--policy.adapter": sft,
            "--policy.dtype": arguments.dtype,
            "--server.url": url,
            "--ppo.learning_rate": learning_rate,
            "--ppo.learning_rate_schedule": "constant",
            "--ppo.advantage": "gae" if arguments.arms == "recipe" else "rloo",
        }
        words = [str(word) for pair in overrides.items() for word in pair]
        self.config = load_config(
            TrainConfig, ["--config", str(CONFIG), *words], prog="weight_sync"
        )
        self.arms = list(build_all_arms())
        if arguments.arms == "hot":
            hot = {"temperature": 1.0, "top_p": 1.0}
            self.arms = [arm.model_copy(update=hot) for arm in self.arms]
        self.records = load_records("word-problems", Split.TRAIN, num_records=5000, seed=0)
        dtype = getattr(torch, arguments.dtype)
        self.roles = PolicyRoles(self.config.policy, device=torch.device("cpu"), serve_dtype=dtype)
        self.start = self.roles.adapter_state(Role.POLICY)
        self.folder = Path(tempfile.mkdtemp())

    def make(self, path: Path) -> None:
        kept: list[dict[str, Any]] = []
        previous: Published | None = None
        stale: list[ScoredGroup] = []
        learner = Learner(self.config, self.roles)
        started = time.monotonic()
        for number in range(self.arguments.pushes):
            step = number % STEPS_OF_A_RUN
            if step == 0:
                self.roles.load_adapter_state(Role.POLICY, self.start)
                learner, previous = Learner(self.config, self.roles), None
            pushed = self.push(b_factor=1.0)
            start = number * self.arguments.questions % 4000
            records = self.records[start : start + self.arguments.questions]
            groups = self.ask(pushed, records, number)
            samples = [s for group in groups for s in group.samples]
            honest = self.explained(samples, pushed, previous)
            kept.append({"number": number, "kind": "healthy", **honest})
            if number < self.arguments.sabotaged:
                doubled = self.push(b_factor=2.0)
                of_doubled = [s for g in self.ask(doubled, records, number) for s in g.samples]
                kept.append(
                    {
                        "number": number,
                        "kind": "scaled",
                        **self.explained(of_doubled, pushed, previous),
                    }
                )
                hot = [s for g in self.ask(pushed, records, number, 2.0) for s in g.samples]
                hot = [replace(s, temperature=s.temperature / 2) for s in hot]
                kept.append(
                    {"number": number, "kind": "heated", **self.explained(hot, pushed, previous)}
                )
            if previous is not None:
                # What the version before answered, passed off as this one's.
                old = [s for group in stale for s in group.samples]
                kept.append(
                    {"number": number, "kind": "stale", **self.explained(old, pushed, previous)}
                )
            stale = groups
            learner.step(
                step + 1,
                [group.samples for group in groups],
                read_adapter(pushed.folder),
                learning_rate_scale=1.0,
            )
            if previous is not None:
                shutil.rmtree(previous.folder)
            previous = pushed
            if number % 10 == 9:
                torch.save(kept, path)
                print(
                    f"{path.name}: {number + 1} pushes, {time.monotonic() - started:.0f} s",
                    flush=True,
                )
        torch.save(kept, path)

    def push(self, *, b_factor: float) -> Published:
        version = self.requests.call(self.requests.server.status).next_version
        folder = self.folder / f"policy-{version:06d}"
        folder.mkdir()
        self.roles.export_policy(folder)
        if b_factor != 1:
            state = read_adapter(folder)
            scaled = {n: t * b_factor if ".lora_B." in n else t for n, t in state.items()}
            (folder / ADAPTER_WEIGHTS_FILE).write_bytes(serialized(scaled))
        info = self.requests.call(self.requests.server.push_adapter, version, folder)
        return Published(version=version, folder=folder, sha256=info.sha256)

    def ask(
        self, published: Published, records: Sequence[Record], seed: int, heat: float = 1.0
    ) -> list[ScoredGroup]:
        arms = tuple(
            arm.model_copy(update={"temperature": arm.temperature * heat}) for arm in self.arms
        )
        rollout = self.config.rollout.model_copy(update={"arms": arms})

        async def ask_all() -> list[ScoredGroup]:
            async def one(record: Record) -> ScoredGroup:
                request = group_request(record, rollout, version=published.version, seed=seed)
                (group,), _ = await ask_groups(self.requests.server, request)
                return score_group(record, group, self.config.reward)

            return list(await asyncio.gather(*(one(record) for record in records)))

        return self.requests.call(ask_all)

    def explained(
        self, samples: Sequence[Sample], pushed: Published, previous: Published | None
    ) -> dict[str, Any]:
        found = usual(samples, roles=self.roles, published=pushed, previous=previous)
        if previous is not None:
            found["previous"] = found.pop(f"version {previous.version}")
        return {
            "samples": [replace(s, reward=0.0) for s in samples],
            "logprobs": {name: torch.cat(list(each)) for name, each in found.items()},
        }


if __name__ == "__main__":
    main()

"""Effects of the coherence reward, counterfactual pairs, arm families and temperatures; see benchmarks/README.md.

Each row of the table stands for runs of deploy/configs/demo.toml on the three-step task with a few settings changed, one
run for each seed, all from one SFT adapter. The last version of each run answers every held-out question once with each
of the eight exploring arms, and once at temperature 0. The table shows the accuracy at temperature 0, the share of
correct completions, the share of questions that at least one of the eight arms solves (pass@8), the number of different
ways to the answer, and how far the arms agree. Runs that exist already are not repeated.
"""

import asyncio
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
from pydantic import BaseModel, ConfigDict

from benchmarks.arguments import add_model, benchmark_parser
from benchmarks.learning.curves import gain_interval
from benchmarks.learning.demo_runs import NUM_STEPS, Bench, benchmark_server
from benchmarks.learning.evaluation import curve_path
from benchmarks.learning.kept_runs import folder_of_runs
from benchmarks.learning.rows import AT_RANDOM, RANDOM_REWARD
from benchmarks.learning.tasks import TASKS
from benchmarks.markdown import markdown_table
from benchmarks.sft import task_adapter
from regime_w import ArmSpec, RewardConfig, build_exploring_arms
from trainer.config.sections import RolloutConfig, ServerConfig
from trainer.console.environment import prepare_environment
from trainer.data.sources import Record
from trainer.rollouts.groups import score_group

NO_COHERENCE = ("--reward.coherence_weight", "0")
COUNTERFACTUAL = ("--data.counterfactual", "0.25")
RLOO = ("--ppo.advantage", "rloo")
DEFAULT = "the demo: coherence 0.7"


def _arms(*arms: ArmSpec, samples: int) -> tuple[str, ...]:
    specs = json.dumps([arm.model_dump() for arm in arms])
    return ("--rollout.arms", specs, "--rollout.samples_per_arm", str(samples))


_EXPLORING = build_exploring_arms()
_WARM = [arm.model_copy(update={"temperature": 1.0}) for arm in _EXPLORING]
ROWS: Mapping[str, tuple[str, ...]] = {
    DEFAULT: (),
    "coherence 0": NO_COHERENCE,
    "counterfactual pairs": COUNTERFACTUAL,
    "counterfactual pairs, coherence 0": (*COUNTERFACTUAL, *NO_COHERENCE),
    "all arms at T = 1": _arms(*_WARM, samples=1),
    "one family": _arms(*_EXPLORING[:4], samples=2),
    "one arm at T = 1, coherence 0": (*_arms(_WARM[0], samples=8), *NO_COHERENCE),
    "the recipe's arms": ("--rollout.arms", "recipe"),
    # RLOO does not divide advantages by the group's standard deviation.
    "RLOO": RLOO,
    "RLOO, coherence 0": (*RLOO, *NO_COHERENCE),
    "RLOO, counterfactual pairs": (*RLOO, *COUNTERFACTUAL),
    RANDOM_REWARD: AT_RANDOM,
}
_NUM_AT_ONCE = 32


class LastVersion(BaseModel):
    """How a run's last version answers the held-out questions; each field has one entry per question."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    greedy: tuple[int, ...]
    """1 if the answer to the first arm's prompt at temperature 0 is correct, else 0."""
    num_right: tuple[int, ...]
    """How many of the eight exploring arms are correct."""
    num_ways: tuple[int, ...]
    """How many different ways the correct completions take (`GroupScores.num_correct_paths`)."""
    s_end: tuple[float, ...]
    """How far the arms agree."""


METRICS: Mapping[str, Callable[[LastVersion], np.ndarray]] = {
    "greedy, %": lambda found: 100 * np.array(found.greedy),
    "of samples, %": lambda found: 100 * np.array(found.num_right) / len(_EXPLORING),
    "pass@8, %": lambda found: 100 * (np.array(found.num_right) > 0),
    "ways to the answer": lambda found: np.array(found.num_ways, float),
    "agreement": lambda found: np.array(found.s_end),
}


def main() -> None:
    parser = benchmark_parser(__doc__)
    add_model(parser)
    parser.add_argument("--folder", type=Path, default=Path("runs/coherence"), help="[%(default)s]")
    parser.add_argument("--rows", nargs="+", choices=ROWS, default=list(ROWS), help="[all]")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument(
        "--questions", type=int, default=300, help="held-out questions [%(default)s]"
    )
    arguments = parser.parse_args()
    prepare_environment()
    folder = folder_of_runs(parser, arguments, "model", "questions")
    task = TASKS["three-steps"]
    sft = task_adapter(arguments.model, folder / "sft", task)
    wanted = [(row, seed) for seed in arguments.seeds for row in arguments.rows]
    missing = [key for key in wanted if not _path(folder, *key).is_file()]
    if missing or not (folder / "start.json").is_file():
        records = task.held_out(arguments.questions)
        with benchmark_server(arguments.model, folder) as url:
            bench = Bench(model=arguments.model, sft=sft, url=url, task=task, num_steps=NUM_STEPS)
            if not (folder / "start.json").is_file():
                _keep(last_version(sft, bench, records), folder / "start.json")
            for row, seed in missing:
                path = _path(folder, row, seed)
                run = path.parent / "run"
                bench.train(seed, run, *ROWS[row])
                (*_, adapter) = sorted((run / "adapters").glob("policy-??????"))
                _keep(last_version(adapter, bench, records), path)
                print(f"{row}, seed {seed}: {_shown(_read(path))}", flush=True)
    start = _read(folder / "start.json")
    found = {row: [_read(_path(folder, row, s)) for s in arguments.seeds] for row in arguments.rows}
    print(table(start, found))


def _path(folder: Path, row: str, seed: int) -> Path:
    return curve_path(folder, seed, row).with_name("last.json")


def _keep(found: LastVersion, path: Path) -> None:
    path.write_text(found.model_dump_json() + "\n", encoding="utf-8")


def _read(path: Path) -> LastVersion:
    return LastVersion.model_validate_json(path.read_bytes())


def last_version(adapter: Path, bench: Bench, records: Sequence[Record]) -> LastVersion:
    """Sample the exploring arms for every question, and ask each question once at temperature 0."""
    from trainer.client.arms_client import ArmsClient
    from trainer.client.ask_groups import ask_groups, group_request
    from trainer.client.asked_model import uploaded

    rollout = RolloutConfig(
        arms=_EXPLORING, max_tokens=bench.task.max_tokens, prompt_format="plain", seed=1
    )

    async def ask() -> list[tuple[int, int, float]]:
        places = asyncio.Semaphore(_NUM_AT_ONCE)
        async with (
            ArmsClient(ServerConfig(url=bench.url)) as client,
            uploaded(client, adapter) as model,
        ):

            async def ask_one(record: Record) -> tuple[int, int, float]:
                async with places:
                    request = group_request(record, rollout, version=model.version, seed=1)
                    (group,), _ = await ask_groups(client, request)
                scores = score_group(record, group, RewardConfig()).scores
                return sum(scores.correct or ()), scores.num_correct_paths or 0, scores.s_end or 0.0

            return await asyncio.gather(*map(ask_one, records))

    num_right, num_ways, s_end = zip(*asyncio.run(ask()), strict=True)
    (greedy,) = bench.correct([adapter], records)
    return LastVersion(
        greedy=tuple(map(int, greedy)), num_right=num_right, num_ways=num_ways, s_end=s_end
    )


def _shown(found: LastVersion) -> str:
    return ", ".join(f"{name} {metric(found).mean():.2f}" for name, metric in METRICS.items())


def table(start: LastVersion, found: Mapping[str, Sequence[LastVersion]]) -> str:
    """Means, with their differences from the first row and bootstrap intervals over runs and questions."""
    (first, *_) = found

    def cell(row: str, name: str) -> str:
        values = np.array([METRICS[name](version) for version in found[row]])
        shown = f"{values.mean():.2f}" if values.max() < 10 else f"{values.mean():.1f}"
        if row == first:
            return shown
        differences = values - np.array([METRICS[name](version) for version in found[first]])
        low, high = gain_interval(differences)
        digits = 2 if values.max() < 10 else 1
        return f"{shown} ({differences.mean():+.{digits}f} [{low:+.{digits}f}, {high:+.{digits}f}])"

    at_start = (METRICS[name](start).mean() for name in METRICS)
    begin = [f"{mean:.2f}" if mean < 10 else f"{mean:.1f}" for mean in at_start]
    rows = [(row, *(cell(row, name) for name in METRICS)) for row in found]
    return markdown_table(("", *METRICS), [("SFT", *begin), *rows])


if __name__ == "__main__":
    main()

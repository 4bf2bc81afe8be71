"""GAE against rloo and grpo on completions of more than 100 tokens; see benchmarks/README.md.

The task is a chain of twelve sums, and most demonstrations leave out the second one: the decision that the reward
depends on comes a hundred tokens before the reward. Each row of the table stands for runs of deploy/configs/demo.toml
with a few settings changed, one run for each seed, all from one SFT adapter and on one server. Runs that exist already
are not repeated, so the benchmark can be run in parts:

    python -m benchmarks.learning.long_completions --seeds 0 --rows "rloo" "grpo"
    python -m benchmarks.learning.long_completions    # the missing runs, and the table of all
"""

import json
import time
from collections.abc import Sequence
from itertools import accumulate
from pathlib import Path

from benchmarks.arguments import add_model, benchmark_parser
from benchmarks.learning.curves import Curve
from benchmarks.learning.demo_runs import Bench, benchmark_server
from benchmarks.learning.evaluation import curve_path, write_curve
from benchmarks.learning.kept_runs import folder_of_runs
from benchmarks.learning.long_completions_table import table
from benchmarks.learning.long_task import LongTask
from regime_w import build_all_arms
from trainer.config.sections import CollectConfig, DataConfig, RolloutConfig, ServerConfig
from trainer.console.environment import prepare_environment
from trainer.data.sources import Record
from trainer.io.metrics_file import read_metrics

PRETRAINED = "gae, λ 1, critic pretrained"
CRITIC = (
    *("--ppo.advantage", "gae", "--ppo.critic_learning_rate", "3e-4"),
    *("--ppo.critic_warmup_steps", "0", "--ppo.value_clip", "1.0"),
)
"""At a critic learning rate of 5e-3, a step moves all values by half a reward, and the critic becomes a constant."""
ROWS: dict[str, tuple[str, ...]] = {
    PRETRAINED: ("--ppo.gae_lambda", "1", *CRITIC),
    "gae, λ 1, critic cold": ("--ppo.gae_lambda", "1", *CRITIC),
    "gae, λ 0.95 of both, critic cold": ("--ppo.critic_gae_lambda", "null", *CRITIC),
    "rloo": ("--ppo.advantage", "rloo"),
    "grpo": ("--ppo.advantage", "grpo"),
}
ARMS = tuple(arm.model_copy(update={"temperature": 0.6, "top_p": 1.0}) for arm in build_all_arms())
"""At the recipe's temperatures the completions of most groups would agree and leave rloo and grpo nothing to compare; at
temperature 1 most chains of twelve sums have a slip in them, whatever the policy decides."""
NUM_COLLECTED = 100
NUM_STEPS = 20
QUESTIONS_PER_STEP = 8
EVALUATE_EVERY = 10


def main() -> None:
    parser = benchmark_parser(__doc__)
    add_model(parser)
    parser.add_argument("--folder", type=Path, default=Path("runs/long"), help="[%(default)s]")
    parser.add_argument("--rows", nargs="+", default=list(ROWS), choices=list(ROWS), help="[all]")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--steps", type=int, default=NUM_STEPS, help="per run [%(default)s]")
    parser.add_argument(
        "--questions", type=int, default=200, help="held-out questions [%(default)s]"
    )
    arguments = parser.parse_args()
    prepare_environment()
    folder = folder_of_runs(parser, arguments, "model", "steps", "questions")
    task = LongTask(folder)
    task.write()
    sft = task.adapter(arguments.model)
    wanted = [(seed, row) for seed in arguments.seeds for row in arguments.rows]
    if missing := [key for key in wanted if not curve_path(folder, *key).is_file()]:
        records = task.held_out(arguments.questions)
        with benchmark_server(arguments.model, folder) as url:
            bench = Bench(
                model=arguments.model, sft=sft, url=url, task=task, num_steps=arguments.steps
            )
            (start,) = bench.correct([sft], records)
            for seed, row in missing:
                before_s = train(bench, task, row, seed)
                path = curve_path(folder, seed, row)
                write_evaluated(bench, row, seed, path, before_s, start, records)
    done = [key for key in wanted if curve_path(folder, *key).is_file()]
    curves = [(row, Curve.read(curve_path(folder, seed, row))) for seed, row in done]
    print(table(ROWS, curves, folder))


def train(bench: Bench, task: LongTask, row: str, seed: int) -> float:
    """Train one row for one seed, unless that is done; returns the seconds that the critic took before the first step."""
    run = curve_path(task.folder, seed, row).parent / "run"
    flags = (
        *("--rollout.questions_per_step", str(QUESTIONS_PER_STEP)),
        *("--rollout.arms", json.dumps([arm.model_dump() for arm in ARMS])),
        *("--run.num_adapters", str(bench.num_steps + 1)),
        *ROWS[row],
    )
    if row != PRETRAINED:
        bench.train(seed, run, *flags)
        return 0.0
    rollouts, collected_s = collected(bench, task, seed)
    bench.train(seed, run, *flags, "--ppo.critic_rollouts", str(rollouts))
    fitted_s = (run / "critic.json").stat().st_mtime - (run / "start").stat().st_mtime
    return collected_s + fitted_s


def collected(bench: Bench, task: LongTask, seed: int) -> tuple[Path, float]:
    """The file of the SFT adapter's rollouts for the critic, and the seconds that collecting them took."""
    from trainer.collect.collection import run_collect

    path, took = (task.folder / f"rollouts-{seed}.{ending}" for ending in ("jsonl", "seconds"))
    if not took.is_file():
        path.unlink(missing_ok=True)
        started = time.monotonic()
        run_collect(
            CollectConfig(
                output=path,
                model=str(bench.sft),
                limit=NUM_COLLECTED,
                data=DataConfig(source=task.critic_source(), seed=seed),
                server=ServerConfig(url=bench.url),
                rollout=RolloutConfig(
                    arms=ARMS, max_tokens=task.max_tokens, prompt_format="plain", seed=seed
                ),
            )
        )
        took.write_text(f"{time.monotonic() - started:.1f}\n")
    return path, float(took.read_text())


def write_evaluated(
    bench: Bench,
    row: str,
    seed: int,
    path: Path,
    before_s: float,
    start: str,
    records: Sequence[Record],
) -> None:
    """Evaluate some versions of a trained run, and write its curve.

    Args:
        bench: What all runs share.
        row: The row of the table.
        seed: The run's.
        path: The curve's file.
        before_s: Seconds before the first step.
        start: For each held-out question a 1 if the SFT adapter answers it correctly, else a 0.
        records: The held-out questions.
    """
    run = path.parent / "run"
    seconds = [*accumulate((m["time/step_s"] for m in read_metrics(run)), initial=before_s)]
    steps = [*range(0, bench.num_steps, EVALUATE_EVERY), bench.num_steps]
    adapters = sorted((run / "adapters").glob("policy-??????"))
    correct = bench.correct([adapters[step] for step in steps[1:]], records)
    write_curve(row, seed, path, steps, [seconds[step] for step in steps], [start, *correct])


if __name__ == "__main__":
    main()

"""GAE against rloo and grpo on completions of more than 100 tokens; see benchmarks/README.md.

The task is a chain of twelve sums, and most demonstrations leave out the second one: the decision that the reward
depends on comes a hundred tokens before the reward. Each row of the table stands for runs of deploy/configs/demo.toml
with a few settings changed, one run for each seed, all from one SFT adapter and on one server. Runs that exist already
are not repeated, so the benchmark can be run in parts:

    python -m benchmarks.learning.long_completions --seeds 0 --rows "rloo" "grpo"
    python -m benchmarks.learning.long_completions    # the missing runs, and the table of all
"""

import argparse
import json
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path

from benchmarks.learning.curves import Curve, Point
from benchmarks.learning.demo_runs import CONFIG, benchmark_server, train_quietly
from benchmarks.learning.evaluation import correct_answers, curve_path, greedy_prompt
from benchmarks.learning.kept_runs import folder_of_runs
from benchmarks.learning.long_completions_table import table
from benchmarks.learning.long_task import sft_adapter, write_task
from regime_w import build_all_arms
from trainer.config.loading import load_config
from trainer.config.sections import (
    CollectConfig,
    DataConfig,
    RolloutConfig,
    ServerConfig,
    TrainConfig,
)
from trainer.console.environment import prepare_environment
from trainer.data.sources import Record, load_records
from trainer.data.word_problems import Split
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
    "gae, λ 0.95 of both, critic cold (before)": ("--ppo.critic_gae_lambda", "null", *CRITIC),
    "rloo": ("--ppo.advantage", "rloo"),
    "grpo": ("--ppo.advantage", "grpo"),
}
ARMS = tuple(arm.model_copy(update={"temperature": 0.6, "top_p": 1.0}) for arm in build_all_arms())
"""At the recipe's temperatures the completions of most groups would agree and leave rloo and grpo nothing to compare; at
temperature 1 most chains of twelve sums have a slip in them, whatever the policy decides."""
NUM_COLLECTED = 100
MAX_TOKENS = 160
NUM_STEPS = 20
QUESTIONS_PER_STEP = 8
EVALUATE_EVERY = 10


def main() -> None:
    parser = argparse.ArgumentParser(
        description=(__doc__ or "").splitlines()[0], allow_abbrev=False
    )
    parser.add_argument("--model", type=Path, default=Path("models/tiny-base"))
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
    write_task(folder)
    sft = sft_adapter(arguments.model, folder)
    wanted = [(seed, row) for seed in arguments.seeds for row in arguments.rows]
    if missing := [key for key in wanted if not curve_path(folder, *key).is_file()]:
        held_out = load_records(
            str(folder / "held_out.jsonl"), Split.HELD_OUT, num_records=arguments.questions
        )
        with benchmark_server(arguments.model, folder) as url:
            bench = Bench(
                folder=folder,
                model=arguments.model,
                sft=sft,
                url=url,
                num_steps=arguments.steps,
                held_out=held_out,
                start=correct_answers([sft], url, held_out, greedy_prompt(MAX_TOKENS))[0],
            )
            for seed, row in missing:
                bench.measure(row, seed)
    done = [key for key in wanted if curve_path(folder, *key).is_file()]
    curves = [(row, Curve.read(curve_path(folder, seed, row))) for seed, row in done]
    print(table(ROWS, curves, folder))


def collected(folder: Path, sft: Path, url: str, seed: int) -> tuple[Path, float]:
    """The file of the SFT adapter's rollouts for the critic, and the seconds that collecting them took."""
    from trainer.commands.collect import run_collect

    path, took = folder / f"rollouts-{seed}.jsonl", folder / f"rollouts-{seed}.seconds"
    if not took.is_file():
        path.unlink(missing_ok=True)
        started = time.monotonic()
        run_collect(
            CollectConfig(
                output=path,
                model=str(sft),
                limit=NUM_COLLECTED,
                data=DataConfig(source=str(folder / "critic.jsonl"), seed=seed),
                server=ServerConfig(url=url),
                rollout=RolloutConfig(
                    arms=ARMS, max_tokens=MAX_TOKENS, prompt_format="plain", seed=seed
                ),
            )
        )
        took.write_text(f"{time.monotonic() - started:.1f}\n")
    return path, float(took.read_text())


@dataclass(frozen=True, kw_only=True)
class Bench:
    """What all runs share."""

    folder: Path
    model: Path
    sft: Path
    url: str
    num_steps: int
    held_out: Sequence[Record]
    start: str
    """For each held-out question a 1 if the SFT adapter answers it correctly, else a 0."""

    def measure(self, row: str, seed: int) -> None:
        """Train one row for one seed, unless that is done, and evaluate some of its versions."""
        path = curve_path(self.folder, seed, row)
        run, before_s = path.parent / "run", 0.0
        words = [*ROWS[row]]
        if row == PRETRAINED:
            rollouts, before_s = collected(self.folder, self.sft, self.url, seed)
            words += ["--ppo.critic_rollouts", str(rollouts)]
        if len(read_metrics(run)) != self.num_steps:
            shutil.rmtree(run, ignore_errors=True)
            train_quietly(self._config(seed, run, words))
        if row == PRETRAINED:
            before_s += (run / "critic.json").stat().st_mtime - (run / "start").stat().st_mtime
        seconds = [*accumulate((m["time/step_s"] for m in read_metrics(run)), initial=before_s)]
        steps = [*range(0, self.num_steps, EVALUATE_EVERY), self.num_steps]
        adapters = sorted((run / "adapters").glob("policy-??????"))
        trained = [adapters[step] for step in steps[1:]]
        correct = correct_answers(trained, self.url, self.held_out, greedy_prompt(MAX_TOKENS))
        points = (
            Point(step=step, seconds=seconds[step], correct=bits)
            for step, bits in zip(steps, (self.start, *correct), strict=True)
        )
        curve = Curve(row=row, seed=seed, points=tuple(points))
        curve.write(path)
        shown = " ".join(f"{p.seconds:.0f}s:{100 * p.accuracy:.1f}" for p in curve.points)
        print(f"{row}, seed {seed}: {shown}", flush=True)

    def _config(self, seed: int, run: Path, words: Sequence[str]) -> TrainConfig:
        overrides = {
            "--policy.base_model": self.model,
            "--policy.adapter": self.sft,
            "--server.url": self.url,
            "--data.source": self.folder / "train.jsonl",
            "--data.seed": seed,
            "--rollout.seed": seed,
            "--rollout.questions_per_step": QUESTIONS_PER_STEP,
            "--rollout.max_tokens": MAX_TOKENS,
            "--rollout.arms": json.dumps([arm.model_dump() for arm in ARMS]),
            "--run.seed": seed,
            "--run.folder": run,
            "--run.num_steps": self.num_steps,
            "--run.num_adapters": self.num_steps + 1,
            "--run.checkpoint_every": self.num_steps,
        }
        flags = [str(word) for pair in overrides.items() for word in pair]
        return load_config(
            TrainConfig,
            ["--config", str(CONFIG), *flags, *words],
            prog="benchmarks/learning/long_completions.py",
        )


if __name__ == "__main__":
    main()

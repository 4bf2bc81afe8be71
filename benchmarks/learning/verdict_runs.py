"""Runs for which the answer to "is RL helping?" is known: what does the report say about them?

Trains the demo's policy four times against one real server, evaluates each run and prints its verdict:

- ``improves``: the demo as it is.
- ``random_reward``: a fair coin decides each completion's reward; correctness is measured, but never rewarded.
- ``shuffled_golds``: the usual reward, but the gold answers are shuffled among the questions.
- ``kl_blow_up``: no KL penalty, and a learning rate twenty times the demo's.

    python -m benchmarks.learning.verdict_runs --model models/tiny-base

A run that exists already is evaluated again, but not trained. ``--fixtures tests/fixtures/verdict`` also writes, for each
run, the files that the tests of the verdict read: its configuration, the results of its evaluation, and the metrics that
the findings look at, rounded to five digits.
"""

import argparse
import json
import random
import shutil
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from unittest.mock import patch

from rich.console import Console

from benchmarks.arguments import add_model, benchmark_parser
from benchmarks.learning.rows import CRITIC, RECIPE_ARMS
from benchmarks.sft import sft_adapter
from inference_server.launch.server_process import running_server
from regime_w import ArmOutput, GroupReward, RewardConfig, reward_group
from regime_w.credits import RewardParts
from trainer.config.loading import load_config
from trainer.config.sections import (
    EvaluationConfig,
    PolicyConfig,
    ServerConfig,
    SFTConfig,
    SFTRunConfig,
    TrainConfig,
)
from trainer.console.environment import prepare_environment
from trainer.data.sources import load_records
from trainer.data.word_problems import Split
from trainer.evaluation.ask import run_evaluation
from trainer.evaluation.results import EVALUATION_FILE
from trainer.io.jsonl import write_jsonl
from trainer.io.kept_settings import CONFIG_FILE
from trainer.io.metrics_file import METRICS_FILE, read_metrics
from trainer.report.page import report_run
from trainer.rollouts import groups as rollouts

DEMO = Path(__file__).resolve().parents[2] / "deploy/configs/demo.toml"
RUNS = ("improves", "random_reward", "shuffled_golds", "kl_blow_up")
FIXTURE_METRICS = (
    *("step", "version", "reward/mean", "reward/base", "reward/coherence", "reward/length"),
    *(
        "reward/correct",
        "reward/follows_correct",
        "scores/s_end",
        "rollout/lag",
        "rollout/truncated",
    ),
    *("rollout/zero_variance_groups", "rollout/completion_tokens_mean", "ppo/reference_kl"),
    *("ppo/kl_coef", "ppo/entropy", "ppo/clip_fraction", "ppo/approx_kl_max", "ppo/logprob_lag"),
    *("ppo/explained_variance", "ppo/logprob_mismatch", "ppo/effective_sample_size"),
)


def main() -> None:
    parser = benchmark_parser(__doc__)
    add_model(parser)
    parser.add_argument("--folder", type=Path, default=Path("runs/verdict"))
    parser.add_argument("--only", nargs="+", choices=RUNS, default=RUNS)
    parser.add_argument(
        "--questions", type=int, default=400, help="held-out questions [%(default)s]"
    )
    parser.add_argument("--samples-per-arm", type=int, default=1, help="[%(default)s]")
    parser.add_argument("--fixtures", type=Path, help="folder for the tests' copies")
    arguments = parser.parse_args()
    prepare_environment()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    with running_server(
        model=arguments.model,
        log_path=arguments.folder / "server.log",
        flags=["--max-model-len", "512"],
    ) as server:
        # The demo's.
        sft = sft_adapter(
            SFTRunConfig(
                policy=PolicyConfig(base_model=str(arguments.model)),
                sft=SFTConfig(learning_rate=2e-3, num_evaluation_examples=0),
                output=arguments.folder / "sft",
            )
        )
        for name in arguments.only:
            folder = arguments.folder / name
            if not folder.exists():
                train_run(name, folder, server.url, sft, arguments.model)
            evaluate_run(folder, server.url, sft, arguments)
            print(f"\n=== {name}")
            print(report_run(folder, Console()))
            if arguments.fixtures is not None:
                write_fixture(folder, arguments.fixtures / name)


def train_run(name: str, folder: Path, url: str, sft: Path, model: Path) -> None:
    from trainer.online.setup import train

    config = load_config(
        TrainConfig,
        [
            *("--config", str(DEMO), "--policy.base_model", str(model), "--server.url", url),
            *("--policy.adapter", str(sft), "--run.folder", str(folder)),
            # Findings about the critic need a critic, and those about solved groups the recipe's temperatures.
            *RECIPE_ARMS,
            *CRITIC,
            *settings_of(name, folder.parent),
        ],
        prog="verdict_runs",
    )
    hook: AbstractContextManager[object] = nullcontext()
    if name == "random_reward":
        hook = patch.object(rollouts, "reward_group", coin_rewards)
    with hook:
        train(config)


def evaluate_run(folder: Path, url: str, sft: Path, arguments: argparse.Namespace) -> None:
    adapter = sorted((folder / "adapters").iterdir())[-1]
    started = time.monotonic()
    run_evaluation(
        EvaluationConfig(
            models=(f"SFT={sft}", f"PPO={adapter}"),
            # Given here because it is not the default for a run whose data.source is a file of its own.
            data="word-problems",
            num_questions=arguments.questions,
            max_tokens=40,
            samples_per_arm=arguments.samples_per_arm,
            server=ServerConfig(url=url),
            output=folder / EVALUATION_FILE,
        )
    )
    print(f"evaluated in {time.monotonic() - started:.1f} s")


def write_fixture(run: Path, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copy(run / CONFIG_FILE, folder / CONFIG_FILE)
    greedy = json.loads((run / EVALUATION_FILE).read_text())
    for model in greedy["models"]:
        model["arms"] = None
    greedy["differences"] = [d for d in greedy["differences"] if d["measure"] == "greedy"]
    (folder / EVALUATION_FILE).write_text(json.dumps(greedy, indent=1) + "\n")
    rows = [
        {name: float(f"{row[name]:.5g}") for name in FIXTURE_METRICS if name in row}
        for row in read_metrics(run)
    ]
    (folder / METRICS_FILE).write_text("".join(json.dumps(row) + "\n" for row in rows))


def settings_of(name: str, folder: Path) -> Sequence[str]:
    """The flags by which a run differs from the demo's configuration."""
    if name == "kl_blow_up":
        return ("--ppo.kl_coef", "0", "--ppo.learning_rate", "1e-2")
    if name == "shuffled_golds":
        path = folder / "shuffled_golds.jsonl"
        records = load_records("word-problems", Split.TRAIN, num_records=2_000)
        golds = [record.gold for record in records]
        random.Random(0).shuffle(golds)
        rows = [{"question": r.question, "answer": g} for r, g in zip(records, golds, strict=True)]
        write_jsonl(path, rows)
        return ("--data.source", str(path))
    return ()


def coin_rewards(
    arm_outputs: Sequence[ArmOutput],
    gold_answer: str | None,
    *,
    config: RewardConfig,
    **_: object,
) -> GroupReward:
    """The true scores, with rewards that a coin decides."""
    true = reward_group(arm_outputs, gold_answer, config=config)
    coins = (COIN.choice((config.correct_bonus, config.wrong_base)) for _ in arm_outputs)
    parts = tuple(RewardParts(base=coin, coherence=0.0, length=0.0) for coin in coins)
    return GroupReward(scores=true.scores, rewards=tuple(part.total for part in parts), parts=parts)


COIN = random.Random(0)


if __name__ == "__main__":
    main()

"""Runs whose truth is known, for the question "is RL helping?": what does the report say of them?

Trains the demo's policy four times against one real server, evaluates each and prints its verdict:

- ``improves``: the demo as it is.
- ``random_reward``: a fair coin pays each completion; correctness is measured, but never paid.
- ``shuffled_golds``: the right reward, but every question has another one's gold answer.
- ``kl_blow_up``: no KL penalty, and a learning rate twenty times the demo's.

    python benchmarks/verdict_runs.py --model models/tiny-base

``--fixtures tests/fixtures/verdict`` also writes what the unit tests of the verdict read of each run.
"""

import argparse
import random
import shutil
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from unittest.mock import patch

from inference_server.process import running_server
from regime_w import ArmOutput, GroupReward, RewardConfig
from regime_w.reward import RewardParts
from trainer import rollouts
from trainer.config import PolicyConfig, TrainConfig
from trainer.data import load_records
from trainer.environment import prepare_environment
from trainer.jsonl import write_jsonl
from trainer.settings import load_config
from trainer.stage_configs import SFTConfig, SFTRunConfig
from trainer.word_problems import Split

DEMO = Path(__file__).resolve().parent.parent / "deploy/configs/demo.toml"
RUNS = ("improves", "random_reward", "shuffled_golds", "kl_blow_up")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", type=Path, default=Path("models/tiny-base"))
    parser.add_argument("--folder", type=Path, default=Path("runs/verdict"))
    parser.add_argument("--only", nargs="+", choices=RUNS, default=RUNS)
    parser.add_argument("--questions", type=int, default=400, help="held-out [%(default)s]")
    parser.add_argument("--fixtures", type=Path, help="folder for the tests' copies")
    arguments = parser.parse_args()
    prepare_environment()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    with running_server(
        model=arguments.model,
        log_path=arguments.folder / "server.log",
        flags=["--max-model-len", "512"],
    ) as server:
        sft = fine_tune(arguments.model, arguments.folder / "sft")
        for name in arguments.only:
            folder = arguments.folder / name
            shutil.rmtree(folder, ignore_errors=True)
            train_run(name, folder, server.url, sft, arguments.model)


def fine_tune(model: Path, folder: Path) -> Path:
    """The demo's SFT adapter."""
    if not folder.exists():
        from trainer.sft import run_sft

        run_sft(
            SFTRunConfig(
                policy=PolicyConfig(base_model=str(model)),
                sft=SFTConfig(learning_rate=2e-3, num_evaluation_examples=0),
                output=folder,
            ),
            lambda step, num_steps, loss: None,
            lambda line: None,
        )
    return folder


def train_run(name: str, folder: Path, url: str, sft: Path, model: Path) -> None:
    from trainer.loop import train

    config = load_config(
        TrainConfig,
        [
            *("--config", str(DEMO), "--policy.base_model", str(model), "--server.url", url),
            *("--policy.adapter", str(sft), "--run.folder", str(folder)),
            *settings_of(name, folder.parent),
        ],
        prog="verdict_runs",
    )
    hook: AbstractContextManager[object] = nullcontext()
    if name == "random_reward":
        hook = patch.object(rollouts, "reward_group", coin_rewards)
    with hook:
        train(config)


def settings_of(name: str, folder: Path) -> Sequence[str]:
    """What a run changes in the demo's configuration."""
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
    question: str,
    arm_outputs: Sequence[ArmOutput],
    gold_answer: str | None,
    *,
    config: RewardConfig,
    **_: object,
) -> GroupReward:
    """True scores; the reward of a completion is a coin."""
    true = REWARD_GROUP(question, arm_outputs, gold_answer, config=config)
    coins = (COIN.choice((config.correct_bonus, config.wrong_base)) for _ in arm_outputs)
    parts = tuple(RewardParts(base=coin, coherence=0.0, length=0.0) for coin in coins)
    return GroupReward(scores=true.scores, rewards=tuple(part.total for part in parts), parts=parts)


REWARD_GROUP = rollouts.reward_group
COIN = random.Random(0)


if __name__ == "__main__":
    main()

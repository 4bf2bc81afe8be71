"""Runs of deploy/configs/demo.toml from one SFT adapter on one server, as the learning benchmarks train them."""

import contextlib
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from benchmarks.learning.rows import ROWS
from benchmarks.learning.tasks import BUILT_IN, QUESTIONS_PER_STEP, TASKS, Task
from inference_server.launch.server_process import running_server
from trainer.config.loading import load_config
from trainer.config.sections import DataConfig, PolicyConfig, SFTConfig, SFTRunConfig, TrainConfig
from trainer.io.metrics_file import read_metrics

CONFIG = Path(__file__).resolve().parents[2] / "deploy/configs/demo.toml"
NUM_STEPS = 12
WARM_UP_STEPS = 2


def sft_adapter(model: Path, folder: Path, task: Task = TASKS[BUILT_IN]) -> Path:
    """The SFT adapter that every run starts from; it is trained if the folder has none."""
    if not (folder / "adapter_config.json").is_file():
        from trainer.sft.training import run_sft

        source = folder / "demonstrations.jsonl"
        task.write_demonstrations(source)
        config = SFTRunConfig(
            policy=PolicyConfig(base_model=str(model)),
            data=DataConfig(source=str(source)),
            sft=SFTConfig(
                num_examples=task.num_demonstrations, learning_rate=2e-3, num_evaluation_examples=0
            ),
            output=folder,
        )
        run_sft(config, lambda step, num_steps, loss: None, lambda line: None)
    return folder


@contextlib.contextmanager
def benchmark_server(model: Path, folder: Path) -> Iterator[str]:
    with (
        tempfile.TemporaryDirectory() as state,
        running_server(
            model=model, log_path=folder / "server.log", flags=["--state-dir", f"{state}/server"]
        ) as server,
    ):
        yield server.url


def demo_config(
    model: Path,
    sft: Path,
    url: str,
    folder: Path,
    *,
    seed: int,
    num_steps: int,
    overrides: Sequence[str] = (),
    task: Task = TASKS[BUILT_IN],
) -> TrainConfig:
    given = {
        "--policy.base_model": model,
        "--policy.adapter": sft,
        "--server.url": url,
        "--data.source": task.source(
            folder.parent, seed=seed, num_questions=QUESTIONS_PER_STEP * num_steps
        ),
        "--data.seed": seed,
        "--rollout.max_tokens": task.max_tokens,
        "--rollout.seed": seed,
        "--run.seed": seed,
        "--run.folder": folder,
        "--run.num_steps": num_steps,
        # Checkpoints are not what is measured here, so only the last step writes one.
        "--run.checkpoint_every": num_steps,
    }
    words = [str(word) for pair in given.items() for word in pair]
    return load_config(
        TrainConfig,
        ["--config", str(CONFIG), *words, *overrides],
        prog="benchmarks/learning/demo_runs.py",
    )


def train_quietly(config: TrainConfig) -> None:
    """Train, and write what it prints to a log beside the run's folder."""
    from trainer.online.setup import train

    config.run.folder.parent.mkdir(parents=True, exist_ok=True)
    log_path = config.run.folder.with_suffix(".log")
    with log_path.open("w") as log, contextlib.redirect_stdout(log):
        train(config)


def warm_up(model: Path, sft: Path, url: str) -> None:
    """Train a short run that loads everything, so that the first measured run does not have to."""
    with tempfile.TemporaryDirectory() as folder:
        train_quietly(
            demo_config(
                model,
                sft,
                url,
                Path(folder) / "run",
                seed=99,
                num_steps=WARM_UP_STEPS,
            )
        )


def train_row(
    row: str,
    seed: int,
    model: Path,
    sft: Path,
    url: str,
    num_steps: int,
    folder: Path,
    task: Task = TASKS[BUILT_IN],
) -> None:
    """Train one row for one seed, unless that is done; a run that was cut short starts from the beginning."""
    if len(read_metrics(folder)) == num_steps:
        return
    shutil.rmtree(folder, ignore_errors=True)
    config = demo_config(
        model, sft, url, folder, seed=seed, num_steps=num_steps, overrides=ROWS[row], task=task
    )
    train_quietly(config)

"""Does generation hide behind the update? Wall time of a step against the longer of its two halves.

Runs the training loop twice against one real server, with server and trainer on cores of their own: with
``max_staleness`` 0, where a step is generation and then update, and with 1, where the two overlap.

    python -m benchmarks.trainer.overlap --model models/tiny-base
"""

import argparse
import os
import statistics
import tempfile
from pathlib import Path

from benchmarks.arguments import add_model, benchmark_parser
from inference_server.launch.server_process import running_server
from trainer.config.sections import (
    DataConfig,
    PolicyConfig,
    PPOConfig,
    RolloutConfig,
    RunConfig,
    ServerConfig,
    TrainConfig,
)
from trainer.console.environment import prepare_environment
from trainer.io.metrics_file import Metrics, read_metrics

WARM_UP_STEPS = 3
"""The first steps load and compile, and the first batch has nothing to hide behind."""


def main() -> None:
    parser = benchmark_parser(__doc__)
    add_model(parser)
    parser.add_argument("--steps", type=int, default=20, help="measured per run [%(default)s]")
    parser.add_argument("--questions", type=int, default=16, help="groups per step [%(default)s]")
    parser.add_argument("--max-tokens", type=int, default=40)
    arguments = parser.parse_args()
    prepare_environment()
    cores = sorted(os.sched_getaffinity(0))
    server_cores, trainer_cores = cores[: len(cores) // 2] or cores, cores[len(cores) // 2 :]
    with tempfile.TemporaryDirectory() as folder:
        os.sched_setaffinity(0, server_cores)  # the server inherits it
        with running_server(
            model=arguments.model,
            log_path=Path(folder) / "server.log",
            flags=["--max-model-len", "512", "--state-dir", f"{folder}/state"],
        ) as server:
            os.sched_setaffinity(0, trainer_cores)
            serial, overlapped = (
                train_steps(server.url, Path(folder) / f"run-{staleness}", staleness, arguments)
                for staleness in (0, 1)
            )
    generate_s = median(serial, "time/wait_s")
    update_s = statistics.median(row["time/step_s"] - row["time/wait_s"] for row in serial)
    step_s = median(overlapped, "time/step_s")
    print(
        f"{arguments.questions * 8} completions a step, medians of {arguments.steps} steps, "
        f"{len(server_cores)} core(s) for the server and {len(trainer_cores)} for the trainer"
    )
    print(f"serial      generate {generate_s:.3f} s, then all else {update_s:.3f} s")
    print(
        f"overlapped  step {step_s:.3f} s: "
        f"trainer waits {median(overlapped, 'time/trainer_wait_share'):.0%}, "
        f"server idle {median(overlapped, 'time/server_idle_share'):.0%}"
    )
    phases = ("wait", "journal", "prove", "experience", "update", "publish")
    parts = [f"{phase} {median(overlapped, f'time/{phase}_s'):.3f} s" for phase in phases]
    print(f"phases      {', '.join(parts)}")
    print(f"overlapped / max(generate, all else)  {step_s / max(generate_s, update_s):.3f}")
    print(f"overlapped / serial step              {step_s / (generate_s + update_s):.3f}")


def train_steps(
    url: str, folder: Path, staleness: int, arguments: argparse.Namespace
) -> list[Metrics]:
    """Metrics of the measured steps of a run."""
    from trainer.online.setup import train

    config = TrainConfig(
        policy=PolicyConfig(base_model=str(arguments.model)),
        data=DataConfig(num_questions=5_000),
        server=ServerConfig(url=url),
        rollout=RolloutConfig(
            questions_per_step=arguments.questions,
            max_tokens=arguments.max_tokens,
            max_staleness=staleness,
        ),
        ppo=PPOConfig(critic_warmup_steps=0),
        run=RunConfig(
            folder=folder,
            num_steps=WARM_UP_STEPS + arguments.steps + 1,
            checkpoint_every=10_000,
            num_threads=1,
        ),
    )
    folder.mkdir()
    train(config)
    # The last step asks for nothing, and writes the checkpoint.
    return read_metrics(folder)[WARM_UP_STEPS:-1]


def median(rows: list[Metrics], name: str) -> float:
    return statistics.median(row[name] for row in rows)


if __name__ == "__main__":
    main()

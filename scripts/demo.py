"""The whole path on a tiny model: base, SFT, real vLLM server, online PPO, evaluation, report.

Run by ``make demo``. Needs neither network nor GPU; two CPU cores take about ten minutes. Ctrl-C ends
the server too.
"""

import argparse
import socket
import sys
import time
from pathlib import Path

from rich.console import Console

from inference_server.launch.server_process import ServerFailed, ServerProcess, free_port
from trainer.config.loading import load_config
from trainer.config.sections import SFTRunConfig, TrainConfig
from trainer.console.environment import prepare_environment
from trainer.console.progress import step_lines
from trainer.console.stop_signals import Stopped
from trainer.errors import TrainerError

CONFIG = Path(__file__).resolve().parent.parent / "deploy/configs/demo.toml"
MODEL = Path("models/tiny-base")

console = Console(highlight=False)


def main() -> int:
    """Returns the exit code: 0 once the report is written."""
    parser = argparse.ArgumentParser(
        allow_abbrev=False, prog="scripts/demo.py", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("--port", type=int, default=8000, help="port of the server [%(default)s]")
    parser.add_argument("--num-steps", type=int, help="PPO steps [as in deploy/configs/demo.toml]")
    parser.add_argument("--num-questions", type=int, default=400, help="held-out questions")
    arguments = parser.parse_args()
    prepare_environment()
    try:
        return run(arguments.port, arguments.num_steps, arguments.num_questions)
    except (TrainerError, ServerFailed) as error:
        print(f"demo: error: {error}", file=sys.stderr)
        return 2
    except (KeyboardInterrupt, Stopped):
        print("demo: interrupted; the server is stopped", file=sys.stderr)
        return 130


def run(port: int, num_steps: int | None, num_questions: int) -> int:
    """Run every stage with a server that is stopped at the end; returns the exit code."""
    started = time.monotonic()
    folder, port = free_run_folder(), usable_port(port)
    build_model()
    stage(2, "SFT", "a LoRA adapter on careless demonstrations; the server starts meanwhile")
    server = ServerProcess.start(
        model=MODEL,
        port=port,
        log_path=folder / "server.log",
        flags=["--state-dir", str(folder / "server")],
    )
    try:
        sft = fine_tune(folder)
        stage(3, "inference server", f"vLLM on {server.url}, log in {server.log_path}")
        server.wait_until_healthy()
        config, ppo = train_online(server.url, sft, folder, num_steps)
        evaluate(config, {"Base": "base", "SFT": str(sft), "PPO": str(ppo)}, num_questions)
        report(folder)
    finally:
        server.stop()
    console.print(f"done in {(time.monotonic() - started) / 60:.1f} min; the server is stopped")
    return 0


# What a stage imports takes seconds to load, so each imports it itself.


def build_model() -> None:
    """Stage 1: the tiny base model, unless it is there already."""
    stage(1, "tiny base model", f"{MODEL}, trained from scratch once and kept")
    from trainer.commands.tiny_model import build_tiny_model

    with step_lines("tiny-model") as on_step:
        build_tiny_model(MODEL, on_step=on_step)


def fine_tune(folder: Path) -> Path:
    """Stage 2: the adapter that PPO starts from; returns its folder."""
    from trainer.commands.sft import run_sft

    config = load_config(
        SFTRunConfig,
        ["--config", str(CONFIG), "--output", str(folder / "sft")],
        prog="scripts/demo.py",
    )
    with step_lines("sft") as on_step:
        run_sft(config, on_step, console.print)
    return config.output


def train_online(
    url: str, sft: Path, folder: Path, num_steps: int | None
) -> tuple[TrainConfig, Path]:
    """Stage 4: online PPO; returns its configuration and the newest adapter."""
    stage(4, "online PPO", "generation of the next batch overlaps the update; meanwhile try:")
    console.print(f"  {curl(url)}", soft_wrap=True)
    overrides = {
        "--server.url": url,
        "--policy.adapter": str(sft),
        "--run.folder": str(folder),
        **({} if num_steps is None else {"--run.num_steps": str(num_steps)}),
    }
    config = load_config(
        TrainConfig,
        ["--config", str(CONFIG), *(word for pair in overrides.items() for word in pair)],
        prog="scripts/demo.py",
    )
    from trainer.online.setup import train

    result = train(config)
    if result.stopped:
        raise KeyboardInterrupt
    return config, result.adapter


def evaluate(config: TrainConfig, models: dict[str, str], num_questions: int) -> None:
    """Stage 5: accuracy of each model on held-out problems."""
    stage(5, "evaluation", f"{num_questions} held-out problems, greedy")
    from trainer.config.sections import EvaluationConfig
    from trainer.evaluation.ask import run_evaluation

    run_evaluation(
        EvaluationConfig(
            models=tuple(f"{label}={model}" for label, model in models.items()),
            num_questions=num_questions,
            max_tokens=config.rollout.max_tokens,
            server=config.server,
            output=config.run.folder / "evaluation.json",
        )
    )


def report(folder: Path) -> None:
    """Stage 6: the run's report, and whether the reward rose."""
    stage(6, "report", "is RL helping? curves and transcripts in one file")
    from trainer.report.page import write_report
    from trainer.report.verdict import print_verdict

    written = write_report(folder)
    print_verdict(written.verdict, console)
    console.print(f"  {written.path}", soft_wrap=True)


def stage(number: int, name: str, what: str) -> None:
    """Print the stage that begins."""
    console.print(f"[bold]\\[{number}/6] {name}[/]: {what}", soft_wrap=True)


def free_run_folder() -> Path:
    """``runs/demo``, or the first ``runs/demo-N`` that does not exist."""
    number = 1
    while (folder := Path("runs/demo" if number == 1 else f"runs/demo-{number}")).exists():
        number += 1
    return folder


def usable_port(port: int) -> int:
    """The port itself; if it is taken, a free one, and a line that says so."""
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            other = free_port()
            console.print(f"port {port} is in use; taking {other}")
            return other
    return port


def curl(url: str) -> str:
    """A shell command that samples the policy while it trains."""
    body = '{"questions": ["Ada has 12 pens and buys 7 more. How many pens does Ada have now?"]}'
    return f"curl -s {url}/v1/arms/generate -H 'Content-Type: application/json' -d '{body}'"


if __name__ == "__main__":
    sys.exit(main())

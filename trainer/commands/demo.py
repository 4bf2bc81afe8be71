"""The whole path on a tiny model: base, SFT, real vLLM server, online PPO, evaluation, report.

Needs neither network nor GPU; two CPU cores take two to five minutes. Ctrl-C ends the server too.
"""

import os
import signal
import socket
import sys
import time
from contextlib import suppress
from pathlib import Path

from rich.console import Console
from rich.text import Text

from inference_server.launch.server_process import ServerFailed, ServerProcess, free_port
from inference_server.wire.hardware.prerequisites import missing_server_prerequisites
from inference_server.wire.settings.sources import presets
from trainer.config.loading import load_config
from trainer.config.sections import DemoCommand, ServerConfig, SFTRunConfig, TrainConfig
from trainer.console.interrupts import leaving_at_interrupt
from trainer.console.progress import step_lines
from trainer.console.stop_signals import Stopped
from trainer.console.terminal import print_line, wrapped
from trainer.errors import ServerError, UsageError

_CONFIG = ("--config", str(presets()["demo"]))
_MODEL = Path("models/tiny-base")
_QUESTION = "Ada has 12 pens and buys 7 more. How many pens does Ada have now?"

console = Console(highlight=False)


def run_demo(command: DemoCommand) -> None:
    """Run every stage with a server that is stopped at the end, or when a signal asks to stop.

    Raises:
        UsageError: The server cannot run on this machine.
        ServerError: The server did not start, or ended by itself.
        KeyboardInterrupt: A signal asked to stop.
    """
    if missing := "; ".join(map(str, missing_server_prerequisites())):
        # Checked before the first stages, although only the server needs them.
        raise UsageError(missing)
    # SIGTERM raises KeyboardInterrupt, so that the server is stopped too; by default it would end this process alone.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    started = time.monotonic()
    folder, port = free_run_folder(), usable_port(command.port)
    build_model()
    stage(2, "SFT", "a LoRA adapter on careless demonstrations; the server starts meanwhile")
    server = ServerProcess.start(
        model=_MODEL,
        port=port,
        log_path=folder / "server.log",
        flags=["--state-dir", str(folder / "server")],
    )
    try:
        sft = fine_tune(folder)
        stage(
            3,
            "inference server",
            f"vLLM and its playground on {server.url}, log in {server.log_path}",
        )
        server.wait_until_healthy()
        config, ppo = train_online(server.url, sft, folder, command.num_steps)
        models = {"Base": "base", "SFT": str(sft), "PPO": str(ppo)}
        evaluate(config, models, command.num_questions)
        report(folder)
        print_line(console, f"done in {(time.monotonic() - started) / 60:.1f} min; what next:")
        for line in next_lines(folder, server.url, serving=command.keep_serving):
            console.print(line, highlight=False, soft_wrap=True)
        if command.keep_serving:
            serve_until_stopped(server)
    except ServerFailed as error:
        what, _, log = str(error).partition("\n")
        failure = ServerError(f"{what}; the end of {server.log_path} is above")
        failure.add_note(f"{log}\n")
        raise failure from None
    except Stopped:
        # The demo cannot be resumed, so a stop ends it as an interrupt does.
        raise KeyboardInterrupt from None
    finally:
        server.stop()
    console.print("the server is stopped")


# Each stage imports the modules that it needs itself, because they take seconds to load.


def build_model() -> None:
    """Stage 1: the tiny base model, unless it is there already."""
    stage(1, "tiny base model", f"{_MODEL}, from the weights that come with this project")
    with leaving_at_interrupt():  # There is no server yet that would have to be stopped.
        from trainer.tiny_model.build import build_tiny_model
    with step_lines("tiny-model", console) as on_step:
        build_tiny_model(_MODEL, on_step=on_step)


def fine_tune(folder: Path) -> Path:
    """Stage 2: the adapter that PPO starts from; returns its folder."""
    from trainer.commands.fine_tuning import run_fine_tuning

    config = load_config(
        SFTRunConfig,
        [*_CONFIG, "--output", str(folder / "sft")],
        prog="demo",
    )
    adapter = run_fine_tuning(config, console)
    if adapter is None:
        raise KeyboardInterrupt
    return adapter


def train_online(
    url: str, sft: Path, folder: Path, num_steps: int | None
) -> tuple[TrainConfig, Path]:
    """Stage 4: online PPO; returns its configuration and the newest adapter."""
    stage(
        4,
        "online PPO",
        f"the policy in training is served on {url}; to ask it a question, run",
    )
    for line in sample_lines(url):
        console.print(line, highlight=False, soft_wrap=True)
    overrides = {
        "--server.url": url,
        "--policy.adapter": str(sft),
        "--run.folder": str(folder),
        **({} if num_steps is None else {"--run.num_steps": str(num_steps)}),
    }
    config = load_config(
        TrainConfig,
        [*_CONFIG, *(word for pair in overrides.items() for word in pair)],
        prog="demo",
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
    from trainer.report.page import report_run

    console.print(f"  {report_run(folder, console)}", soft_wrap=True)


def stage(number: int, name: str, what: str) -> None:
    """Print a line for the stage that begins."""
    head = f"[{number}/6] {name}"
    line = Text(wrapped(console, f"{head}: {what}"))
    line.stylize("bold", 0, len(head))
    console.print(line, soft_wrap=True)


def serve_until_stopped(server: ServerProcess) -> None:
    """Leave the server running until Ctrl-C or SIGTERM.

    Raises:
        ServerFailed: The server ended by itself.
    """
    print_line(console, f"{server.url} goes on answering until Ctrl-C")
    with suppress(KeyboardInterrupt):
        code = server.process.wait()
        raise ServerFailed(f"the server ended with exit code {code}\n{server.log_tail()}")


def next_lines(folder: Path, url: str, *, serving: bool) -> list[str]:
    """What to do after the demo: commands in this folder, each with what it does."""
    server = f"  {_program('regime-w-server')} --config demo --state-dir {folder / 'server'}"
    served = "      serves what was trained, with a playground on http://127.0.0.1:8000"
    open_url = [f"  {url} in a browser", "      shows the playground of what was trained"]
    return [
        *(open_url if serving else [server, served]),
        *sample_lines(url if serving else None),
        f"      asks every arm{'' if serving else ', while the server runs'}",
        f"  {_program('regime-w')} watch {folder}",
        "      shows the report in a browser, also while a run goes on",
    ]


def sample_lines(url: str | None) -> list[str]:
    """A command that asks the policy a question; ``url`` is left out if it is the default."""
    is_default = url is None or url == ServerConfig().url
    server = "" if is_default else f" --server.url {url}"
    return [f"  {_program('regime-w')} sample{server} \\", f'    "{_QUESTION}"']


def _program(name: str) -> str:
    """The path of a program of this installation, as it can be typed in this folder."""
    path = Path(sys.executable).parent / name
    shown = os.path.relpath(path)
    return str(path) if shown.startswith("..") else shown


def free_run_folder() -> Path:
    """``runs/demo``, or the first ``runs/demo-N`` that does not exist."""
    number = 1
    while (folder := Path("runs/demo" if number == 1 else f"runs/demo-{number}")).exists():
        number += 1
    return folder


def usable_port(port: int) -> int:
    """The port itself, or, if it is taken, a free one; then a line is printed that says so."""
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            other = free_port()
            console.print(f"port {port} is in use; taking {other}")
            return other
    return port

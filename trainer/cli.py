"""The trainer's commands. Each is parsed first and imports torch after, so that --help is quick."""

import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from trainer.config.loading import fail, load_config
from trainer.config.sections import (
    CollectConfig,
    CommandConfig,
    DequantizeCommand,
    DiffCommand,
    DoctorConfig,
    EvaluationConfig,
    OfflineRunConfig,
    ReplayCommand,
    ReportCommand,
    SampleConfig,
    SFTRunConfig,
    TinyModelCommand,
    TrainCommand,
    TrainConfig,
    TrainOfflineCommand,
)
from trainer.console.environment import prepare_environment
from trainer.console.progress import step_lines
from trainer.console.stop_signals import EndedBySignal, Stopped
from trainer.errors import TrainerError, UsageError
from trainer.io.paths import is_lasting, require_folder, shown_path

_PROG = "python -m trainer"


def _train(command: TrainCommand) -> None:
    config = TrainConfig.model_validate(command.model_dump(exclude={"resume"}))
    from trainer.commands.early_checks import check_online

    check_online(config)
    from trainer.console.terminal import CONSOLE_FILE, lasting_output
    from trainer.io.disk import raise_disk_full
    from trainer.online.setup import train

    folder = config.run.folder
    with lasting_output(folder / CONSOLE_FILE), raise_disk_full(folder):
        result = train(config, must_resume=command.resume)
        if not result.stopped:
            print(f"{folder} is finished: step {result.step}; raise run.num_steps for more")


def _sft(config: SFTRunConfig) -> None:
    from trainer.commands.early_checks import check_sft

    check_sft(config)
    from trainer.commands.sft import run_sft

    with step_lines("sft") as on_step:
        folder = run_sft(config, on_step, print)
    print(f"adapter in {folder}")


def _collect(config: CollectConfig) -> None:
    from trainer.data.sources import require_source

    require_source(config.data.source)
    from trainer.commands.collect import run_collect

    run_collect(config)


def _train_offline(command: TrainOfflineCommand) -> None:
    config = OfflineRunConfig.model_validate(command.model_dump(exclude={"resume"}))
    from trainer.commands.early_checks import check_offline

    check_offline(config)
    from trainer.commands.train_offline import train_offline

    print(f"adapter in {train_offline(config, must_resume=command.resume)}")


def _evaluate(config: EvaluationConfig) -> None:
    from trainer.data.sources import require_source

    require_source(config.data)
    from trainer.evaluation.ask import run_evaluation

    run_evaluation(config)


def _diff(command: DiffCommand) -> None:
    from trainer.evaluation.diff import print_diff

    print_diff(command.evaluation, command.baseline, command.model, limit=command.limit)


def _sample(config: SampleConfig) -> None:
    from trainer.commands.sample import run_sample

    run_sample(config)


def _doctor(config: DoctorConfig) -> None:
    from trainer.doctor.doctor import run_doctor

    if not run_doctor(config):
        sys.exit(1)


def _replay(command: ReplayCommand) -> None:
    if command.verify and command.what_if:
        raise UsageError("--verify compares a run with itself, --what-if with another; choose one")
    from trainer.commands.early_checks import require_run

    require_run(command.run)
    if command.what_if:
        from trainer.replay.what_if import what_if

        what_if(command.run, command.what_if, from_step=command.from_step, say=print)
        return
    from trainer.replay.verify import verify

    is_same = verify(
        command.run, from_step=command.from_step, stop_at_first=command.verify, say=print
    )
    if not is_same:
        sys.exit(1)


def _report(command: ReportCommand) -> None:
    from trainer.commands.early_checks import require_run

    require_run(command.run)
    from rich.console import Console

    from trainer.report.page import write_report
    from trainer.report.verdict import print_verdict

    report = write_report(command.run)
    print_verdict(report.verdict, Console())
    print(report.path)


def _dequantize(command: DequantizeCommand) -> None:
    from trainer.model.base_files import require_base_model

    require_base_model(command.policy.base_model)
    from trainer.model.base_model import save_dequantized
    from trainer.model.device import compute_device

    save_dequantized(command.policy, command.output, compute_device("auto"))
    print(f"base model in {command.output}")


def _tiny_model(command: TinyModelCommand) -> None:
    require_folder(command.output, field="output")
    from trainer.commands.tiny_model import build_tiny_model

    with step_lines("tiny-model") as on_step:
        folder = build_tiny_model(command.output, on_step=on_step)
    print(f"tiny base model in {folder}")


@dataclass(frozen=True)
class _Command:
    """One command: what it reads, what it does, and its line in the usage."""

    config: type[CommandConfig]
    run: Callable[[Any], None]
    text: str


COMMANDS = {
    "train": _Command(
        TrainCommand, _train, "online PPO against a running server; started again, it resumes"
    ),
    "sft": _Command(SFTRunConfig, _sft, "supervised fine-tuning of a LoRA adapter"),
    "collect": _Command(
        CollectConfig, _collect, "rollouts over all arms into a JSONL file; resumes if killed"
    ),
    "train-offline": _Command(
        TrainOfflineCommand, _train_offline, "PPO from collected rollouts; resumes if killed"
    ),
    "eval": _Command(
        EvaluationConfig,
        _evaluate,
        "accuracy of several models, by arm if wanted, with confidence intervals",
    ),
    "diff": _Command(DiffCommand, _diff, "the questions on which two evaluated models differ"),
    "sample": _Command(SampleConfig, _sample, "one question, all arms, in the terminal"),
    "replay": _Command(
        ReplayCommand, _replay, "recompute a run from its journal and compare, or ask what if"
    ),
    "report": _Command(
        ReportCommand,
        _report,
        "is RL helping? the verdict, and curves and transcripts as one HTML file",
    ),
    "dequantize": _Command(
        DequantizeCommand, _dequantize, "the base model that a 4-bit policy stands for, to serve it"
    ),
    "doctor": _Command(
        DoctorConfig,
        _doctor,
        "whether a run can start here: versions, GPU, memory plan, files, server",
    ),
    "tiny-model": _Command(
        TinyModelCommand, _tiny_model, "train the demo's base model from scratch"
    ),
}
"""Every command by name."""


def _usage() -> str:
    width = max(map(len, COMMANDS))
    lines = [f"  {name:<{width}}  {command.text}" for name, command in COMMANDS.items()]
    return "\n".join([f"usage: {_PROG} COMMAND [--help] …", "", *lines])


def main() -> None:
    """Run a command; where it fails, exit with one line on stderr and the error's code."""
    name, *arguments = sys.argv[1:] or ["--help"]
    if name in ("-h", "--help"):
        print(_usage())
        return
    if name not in COMMANDS:
        fail(_PROG, f"unknown command {name!r}; one of {', '.join(COMMANDS)}")
    command, prog = COMMANDS[name], f"{_PROG} {name}"
    prepare_environment()
    try:
        command.run(load_config(command.config, arguments, prog=prog))
    except TrainerError as error:
        for note in getattr(error, "__notes__", ()):
            print(note, end="", file=sys.stderr)
        fail(prog, error, exit_code=error.exit_code)
    except OSError as error:
        # A supervisor that starts the command again would meet the same.
        if not is_lasting(error):
            raise
        fail(
            prog,
            f"{shown_path(error.filename)}: {error.strerror}; give another path, or mend this one",
        )
    except Stopped:
        print(f"{prog}: stopped; the same command resumes")
    except KeyboardInterrupt as error:
        print(f"{prog}: interrupted", file=sys.stderr)
        sys.exit(error.exit_code if isinstance(error, EndedBySignal) else 130)

"""The trainer's commands. Each parses first and imports torch after, so that --help is quick."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

from pydantic import ConfigDict, Field
from pydantic_settings import CliPositionalArg

from trainer.config.loading import fail, load_config
from trainer.config.sections import PolicyConfig, Section, TrainConfig
from trainer.config.stages import CollectConfig, OfflineRunConfig, SFTRunConfig
from trainer.console.environment import prepare_environment
from trainer.console.progress import step_lines
from trainer.console.stop_signals import Stopped
from trainer.errors import TrainerError, UsageError

_PROG = "python -m trainer"


class TrainCommand(TrainConfig):
    """Online PPO against a running server."""

    resume: bool = False
    """Refuse to begin a new run; one that was begun in run.folder goes on with or without this."""


class TrainOfflineCommand(OfflineRunConfig):
    """PPO from a file of rollouts, without a server."""

    resume: bool = False
    """Refuse to begin a new run; one that was begun in run.folder goes on with or without this."""


class ReplayCommand(Section):
    """Recompute a run from its journal, without a server, and compare it with what it recorded."""

    model_config = ConfigDict(populate_by_name=True)

    run: CliPositionalArg[Path]
    """The run's folder."""
    from_step: Annotated[int, Field(ge=0, validation_alias="from")] = 0
    """Start at the newest checkpoint that is not after this step; 0 is the start of the run."""
    verify: bool = False
    """Stop at the first difference instead of going on."""
    what_if: Annotated[tuple[str, ...], Field(validation_alias="what-if")] = ()
    """Replay the same rollouts under another setting, such as ppo.kl_coef=0.1 or reward.credit=shared,
    and show what comes out otherwise. May be given several times."""


class ReportCommand(Section):
    """Say whether RL is helping, and write RUN/report.html: verdict, curves, transcripts."""

    run: CliPositionalArg[Path]
    """The run's folder."""


class DiffCommand(Section):
    """Show the questions on which two evaluated models differ, side by side."""

    evaluation: CliPositionalArg[Path]
    """The file that `eval --output` wrote."""
    baseline: CliPositionalArg[str]
    """Label of the first model."""
    model: CliPositionalArg[str]
    """Label of the second."""
    limit: Annotated[int, Field(ge=0)] = 5
    """Most questions to show of those won, and of those lost."""


class DequantizeCommand(Section):
    """Write a base model with the weights that policy.quantization makes of it, to serve them."""

    policy: PolicyConfig = PolicyConfig(quantization="nf4")
    """Its base_model, dtype and quantization."""
    output: Path = Path("models/dequantized")
    """Folder of the new model; there must be nothing yet."""


class TinyModelCommand(Section):
    """Train the tiny base model of the demo from scratch (minutes on two cores)."""

    output: Path = Path("models/tiny-base")
    """Folder of the model; nothing is done if it is up to date."""


def _train(arguments: list[str]) -> None:
    command = load_config(TrainCommand, arguments, prog=f"{_PROG} train")
    config = TrainConfig.model_validate(command.model_dump(exclude={"resume"}))
    from trainer.run_state.run_folder import require_model_folder

    require_model_folder(config.policy.base_model)
    from trainer.console.terminal import CONSOLE_FILE, lasting_output
    from trainer.io.disk import raise_disk_full
    from trainer.online.setup import train

    folder = config.run.folder
    with lasting_output(folder / CONSOLE_FILE), raise_disk_full(folder):
        result = train(config, must_resume=command.resume)
        if not result.stopped:
            print(f"{folder} is finished: step {result.step}; raise run.num_steps for more")


def _sft(arguments: list[str]) -> None:
    config = load_config(SFTRunConfig, arguments, prog=f"{_PROG} sft")
    from trainer.run_state.run_folder import require_model_folder

    require_model_folder(config.policy.base_model)
    from trainer.commands.sft import run_sft

    with step_lines("sft") as on_step:
        folder = run_sft(config, on_step, print)
    print(f"adapter in {folder}")


def _collect(arguments: list[str]) -> None:
    config = load_config(CollectConfig, arguments, prog=f"{_PROG} collect")
    from trainer.commands.collect import run_collect

    run_collect(config)


def _train_offline(arguments: list[str]) -> None:
    command = load_config(TrainOfflineCommand, arguments, prog=f"{_PROG} train-offline")
    config = OfflineRunConfig.model_validate(command.model_dump(exclude={"resume"}))
    from trainer.run_state.run_folder import require_model_folder

    require_model_folder(config.policy.base_model)
    from trainer.commands.train_offline import train_offline

    print(f"adapter in {train_offline(config, must_resume=command.resume)}")


def _evaluate(arguments: list[str]) -> None:
    from trainer.evaluation.ask import EvaluationConfig, run_evaluation

    run_evaluation(load_config(EvaluationConfig, arguments, prog=f"{_PROG} eval"))


def _diff(arguments: list[str]) -> None:
    command = load_config(DiffCommand, arguments, prog=f"{_PROG} diff")
    from trainer.evaluation.diff import print_diff

    print_diff(command.evaluation, command.baseline, command.model, limit=command.limit)


def _sample(arguments: list[str]) -> None:
    from trainer.commands.sample import SampleConfig, run_sample

    run_sample(load_config(SampleConfig, arguments, prog=f"{_PROG} sample"))


def _doctor(arguments: list[str]) -> None:
    from trainer.doctor.checks import DoctorConfig
    from trainer.doctor.doctor import run_doctor

    if not run_doctor(load_config(DoctorConfig, arguments, prog=f"{_PROG} doctor")):
        sys.exit(1)


def _replay(arguments: list[str]) -> None:
    command = load_config(ReplayCommand, arguments, prog=f"{_PROG} replay")
    if command.verify and command.what_if:
        raise UsageError("--verify compares a run with itself, --what-if with another; choose one")
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


def _report(arguments: list[str]) -> None:
    command = load_config(ReportCommand, arguments, prog=f"{_PROG} report")
    from rich.console import Console

    from trainer.report.page import write_report
    from trainer.report.verdict import print_verdict

    report = write_report(command.run)
    print_verdict(report.verdict, Console())
    print(report.path)


def _dequantize(arguments: list[str]) -> None:
    command = load_config(DequantizeCommand, arguments, prog=f"{_PROG} dequantize")
    from trainer.model.base_model import save_dequantized
    from trainer.model.device import compute_device

    save_dequantized(command.policy, command.output, compute_device("auto"))
    print(f"base model in {command.output}")


def _tiny_model(arguments: list[str]) -> None:
    command = load_config(TinyModelCommand, arguments, prog=f"{_PROG} tiny-model")
    from trainer.commands.tiny_model import build_tiny_model

    with step_lines("tiny-model") as on_step:
        folder = build_tiny_model(command.output, on_step=on_step)
    print(f"tiny base model in {folder}")


_COMMANDS: dict[str, tuple[Callable[[list[str]], None], str]] = {
    "train": (_train, "online PPO against a running server; started again, it goes on"),
    "sft": (_sft, "supervised fine-tuning of a LoRA adapter"),
    "collect": (_collect, "rollouts over all arms into a JSONL file; goes on where it was killed"),
    "train-offline": (_train_offline, "PPO from collected rollouts; goes on where it was killed"),
    "eval": (_evaluate, "accuracy of several models, by arm if wanted, with confidence intervals"),
    "diff": (_diff, "the questions on which two evaluated models differ"),
    "sample": (_sample, "one question, all arms, in the terminal"),
    "replay": (_replay, "recompute a run from its journal and compare, or ask what if"),
    "report": (_report, "is RL helping? the verdict, and curves and transcripts as one HTML file"),
    "dequantize": (_dequantize, "the base model that a 4-bit policy stands for, to serve it"),
    "doctor": (_doctor, "whether a run can start here: versions, GPU, memory plan, files, server"),
    "tiny-model": (_tiny_model, "train the demo's base model from scratch"),
}


def _usage() -> str:
    width = max(map(len, _COMMANDS))
    lines = [f"  {name:<{width}}  {text}" for name, (_, text) in _COMMANDS.items()]
    return "\n".join([f"usage: {_PROG} COMMAND [--help] …", "", *lines])


def main() -> None:
    """Run a command; exits with one line on stderr and the error's code where it cannot go on."""
    name, *arguments = sys.argv[1:] or ["--help"]
    if name in ("-h", "--help"):
        print(_usage())
        return
    if name not in _COMMANDS:
        fail(_PROG, f"unknown command {name!r}; one of {', '.join(_COMMANDS)}")
    prog = f"{_PROG} {name}"
    prepare_environment()
    try:
        _COMMANDS[name][0](arguments)
    except TrainerError as error:
        fail(prog, error, exit_code=error.exit_code)
    except Stopped:
        print(f"{prog}: stopped; the same command goes on")
    except KeyboardInterrupt:
        print(f"{prog}: interrupted", file=sys.stderr)
        sys.exit(130)

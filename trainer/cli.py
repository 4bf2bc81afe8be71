"""The trainer's command line. Arguments are parsed before torch is imported, so that --help is quick."""

import os
import select
import sys
from collections.abc import Callable
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

from inference_server.wire.hardware.prerequisites import installed_version
from inference_server.wire.settings.sources import presets, program_name
from inference_server.wire.standard_streams import open_standard_streams
from regime_w import RewardConfig
from trainer.commands import actions, base_models
from trainer.commands.completion import FLAG, completion, flags_of
from trainer.config.loading import fail, load_config
from trainer.config.sections import (
    CollectConfig,
    CommandConfig,
    DemoCommand,
    DequantizeCommand,
    DiffCommand,
    DoctorConfig,
    EvaluationConfig,
    ExportCommand,
    ReplayCommand,
    ReportCommand,
    SampleConfig,
    SFTRunConfig,
    TextModelCommand,
    TinyModelCommand,
    TrainCommand,
    TrainOfflineCommand,
    WatchCommand,
)
from trainer.console.environment import prepare_environment
from trainer.console.interrupts import INTERRUPTED_EXIT_CODE
from trainer.console.stop_signals import EndedBySignal, Stopped
from trainer.errors import DiskFullError, TrainerError, UsageError
from trainer.io.disk import is_disk_full
from trainer.io.paths import is_lasting, shown_path


@dataclass(frozen=True)
class _Command:
    """One command: the settings it reads, the function it runs, and its line in the usage."""

    config: type[CommandConfig]
    run: Callable[[Any], None]
    text: str


COMMANDS = {
    "demo": _Command(
        DemoCommand,
        actions.demonstrate,
        "everything on a tiny model: SFT, server, online PPO, evaluation, report",
    ),
    "train": _Command(
        TrainCommand,
        actions.train_online,
        "online PPO against a running server; started again, it resumes",
    ),
    "sft": _Command(SFTRunConfig, actions.fine_tune, "supervised fine-tuning of a LoRA adapter"),
    "collect": _Command(
        CollectConfig,
        actions.collect,
        "rollouts over all arms into a JSONL file; resumes if killed",
    ),
    "train-offline": _Command(
        TrainOfflineCommand,
        actions.train_from_file,
        "PPO from collected rollouts; resumes if killed",
    ),
    "eval": _Command(
        EvaluationConfig,
        actions.evaluate,
        "accuracy of several models, by arm if wanted, with confidence intervals",
    ),
    "diff": _Command(
        DiffCommand, actions.diff, "the questions on which two evaluated models differ"
    ),
    "sample": _Command(SampleConfig, actions.sample, "one question, all arms, in the terminal"),
    "replay": _Command(
        ReplayCommand,
        actions.replay,
        "recompute a run from its journal and compare, or ask what if",
    ),
    "report": _Command(
        ReportCommand,
        actions.report,
        "is RL helping? the verdict, and curves and transcripts as one HTML file",
    ),
    "watch": _Command(
        WatchCommand,
        actions.watch,
        "a page of a running job, refreshed as steps are finished",
    ),
    "export": _Command(
        ExportCommand,
        actions.export_policy,
        "merged weights or the adapter with a model card, in a folder or on the Hub",
    ),
    "dequantize": _Command(
        DequantizeCommand,
        base_models.dequantize,
        "write the base model with the weights that a 4-bit policy computes with, to serve it",
    ),
    "text-model": _Command(
        TextModelCommand,
        base_models.write_text_model,
        "extract the language model from a model of text and images, to serve and train it",
    ),
    "doctor": _Command(
        DoctorConfig,
        actions.examine,
        "whether a run can start here: versions, GPU, memory plan, files, server",
    ),
    "tiny-model": _Command(
        TinyModelCommand, base_models.make_tiny_model, "write the demo's base model"
    ),
}
"""Every command by name."""
_SCORE = "score"
"""The command of the package `regime_w`, which parses its own arguments."""


def _usage(prog: str) -> str:
    texts = {name: command.text for name, command in COMMANDS.items()}
    texts[_SCORE] = "score a file of rollouts again, with another configuration of the reward"
    width = max(map(len, texts))
    return "\n".join(
        [
            f"usage: {prog} COMMAND [--help] …",
            "",
            *(f"  {name:<{width}}  {text}" for name, text in texts.items()),
            "",
            f"--config takes a TOML file, or one of {', '.join(presets())}",
            f"{FLAG} bash or zsh prints the completion of commands and flags",
        ]
    )


def main() -> None:
    """Run a command; if it fails, exit with one line on stderr and the error's exit code."""
    open_standard_streams()
    try:
        try:
            _main()
        finally:
            sys.stdout.flush()
    except BrokenPipeError:
        if not _has_no_reader():
            raise
        # The reader of the pipe, such as `head`, has closed it. Without the redirection, the interpreter's last flush
        # would fail and print the error too.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)


def _has_no_reader() -> bool:
    """Whether standard output is a pipe whose reader is gone."""
    poll = select.poll()
    poll.register(sys.stdout.fileno(), 0)
    return any(event & select.POLLERR for _, event in poll.poll(0))


def _main() -> None:
    name, *arguments = sys.argv[1:] or ["--help"]
    program = program_name("trainer", "regime-w")
    if name in ("-h", "--help"):
        print(_usage(program))
        return
    if name == "--version":
        print(f"regime-w {installed_version('regime-w') or 'is not installed'}")
        return
    if name == _SCORE:
        from regime_w.__main__ import main as score

        sys.exit(score([name, *arguments]))
    if name == FLAG:
        flags = {name: flags_of(command.config) for name, command in COMMANDS.items()}
        try:
            print(completion(flags | {_SCORE: flags_of(RewardConfig)}, arguments), end="")
        except UsageError as error:
            fail(program, error)
        return
    if name not in COMMANDS:
        commands = [*COMMANDS, _SCORE]
        near = get_close_matches(name, commands, 1)
        meant = f"; did you mean {near[0]}?" if near else f"; one of {', '.join(commands)}"
        fail(program, f"unknown command {name!r}{meant}")
    if name != "train" and os.environ.get("WORLD_SIZE", "1") != "1":
        fail(program, f"{name} runs in one process: start it without torchrun, or unset WORLD_SIZE")
    _run(COMMANDS[name], arguments, f"{program} {name}")


def _run(command: _Command, arguments: list[str], prog: str) -> None:
    prepare_environment()
    try:
        command.run(load_config(command.config, arguments, prog=prog))
    except TrainerError as error:
        for note in getattr(error, "__notes__", ()):
            print(note, end="", file=sys.stderr)
        fail(prog, error, exit_code=error.exit_code)
    except OSError as error:
        if is_disk_full(error):
            fail(
                prog,
                DiskFullError(shown_path(error.filename or ".")),
                exit_code=DiskFullError.exit_code,
            )
        # These errors would come back if a supervisor started the command again.
        if not is_lasting(error):
            raise
        fail(
            prog,
            f"{shown_path(error.filename)}: {error.strerror}; give another path, or fix this one",
        )
    except Stopped:
        print(f"{prog}: stopped; the same command resumes")
    except KeyboardInterrupt as error:
        print(f"{prog}: interrupted", file=sys.stderr)
        sys.exit(error.exit_code if isinstance(error, EndedBySignal) else INTERRUPTED_EXIT_CODE)

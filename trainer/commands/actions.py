"""One function per command, run once its settings are read: it checks them first, and imports torch after that."""

import sys
from pathlib import Path

from inference_server.wire.hardware.prerequisites import (
    EXTRAS,
    installed_version,
    missing_server_prerequisites,
)
from trainer.commands.finished import adapter_text, finished_text, sft_text
from trainer.config.sections import (
    CollectConfig,
    DemoCommand,
    DiffCommand,
    DoctorConfig,
    EvaluationConfig,
    ExportCommand,
    OfflineRunConfig,
    ReplayCommand,
    ReportCommand,
    SampleConfig,
    SFTRunConfig,
    TrainCommand,
    TrainConfig,
    TrainOfflineCommand,
    WatchCommand,
)
from trainer.console.interrupts import leaving_at_interrupt
from trainer.errors import UsageError
from trainer.io.disk import raise_disk_full
from trainer.io.paths import require_no_folder


def demonstrate(command: DemoCommand) -> None:
    """Run the demo."""
    from trainer.commands.demo import run_demo

    with raise_disk_full(Path.cwd()):
        run_demo(command)


def train_online(command: TrainCommand) -> None:
    """Train by online PPO."""
    config = command.part(TrainConfig)
    from trainer.commands.early_checks import check_online

    check_online(config)
    with leaving_at_interrupt():
        from trainer.console.terminal import CONSOLE_FILE, lasting_output
        from trainer.online.setup import train
        from trainer.ppo.leader_and_followers import follow, leading
        from trainer.ranks.process_group import joined_ranks

    folder = config.run.folder
    with joined_ranks(config.run.device) as ranks:
        if ranks.rank > 0:
            follow(ranks)
            return
        with leading(ranks), lasting_output(folder / CONSOLE_FILE), raise_disk_full(folder):
            result = train(config, must_resume=command.resume, ranks=ranks)
            if not result.stopped:
                print(finished_text(folder, step=result.step, adapter=result.adapter))


def fine_tune(config: SFTRunConfig) -> None:
    """Train an adapter by SFT."""
    from trainer.commands.early_checks import check_sft

    check_sft(config)
    with leaving_at_interrupt():
        from rich.console import Console

        from trainer.commands.fine_tuning import run_fine_tuning

    folder = run_fine_tuning(config, Console())
    if folder is not None:
        print(sft_text(folder))


def collect(config: CollectConfig) -> None:
    """Collect rollouts into a file."""
    from trainer.data.source_names import require_source

    require_source(config.data.source)
    require_no_folder(config.output, field="output")
    with leaving_at_interrupt():
        from trainer.collect.collection import run_collect

    with raise_disk_full(config.output.parent.absolute()):
        run_collect(config)


def train_from_file(command: TrainOfflineCommand) -> None:
    """Train by PPO from a file of rollouts."""
    config = command.part(OfflineRunConfig)
    from trainer.commands.early_checks import check_offline

    check_offline(config)
    with leaving_at_interrupt():
        from trainer.offline.training import train_offline

    with raise_disk_full(config.run.folder):
        print(adapter_text(config.run.folder, train_offline(config, must_resume=command.resume)))


def evaluate(config: EvaluationConfig) -> None:
    """Measure the accuracy of several models."""
    from trainer.data.source_names import require_source

    require_source(config.data)
    with leaving_at_interrupt():
        from trainer.evaluation.ask import run_evaluation

    # Without an output nothing is written.
    with raise_disk_full((config.output or Path()).parent.absolute()):
        run_evaluation(config)


def diff(command: DiffCommand) -> None:
    """Show the questions on which two models differ."""
    from trainer.evaluation.diff import print_diff

    print_diff(command.evaluation, command.baseline, command.model, limit=command.limit)


def sample(config: SampleConfig) -> None:
    """Ask one question of all arms."""
    with leaving_at_interrupt():
        from trainer.commands.sample import run_sample

    run_sample(config)


def examine(config: DoctorConfig) -> None:
    """Check whether a run can start here; exit with 1 if it cannot."""
    # Printed at once, because the other checks have to wait for torch, which takes seconds to import.
    if any(map(installed_version, EXTRAS)):
        for each in missing_server_prerequisites():
            print(each, file=sys.stderr)
    with leaving_at_interrupt():
        from trainer.doctor.doctor import run_doctor

    if not run_doctor(config):
        sys.exit(1)


def replay(command: ReplayCommand) -> None:
    """Recompute a run from its journal; exit with 1 if the result differs."""
    if command.verify and command.what_if:
        raise UsageError("--verify compares a run with itself, --what_if with another; choose one")
    from trainer.commands.early_checks import require_run

    require_run(command.run)
    if command.what_if:
        from trainer.io.kept_settings import read_run_config
        from trainer.replay.changed_settings import changed_config

        changed_config(read_run_config(command.run), command.what_if)
        with leaving_at_interrupt():
            from trainer.replay.what_if import what_if

        what_if(command.run, command.what_if, from_step=command.from_step, say=print)
        return
    with leaving_at_interrupt():
        from trainer.replay.verify import verify

    if not verify(
        command.run, from_step=command.from_step, stop_at_first=command.verify, say=print
    ):
        sys.exit(1)


def report(command: ReportCommand) -> None:
    """Print a run's verdict and write its report page, or that of an SFT."""
    from trainer.commands.early_checks import require_run

    require_run(command.run)
    from rich.console import Console

    with leaving_at_interrupt():
        from trainer.report.page import report_run

    with raise_disk_full(command.run):
        print(report_run(command.run, Console()))


def watch(command: WatchCommand) -> None:
    """Serve a live page of a run or an SFT."""
    from trainer.commands.early_checks import require_run

    require_run(command.run)
    from trainer.report.watch import Watch

    with Watch(command.run, command.port) as page:
        print(f"{command.run}: {page.address} (Ctrl-C ends the page, not the training)", flush=True)
        page.serve()


def export_policy(command: ExportCommand) -> None:
    """Export a run's policy with a model card, to a folder or to the Hub."""
    from trainer.commands.early_checks import check_export

    check_export(command)
    from trainer.console.stop_signals import sigterm_as_interrupt

    with leaving_at_interrupt():
        from trainer.export.export import export

    with sigterm_as_interrupt():
        print(f"exported to {export(command, print)}")

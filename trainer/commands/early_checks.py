"""Checks that need only the settings and the names of files on the disk; they run before torch is imported."""

import os
from pathlib import Path

from inference_server.wire.schemas import ADAPTER_WEIGHTS_FILE
from trainer.config.sections import ExportCommand, OfflineRunConfig, SFTRunConfig, TrainConfig
from trainer.console.trackers import require_trackers
from trainer.data.held_out import sources_of
from trainer.data.source_names import require_source
from trainer.errors import UsageError
from trainer.export.target import require_outside_versions, require_target
from trainer.io.kept_settings import CONFIG_FILE, command_in
from trainer.io.paths import require_folder, require_rollouts, shown_path
from trainer.io.run_layout import has_begun, is_finished_sft
from trainer.model.adapter_files import require_adapter
from trainer.model.base_files import require_base_model
from trainer.sft.output import require_output


def check_online(config: TrainConfig) -> None:
    """Check an online run.

    Raises:
        UsageError: Names the setting.
    """
    if _check_run(config):
        for source in sources_of(config):
            source.required(config.data)


def check_offline(config: OfflineRunConfig) -> None:
    """Check a run from a file of rollouts.

    Raises:
        UsageError: Names the setting.
    """
    _check_run(config)
    require_rollouts(config.rollouts, field="rollouts")


def check_sft(config: SFTRunConfig) -> None:
    """Check a fine-tuning.

    Raises:
        UsageError: Names the setting.
    """
    require_base_model(config.policy.base_model)
    require_output(config.output)
    require_trackers(config.trackers, field="run.trackers or --trackers")
    if not os.path.isfile(config.output / ADAPTER_WEIGHTS_FILE):  # else it is finished
        require_source(config.data.source)
    is_new = not (config.output / CONFIG_FILE).exists()
    if is_new and config.starting_adapter is not None:
        try:
            require_adapter(config.starting_adapter)
        except UsageError as error:
            raise UsageError(
                f"{error}; sft starts from it, since it is not the output, and with --policy.adapter null from a "
                "fresh one"
            ) from None


def require_run(folder: Path) -> None:
    """Refuse a path that is not a folder.

    Raises:
        UsageError: Names the path.
    """
    if not os.path.isdir(folder):
        raise UsageError(f"{shown_path(folder)}: no such folder of a run")


def check_export(command: ExportCommand) -> None:
    """Check an export.

    Raises:
        UsageError: Names the flag, or the path that is not a run's folder.
    """
    require_run(command.run)
    _require_no_sft(command.run)
    if command.merged == command.adapter:
        raise UsageError("give --merged for a model of its own, or --adapter for the adapter alone")
    if command.best and command.step is not None:
        raise UsageError("--best and --step name two versions; choose one")
    if command.adapter and command.dtype is not None:
        raise UsageError("--dtype is for --merged; an adapter is written as it was served")
    require_target(command.to, force=command.force)
    require_outside_versions(command.to, command.run)


def _require_no_sft(folder: Path) -> None:
    """Refuse the folder of an SFT, which has one adapter and no versions to export."""
    if command_in(folder) != "sft":
        return
    if not is_finished_sft(folder):
        raise UsageError(
            f"{shown_path(folder)} is the folder of an SFT that is not finished: run `sft` again, which resumes it"
        )
    raise UsageError(
        f"{shown_path(folder)} is the folder of an SFT, and `export` takes those of runs: copy the folder, which is an "
        "adapter for PEFT and vLLM as it is (PEFT's merge_and_unload merges it into its base)"
    )


def _check_run(config: TrainConfig | OfflineRunConfig) -> bool:
    """Check what every run needs, and return whether the run is new: a run that was begun keeps its own adapter."""
    require_base_model(config.policy.base_model)
    require_folder(config.run.folder, field="run.folder")
    require_trackers(config.run.trackers, field="run.trackers")
    is_new = not has_begun(config.run.folder)
    if is_new and config.policy.adapter is not None:
        require_adapter(config.policy.adapter)
    if is_new and (rollouts := config.ppo.rollouts_of_critic) is not None:
        require_rollouts(rollouts, field="ppo.critic_rollouts")
    return is_new

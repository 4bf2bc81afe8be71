"""A run's folder: made for a new run, or opened again by one that resumes.

A run resumes if it is started again with the configuration that it began with; the settings that may
differ are listed in `FREE_SETTINGS`.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import torch

from inference_server.wire.prompt_options import PromptFormat
from inference_server.wire.schemas import ADAPTER_WEIGHTS_FILE
from trainer.config.sections import OfflineRunConfig, PolicyConfig, TrainConfig
from trainer.console.tracker_kinds import TRACKER_ID_FILE
from trainer.errors import UsageError
from trainer.io.adapter_settings import (
    kept_dtype,
    kept_prompt_format,
    training_data,
)
from trainer.io.base_record import BASE_FILE, require_same_base
from trainer.io.durable import remove_unfinished, write_file
from trainer.io.kept_settings import (
    CONFIG_FILE,
    as_toml,
    command_of,
    is_as_kept,
    keep_settings,
    kept_tables,
    lost_settings,
    require_as_kept,
)
from trainer.io.paths import require_folder
from trainer.io.run_layout import (
    ADAPTERS_FOLDER,
    CHECKPOINTS_FOLDER,
    ROLLOUTS_FOLDER,
    START_FOLDER,
    checkpoint_folders,
    has_begun,
    newest_sft_checkpoint,
    step_of,
)
from trainer.model.dtype import with_dtype
from trainer.model.roles import PolicyRoles
from trainer.run_state.journal import Journal
from trainer.run_state.run_adapters import save_adapter

_IN_ALL_RUNS = ("policy", "ppo", "run")
"""Tables that the kept settings of every run have."""

_Config = TypeVar("_Config", TrainConfig, OfflineRunConfig)

FREE_SETTINGS = (
    "ppo.token_budget",
    "policy.gradient_checkpointing",
    "reward.timeout_s",
    "server",
    "run.folder",
    "run.num_steps",
    "run.checkpoint_every",
    "run.num_checkpoints",
    "run.num_adapters",
    "run.evaluate_every",
    "run.num_threads",
    "run.device",
    "run.verbose",
    "run.trackers",
    "run.metrics_port",
    "run.metrics_host",
)
"""Sections and keys that may change between one start of a run and the next: where and how long it runs,
never what it learns from. (Threads, device and the size of micro-batches only change how sums round; the number of
steps decides where a linear learning rate ends.)"""


@contextmanager
def open_run(config: TrainConfig | OfflineRunConfig, *, must_resume: bool) -> Iterator[Journal]:
    """Open the folder of a new run, or of one that resumes; no other process can open it within the block.

    Args:
        config: The run's configuration.
        must_resume: Whether it is an error if there is no run to resume.

    Raises:
        UsageError: There is nothing to resume, the folder holds a run of another configuration or another base, or
            another process is at work in it.
    """
    folder = config.run.folder
    is_new = not has_begun(folder)
    if must_resume and is_new:
        raise UsageError(f"--resume: no checkpoint in {folder / CHECKPOINTS_FOLDER}")
    if is_new:
        _refuse_to_overwrite(folder / CONFIG_FILE)
    folder.mkdir(parents=True, exist_ok=True)
    with Journal(folder) as journal:
        if is_new:
            # These files are left from a run whose checkpoints and journal were removed.
            for name in (CONFIG_FILE, BASE_FILE, TRACKER_ID_FILE):
                (folder / name).unlink(missing_ok=True)
        keep_settings(folder / CONFIG_FILE, config, free=_free_settings(config))
        require_same_base(folder, config.policy)
        for part in (".", ADAPTERS_FOLDER, CHECKPOINTS_FOLDER, ROLLOUTS_FOLDER):
            remove_unfinished(folder / part)
        yield journal


def _free_settings(config: TrainConfig | OfflineRunConfig) -> Sequence[str]:
    """`FREE_SETTINGS`; for a run without held-out questions, also the setting that names them.

    This does not hold for a run with counterfactuals: it asks none that is held out, so that the setting decides what
    it learns. A run of `train-offline` has no such setting.
    """
    if isinstance(config, OfflineRunConfig):
        return FREE_SETTINGS
    kept = training_data(config.run.folder)
    if kept is None or kept.held_out_source is not None or kept.counterfactual:
        return FREE_SETTINGS
    return (*FREE_SETTINGS, "data.evaluation_source")


def require_whole_run(folder: Path) -> None:
    """Refuse a run's folder that cannot be written to or made, or a run in it that has lost its settings.

    Raises:
        UsageError: Names the folder or the file.
    """
    require_folder(folder, field="run.folder")
    if has_begun(folder):
        _require_whole(folder / CONFIG_FILE)


def require_own_run(config: TrainConfig) -> bool:
    """Refuse a folder that `open_run` would refuse, without changing anything; another process may have it open.

    Args:
        config: The run's configuration.

    Returns:
        Whether the run resumes, rather than begins.

    Raises:
        UsageError: The folder cannot be written to, or holds something else or a run of another configuration or
            another base.
    """
    require_whole_run(config.run.folder)
    path = config.run.folder / CONFIG_FILE
    if not has_begun(config.run.folder):
        _refuse_to_overwrite(path)
        return False
    # A run that has begun keeps its own format, so the default does not matter.
    config = with_prompt_format(with_kept_dtype(config), lambda: "plain")
    require_as_kept(path, config, free=_free_settings(config))
    require_same_base(config.run.folder, config.policy)
    return True


def _refuse_to_overwrite(path: Path) -> None:
    """Refuse to overwrite a settings file that no run has written, or the files beside an adapter.

    Raises:
        UsageError: There are such files; the message names them.
    """
    if path.exists() and not is_as_kept(path):
        raise UsageError(
            f"run.folder: {path} does not belong to a run, and a run would keep its own settings there; rename it, or "
            "choose another folder"
        )
    if (
        (path.parent / ADAPTER_WEIGHTS_FILE).exists()
        or newest_sft_checkpoint(path.parent) is not None
        or (path.exists() and command_of(kept_tables(path)) == "sft")
    ):
        raise UsageError(
            f"run.folder: {path.parent} holds the adapter, settings and metrics of something else, such as `sft`; choose "
            "another folder"
        )


def _require_whole(path: Path) -> None:
    """Refuse to continue a run whose settings are lost.

    Raises:
        UsageError: Settings are lost; the message names the file.
    """
    try:
        lost = [f"[{name}]" for name in _IN_ALL_RUNS if name not in kept_tables(path)]
    except FileNotFoundError:
        raise lost_settings(path) from None
    if lost:
        raise lost_settings(path, f"lacks {', '.join(lost)}, which every run has")


def with_kept_dtype(config: _Config) -> _Config:
    """A run's configuration; if the run has begun, with the dtype that it began with in place of ``auto``."""
    folder = config.run.folder
    kept = kept_dtype(folder / CONFIG_FILE) if has_begun(folder) else None
    return with_policy(config, with_dtype(config.policy, kept or "auto"))


def with_policy(config: _Config, policy: PolicyConfig) -> _Config:
    """The configuration with another policy."""
    return config.model_copy(update={"policy": policy})


def record_config(config: TrainConfig) -> None:
    """Write a run's configuration again, now with what `auto` stands for; the run's folder must be open."""
    write_file(config.run.folder / CONFIG_FILE, as_toml(config).encode())


def with_prompt_format(config: _Config, default: Callable[[], PromptFormat]) -> _Config:
    """A run's configuration with ``rollout.prompt_format`` resolved.

    Args:
        config: The configuration of a run, new or begun.
        default: Returns what ``auto`` stands for in a new run; a run that has begun keeps its own format.
    """
    if config.rollout.prompt_format != "auto":
        return config
    folder = config.run.folder
    kept = kept_prompt_format(folder / CONFIG_FILE) if has_begun(folder) else None
    rollout = config.rollout.model_copy(update={"prompt_format": kept or default()})
    return config.model_copy(update={"rollout": rollout})


def is_finished(config: TrainConfig) -> bool:
    """Whether every step is done; the checkpoint of the last step is the last thing that is written."""
    folders = checkpoint_folders(config.run.folder)
    return bool(folders) and step_of(folders[-1]) >= config.run.num_steps


def start_of(config: TrainConfig, run_folder: Path) -> PolicyConfig:
    """The policy's configuration; once the run has begun, with its own copy of the starting adapter."""
    if not has_begun(run_folder):
        return config.policy
    return config.policy.model_copy(update={"adapter": run_folder / START_FOLDER})


def keep_start(run_folder: Path, roles: PolicyRoles) -> None:
    """Write the adapter that a run begins with, which is also its reference, to ``start/``."""
    save_adapter(roles, run_folder / START_FOLDER, torch.float32)

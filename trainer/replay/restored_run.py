"""A run restored from a checkpoint, without a server: where `verify` and `what_if` start."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from trainer.config.sections import TrainConfig
from trainer.errors import UsageError
from trainer.io.base_record import require_same_base
from trainer.io.metrics_file import Metrics, read_metrics
from trainer.io.run_layout import JOURNAL_FILE, checkpoint_folders, step_of
from trainer.model.base_files import require_base_model
from trainer.model.device import compute_device
from trainer.model.dtype import torch_dtype
from trainer.model.roles import PolicyRoles
from trainer.ppo.learner import Learner
from trainer.rollouts.reward_functions import changed_sources
from trainer.run_state.checkpoint import Checkpoint, load_checkpoint, newest_checkpoint
from trainer.run_state.journal_entries import rollouts_file
from trainer.run_state.journal_reader import JournalReader
from trainer.run_state.manifest import computed_with
from trainer.run_state.run_folder import start_of

Say = Callable[[str], None]
"""Called with every line of output."""


@dataclass(frozen=True, kw_only=True)
class Replay:
    """A run restored from one of its checkpoints, ready to recompute the steps after it."""

    run_folder: Path
    journal: JournalReader
    learner: Learner
    checkpoint: Checkpoint
    rows: dict[int, Metrics]
    """The recorded metrics, by step."""
    is_exact: bool
    """Whether the device is of the type that computed the run, so that digests can be compared."""

    @property
    def start(self) -> int:
        """The checkpoint's step."""
        return self.checkpoint.progress.step


def open_replay(run_folder: Path, config: TrainConfig, *, from_step: int, say: Say) -> Replay:
    """Restore a run from its newest checkpoint that is not after a step.

    Args:
        run_folder: The run's folder.
        config: The run's configuration, or a changed one.
        from_step: A step; 0 is the start of the run.
        say: Called with each line about a possible cause of differences.

    Raises:
        UsageError: The journal has no step, or none after ``from_step``, the rollouts of the checkpoint's next step were
            deleted, or the base model is missing or another.
        CheckpointError: No such checkpoint is complete.
    """
    journal = JournalReader(run_folder)
    if not journal.last_step:
        raise UsageError(f"{run_folder} has no step in its {JOURNAL_FILE} to replay")
    if from_step >= journal.last_step:
        raise UsageError(
            f"--from {from_step}: the last step in {JOURNAL_FILE} is {journal.last_step}"
        )
    folder = newest_checkpoint(run_folder, say, not_after=from_step)
    _require_rollouts(run_folder, step_of(folder), journal.last_step)
    require_base_model(config.policy.base_model)
    require_same_base(run_folder, config.policy)
    device = _device_of(config)
    roles = PolicyRoles(
        start_of(config, run_folder),
        device=device,
        serve_dtype=torch_dtype(config.policy, device),
    )
    # Again, since the files of a Hub id may have been downloaded only just now.
    require_same_base(run_folder, config.policy)
    learner = Learner(config.ppo, config.run, roles)
    recorded, recorded_on = computed_with(folder)
    if recorded != torch.__version__:
        say(f"recorded with torch {recorded}, which may round differently from {torch.__version__}")
    for line in changed_sources(journal.reward_sources):
        say(line)
    if recorded_on != device.type:
        say(f"recorded on {recorded_on}, replayed on {device.type}, which rounds differently")
    return Replay(
        run_folder=run_folder,
        journal=journal,
        learner=learner,
        checkpoint=load_checkpoint(folder, roles, learner.update),
        rows={int(row["step"]): row for row in read_metrics(run_folder)},
        is_exact=recorded_on == device.type,
    )


def _require_rollouts(run_folder: Path, start: int, last_step: int) -> None:
    """Refuse a start whose next step has no rollouts, as after the oldest ones were deleted.

    Raises:
        UsageError: Names the lowest step from which everything is there.
    """
    missing = rollouts_file(run_folder, start + 1)
    if missing.exists():
        return
    newest_missing = max(
        step
        for step in range(start + 1, last_step + 1)
        if not rollouts_file(run_folder, step).exists()
    )
    steps = (step_of(folder) for folder in checkpoint_folders(run_folder))
    usable = min((step for step in steps if newest_missing <= step < last_step), default=None)
    fix = "no kept checkpoint has the rollouts of all steps after it"
    if usable is not None:
        fix = f"give --from {usable}, the first checkpoint with the rollouts of all steps after it"
    raise UsageError(
        f"a replay that begins at the checkpoint of step {start} needs {missing}, which is gone: {fix}"
    )


def _device_of(config: TrainConfig) -> torch.device:
    """The run's device if this machine has it, else the CPU."""
    if config.run.device == "cuda" and not torch.cuda.is_available():
        return torch.device("cpu")
    return compute_device(config.run.device)

"""A run's checkpoints: everything that the next step depends on, written completely or not at all."""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch

from inference_server.wire.settings.errors import first_line
from trainer.errors import CheckpointError
from trainer.io.durable import finish_folder, new_folder, remove_folder
from trainer.io.run_layout import (
    CHECKPOINTS_FOLDER,
    checkpoint_folder,
    checkpoint_folders,
    step_of,
)
from trainer.model.adapter import AdapterState
from trainer.model.roles import PolicyRoles
from trainer.ppo.learner_state import learner_state, load_learner_state
from trainer.ppo.update import PPOUpdate
from trainer.rollouts.questions import QuestionState
from trainer.run_state.best import read_best
from trainer.run_state.manifest import STATE_FILE, verify_checkpoint, write_manifest


@dataclass(frozen=True, kw_only=True)
class TrainProgress:
    """How far a run has come."""

    step: int
    """The number of steps done."""
    questions: QuestionState
    """Which questions were asked, and which of them were not trained on."""


def save_checkpoint(
    run_folder: Path,
    progress: TrainProgress,
    roles: PolicyRoles,
    update: PPOUpdate,
    *,
    num_kept: int,
    served: Mapping[int, AdapterState] | None = None,
    kept_steps: Collection[int] = (),
) -> Path:
    """Write ``checkpoints/step-000010`` atomically, then delete old checkpoints except those that are to be kept.

    Args:
        run_folder: The run's folder.
        progress: How far the run has come.
        roles: Adapters and value head.
        update: Optimizers and KL controller.
        num_kept: How many of the newest are kept, besides the first (of step 0) and the best.
        served: The weights of each version whose rollouts may still be trained on.
        kept_steps: Further steps whose checkpoints are kept.
    """
    state = {
        "step": progress.step,
        "questions": progress.questions.model_dump(mode="json"),
        **learner_state(roles, update),
        "served": dict(served or {}),
        "torch_rng": torch.get_rng_state(),
        "cuda_rng": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
    }
    final = checkpoint_folder(run_folder, progress.step)
    unfinished = new_folder(final)
    # Written through memory, because torch's own writer does not report a full disk.
    buffer = BytesIO()
    torch.save(state, buffer)
    (unfinished / STATE_FILE).write_bytes(buffer.getbuffer())
    write_manifest(unfinished, step=progress.step, device=roles.device.type)
    finish_folder(final)
    best = read_best(run_folder)
    kept = [checkpoint_folder(run_folder, step) for step in (0, *kept_steps)]
    if best is not None:
        kept.append(checkpoint_folder(run_folder, best.step))
    for old in checkpoint_folders(run_folder)[:-num_kept]:
        if old not in kept:
            remove_folder(old)
    return final


def newest_checkpoint(
    run_folder: Path, say: Callable[[str], None], *, not_after: int | None = None
) -> Path:
    """The newest undamaged checkpoint.

    Args:
        run_folder: The run's folder.
        say: Gets a line for each damaged checkpoint that is skipped.
        not_after: The newest step to consider.

    Raises:
        CheckpointError: All checkpoints are damaged, or there is none.
    """
    for folder in reversed(checkpoint_folders(run_folder)):
        if not_after is not None and step_of(folder) > not_after:
            continue
        try:
            verify_checkpoint(folder)
        except CheckpointError as error:
            say(f"{error}; going back to the one before")
        else:
            return folder
    folder = run_folder / CHECKPOINTS_FOLDER
    raise CheckpointError(
        f"no checkpoint in {folder} can be resumed from; once this folder is removed, `train` computes a run's steps "
        "again from its journal"
    )


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """The state of a checkpoint that the caller has to restore."""

    progress: TrainProgress
    served: dict[int, AdapterState]
    """See `save_checkpoint`."""


def load_checkpoint(folder: Path, roles: PolicyRoles, update: PPOUpdate) -> Checkpoint:
    """Load a verified checkpoint into roles, optimizers and random generators.

    Raises:
        CheckpointError: The file is damaged, or of another base model or adapter shape.
    """
    try:
        # Loaded to the CPU first, so that a GPU run can be loaded on a machine without a GPU.
        path = folder / STATE_FILE
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        questions = QuestionState.model_validate(state["questions"])
        progress = TrainProgress(step=state["step"], questions=questions)
        load_learner_state(state, roles, update)
        torch.set_rng_state(state["torch_rng"])
        if torch.cuda.device_count() == len(state["cuda_rng"]) > 0:
            torch.cuda.set_rng_state_all(state["cuda_rng"])
        return Checkpoint(progress=progress, served=state["served"])
    except (UnpicklingError, EOFError) as error:
        raise CheckpointError(f"checkpoint {folder}: {STATE_FILE} is damaged") from error
    except KeyError as error:
        raise CheckpointError(f"checkpoint {folder}: {STATE_FILE} lacks {error}") from error
    except (OSError, RuntimeError, ValueError, TypeError) as error:
        raise CheckpointError(f"checkpoint {folder}: {first_line(error)}") from error


def load_step(run_folder: Path, step: int, roles: PolicyRoles, update: PPOUpdate) -> Checkpoint:
    """Load the checkpoint of a step; see `load_checkpoint`.

    Raises:
        CheckpointError: The checkpoint is damaged or gone.
    """
    folder = checkpoint_folder(run_folder, step)
    verify_checkpoint(folder)
    return load_checkpoint(folder, roles, update)

"""A run's state on disk: everything that the next step depends on, whole or not there at all."""

import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch

from trainer.errors import CheckpointError
from trainer.policy import PolicyRoles, Role
from trainer.update import PPOUpdate

_STATE_FILE = "state.pt"


@dataclass(frozen=True, kw_only=True)
class Progress:
    """Where a run stands."""

    step: int
    """Steps done."""
    question_cursor: int
    """Questions whose rollouts were trained on."""


def checkpoint_folders(run_folder: Path) -> list[Path]:
    """Finished checkpoints, oldest first."""
    return sorted((run_folder / "checkpoints").glob("step-??????"))


def save_checkpoint(
    run_folder: Path,
    progress: Progress,
    roles: PolicyRoles,
    update: PPOUpdate,
    *,
    num_kept: int,
) -> Path:
    """Write ``checkpoints/step-000010`` atomically and delete all but the newest ``num_kept``."""
    final = run_folder / "checkpoints" / f"step-{progress.step:06d}"
    unfinished = final.with_name(final.name + ".unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(parents=True)
    state = {
        "step": progress.step,
        "question_cursor": progress.question_cursor,
        "policy": roles.adapter_state(Role.POLICY),
        "reference": roles.adapter_state(Role.REFERENCE),
        "critic": roles.adapter_state(Role.CRITIC),
        "value_head": roles.value_head.state_dict(),
        "policy_optimizer": update.policy_optimizer.state_dict(),
        "critic_optimizer": update.critic_optimizer.state_dict(),
        "kl_coef": update.kl.coef,
        "torch_rng": torch.get_rng_state(),
    }
    with (unfinished / _STATE_FILE).open("wb") as file:
        torch.save(state, file)
        file.flush()
        os.fsync(file.fileno())
    # A step that is redone after a resume replaces its checkpoint.
    shutil.rmtree(final, ignore_errors=True)
    unfinished.rename(final)
    for old in checkpoint_folders(run_folder)[:-num_kept]:
        shutil.rmtree(old)
    return final


def load_checkpoint(folder: Path, roles: PolicyRoles, update: PPOUpdate) -> Progress:
    """Put a checkpoint's state into roles, optimizers and generators.

    Raises:
        CheckpointError: The file is damaged, or of another base model or adapter shape.
    """
    try:
        state: dict[str, Any] = torch.load(folder / _STATE_FILE, weights_only=True)
        progress = Progress(step=state["step"], question_cursor=state["question_cursor"])
        for role in (Role.POLICY, Role.REFERENCE, Role.CRITIC):
            roles.load_adapter_state(role, state[role.value])
        roles.value_head.load_state_dict(state["value_head"])
        update.policy_optimizer.load_state_dict(state["policy_optimizer"])
        update.critic_optimizer.load_state_dict(state["critic_optimizer"])
        update.kl.coef = state["kl_coef"]
        torch.set_rng_state(state["torch_rng"])
    except (UnpicklingError, EOFError) as error:
        raise CheckpointError(f"checkpoint {folder}: {_STATE_FILE} is damaged") from error
    except KeyError as error:
        raise CheckpointError(f"checkpoint {folder}: {_STATE_FILE} lacks {error}") from error
    except (OSError, RuntimeError, ValueError, TypeError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise CheckpointError(f"checkpoint {folder}: {reason}") from error
    return progress

"""A run's state on disk: everything that the next step depends on, whole or not there at all."""

import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict, ValidationError

from trainer.errors import CheckpointError
from trainer.policy import PolicyRoles, Role
from trainer.questions import QuestionState
from trainer.update import PPOUpdate

_STATE_FILE = "state.pt"
_BEST_FILE = "best.json"


@dataclass(frozen=True, kw_only=True)
class Progress:
    """Where a run stands."""

    step: int
    """Steps done."""
    questions: QuestionState
    """What was asked, and of it what was not trained on."""


class Best(BaseModel):
    """``checkpoints/best.json``: the evaluated step with the highest accuracy so far."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    step: int
    """Its checkpoint is kept."""
    version: int
    adapter: str
    """Folder of the version, relative to the run's."""
    accuracy: float
    num_questions: int


def checkpoint_folders(run_folder: Path) -> list[Path]:
    """Finished checkpoints, oldest first."""
    return sorted((run_folder / "checkpoints").glob("step-??????"))


def read_best(run_folder: Path) -> Best | None:
    """The best evaluation of a run; None where there was none yet.

    Raises:
        CheckpointError: The file is damaged.
    """
    path = run_folder / "checkpoints" / _BEST_FILE
    try:
        return Best.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        return None
    except ValidationError as error:
        raise CheckpointError(f"{path}: {error.errors()[0]['msg']}") from None


def write_best(run_folder: Path, best: Best) -> None:
    """Replace ``checkpoints/best.json``, whole or not at all."""
    path = run_folder / "checkpoints" / _BEST_FILE
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(path.name + ".unfinished")
    unfinished.write_text(best.model_dump_json(indent=2) + "\n", encoding="utf-8")
    unfinished.replace(path)


def save_checkpoint(
    run_folder: Path,
    progress: Progress,
    roles: PolicyRoles,
    update: PPOUpdate,
    *,
    num_kept: int,
    evaluating: int | None = None,
) -> Path:
    """Write ``checkpoints/step-000010`` atomically; delete what is neither new nor good.

    Args:
        run_folder: The run's.
        progress: Where the run stands.
        roles: Adapters and value head.
        update: Optimizers and KL controller.
        num_kept: How many of the newest stay.
        evaluating: A step whose evaluation is not finished; it may become the best, and stays like it.
    """
    final = _folder(run_folder, progress.step)
    unfinished = final.with_name(final.name + ".unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(parents=True)
    state = {
        "step": progress.step,
        "questions": progress.questions.model_dump(mode="json"),
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
    best = read_best(run_folder)
    kept_steps = (None if best is None else best.step, evaluating)
    kept = [_folder(run_folder, step) for step in kept_steps if step is not None]
    for old in checkpoint_folders(run_folder)[:-num_kept]:
        if old not in kept:
            shutil.rmtree(old)
    return final


def _folder(run_folder: Path, step: int) -> Path:
    return run_folder / "checkpoints" / f"step-{step:06d}"


def load_checkpoint(folder: Path, roles: PolicyRoles, update: PPOUpdate) -> Progress:
    """Put a checkpoint's state into roles, optimizers and generators.

    Raises:
        CheckpointError: The file is damaged, or of another base model or adapter shape.
    """
    try:
        state: dict[str, Any] = torch.load(folder / _STATE_FILE, weights_only=True)
        questions = QuestionState.model_validate(state["questions"])
        progress = Progress(step=state["step"], questions=questions)
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

"""Keeps the rollouts of a step whose numbers are not finite, and the policy before it, for inspection."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from trainer.errors import NonFiniteError
from trainer.io.durable import finish_folder, new_folder
from trainer.io.run_layout import FAILED_FOLDER, step_name
from trainer.model.roles import PolicyRoles
from trainer.rollouts.groups import ScoredGroup
from trainer.rollouts.rows import rollout_lines
from trainer.run_state.journal import Journal


@contextmanager
def keep_failed_step(
    run_folder: Path,
    step: int,
    groups: Sequence[ScoredGroup],
    roles: PolicyRoles,
    journal: Journal,
) -> Iterator[None]:
    """Write ``failed/step-000012`` if the block raises `NonFiniteError`.

    Args:
        run_folder: The run's folder.
        step: The step that the block performs.
        groups: The step's rollouts.
        roles: Hold the policy; a failed step has already restored them to their state before it.
        journal: If the step is already in it, the entry is removed, so that the next start asks the step's
            questions again.

    Raises:
        NonFiniteError: Its message names the folder. Its exit code is 3 (try again) unless the step has failed
            before: a hardware fault passes, but a policy that has diverged fails again.
    """
    try:
        yield
    except NonFiniteError as error:
        folder = run_folder / FAILED_FOLDER / step_name(step)
        has_failed_before = folder.exists()
        unfinished = new_folder(folder)
        (unfinished / "rollouts.jsonl").write_bytes(rollout_lines(groups, step))
        (unfinished / "error.txt").write_text(f"{error.what}\n", encoding="utf-8")
        (unfinished / "policy").mkdir()
        roles.export_policy(unfinished / "policy")
        finish_folder(folder)
        if journal.last_step == step:
            journal.take_back(step)
        raise NonFiniteError(
            f"step {step}: {error.what}", kept_in=folder, may_pass=not has_failed_before
        ) from error

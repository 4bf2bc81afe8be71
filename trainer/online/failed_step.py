"""A step whose numbers are not finite: what it was given is kept for whoever wants to know why."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from trainer.errors import NonFiniteError
from trainer.io.durable import finish_folder, new_folder
from trainer.model.roles import PolicyRoles
from trainer.rollouts.groups import ScoredGroup
from trainer.rollouts.rows import rollout_lines
from trainer.run_state.journal import Journal

FAILED_FOLDER = "failed"


@contextmanager
def failed_step_is_kept(
    run_folder: Path,
    step: int,
    groups: Sequence[ScoredGroup],
    roles: PolicyRoles,
    journal: Journal | None = None,
) -> Iterator[None]:
    """Write ``failed/step-000012`` where a number turns out not to be finite.

    Args:
        run_folder: The run's.
        step: Its number.
        groups: That it trains on.
        roles: As they were before it, which they are again if it fails.
        journal: Has the step already, and forgets it: its questions are asked again by the next start.

    Raises:
        NonFiniteError: With the folder in its message.
    """
    try:
        yield
    except NonFiniteError as error:
        folder = run_folder / FAILED_FOLDER / f"step-{step:06d}"
        unfinished = new_folder(folder)
        (unfinished / "rollouts.jsonl").write_bytes(rollout_lines(groups, step))
        (unfinished / "error.txt").write_text(f"{error.what}\n", encoding="utf-8")
        (unfinished / "policy").mkdir()
        roles.export_policy(unfinished / "policy")
        finish_folder(folder)
        if journal is not None:
            journal.take_back(step)
        raise NonFiniteError(f"step {step}: {error.what}", kept_in=folder) from error

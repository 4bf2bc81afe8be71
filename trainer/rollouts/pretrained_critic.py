"""A run's critic, fitted to a file of rollouts before the first step.

It becomes part of the state that the run begins with, so resuming and replaying need the file no more.
"""

from collections.abc import Callable
from dataclasses import asdict

from pydantic_core import to_json

from inference_server.wire.digests import sha256_of_file
from trainer.config.sections import OfflineRunConfig, TrainConfig
from trainer.errors import DataError
from trainer.io.durable import write_file
from trainer.model.roles import PolicyRoles
from trainer.ppo.critic_fit import fit_critic
from trainer.rollouts.files import open_rollouts
from trainer.rollouts.reward_functions import RewardFunctions

CRITIC_FILE = "critic.json"
"""In the run's folder: what the critic was fitted to, and how well."""


def pretrain_critic(
    config: TrainConfig | OfflineRunConfig, roles: PolicyRoles, say: Callable[[str], None]
) -> None:
    """Fit the critic to ``ppo.critic_rollouts``, scored by ``reward``; nothing without it or a critic.

    Args:
        config: Of a run that has not begun.
        roles: As the run begins; the critic is trained.
        say: Gets a line for each pass, and one with the result.

    Raises:
        DataError: The file cannot be read, or has fewer than two questions with a completed answer.
        NonFiniteError: A number is NaN or infinite.
    """
    path = config.ppo.critic_rollouts
    if path is None or config.ppo.advantage != "gae":
        return
    if not path.is_file():
        raise DataError(
            f"ppo.critic_rollouts {path}: no such file; `python -m trainer collect` writes one"
        )
    stored = open_rollouts(path, config)
    for line in stored.left_out:
        say(line)
    with RewardFunctions(config.reward) as functions:
        groups = [stored.group(r, config.reward, functions.score).samples for r in stored.records]
    fit = fit_critic(
        roles,
        config.ppo,
        [group for group in groups if group],
        seed=config.run.seed,
        say=say,
    )
    record = {"rollouts": str(path), "rollouts_sha256": sha256_of_file(path), **asdict(fit)}
    write_file(config.run.folder / CRITIC_FILE, to_json(record, indent=2) + b"\n")
    say(
        f"critic fitted to {fit.num_completions} completions of {path}: explained variance "
        f"{fit.explained_variance_before:+.2f} → {fit.explained_variance:+.2f} on "
        f"{fit.num_held_out} held out (pass {fit.num_epochs})"
    )

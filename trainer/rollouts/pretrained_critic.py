"""Fits a run's critic to a file of rollouts before the first step.

The critic becomes part of the state that the run begins with, so that resuming and replaying do not need the file.
"""

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

from pydantic_core import to_json

from inference_server.wire.digests import sha256_of_file
from trainer.config.sections import OfflineRunConfig, TrainConfig
from trainer.io.durable import write_file
from trainer.model.batches.sample import Sample
from trainer.model.roles import PolicyRoles
from trainer.ppo.critic_fit import fit_critic
from trainer.rollouts.critic_rollouts import sampling_warnings
from trainer.rollouts.files import open_rollouts
from trainer.rollouts.reward_functions import RewardFunctions

CRITIC_FILE = "critic.json"
"""The file in the run's folder that says what the critic was fitted to, and how well."""

_EXPLAINS_NOTHING = 0.02
"""A critic with less held-out explained variance than this predicts hardly more than the mean reward."""


def pretrain_critic(
    config: TrainConfig | OfflineRunConfig, roles: PolicyRoles, say: Callable[[str], None]
) -> None:
    """Fit the critic to ``ppo.critic_rollouts``, scored by ``reward``; does nothing without rollouts or a critic.

    Args:
        config: The configuration of a run that has not begun.
        roles: The roles as the run begins with them; the critic is trained.
        say: Gets a line for each pass, and one with the result.

    Raises:
        DataError: The file cannot be read, was sampled with another prompt format or tokenizer, or has fewer
            than two questions with a completed answer.
        NonFiniteError, OutOfMemoryError: As `fit_critic` raises them.
    """
    path = config.ppo.rollouts_of_critic
    if path is None:
        return
    groups = _samples(path, config, say)
    fit = fit_critic(roles, config.ppo, groups, seed=config.run.seed, say=say)
    record = {"rollouts": str(path), "rollouts_sha256": sha256_of_file(path), **asdict(fit)}
    write_file(config.run.folder / CRITIC_FILE, to_json(record, indent=2) + b"\n")
    kept = f"pass {fit.num_epochs}" if fit.num_epochs else "no pass was better: it stays as it was"
    say(
        f"critic fitted to {fit.num_completions} completions of {path}: explained variance "
        f"{fit.explained_variance_before:+.2f} → {fit.explained_variance:+.2f} on "
        f"{fit.num_held_out} held out ({kept})"
    )
    if fit.explained_variance < _EXPLAINS_NOTHING:
        rate = config.ppo.critic_pretrain_learning_rate or config.ppo.critic_learning_rate
        say(
            f"warning: the fitted critic explains nothing: set ppo.critic_pretrain_learning_rate ({rate:g}) lower "
            "if its passes do not rise, collect more questions, or take ppo.advantage = rloo"
        )


def _samples(
    path: Path, config: TrainConfig | OfflineRunConfig, say: Callable[[str], None]
) -> list[list[Sample]]:
    """The scored completions of each question of a file."""
    stored = open_rollouts(path, config)
    for line in stored.left_out:
        say(line)
    with RewardFunctions(config.reward) as functions:
        scored = [stored.group(r, config.reward, functions.score) for r in stored.records]
    for line in sampling_warnings(path, [each.group for each in scored], config):
        say(line)
    return [samples for each in scored if (samples := each.samples)]

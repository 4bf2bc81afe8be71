"""A run's critic, fitted to a file of rollouts before the first step.

It becomes part of the state that the run begins with, so resuming and replaying need the file no more.
"""

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

from pydantic_core import to_json

from inference_server.wire.digests import sha256_of_file
from trainer.config.sections import OfflineRunConfig, TrainConfig
from trainer.errors import DataError
from trainer.io.durable import write_file
from trainer.model.roles import PolicyRoles
from trainer.ppo.critic_fit import CriticFit, fit_critic
from trainer.rollouts.files import StoredRollouts, format_of_file, open_rollouts
from trainer.rollouts.reward_functions import RewardFunctions

CRITIC_FILE = "critic.json"
"""In the run's folder: what the critic was fitted to, and how well."""

_EXPLAINS_NOTHING = 0.02
"""Below this held-out explained variance a critic is hardly more than the mean reward."""


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
    kept = f"pass {fit.num_epochs}" if fit.num_epochs else "no pass was better: it stays as it was"
    say(
        f"critic fitted to {fit.num_completions} completions of {path}: explained variance "
        f"{fit.explained_variance_before:+.2f} → {fit.explained_variance:+.2f} on "
        f"{fit.num_held_out} held out ({kept})"
    )
    for line in _advice(config, stored, path, fit):
        say(f"warning: {line}")


def _advice(
    config: TrainConfig | OfflineRunConfig, stored: StoredRollouts, path: Path, fit: CriticFit
) -> list[str]:
    """Lines about a file that the run does not ask like, and about a fit that came to nothing."""
    advice = []
    collected_as, asked_as = format_of_file(path), config.rollout.prompt_format
    # Text alone is tokenised under the run's own prompts.
    if not stored.num_texts and collected_as != asked_as:
        advice.append(
            f"{path} was collected with {collected_as} prompts, and this run asks with {asked_as} ones: "
            f"the critic has not seen such; collect with rollout.prompt_format = {asked_as}"
        )
    if fit.explained_variance < _EXPLAINS_NOTHING:
        rate = config.ppo.critic_pretrain_learning_rate or config.ppo.critic_learning_rate
        advice.append(
            f"the fitted critic explains nothing: set ppo.critic_pretrain_learning_rate ({rate:g}) lower if "
            "its passes do not rise, collect more questions, or take ppo.advantage = rloo"
        )
    return advice

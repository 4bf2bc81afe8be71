"""Checks what a run reads or loads at its start in addition to its questions."""

from collections.abc import Iterator

from trainer.config.sections import DoctorConfig
from trainer.doctor.results import CheckResult, bad, ok
from trainer.errors import TrainerError, UsageError
from trainer.io.paths import require_rollouts
from trainer.io.run_layout import has_begun
from trainer.rollouts.reward_functions import RewardFunctions


def check_critic_rollouts(config: DoctorConfig) -> Iterator[CheckResult]:
    """A result if the file that a new run's critic is fitted to does not exist."""
    path = config.ppo.rollouts_of_critic
    if path is None or has_begun(config.run.folder):
        return
    try:
        require_rollouts(path, field="ppo.critic_rollouts")
    except UsageError as error:
        yield bad("critic", str(error), "ppo.critic_rollouts")


def check_reward_functions(config: DoctorConfig) -> Iterator[CheckResult]:
    """Load the user's reward functions in a process of their own, as a run does first, and end that process."""
    functions = RewardFunctions(config.reward)
    try:
        with functions:
            loaded = ", ".join(functions.sources)
    except TrainerError as error:
        yield bad("rewards", str(error), "reward.functions")
    else:
        if loaded:
            yield ok("rewards", f"{loaded} can be loaded (reward.functions)")

"""Checks what a run reads or loads at its start in addition to its questions."""

from collections.abc import Iterator

from trainer.config.sections import DoctorConfig
from trainer.data.held_out import is_on_hub
from trainer.data.source_names import require_source
from trainer.data.sources import Record, load_records
from trainer.data.word_problems import Split
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
    """Load the user's reward functions in a process of their own, as a run does first, and end that process.

    Whether they can be called with the columns of the data is checked too, if the data can be read without a download.
    """
    functions = RewardFunctions(config.reward)
    try:
        with functions:
            if not config.reward.is_regime_w:
                functions.require_columns(_readable_questions(config))
            loaded = ", ".join(functions.sources)
    except TrainerError as error:
        yield bad("rewards", str(error), "reward.functions")
    else:
        if loaded:
            yield ok("rewards", f"{loaded} can be loaded (reward.functions)")


def _readable_questions(config: DoctorConfig) -> list[Record]:
    """The training questions; none if they cannot be read, which the check of the data reports, or are on the Hub."""
    data = config.data
    try:
        if is_on_hub(require_source(data.source)[0]):
            return []
        return load_records(
            data.source,
            Split.TRAIN,
            num_records=data.num_questions,
            seed=data.seed,
            shape=data.shape,
        )
    except TrainerError:
        return []

"""Opens the file of rollouts of `train-offline`, refuses one that teaches nothing, and says what is in it."""

from collections.abc import Callable

from trainer.config.sections import OfflineRunConfig
from trainer.errors import DataError
from trainer.io.run_layout import has_begun
from trainer.model.dtype import collected_line
from trainer.rollouts.files import StoredRollouts, open_rollouts
from trainer.run_state.recorded_rollouts import require_same_rollouts

_FOREIGN_NATS = 0.05
"""If the mean |starting policy - file| logprob is above this, another policy sampled the file. Rounding alone stays
below it if both compute in bfloat16."""


def open_file(config: OfflineRunConfig) -> StoredRollouts:
    """Open a run's file of rollouts.

    Raises:
        DataError: It cannot be read, holds rollouts that cannot be trained on, is not what the run began with, or has
            only one completion of each question while ppo.advantage compares a question's completions, so that all
            advantages would be 0.
    """
    rollouts = open_rollouts(config.rollouts, config, num_groups=config.limit)
    if config.ppo.advantage != "gae" and rollouts.num_completions == len(rollouts.records):
        raise DataError(
            f"{config.rollouts}: one completion of each question, but ppo.advantage = {config.ppo.advantage} compares "
            "a question's completions: set it to gae, or collect with more arms or rollout.samples_per_arm"
        )
    folder, rows = config.run.folder, list(rollouts.lines.values())
    require_same_rollouts(folder, config.rollouts, rows, has_begun=has_begun(folder))
    return rollouts


def say_what_is_in_the_file(
    config: OfflineRunConfig, rollouts: StoredRollouts, num_steps: int, say: Callable[[str], None]
) -> None:
    """Say which questions the file has, what was left out, and in what its rollouts may not suit the run."""
    versions = sorted("base" if v is None else str(v) for v in rollouts.versions)
    say(
        f"{config.rollouts}: {len(rollouts.records)} questions, {rollouts.num_completions} completions of "
        f"version {', '.join(versions)}; {num_steps} steps"
    )
    differences = (collected_line(config.policy, dtype) for dtype in rollouts.dtypes if dtype)
    for line in (*rollouts.left_out, *filter(None, differences)):
        say(line)
    if rollouts.num_repeated:
        say(
            f"warning: {rollouts.num_repeated} of the {len(rollouts.records)} rows repeat the question, the version and the "
            "completions of an earlier row, and train once more each: if that is not meant, remove them"
        )
    if rollouts.num_texts:
        say(
            f"warning: {rollouts.num_texts} of the completions are text without tokens and logprobs. "
            "They are tokenised again under their arm's prompt and taken to be sampled by the policy "
            "that training starts from. If another model wrote them, or if its tokens were different, the "
            "importance weights are wrong: PPO then learns from them as if they were its own"
        )


def foreign_warning(mismatch: float) -> str | None:
    """A warning if the file was sampled by another policy than the one that training starts from; else None.

    Args:
        mismatch: Mean |starting policy - file| logprob in the first step that has samples, in nats per token.
    """
    if mismatch <= _FOREIGN_NATS:
        return None
    return (
        f"warning: the file's logprobs differ from those of the policy that training starts from by "
        f"{mismatch:.2g} nats a token: another policy sampled it. Importance weights, capped at "
        "ppo.max_importance_weight, correct this only in part; start from the adapter that the file "
        "was collected with, or set ppo.sequence_mask"
    )

"""Replays a run's rollouts under other settings of the update or the reward.

The rollouts remain those that the recorded policy sampled, so they become off-policy as the changed
policy moves away from it. The proximal policy is the changed policy's version of the same age: the
importance weights proximal/behaviour measure the distance, and their effective sample size how many of
the tokens still count.
"""

import math
import statistics
from collections.abc import Mapping, Sequence, Set
from contextlib import nullcontext
from pathlib import Path

import torch

from inference_server.wire.schemas import adapter_name
from trainer.config.sections import TrainConfig
from trainer.io.kept_settings import read_run_config
from trainer.io.run_layout import ADAPTERS_FOLDER, START_FOLDER
from trainer.model.adapter import AdapterState, read_adapter
from trainer.model.batches.sample import Sample
from trainer.model.roles import Role
from trainer.replay.changed_settings import changed_config
from trainer.replay.restored_run import Replay, Say, open_replay
from trainer.rollouts.reward_functions import RewardFunctions
from trainer.rollouts.rows import RolloutRow
from trainer.run_state.journal_entries import JournaledStep
from trainer.run_state.recompute import recompute

_SHOWN = {
    "reward": "reward",
    "ppo/policy_loss": "loss",
    "ppo/reference_kl": "kl",
    "ppo/approx_kl": "approx_kl",
    "ppo/clip_fraction": "clip",
    "ppo/policy_grad_norm": "grad",
    "ppo/importance_weight_mean": "weight",
    "ppo/effective_sample_size": "ess",
    "ppo/logprob_mismatch": "mismatch",
}
"""Metrics of a step to their names in the step's line; the last three measure how far off-policy the step is."""
_MIN_SAMPLE_SIZE = 0.9
"""Effective sample size below which the result is doubtful: a tenth of the rollouts is lost."""


def what_if(run_folder: Path, changes: Sequence[str], *, from_step: int, say: Say) -> None:
    """Replay a run under other settings, and compare each step and the final policy with the record.

    Args:
        run_folder: The run's folder.
        changes: See `changed_config`.
        from_step: Start at the newest checkpoint that is not after this step.
        say: Called with every line of output.

    Raises:
        UsageError: The journal has no step to replay, or a change is invalid.
        CheckpointError: No such checkpoint is complete.
        JournalError: The rollouts of a step are missing or damaged.
        RewardFunctionError: A function of ``reward.functions`` cannot be loaded, or failed twice for a group.
    """
    config = changed_config(read_run_config(run_folder), changes)
    replay = open_replay(run_folder, config, from_step=from_step, say=say)
    learner = replay.learner
    changed_keys = {change.partition("=")[0] for change in changes}
    if "ppo.kl_coef" in changed_keys:
        # The checkpoint has restored the recorded coefficient.
        learner.update.kl.coef = config.ppo.kl_coef
    say(
        f"what if {', '.join(changes)}, from step {replay.start + 1} on: the rollouts stay those of the "
        "recorded policy; recorded values are in parentheses"
    )
    rescore = any(key.startswith("reward.") for key in changed_keys)
    with RewardFunctions(config.reward) if rescore else nullcontext() as functions:
        changed = _replayed(replay, config, changed_keys, functions, say)
    _compare_policies(replay, say)
    sizes = [size for row in changed if not math.isnan(size := row["ppo/effective_sample_size"])]
    if sizes and sizes[-1] < _MIN_SAMPLE_SIZE:
        say(
            f"warning: the effective sample size is down to {sizes[-1]:.0%} of the tokens: these rollouts are "
            "little evidence of what the changed policy would have sampled"
        )


def _replayed(
    replay: Replay,
    config: TrainConfig,
    changed_keys: Set[str],
    functions: RewardFunctions | None,
    say: Say,
) -> list[Mapping[str, float]]:
    """Recompute the steps and say a line for each; returns their metrics under the changed settings."""
    learner, journal = replay.learner, replay.journal
    rewards = Rewards(config, functions)

    def scale(entry: JournaledStep) -> float:
        if changed_keys & {"ppo.learning_rate_schedule", "ppo.learning_rate_warmup_steps"}:
            return learner.learning_rate_scale(entry.step)
        return entry.learning_rate_scale

    recorded: list[Mapping[str, float]] = []
    changed: list[Mapping[str, float]] = []
    for done in recompute(
        journal,
        learner,
        replay.checkpoint,
        last_step=journal.last_step,
        samples_of=rewards.samples_of,
        learning_rate_scale=scale,
        token_budget=config.ppo.token_budget if "ppo.token_budget" in changed_keys else None,
    ):
        step = done.entry.step
        recorded_reward, changed_reward = rewards.take_means()
        recorded.append({**replay.rows.get(step, {}), "reward": recorded_reward})
        changed.append({**done.metrics, "reward": changed_reward})
        say(f"step {step:>4} {_compared(recorded[-1], changed[-1])}")
    say(_mean_line(recorded, changed))
    return changed


def _compare_policies(replay: Replay, say: Say) -> None:
    """Say how far the two final policies are apart, if the recorded one is still on disk."""
    for adapter in replay.journal.adapters_of(replay.journal.last_step)[-1:]:
        folder = replay.run_folder / ADAPTERS_FOLDER / adapter_name(adapter.version)
        if folder.is_dir():
            recorded = read_adapter(folder)
            moved = _distance(read_adapter(replay.run_folder / START_FOLDER), recorded)
            apart = _distance(replay.learner.roles.adapter_state(Role.POLICY), recorded)
            say(
                f"in the end the two policies are {apart:.4g} apart (norm of all adapter weights); "
                f"the recorded one has moved {moved:.4g} from the start"
            )


class Rewards:
    """Provides the samples of each group, with recorded or changed rewards, and the step's mean rewards."""

    def __init__(self, config: TrainConfig, functions: RewardFunctions | None):
        """``functions`` compute the rewards again; None keeps the recorded rewards."""
        self._config = config.reward
        self._functions = functions
        self._recorded: list[float] = []
        self._changed: list[float] = []

    def samples_of(self, group: RolloutRow) -> list[Sample]:
        """The samples that train; collects the rewards of all completions that have one, recorded and changed."""
        recorded = [reward for arm in group.arm_outputs if (reward := arm.reward) is not None]
        self._recorded += recorded
        if self._functions is None:
            self._changed += recorded
            return group.samples
        scored = group.scored(self._config, self._functions.score)
        self._changed += scored.earned
        return scored.samples

    def take_means(self) -> tuple[float, float]:
        """Mean rewards of the step, recorded and changed, NaN without any reward; starts the next step."""
        recorded, changed = self._recorded, self._changed
        self._recorded, self._changed = [], []
        return statistics.fmean(recorded or [math.nan]), statistics.fmean(changed or [math.nan])


def _compared(recorded: Mapping[str, float], found: Mapping[str, float]) -> str:
    def text(value: float) -> str:
        return "none" if math.isnan(value) else f"{value:.4g}"

    return " ".join(
        f"{shown} {text(found[name])} ({text(recorded.get(name, math.nan))})"
        for name, shown in _SHOWN.items()
        if name in found
    )


def _mean_line(
    recorded: Sequence[Mapping[str, float]], changed: Sequence[Mapping[str, float]]
) -> str:
    """The means over the steps with a reward in both, or, if none was recorded, over those with a changed one."""
    rows = [row for row in zip(recorded, changed, strict=True) if not math.isnan(row[1]["reward"])]
    both = [row for row in rows if not math.isnan(row[0]["reward"])]
    rows = both or rows
    if not rows:
        return "no step has a reward"
    number = f"{len(rows)}" if len(rows) == len(changed) else f"{len(rows)} of {len(changed)}"
    means = (_means([row[side] for row in rows]) for side in (0, 1))
    return f"mean of {number} {_compared(*means)}"


def _means(rows: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """The mean of each metric over the steps that have it."""
    found: dict[str, list[float]] = {}
    for row in rows:
        for name, value in row.items():
            if not math.isnan(value):
                found.setdefault(name, []).append(value)
    return {name: statistics.fmean(values) for name, values in found.items()}


def _distance(one: AdapterState, other: AdapterState) -> float:
    squares = [((one[name].double() - other[name].double()) ** 2).sum() for name in one]
    return math.sqrt(float(torch.stack(squares).sum()))

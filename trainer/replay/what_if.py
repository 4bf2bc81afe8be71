"""What a run's rollouts would have made of the policy under another setting of the update or the reward.

The rollouts stay those that the recorded policy sampled. The further the other policy moves away, the
less they say of it: the proximal policy is the other one's own version of the same age, so the importance
weights proximal/behaviour measure that distance, and their effective sample size what is left.
"""

import math
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError

from inference_server.wire.schemas import adapter_name
from trainer.config.sections import TrainConfig
from trainer.errors import UsageError
from trainer.model.adapter import AdapterState, read_adapter
from trainer.model.batch import Sample
from trainer.model.roles import Role
from trainer.replay.verify import Say, open_replay
from trainer.rollouts.rows import RolloutRow
from trainer.run_state.journal_entries import JournaledStep
from trainer.run_state.recompute import recompute
from trainer.run_state.run_folder import ADAPTERS_FOLDER, START_FOLDER, read_run_config

_SECTIONS = ("ppo", "reward")
_SHOWN = {
    "ppo/policy_loss": "loss",
    "ppo/reference_kl": "kl",
    "ppo/approx_kl": "approx_kl",
    "ppo/clip_fraction": "clip",
    "ppo/policy_grad_norm": "grad",
    "ppo/importance_weight_mean": "weight",
    "ppo/effective_sample_size": "ess",
    "ppo/logprob_mismatch": "mismatch",
}
"""Metrics of a step to what its line calls them; the last three say how far off-policy it is."""
_LITTLE_LEFT = 0.9
"""Below this effective sample size, a tenth of the rollouts is lost."""


def changed_config(config: TrainConfig, changes: Sequence[str]) -> TrainConfig:
    """A configuration with other settings of ``ppo`` and ``reward``.

    Args:
        config: The run's.
        changes: Each ``section.key=value``; ``null`` is none.

    Raises:
        UsageError: A key or a value is none.
    """
    values: dict[str, Any] = config.model_dump()
    for change in changes:
        key, mark, value = change.partition("=")
        section, _, name = key.partition(".")
        if not mark or section not in _SECTIONS or name not in values[section]:
            raise UsageError(
                f"--what-if {change!r}: expected ppo.KEY=VALUE or reward.KEY=VALUE with a key of theirs"
            )
        values[section][name] = None if value == "null" else value
    try:
        return TrainConfig.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(map(str, first["loc"])) or "configuration"
        raise UsageError(f"--what-if {' '.join(changes)}: {key}: {first['msg']}") from None


def what_if(run_folder: Path, changes: Sequence[str], *, from_step: int, say: Say) -> None:
    """Replay a run under other settings, and say how it differs at each step and in the end.

    Args:
        run_folder: The run's.
        changes: See `changed_config`.
        from_step: Start at the newest checkpoint that is not after this step.
        say: Gets every line.

    Raises:
        UsageError: There is nothing to replay, or a change is none.
        CheckpointError: No such checkpoint is whole.
        JournalError: What a step trained on is missing or damaged.
    """
    before = read_run_config(run_folder)
    config = changed_config(before, changes)
    replay = open_replay(run_folder, config, from_step=from_step, say=say)
    learner, journal = replay.learner, replay.journal
    changed_keys = {change.partition("=")[0] for change in changes}
    if "ppo.kl_coef" in changed_keys:
        learner.update.kl.coef = config.ppo.kl_coef
    say(
        f"what if {', '.join(changes)}, from step {replay.start + 1} on: the rollouts stay those of the "
        "recorded policy; in parentheses what it recorded"
    )
    rewards = _Rewards(config, rescore=any(key.startswith("reward.") for key in changed_keys))

    def scale(entry: JournaledStep) -> float:
        if "ppo.learning_rate_schedule" in changed_keys:
            return learner.learning_rate_scale(entry.step)
        return entry.learning_rate_scale

    there: list[Mapping[str, float]] = []
    here: list[Mapping[str, float]] = []
    for done in recompute(
        journal,
        learner,
        replay.checkpoint,
        last_step=journal.last_step,
        samples_of=rewards.samples_of,
        learning_rate_scale=scale,
    ):
        recorded, found = replay.rows.get(done.entry.step, {}), dict(done.metrics)
        reward_before, found["reward"] = rewards.take_means()
        there.append({**recorded, "reward": reward_before})
        here.append(found)
        say(f"step {done.entry.step:>4} {_compared(there[-1], here[-1])}")
    say(f"mean of {len(here)} {_compared(_means(there), _means(here))}")
    for adapter in journal.adapters_of(journal.last_step)[-1:]:
        folder = run_folder / ADAPTERS_FOLDER / adapter_name(adapter.version)
        if folder.is_dir():
            start = read_adapter(run_folder / START_FOLDER)
            moved = _distance(start, read_adapter(folder))
            apart = _distance(learner.roles.adapter_state(Role.POLICY), read_adapter(folder))
            say(
                f"in the end the two policies are {apart:.4g} apart (norm of all adapter weights); "
                f"the recorded one has moved {moved:.4g} from the start"
            )
    ess = here[-1].get("ppo/effective_sample_size", math.nan)
    if ess < _LITTLE_LEFT:
        say(
            f"warning: the effective sample size is down to {ess:.0%} of the tokens: these rollouts say "
            "little of what the other policy would have sampled"
        )


class _Rewards:
    """What trains of each group, under the run's rewards or under others; keeps the step's means."""

    def __init__(self, config: TrainConfig, *, rescore: bool):
        self._config = config.reward
        self._rescore = rescore
        self._before: list[float] = []
        self._after: list[float] = []

    def samples_of(self, group: RolloutRow) -> list[Sample]:
        """The samples; notes the rewards of all completions, as recorded and as they are here."""
        recorded = [arm.reward for arm in group.arm_outputs]
        self._before += recorded
        if not self._rescore:
            self._after += recorded
            return group.samples
        scored = group.scored(self._config)
        self._after += scored.rewards
        return scored.samples

    def take_means(self) -> tuple[float, float]:
        """The means over the step, recorded and here; the next step begins."""
        means = statistics.fmean(self._before), statistics.fmean(self._after)
        self._before, self._after = [], []
        return means


def _compared(recorded: Mapping[str, float], found: Mapping[str, float]) -> str:
    names = {"reward": "reward", **_SHOWN}
    return " ".join(
        f"{shown} {found[name]:.4g} ({recorded.get(name, math.nan):.4g})"
        for name, shown in names.items()
        if name in found
    )


def _means(rows: Sequence[Mapping[str, float]]) -> dict[str, float]:
    names = [name for name in rows[0] if all(name in row for row in rows)]
    return {name: statistics.fmean(row[name] for row in rows) for name in names}


def _distance(one: AdapterState, other: AdapterState) -> float:
    squares = [((one[name].double() - other[name].double()) ** 2).sum() for name in one]
    return math.sqrt(float(torch.stack(squares).sum()))

"""The findings in a run's metrics, the likeliest cause first.

Rules are functions of a `RunRecord`, ordered from cause to effect: the reward must follow correctness,
the rollouts must come from the policy that trains, steps must be of a sound size, the policy must keep
exploring, groups and critic must be informative. The first rule that fires is the likeliest cause.
Levels are means over the last quarter of the steps; every threshold is a constant of its module.
"""

from collections.abc import Callable

from trainer.config.sections import TrainConfig
from trainer.report.findings import policy as policy_findings
from trainer.report.findings import reward as reward_findings
from trainer.report.findings import rollouts as rollout_findings
from trainer.report.findings.finding import Finding
from trainer.report.run_record import RunRecord

MIN_STEPS = 8
"""With fewer steps, neither trends nor levels are meaningful."""
MEANINGLESS = ("reward_ignores_correctness", "golds_do_not_fit")
"""Findings that rule out that the reward improved the policy."""

_RULES: tuple[Callable[[RunRecord, TrainConfig], Finding | None], ...] = (
    reward_findings.reward_ignores_correctness,
    reward_findings.golds_do_not_fit,
    policy_findings.mismatch,
    policy_findings.kl_blow_up,
    policy_findings.steps_too_large,
    policy_findings.stale,
    policy_findings.entropy,
    rollout_findings.truncation,
    reward_findings.coherence_without_correctness,
    rollout_findings.past_its_best,
    rollout_findings.zero_variance,
    rollout_findings.critic,
)


def findings_of(run: RunRecord, *, helps: bool) -> tuple[Finding, ...]:
    """The findings in a run's metrics, the likeliest cause first.

    Args:
        run: The run; where its configuration cannot be read, the defaults are assumed.
        helps: Whether RL is helping, according to the paired test.
    """
    if len(run.rows) < MIN_STEPS:
        return ()
    config = run.config or TrainConfig()
    found = [rule(run, config) for rule in _RULES]
    if not helps:
        found.append(reward_findings.reward_without_accuracy(run, config))
        if not any(found):
            found.append(policy_findings.unmoved(run, config))
    return tuple(finding for finding in found if finding is not None)

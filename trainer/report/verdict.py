"""Is RL helping? The verdict of a paired test on held-out questions, and what to change next.

Input: a `RunRecord`. Output: a `Verdict`, which the terminal and the report show. The test decides whether
accuracy changed; the findings (`trainer.report.findings.ranking`) give likely causes. If accuracy rose
but the reward does not follow correctness, RL gets no credit: random rewards improve some models too
(Spurious Rewards, arXiv 2506.10947). The test covers the choice of questions, not the choice of training seeds.
"""

import json
import math
import shlex
from dataclasses import dataclass
from enum import StrEnum

from rich.console import Console
from scipy.stats import norm

from inference_server.wire.schemas import adapter_name
from trainer.console.terminal import print_line
from trainer.evaluation.results import EVALUATION_FILE, PairedDifference
from trainer.evaluation.statistics import CONFIDENCE
from trainer.evaluation.tables import p_value, signed
from trainer.io.adapter_settings import training_data
from trainer.io.run_layout import ADAPTERS_FOLDER, START_FOLDER, version_folders
from trainer.report.findings.finding import Finding
from trainer.report.findings.ranking import MEANINGLESS, findings_of
from trainer.report.run_record import RunRecord

_POINTS_TO_SEE = 2.0
"""Effect for which an inconclusive verdict states the number of questions needed."""
_POWER_Z, _CONFIDENCE_Z = float(norm.isf(0.2)), float(norm.isf((1 - CONFIDENCE) / 2))
"""Normal quantiles of 80% power and of the test's two-sided level."""


class Outcome(StrEnum):
    """Whether RL is helping."""

    HELPING = "helping"
    """Accuracy rose, according to the paired test."""
    UNEARNED = "unearned"
    """Accuracy rose, but the reward did not pay for correct answers."""
    HURTING = "hurting"
    """Accuracy fell, according to the paired test."""
    UNDECIDED = "undecided"
    """The paired test is inconclusive."""
    UNMEASURED = "unmeasured"
    """There is no evaluation of two models to compare."""


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """The answer, its evidence, and the findings in the metrics."""

    outcome: Outcome
    answer: str
    """In a few words."""
    evidence: str
    """The basis of the answer, in one or two sentences."""
    other_data: str | None
    """A sentence that says that the questions are not from the run's source; None unless that is known."""
    findings: tuple[Finding, ...]
    """The likeliest cause first."""

    @property
    def cause(self) -> Finding | None:
        """What most likely keeps RL from helping; None if it helps, was not measured, or there is no finding."""
        needs_cause = self.outcome not in (Outcome.HELPING, Outcome.UNMEASURED)
        return self.findings[0] if needs_cause and self.findings else None


def verdict_of(run: RunRecord) -> Verdict:
    """Judge a run by its evaluation, and look for causes in its metrics."""
    outcome, answer, evidence = _judge(run)
    findings = findings_of(run, helps=outcome is Outcome.HELPING)
    if outcome is Outcome.HELPING and any(finding.name in MEANINGLESS for finding in findings):
        outcome, answer = Outcome.UNEARNED, "Not because of its reward."
        evidence += (
            " Accuracy rose, but the reward did not pay for it: this is drift, and it can reverse."
        )
    return Verdict(
        outcome=outcome,
        answer=answer,
        evidence=evidence,
        other_data=None if outcome is Outcome.UNMEASURED else run.other_data(),
        findings=findings,
    )


def _judge(run: RunRecord) -> tuple[Outcome, str, str]:
    if run.evaluation is None:
        said = filter(None, (run.left_out, _how_to_measure(run)))
        return Outcome.UNMEASURED, "Not measured.", " ".join(said)
    if run.compared is None:
        missing = f"{EVALUATION_FILE} does not compare an adapter of the run with the run's start."
        return Outcome.UNMEASURED, "Not measured.", f"{missing} {_how_to_measure(run)}"
    start, trained = run.compared
    found = run.evaluation.difference(trained.label, start.label)
    if found is None or found.p_value is None:
        return Outcome.UNMEASURED, "Not measured.", _how_to_measure(run)
    num_questions = run.evaluation.num_questions
    evidence = (
        f"{found.label} answers {start.accuracy.value:.1%} → {trained.accuracy.value:.1%} of "
        f"{num_questions} held-out questions correctly: {signed(found.points)} points over "
        f"{found.baseline} [{signed(found.low)}, {signed(found.high)}], {found.num_won} won and "
        f"{found.num_lost} lost, McNemar's exact p {_equals(found.p_value)}."
    )
    if (num_evaluations := run.num_evaluations_chosen_from(trained)) > 1:
        evidence += (
            f" It was chosen as the best of {num_evaluations} evaluations during training: if they asked some of these "
            "questions, the gain is overstated and p is too small; evaluate on other questions to be sure."
        )
    if found.p_value < 1 - CONFIDENCE:
        if found.points > 0:
            return Outcome.HELPING, "Yes.", evidence
        return Outcome.HURTING, "No, it hurts.", evidence
    return (
        Outcome.UNDECIDED,
        "Inconclusive.",
        f"{evidence} {_needed(found, num_questions)}",
    )


def _equals(value: float) -> str:
    shown = p_value(value)
    return shown.replace("<", "< ") if shown.startswith("<") else f"= {shown}"


def _needed(found: PairedDifference, num_questions: int) -> str:
    """Say how many questions would show a small effect, given the share that the two models answer differently.

    ``n = (z_α sqrt(d) + z_β sqrt(d − δ²))² / δ²``, where d is that share and δ the effect (Connor 1987).
    """
    delta = _POINTS_TO_SEE / 100
    discordant = max((found.num_won + found.num_lost) / num_questions, delta)
    needed = (
        _CONFIDENCE_Z * math.sqrt(discordant) + _POWER_Z * math.sqrt(discordant - delta * delta)
    ) ** 2 / (delta * delta)
    return f"Detecting an effect of {_POINTS_TO_SEE:g} points takes about {_round_up(needed)} questions."


def _round_up(number: float) -> int:
    step = int(10 ** max(0, math.floor(math.log10(number)) - 1))
    return math.ceil(number / step) * step


def _how_to_measure(run: RunRecord) -> str:
    adapter = None if run.config is None else run.config.policy.adapter
    # The run's own copy of the adapter exists even if the adapter is gone.
    kept = run.folder / START_FOLDER
    start = adapter if adapter is None or not kept.exists() else kept
    version = run.rows[-1].get("version", max(version_folders(run.folder), default=None))
    newest = (
        "ADAPTER"
        if version is None
        else f"{run.folder}/{ADAPTERS_FOLDER}/{adapter_name(int(version))}"
    )
    models = json.dumps([f"Start={start or 'base'}", f"PPO={newest}"], ensure_ascii=False)
    # `eval` takes the questions from the run's settings, or from those with which its rollouts were collected.
    known = training_data(run.folder) if run.held_out is None else None
    is_known = run.held_out is not None or (known is not None and known.held_out_source is not None)
    data = "" if is_known else " --data QUESTIONS"
    return (
        "Evaluate the run's starting point and its newest adapter on the same held-out questions: "
        f"python -m trainer eval --models {shlex.quote(models)}{data} --output "
        f"{shlex.quote(str(run.folder / EVALUATION_FILE))}"
        + (
            data
            and ", with a file of held-out questions as QUESTIONS: the run's settings name none"
        )
    )


def print_verdict(verdict: Verdict, console: Console) -> None:
    """Print a verdict as plain lines; paths and labels are never read as markup."""
    said = filter(None, (verdict.answer, verdict.evidence, verdict.other_data))
    print_line(console, f"Is RL helping? {' '.join(said)}")
    if verdict.cause is not None:
        print_line(console, f"Most likely cause: {verdict.cause.title}")
    for finding in verdict.findings:
        print_line(console, f"- {finding.title}. {finding.evidence} → {finding.change}")

"""Is RL helping? The verdict of a test on held-out questions, and what to change next.

Input: a `RunRecord`. Output: a `Verdict`, which the terminal and the report show. The paired test of ``evaluation.json``
decides whether accuracy changed; without it, the run's own evaluations do. The findings (`trainer.report.findings.ranking`) give likely causes. If accuracy rose
but the reward does not follow correctness, RL gets no credit: random rewards improve some models too
(Spurious Rewards, arXiv 2506.10947). The test covers the choice of questions, not the choice of training seeds.
"""

import json
import math
import shlex
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum

from rich.console import Console
from scipy.stats import norm

from inference_server.wire.schemas import adapter_name
from trainer.console.terminal import print_line
from trainer.errors import UsageError
from trainer.evaluation.results import EVALUATION_FILE, PairedDifference
from trainer.evaluation.statistics import CONFIDENCE
from trainer.evaluation.tables import p_value, signed
from trainer.io.adapter_settings import training_data
from trainer.io.kept_settings import CONFIG_FILE
from trainer.io.run_layout import ADAPTERS_FOLDER, START_FOLDER, version_folders
from trainer.report.findings.finding import Finding
from trainer.report.findings.ranking import MEANINGLESS, findings_of
from trainer.report.own_evaluations import Change, own_evaluations
from trainer.report.run_record import RunRecord

_POINTS_TO_SEE = 2.0
"""Effect for which an inconclusive verdict states the number of questions needed."""
_POWER_Z, _CONFIDENCE_Z = float(norm.isf(0.2)), float(norm.isf((1 - CONFIDENCE) / 2))
"""Normal quantiles of 80% power and of the test's two-sided level."""

_UNKNOWN_SETTINGS = f"The run's settings are not known, because this version finds no {CONFIG_FILE} that it can read"
_ASSUMED = "the values of settings in the findings are the defaults, not the run's"


class Outcome(StrEnum):
    """Whether RL is helping."""

    HELPING = "helping"
    """Accuracy rose, according to the test."""
    UNEARNED = "unearned"
    """Accuracy rose, but the reward did not pay for correct answers."""
    HURTING = "hurting"
    """Accuracy fell, according to the test."""
    UNDECIDED = "undecided"
    """The test is inconclusive."""
    UNMEASURED = "unmeasured"
    """No two evaluated models can be compared."""


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
    unknown_settings: str | None
    """A sentence that says that the run's settings are not known, and what follows for the findings; None if they are."""
    is_paired: bool
    """Whether the answer is that of the paired test of ``evaluation.json``."""

    @property
    def cause(self) -> Finding | None:
        """What most likely keeps RL from helping; None if it helps, was not measured, or there is no finding."""
        needs_cause = self.outcome not in (Outcome.HELPING, Outcome.UNMEASURED)
        return self.findings[0] if needs_cause and self.findings else None


def verdict_of(run: RunRecord) -> Verdict:
    """Judge a run by its evaluation, and look for causes in its metrics."""
    paired = _paired(run)
    outcome, answer, evidence = paired or _unpaired(run)
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
        other_data=run.other_data() if paired else None,
        findings=findings,
        unknown_settings=None if run.config is not None else _unknown_settings(findings),
        is_paired=paired is not None,
    )


def _unknown_settings(findings: tuple[Finding, ...]) -> str:
    return f"{_UNKNOWN_SETTINGS}: {_ASSUMED}." if findings else f"{_UNKNOWN_SETTINGS}."


def _paired(run: RunRecord) -> tuple[Outcome, str, str] | None:
    """The judgement of the paired test; None if there is no evaluation of the run's start and an adapter of it."""
    if run.evaluation is None or run.compared is None:
        return None
    start, trained = run.compared
    found = run.evaluation.difference(trained.label, start.label)
    if found is None or found.p_value is None:
        return None
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


def _unpaired(run: RunRecord) -> tuple[Outcome, str, str]:
    """The judgement of the run's own evaluations, and how to get a paired test."""
    said = [run.left_out or run.unreadable or ""]
    if run.evaluation is not None:
        said = [f"{EVALUATION_FILE} does not compare an adapter of the run with the run's start."]
    evaluations = own_evaluations(run.measured)
    outcome, answer = Outcome.UNMEASURED, "Not measured."
    if len(evaluations) > 1:
        change = Change.of(evaluations)
        outcome, answer = _of_change(change)
        said.append(change.evidence)
        if change.first.step:
            said.append("No evaluation of the run's start is recorded.")
        said.append("A paired test, question by question, detects smaller changes.")
    elif evaluations:
        said.append(
            f"Held-out accuracy was {evaluations[0]}, of {evaluations[0].num_questions} questions, in the run's only "
            "evaluation so far."
        )
    return outcome, answer, " ".join(filter(None, (*said, _how_to_measure(run))))


def _of_change(change: Change) -> tuple[Outcome, str]:
    """Whether accuracy changed; the newest version is judged, because the best is the luckiest of several."""
    since = f", since step {change.first.step}" if change.first.step else ""
    if change.low > 0:
        return Outcome.HELPING, f"Yes{since}."
    if change.high < 0:
        return Outcome.HURTING, f"No, it hurts{since}."
    return Outcome.UNDECIDED, "Inconclusive."


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
    is_known = run.config is not None
    adapter = None if run.config is None else run.config.policy.adapter
    # The run's own copy of what it began with exists even if the adapter is gone.
    kept = run.folder / START_FOLDER
    start = kept if kept.exists() and (adapter is not None or not is_known) else adapter
    version = run.rows[-1].get("version", max(version_folders(run.folder), default=None))
    newest = (
        "ADAPTER"
        if version is None
        else f"{run.folder}/{ADAPTERS_FOLDER}/{adapter_name(int(version))}"
    )
    models = json.dumps([f"Start={start or 'base'}", f"PPO={newest}"], ensure_ascii=False)
    # `eval` takes the questions from the run's settings, or from those with which its rollouts were collected.
    known = None
    with suppress(UsageError):
        known = training_data(run.folder) if run.held_out is None else None
    has_data = run.held_out is not None or (known is not None and known.held_out_source is not None)
    data = "" if has_data else " --data QUESTIONS"
    why = "settings name none" if is_known else "settings are not known"
    return (
        "Evaluate the run's starting point and its newest adapter on the same held-out questions (this needs a running "
        f"server): python -m trainer eval --models {shlex.quote(models)}{data}{_server(run)} --output "
        f"{shlex.quote(str(run.folder / EVALUATION_FILE))}"
        + (data and f", with a file of held-out questions as QUESTIONS: the run's {why}")
    )


def _server(run: RunRecord) -> str:
    """The flag that names the run's server, unless it is the default one."""
    if run.config is None:
        return ""
    server = run.config.server
    url = server.urls[0] if server.urls else server.url
    is_default = url == type(server).model_fields["url"].default
    return "" if is_default else f" --server.url {shlex.quote(url)}"


def print_verdict(verdict: Verdict, console: Console) -> None:
    """Print a verdict as plain lines; paths and labels are never read as markup."""
    said = filter(None, (verdict.answer, verdict.evidence, verdict.other_data))
    print_line(console, f"Is RL helping? {' '.join(said)}")
    if verdict.cause is not None:
        print_line(console, f"Most likely cause: {verdict.cause.title}")
    if verdict.unknown_settings is not None:
        print_line(console, verdict.unknown_settings)
    for finding in verdict.findings:
        print_line(console, f"- {finding.title}. {finding.evidence} → {finding.change}")

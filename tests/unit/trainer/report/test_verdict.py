"""Is RL helping? Real runs whose truth is known, each finding on its own, and which models are compared."""

import dataclasses
import io
import json
import math
import shlex
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from inference_server.wire.digests import sha256_of_bytes
from trainer.config.sections import OfflineRunConfig, PolicyConfig, TrainConfig
from trainer.evaluation.arms_results import CompletionStats, Estimate
from trainer.evaluation.results import Evaluation, ModelResult, PairedDifference
from trainer.evaluation.statistics import Trend, mcnemar_p_value, wilson_interval
from trainer.io.kept_settings import as_toml
from trainer.io.metrics_file import Metrics
from trainer.report.findings.ranking import MIN_STEPS, findings_of
from trainer.report.run_record import RunRecord, read_run
from trainer.report.verdict import Outcome, print_verdict, verdict_of

MADE_RUNS = Path(__file__).parents[3] / "fixtures/verdict"
"""Real runs of the tiny model against a real server, made by benchmarks/learning/verdict_runs.py."""

# --- runs whose truth is known ----------------------------------------------------------------


def test_a_run_that_improves_is_helping() -> None:
    verdict = verdict_of(read_run(MADE_RUNS / "improves"))
    assert verdict.outcome is Outcome.HELPING
    assert verdict.answer == "Yes."
    assert verdict.cause is None
    # With hardly anything left to learn, only these findings may remain; nothing is called broken.
    assert {finding.name for finding in verdict.findings} <= {"zero_variance", "critic"}


@pytest.mark.parametrize(
    ("name", "cause"),
    [
        ("random_reward", "reward_ignores_correctness"),
        ("shuffled_golds", "golds_do_not_fit"),
        ("kl_blow_up", "kl_blow_up"),
    ],
)
def test_a_run_that_cannot_improve_is_not_helping_and_its_cause_is_named(
    name: str, cause: str
) -> None:
    verdict = verdict_of(read_run(MADE_RUNS / name))
    assert verdict.outcome in (Outcome.HURTING, Outcome.UNDECIDED, Outcome.UNEARNED)
    assert not verdict.answer.startswith("Yes")
    assert verdict.cause is not None
    assert verdict.cause.name == cause


def test_a_blown_up_run_hurts_and_the_coefficient_is_what_to_change() -> None:
    verdict = verdict_of(read_run(MADE_RUNS / "kl_blow_up"))
    assert verdict.outcome is Outcome.HURTING
    assert verdict.cause is not None
    assert "ppo.kl_coef is 0, so nothing limits it" in verdict.cause.evidence
    assert verdict.cause.change.startswith("raise ppo.kl_coef (0), with ppo.adaptive_kl")


def test_a_random_reward_gets_no_credit_for_accuracy_that_rose() -> None:
    """Training on random rewards happened to drift the right way: 28 questions won, 11 lost."""
    run = read_run(MADE_RUNS / "random_reward")
    assert run.evaluation is not None
    (difference,) = run.evaluation.differences
    assert difference.points > 0
    assert (difference.p_value or 1.0) < 0.05
    verdict = verdict_of(run)
    assert (verdict.outcome, verdict.answer) == (Outcome.UNEARNED, "Not because of its reward.")
    assert "drift, and it can reverse" in verdict.evidence


def test_without_its_evaluation_a_run_is_not_judged_but_its_metrics_still_speak(
    tmp_path: Path,
) -> None:
    run = Path(shutil.copytree(MADE_RUNS / "kl_blow_up", tmp_path / "run"))
    (run / "evaluation.json").unlink()
    verdict = verdict_of(read_run(run))
    assert (verdict.outcome, verdict.answer) == (Outcome.UNMEASURED, "Not measured.")
    assert verdict.cause is None
    assert verdict.findings[0].name == "kl_blow_up"
    assert "python -m trainer eval --models" in verdict.evidence
    assert f"--output {run / 'evaluation.json'}" in verdict.evidence


OWN = {"source": "mine.jsonl", "evaluation_source": "test.jsonl"}


@pytest.mark.parametrize(
    ("data", "asked", "said"),
    [
        ({"source": "word-problems"}, "word-problems", None),
        (OWN, "./test.jsonl", None),
        (OWN, "word-problems", "are those of word-problems, but the run's held-out questions"),
        (OWN, "other.jsonl", "(data.evaluation_source) are those of test.jsonl."),
        ({"source": "mine.jsonl"}, "test.jsonl", None),
        (
            {"source": "mine.jsonl"},
            "word-problems",
            "was trained on mine.jsonl, and its settings name no",
        ),
        # A run of train-offline has no data of its own.
        ({}, "word-problems", None),
    ],
)
def test_the_verdict_says_if_the_questions_are_not_from_the_run_s_source(
    data: dict[str, Any], asked: str, said: str | None
) -> None:
    evaluated = EVALUATED.model_copy(update={"data": asked})
    verdict = verdict_of(record(config={"data": data}, evaluated=evaluated))
    shown = io.StringIO()
    print_verdict(verdict, Console(file=shown, width=1000))
    assert ("The questions are those of" in shown.getvalue()) == (said is not None)
    assert said is None or said in shown.getvalue()


@pytest.mark.parametrize(
    ("data", "names"), [(OWN, True), ({"source": "mine.jsonl"}, False), ({}, False)]
)
def test_how_to_measure_names_questions_where_the_run_does_not(
    data: dict[str, Any], names: bool
) -> None:
    evidence = verdict_of(record(config={"data": data})).evidence
    assert ("--data QUESTIONS --output" in evidence) is not names
    assert ("QUESTIONS: the run's settings name none" in evidence) is not names


@pytest.mark.parametrize(
    ("server", "flag"),
    [
        ({}, ""),
        ({"url": "http://gpu:8000"}, " --server.url http://gpu:8000"),
        ({"urls": ["http://a:8000", "http://b:8000"]}, " --server.url http://a:8000"),
    ],
)
def test_how_to_measure_says_that_it_needs_a_server_and_names_the_run_s(
    server: dict[str, Any], flag: str
) -> None:
    evidence = verdict_of(record(config={"server": server})).evidence
    assert "(this needs a running server)" in evidence
    assert ("--server.url" in evidence) is bool(flag)
    assert f"{flag} --output" in evidence


def test_how_to_measure_finds_the_questions_of_the_rollouts_of_an_offline_run(
    tmp_path: Path,
) -> None:
    run = Path(shutil.copytree(MADE_RUNS / "kl_blow_up", tmp_path / "my run"))
    (run / "evaluation.json").unlink()
    rollouts = tmp_path / "rollouts.jsonl"
    (tmp_path / "rollouts.jsonl.toml").write_text(
        '[rollout]\n[data]\nsource = "mine.jsonl#train"\n'
    )
    config = OfflineRunConfig.model_validate({"rollouts": rollouts})
    (run / "config.toml").write_text(as_toml(config))
    evidence = verdict_of(read_run(run)).evidence
    assert "--data QUESTIONS" in evidence
    of_both = '[rollout]\n[data]\nsource = "mine.jsonl#train"\nevaluation_source = "mine.jsonl#held_out"\n'
    (tmp_path / "rollouts.jsonl.toml").write_text(of_both)
    evidence = verdict_of(read_run(run)).evidence
    assert "QUESTIONS" not in evidence
    # It can be pasted: the folder's name has a space.
    command = shlex.split(evidence[evidence.index("python -m trainer eval") :])
    assert command[-1] == str(run / "evaluation.json")
    assert json.loads(command[command.index("--models") + 1])[0] == "Start=base"
    # The run has a copy of the adapter that it began with, which exists even if the adapter is gone.
    policy = PolicyConfig(adapter=tmp_path / "gone")
    (run / "config.toml").write_text(as_toml(config.model_copy(update={"policy": policy})))
    assert f"Start={tmp_path / 'gone'}" in verdict_of(read_run(run)).evidence
    (run / "start").mkdir()
    assert f"Start={run / 'start'}" in verdict_of(read_run(run)).evidence


@pytest.mark.parametrize(
    ("version", "num_evaluations"), [(9, 3), (13, 0), (17, 0)], ids=["best", "another", "newest"]
)
def test_the_verdict_says_if_evaluations_have_chosen_the_version(
    version: int, num_evaluations: int
) -> None:
    def evaluated(step: int) -> Metrics:
        found = {8: 0.7, 12: 0.6, 16: 0.65}
        if step not in found:
            return {}
        return {
            "eval/accuracy": found[step],
            "eval/step": step,
            "eval/version": step + 1,
            "eval/best_step": 8,
        }

    models = (
        EVALUATED.models[0],
        EVALUATED.models[1].model_copy(update={"model": f"run/adapters/policy-{version:06d}"}),
    )
    run = record(evaluated, evaluated=EVALUATED.model_copy(update={"models": models}))
    assert run.num_evaluations_chosen_from(models[1]) == num_evaluations
    said = f"the best of {num_evaluations} evaluations" in verdict_of(run).evidence
    assert said is (num_evaluations > 0)


def asked(num_correct: int, num_questions: int = 100, best_step: int = 4) -> Metrics:
    """The metrics of an evaluation during training."""
    return {
        "eval/accuracy": num_correct / num_questions,
        "eval/num_questions": num_questions,
        "eval/best_step": best_step,
    }


def test_the_luckiest_of_many_evaluations_is_not_past_its_best() -> None:
    def lucky(step: int) -> Metrics:
        # 70 of 100 with a standard error of 4.6 points, and the last a little below.
        return asked(70 + round(7 * math.sin(5 * step)))

    def fallen(step: int) -> Metrics:
        return asked(80 if step < 9 else 50)

    found = [
        [f.name for f in findings_of(record(change, config=LOOSE_TARGET), helps=True)]
        for change in (lucky, fallen)
    ]
    assert found == [[], ["past_its_best"]]


@pytest.mark.parametrize(
    ("best", "last", "is_past"),
    [
        # The default of run.num_evaluation_questions is 100, whatever the source has.
        ((16, 20), (12, 20), False),
        ((80, 100), (60, 100), True),
        ((320, 400), (280, 400), True),
        ((80, 100), (70, 100), False),
        ((20, 20), (0, 20), True),
        ((16, 20), (240, 400), False),
    ],
)
def test_a_fall_of_accuracy_is_judged_by_the_questions_that_were_asked(
    best: tuple[int, int], last: tuple[int, int], is_past: bool
) -> None:
    def evaluated(step: int) -> Metrics:
        return {4: asked(*best), 16: asked(*last)}.get(step, {})

    found = findings_of(record(evaluated, config=LOOSE_TARGET), helps=True)
    assert [finding.name for finding in found] == ["past_its_best"] * is_past


def test_the_version_that_a_run_began_with_is_not_the_best_of_which_a_finding_speaks() -> None:
    def evaluated(step: int) -> Metrics:
        start = {k: v for k, v in asked(95).items() if k != "eval/best_step"} | {"eval/step": 0}
        return {1: start, 4: asked(60), 16: asked(58)}.get(step, {})

    assert not findings_of(record(evaluated, config=LOOSE_TARGET), helps=True)


def test_a_fall_in_an_evaluation_with_a_line_of_its_own_is_one() -> None:
    run = record(lambda step: asked(80) if step == 4 else {}, config=LOOSE_TARGET)
    assert not findings_of(run, helps=True)
    late = {"step": run.rows[-1]["step"], **asked(40)}
    (finding,) = findings_of(dataclasses.replace(run, late_evaluations=[late]), helps=True)
    assert finding.name == "past_its_best"
    assert "ended at 40.0%" in finding.evidence


# --- each finding alone -----------------------------------------------------------------------


def healthy(step: int, num_steps: int = 16) -> Metrics:
    """A step of a run that learns and shows nothing to change; no two steps are alike."""
    progress, wave = step / num_steps, 0.01 * math.sin(7 * step)
    return {
        "step": step,
        "version": step + 1,
        "reward/mean": 0.2 + progress + wave,
        "reward/base": 0.1 + 0.6 * progress,
        "reward/coherence": 0.1 + 0.4 * progress,
        "reward/length": 0.0,
        "reward/correct": 0.3 + 0.3 * progress + wave,
        "reward/follows_correct": 0.95,
        "scores/s_end": 0.4 + 0.2 * progress + wave,
        "rollout/lag": 1.0,
        "rollout/truncated": 0.01,
        "rollout/zero_variance_groups": 0.2,
        "rollout/completion_tokens_mean": 100.0,
        "ppo/reference_kl": 0.2 * progress,
        "ppo/kl_coef": 0.05,
        "ppo/entropy": 0.5 - 0.1 * progress,
        "ppo/clip_fraction": 0.02,
        "ppo/approx_kl_max": 0.01,
        "ppo/logprob_lag": 0.005,
        "ppo/logprob_mismatch": 0.001,
        "ppo/effective_sample_size": 0.99,
        "ppo/explained_variance": 0.5,
    }


def model(label: str, num_correct: int, where: str) -> ModelResult:
    low, high = wilson_interval(num_correct, 200)
    accuracy = Estimate(value=num_correct / 200, low=low, high=high)
    return ModelResult(
        label=label,
        model=where,
        adapter_sha256=None,
        accuracy=accuracy,
        strict=accuracy,
        completions=CompletionStats(answered=1.0, truncated=0.0, mean_tokens=50.0),
        arms=None,
    )


def evaluation(*models: ModelResult, won: int = 10, lost: int = 10) -> Evaluation:
    """An evaluation of 200 questions; every later model has the same ``won`` and ``lost`` against every earlier one."""
    return Evaluation(
        base_model="base-model",
        base_fingerprint=None,
        data="word-problems",
        data_seed=0,
        num_questions=200,
        arm="wolfram_0",
        samples_per_arm=0,
        seed=0,
        max_tokens=64,
        answer_type="number",
        prompt_format="plain",
        stop=(),
        models=models,
        differences=tuple(
            PairedDifference(
                label=later.label,
                baseline=earlier.label,
                measure="greedy",
                points=(won - lost) / 2,
                low=(won - lost) / 2 - 3,
                high=(won - lost) / 2 + 3,
                num_won=won,
                num_lost=lost,
                p_value=mcnemar_p_value(won, lost),
            )
            for index, later in enumerate(models)
            for earlier in models[:index]
        ),
    )


def record(
    change: Callable[[int], Metrics] = lambda step: {},
    *,
    num_steps: int = 16,
    config: dict[str, Any] | None = None,
    evaluated: Evaluation | None = None,
) -> RunRecord:
    """A healthy run in which ``change`` overwrites metrics of each step; a metric that is NaN is left out."""
    rows = [{**healthy(step, num_steps), **change(step)} for step in range(1, num_steps + 1)]
    kept = [{k: v for k, v in row.items() if not math.isnan(v)} for row in rows]
    return RunRecord(
        folder=Path("runs/x"),
        rows=kept,
        config_text=None,
        config=TrainConfig.model_validate(config or {}),
        has_evaluation=evaluated is not None,
        evaluation=evaluated,
    )


EVALUATED = evaluation(
    model("SFT", 100, "runs/sft"), model("PPO", 100, "runs/x/adapters/policy-000017")
)

ALONE: list[tuple[str, Callable[[int], Metrics], dict[str, Any], tuple[str, ...]]] = [
    (
        "reward_ignores_correctness",
        lambda step: {"reward/follows_correct": 0.05 * (-1) ** step},
        {},
        ("is +0.00 (mean of 16 steps)", "reward.correct_bonus (1)"),
    ),
    (
        "golds_do_not_fit",
        lambda step: {"reward/correct": 0.02, "scores/s_end": 0.8},
        {"data": {"source": "shuffled.jsonl"}},
        ("50% of the held-out", "more than 2%", "data.source (shuffled.jsonl)"),
    ),
    (
        "mismatch",
        lambda step: {"ppo/logprob_mismatch": 0.03},
        {"policy": {"dtype": "float32"}},
        ("0.03 nats per token", "policy.dtype (float32)"),
    ),
    (
        "mismatch",
        lambda step: {"ppo/effective_sample_size": 0.7},
        {},
        ("is 70% of the tokens", "ppo.sequence_mask"),
    ),
    (
        "stale",
        lambda step: {"ppo/logprob_lag": 0.15, "rollout/lag": 2.0},
        {"rollout": {"max_staleness": 2}},
        ("2.0 versions old", "rollout.max_staleness (2)"),
    ),
    (
        "kl_blow_up",
        lambda step: {"ppo/reference_kl": 0.1 * step},
        {"ppo": {"target_kl": 0.4}},
        ("target_kl is 0.4 and the coefficient is 0.05", "raise ppo.kl_coef (0.05); "),
    ),
    (
        "kl_blow_up",
        lambda step: {"ppo/reference_kl": 2.0 * step},
        {"ppo": {"target_kl": 100.0, "kl_coef": 0.0}},
        ("0.29 per token", "ppo.kl_coef is 0", "with ppo.adaptive_kl"),
    ),
    (
        "steps_too_large",
        lambda step: {"ppo/approx_kl_max": 0.5 if step == 9 else 0.01},
        {},
        ("up to 0.5 nats", "ppo.stop_kl (unset)"),
    ),
    (
        "steps_too_large",
        lambda step: {"ppo/clip_fraction": 0.4},
        {},
        ("40% of the tokens", "ppo.learning_rate (5e-05)"),
    ),
    (
        "entropy_collapse",
        lambda step: {"ppo/entropy": 0.5 * 0.7**step},
        {},
        ("nats per token", "ppo.clip_high (0.2)"),
    ),
    (
        "entropy_explosion",
        lambda step: {"ppo/entropy": 0.3 * 1.2**step},
        {},
        ("nats per token", "lower ppo.learning_rate (5e-05)"),
    ),
    (
        "truncation",
        lambda step: {"rollout/truncated": 0.3},
        {},
        ("30% hit the token limit", "raise rollout.max_tokens (256); ppo.truncation =", "critic"),
    ),
    (
        "truncation",
        lambda step: {"rollout/truncated": 0.3},
        {"ppo": {"target_kl": 1.0, "truncation": "mask"}},
        ("30% hit the token limit", "raise rollout.max_tokens (256)."),
    ),
    (
        "coherence_without_correctness",
        lambda step: {"reward/correct": 0.5 + 0.01 * (-1) ** step},
        {"reward": {"credit": "shared"}},
        ("Agreement went from 0.4", "reward.coherence_weight (0.7)", 'reward.credit to "per_arm"'),
    ),
    (
        "past_its_best",
        lambda step: (
            asked({4: 50, 8: 70, 12: 60, 16: 40}[step], best_step=min(step, 8))
            if step % 4 == 0
            else {}
        ),
        {},
        ("70.0% at step 8 and ended at 40.0%", "checkpoints/best.json"),
    ),
    (
        "zero_variance",
        lambda step: {
            "rollout/zero_variance_groups": 0.8,
            "reward/correct": 0.8 + 0.01 * step,
            "rollout/all_correct_groups": 0.6,
            "rollout/all_wrong_groups": 0.2,
        },
        {},
        ("80% of the groups", "harder questions", "Or turn on rollout.dynamic_sampling"),
    ),
    (
        "zero_variance",
        lambda step: {
            "rollout/zero_variance_groups": 0.8,
            "rollout/all_correct_groups": 0.2,
            "rollout/all_wrong_groups": 0.6,
        },
        {"rollout": {"dynamic_sampling": True}},
        ("57% of all completions are correct", "easier questions"),
    ),
    (
        "zero_variance",
        lambda step: {
            "rollout/zero_variance_groups": 0.8,
            "rollout/all_correct_groups": 0.6,
            "rollout/all_wrong_groups": 0.1,
        },
        {},
        ("60% of all groups are right in every arm, 10% wrong in every arm", "harder questions"),
    ),
    (
        "zero_variance",
        lambda step: {
            "rollout/zero_variance_groups": 0.8,
            "reward/correct": 0.75 + 0.01 * step,
            "rollout/all_correct_groups": 0.1,
            "rollout/all_wrong_groups": 0.6,
        },
        {},
        ("10% of all groups are right in every arm, 60% wrong in every arm", "easier questions"),
    ),
    (
        "critic",
        lambda step: {"ppo/explained_variance": -9.0 if step == 15 else 0.02},
        {},
        ("+0.02 lately", "raise ppo.critic_learning_rate", 'ppo.advantage = "rloo"'),
    ),
    (
        "critic",
        lambda step: {
            "ppo/explained_variance": 0.0,
            "ppo/value_mean": 0.7 * (step % 2),
            "reward/std": 0.6,
        },
        {},
        ("up to 0.70 from one step to the next", "lower ppo.critic_learning_rate"),
    ),
]


@pytest.mark.parametrize(("name", "change", "config", "said"), ALONE)
def test_each_finding_stands_alone_with_its_evidence_and_setting(
    name: str, change: Callable[[int], Metrics], config: dict[str, Any], said: tuple[str, ...]
) -> None:
    run = record(change, config={**LOOSE_TARGET, **config}, evaluated=EVALUATED)
    (finding,) = findings_of(run, helps=True)
    assert finding.name == name
    for words in said:
        assert words in f"{finding.evidence} {finding.change}"


LOOSE_TARGET = {"ppo": {"target_kl": 1.0}}


def test_a_healthy_run_shows_nothing() -> None:
    assert findings_of(record(config=LOOSE_TARGET, evaluated=EVALUATED), helps=True) == ()


def test_hard_questions_are_not_taken_for_wrong_golds() -> None:
    def hard(step: int) -> Metrics:
        return {"reward/correct": 0.02 + 0.001 * step, "scores/s_end": 0.1}

    assert findings_of(record(hard, config=LOOSE_TARGET, evaluated=EVALUATED), helps=True) == ()


def test_correctness_that_rises_under_noise_keeps_up_with_coherence() -> None:
    def noisy(step: int) -> Metrics:
        return {"reward/correct": 0.5 + 0.01 * step + 0.2 * math.sin(3 * step * step)}

    run = record(noisy, config=LOOSE_TARGET, evaluated=EVALUATED)
    assert not Trend.of(run.series("reward/correct")).rises
    assert findings_of(run, helps=True) == ()


def test_a_run_without_a_critic_has_no_finding_about_it() -> None:
    run = record(
        lambda step: {"ppo/explained_variance": math.nan},
        config={"ppo": {"target_kl": 1.0, "advantage": "rloo"}},
    )
    assert findings_of(run, helps=True) == ()


def test_a_reward_that_rises_without_accuracy_is_a_finding_only_where_rl_does_not_help() -> None:
    run = record(config=LOOSE_TARGET, evaluated=EVALUATED)
    (finding,) = findings_of(run, helps=False)
    assert finding.name == "reward_without_accuracy"
    assert "mostly in its base part; held-out accuracy changed by +0.0 points" in finding.evidence
    assert verdict_of(run).cause == finding


def test_an_unmoved_policy_is_a_finding_if_there_is_no_other() -> None:
    def still(step: int) -> Metrics:
        return {"ppo/reference_kl": 0.001, "reward/mean": 0.2 + 0.01 * (-1) ** step}

    run = record(still, config=LOOSE_TARGET, evaluated=EVALUATED)
    (finding,) = findings_of(run, helps=False)
    assert finding.name == "unmoved"
    assert "after 16 steps" in finding.evidence


def test_missing_metrics_are_no_finding() -> None:
    rows = [{"step": float(step)} for step in range(1, 20)]
    run = RunRecord(
        folder=Path("runs/x"),
        rows=rows,
        config_text=None,
        config=None,
        has_evaluation=False,
        evaluation=None,
    )
    assert findings_of(run, helps=False) == ()


def test_findings_of_a_run_without_its_settings_say_that_they_name_defaults() -> None:
    def truncated(step: int) -> Metrics:
        return {"rollout/truncated": 0.5}

    known = record(truncated)
    assert verdict_of(known).unknown_settings is None
    unknown = verdict_of(dataclasses.replace(known, config=None))
    assert unknown.findings
    assert "are the defaults, not the run's" in (unknown.unknown_settings or "")
    shown = io.StringIO()
    print_verdict(unknown, Console(file=shown, width=1000))
    assert "The run's settings are not known" in shown.getvalue()


def test_settings_that_cannot_be_read_are_said_to_be_unknown_without_findings_too(
    tmp_path: Path,
) -> None:
    verdict = verdict_of(dataclasses.replace(record(), config=None, folder=tmp_path))
    assert not verdict.findings
    assert "finds no config.toml that it can read." in (verdict.unknown_settings or "")
    assert "findings" not in (verdict.unknown_settings or "")
    assert "as QUESTIONS: the run's settings are not known" in verdict.evidence
    assert "settings name none" not in verdict.evidence


def test_how_to_measure_takes_the_kept_start_if_the_settings_are_not_known(tmp_path: Path) -> None:
    unknown = dataclasses.replace(record(), config=None, folder=tmp_path)
    assert '"Start=base"' in verdict_of(unknown).evidence
    (tmp_path / "start").mkdir()
    assert f'"Start={tmp_path / "start"}"' in verdict_of(unknown).evidence


def test_few_steps_are_not_judged() -> None:
    def bad(step: int) -> Metrics:
        return {"ppo/reference_kl": 1e3}

    assert findings_of(record(bad, num_steps=MIN_STEPS - 1), helps=False) == ()
    assert findings_of(record(bad, num_steps=MIN_STEPS), helps=False)


# --- the paired test --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("won", "lost", "outcome", "said"),
    [
        (20, 5, Outcome.HELPING, "+7.5 points over SFT [+4.5, +10.5], 20 won and 5 lost"),
        (5, 20, Outcome.HURTING, "-7.5 points"),
        # The interval given above excludes 0: the exact test decides, not the interval.
        (18, 8, Outcome.UNDECIDED, "p = 0.076"),
        (10, 10, Outcome.UNDECIDED, "p = 1. "),
        (40, 0, Outcome.HELPING, "p < 0.0001"),
    ],
)
def test_mcnemars_test_decides(won: int, lost: int, outcome: Outcome, said: str) -> None:
    models = (model("SFT", 100, "runs/sft"), model("PPO", 100 + won - lost, "x/policy-000017"))
    verdict = verdict_of(record(evaluated=evaluation(*models, won=won, lost=lost)))
    assert verdict.outcome is outcome
    assert said in verdict.evidence


def test_an_undecided_test_says_how_many_questions_it_takes() -> None:
    # Connor 1987 with d = 0.1, δ = 0.02: (1.96 sqrt(0.1) + 0.8416 sqrt(0.0996))² / 0.0004 = 1961.
    verdict = verdict_of(record(evaluated=EVALUATED))
    assert "Detecting an effect of 2 points takes about 2000 questions." in verdict.evidence


SFT, BASE = model("SFT", 100, "runs/sft"), model("Base", 60, "base-model")
RUN = model("Run", 130, "runs/x")
OLD, NEW = model("Old", 120, "r/policy-000003"), model("New", 130, "r/policy-000009")
START, FIRST = model("Start", 100, "runs/x/start"), model("First", 100, "r/policy-000001")
OF_ANOTHER = model("Other", 100, "elsewhere/policy-000001")


@pytest.mark.parametrize(
    ("models", "adapter", "expected"),
    [
        ((BASE, SFT, OLD, NEW), "runs/sft", ("SFT", "New")),
        ((BASE, SFT, OLD, NEW), "./runs/../runs/sft", ("SFT", "New")),
        ((SFT, BASE, NEW), None, ("Base", "New")),
        ((BASE, SFT, NEW), "runs/elsewhere", ("SFT", "New")),
        ((BASE, NEW, SFT), None, ("Base", "New")),
        ((BASE, SFT), None, ("Base", "SFT")),
        ((BASE, RUN, SFT), None, ("Base", "Run")),
        ((NEW, SFT), None, None),
        ((SFT,), "runs/sft", None),
        ((START, SFT, NEW), "runs/elsewhere", ("Start", "New")),
        ((START, OLD, NEW), None, ("Start", "New")),
        # Version 2 is that of step 1, so that version 1 has the weights of the start.
        ((FIRST, OLD, NEW), "runs/elsewhere", ("First", "New")),
        ((OF_ANOTHER, NEW), "runs/elsewhere", None),
        # What the start does not explain is no effect of the run.
        ((OLD, NEW), "runs/elsewhere", None),
        ((OLD, NEW), None, None),
        ((BASE, OLD, NEW), "runs/sft", None),
        ((SFT, OLD, NEW), "runs/elsewhere", ("SFT", "New")),
    ],
)
def test_the_start_of_the_run_is_compared_with_its_newest_adapter(
    models: tuple[ModelResult, ...], adapter: str | None, expected: tuple[str, str] | None
) -> None:
    config = {} if adapter is None else {"policy": {"adapter": adapter}}
    found = record(config=config, evaluated=evaluation(*models)).compared
    assert (None if found is None else tuple(m.label for m in found)) == expected


@pytest.mark.parametrize("names", [("run/start", "sft"), ("elsewhere", "run/start")])
def test_the_start_of_a_run_that_was_moved_is_known_by_its_digest(
    names: tuple[str, str], tmp_path: Path
) -> None:
    folders = [tmp_path / name for name in names]
    for folder, content in zip(folders, (b"start", b"other"), strict=True):
        folder.mkdir(parents=True)
        (folder / "adapter_model.safetensors").write_bytes(content)
    start = START.model_copy(
        update={"model": "was/run/start", "adapter_sha256": sha256_of_bytes(b"start")}
    )
    config = {"policy": {"adapter": folders[0]}}
    moved = dataclasses.replace(
        record(config=config, evaluated=evaluation(start, SFT, NEW)), folder=tmp_path / "run"
    )
    assert moved.compared == (start, NEW)


def test_a_version_is_no_start_and_the_verdict_says_what_is_missing() -> None:
    """Accuracy fell from 44 % to 4.5 %, after a version of 0.5 %."""
    start, mid = model("Start", 88, "runs/x/start"), model("Mid", 1, "r/policy-000003")
    ppo = model("PPO", 9, "r/policy-000009")
    verdict = verdict_of(record(evaluated=evaluation(mid, ppo, won=9, lost=1)))
    assert (verdict.outcome, verdict.answer) == (Outcome.UNMEASURED, "Not measured.")
    assert verdict.evidence.startswith("evaluation.json does not compare an adapter of the run")
    assert "python -m trainer eval --models" in verdict.evidence
    verdict = verdict_of(record(evaluated=evaluation(start, mid, ppo, won=1, lost=80)))
    assert verdict.outcome is Outcome.HURTING
    assert "44.0% → 4.5%" in verdict.evidence
    assert "over Start" in verdict.evidence


# --- the record -------------------------------------------------------------------------------


def test_a_configuration_of_another_version_is_kept_as_text(tmp_path: Path) -> None:
    shutil.copytree(MADE_RUNS / "improves", tmp_path / "run")
    (tmp_path / "run/config.toml").write_text("[ppo]\nno_such_key = 1\n")
    run = read_run(tmp_path / "run")
    assert (run.config, run.config_text) == (None, "[ppo]\nno_such_key = 1\n")
    assert verdict_of(run).outcome is Outcome.HELPING


def test_the_settings_of_an_offline_run_are_read(tmp_path: Path) -> None:
    run = Path(shutil.copytree(MADE_RUNS / "improves", tmp_path / "run"))
    text = 'rollouts = "r.jsonl"\n[ppo]\ntarget_kl = 7.0\n[offline]\nnum_epochs = 2\n'
    (run / "config.toml").write_text(text)
    config = read_run(run).config
    assert config is not None
    assert config.ppo.target_kl == 7.0


def test_a_verdict_prints_as_plain_lines_and_reads_nothing_as_markup() -> None:
    models = (model("S[b]FT[/b]", 100, "runs/sft"), model("PPO", 85, "x/policy-000017"))
    run = record(
        lambda step: {"ppo/reference_kl": 1e3},
        evaluated=evaluation(*models, won=5, lost=20),
    )
    out = io.StringIO()
    print_verdict(verdict_of(run), Console(file=out, width=40))
    first, second, *findings = out.getvalue().splitlines()
    assert first.startswith("Is RL helping? No, it hurts. PPO answers 50.0% → 42.5% of 200")
    assert "over S[b]FT[/b] [" in first
    assert second == "Most likely cause: KL to the reference is too high"
    assert [line[:2] for line in findings] == ["- "] * len(findings)


def test_on_a_terminal_a_verdict_is_wrapped_between_words() -> None:
    out = io.StringIO()
    console = Console(file=out, width=40, force_terminal=True)
    print_verdict(verdict_of(read_run(MADE_RUNS / "kl_blow_up")), console)
    assert max(map(len, out.getvalue().splitlines())) <= 40
    plain = io.StringIO()
    print_verdict(verdict_of(read_run(MADE_RUNS / "kl_blow_up")), Console(file=plain, width=40))
    assert " ".join(out.getvalue().split()) == " ".join(plain.getvalue().split())

"""The report: complete for a full run, true for a run with little data, and with all text escaped."""

import json
import shutil
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from inference_server.wire.schemas import ArmCompletion, ArmGroup, FinishReason
from trainer.cli import main
from trainer.data.sources import Record
from trainer.errors import UsageError
from trainer.evaluation.candidates import EvaluatedModel
from trainer.evaluation.records import Answer, ArmsAnswer, ModelAnswers, QuestionAnswers
from trainer.evaluation.results import Evaluation, ModelResult, compare_all
from trainer.io.base_record import BaseRecord, write_base
from trainer.report.page import report_run

ATTACK = "</pre><script>alert('owned')</script><img src=x onerror=alert(1)>"
NUM_CURVES = 12
"""Charts for which `metrics` has data."""
QUIET = Console(quiet=True)
MADE_RUN = Path(__file__).parents[3] / "fixtures/verdict/improves"
VOID = {"meta", "link", "img", "br", "hr", "input"}


class Page(HTMLParser):
    """A page's text, tags, ids, links and scripts; `open` lists the elements that are not closed."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.ids: list[str] = []
        self.links: list[str] = []
        self.scripts: list[str] = []
        self.text = ""
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        if tag not in VOID:
            self.open.append(tag)
        for name, value in attrs:
            if name == "id":
                self.ids.append(value or "")
            if name in ("src", "href"):
                self.links.append(value or "")

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] == "script":
            self.scripts.append(data)
        elif self.open and self.open[-1] != "style":
            self.text += data


def page_of(run: Path) -> Page:
    path = report_run(run, QUIET)
    assert path == run / "report.html"
    page = Page(path.read_text(encoding="utf-8"))
    assert page.open == []
    assert len(page.ids) == len(set(page.ids))
    return page


def metrics(step: int, **extra: float) -> dict[str, float]:
    return {
        "step": step,
        "version": step + 1,
        "reward/mean": 0.1 * step,
        "reward/correct": 0.05 * step,
        "arm/wolfram_0": 0.2,
        "arm/maudlin_0": 0.3,
        "ppo/reference_kl": 0.01,
        "ppo/kl_coef": 0.05,
        "ppo/entropy": 0.5,
        "ppo/clip_fraction": 0.1,
        "ppo/approx_kl": 0.001,
        "ppo/explained_variance": 0.4,
        "ppo/value_loss": 0.2,
        "ppo/logprob_mismatch": 1e-6,
        "rollout/lag": 1,
        "rollout/completion_tokens_mean": 40.0,
        "rollout/truncated": 0.0,
        "rollout/tokens_per_s": 900.0,
        "time/wait_s": 1.0,
        "time/experience_s": 1.0,
        "time/update_s": 2.0,
        "time/publish_s": 0.1,
        **extra,
    }


def group(step: int, question: str = "1 + 1?", text: str = "#### 2", **arm: Any) -> dict[str, Any]:
    """A line as `rollout_row` makes it."""
    return {
        "step": step,
        "id": "q",
        "question": question,
        "gold_answer": "#### 2",
        "policy_version": step,
        "scores": {"s_end": 1.0, "s_path": 0.5, "s_cf": None, "s_wm": 0.7},
        "reward": 1.25,
        "arm_outputs": [
            {
                "arm_name": "wolfram_0",
                "sample": 0,
                "full_text": text,
                "reasoning": text,
                "answer": "2",
                "correct": True,
                "reward": 1.5,
                "finish_reason": "stop",
                "temperature": 0.2,
                "top_p": 0.95,
                "prompt_token_ids": [1],
                "token_ids": [2],
                "sampler_logprobs": [-0.1],
                **arm,
            }
        ],
    }


def write_lines(path: Path, rows: list[dict[str, Any]], torn: str = "") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows) + torn)


def arms(right: bool) -> ArmsAnswer:
    """Two arms that are both right, or of which only the first is right."""
    texts = {"wolfram_0": "#### 2", "<maudlin_0>": "#### 2" if right else "#### 3"}
    completions = [
        ArmCompletion(
            arm=name,
            sample=0,
            text=text,
            finish_reason=FinishReason.STOP,
            temperature=0.2,
            top_p=0.9,
            seed=1,
            prompt_token_ids=[1],
            token_ids=[1],
            logprobs=[-0.1],
        )
        for name, text in texts.items()
    ]
    group = ArmGroup(id="q", question="1 + 1?", policy_version=1, arms=completions)
    return ArmsAnswer.of(group, Record(id="q", question="1 + 1?", gold="#### 2"))


def write_evaluation(run: Path, models: dict[str, list[bool]], *, with_arms: bool = False) -> None:
    """Write what ``eval --output RUN/evaluation.json`` does; ``models`` says which questions each model gets right."""
    num_questions = len(next(iter(models.values())))
    questions = [
        QuestionAnswers(
            id=f"q{index}",
            question="1 + 1?",
            gold="#### 2",
            models={
                label: ModelAnswers(
                    greedy=Answer.of(
                        "#### 2" if right[index] else "#### 3",
                        "#### 2",
                        num_tokens=4,
                        truncated=False,
                    ),
                    arms=arms(right[index]) if with_arms else None,
                )
                for label, right in models.items()
            },
        )
        for index in range(num_questions)
    ]
    Evaluation(
        base_model="tiny",
        base_fingerprint=None,
        data="word-problems",
        data_seed=0,
        num_questions=num_questions,
        arm="wolfram_0",
        samples_per_arm=int(with_arms),
        seed=0,
        max_tokens=64,
        answer_type="number",
        prompt_format="plain",
        stop=(),
        models=tuple(
            ModelResult.of(label, EvaluatedModel(name=label, adapter_sha256=None), questions)
            for label in models
        ),
        differences=compare_all(list(models), questions),
    ).write(run / "evaluation.json")


@pytest.fixture
def run(tmp_path: Path) -> Path:
    write_lines(tmp_path / "metrics.jsonl", [metrics(step) for step in (1, 2, 3)])
    return tmp_path


def test_a_full_run_has_every_section_and_needs_no_network(run: Path) -> None:
    (run / "config.toml").write_text('[ppo]\nlearning_rate = 5e-6\nnote = "a < b"\n')
    for step in range(1, 6):
        rows = [group(step, question=f"step {step} question {i}") for i in range(4)]
        write_lines(run / f"rollouts/step-{step:06d}.jsonl", rows)
    write_evaluation(run, {"Base": [False], "<PPO>": [True]})
    page = page_of(run)
    assert page.links == ["data:,"]
    assert page.tags.count("figure") == NUM_CURVES + 1
    assert 'note = "a < b"' in page.text
    assert "<PPO> − Base" in page.text
    assert "+100.0" in page.text
    shown = [f"step {s} question {i}" for s in (1, 3, 5) for i in (0, 1)]
    lines = map(str.strip, page.text.splitlines())
    assert [line for line in lines if " question " in line] == shown
    for text in ("step 3 · last served version 4", "✓ correct", "s_cfnone", "+1.500"):
        assert text in page.text


def test_an_evaluation_with_arms_has_their_tables_and_charts(run: Path) -> None:
    write_evaluation(run, {"Base": [False, True], "PPO": [True, True]}, with_arms=True)
    page = page_of(run)
    assert page.tags.count("figure") == NUM_CURVES + 4
    assert "Does coherence predict correctness?" in page.text
    rows = [" ".join(row.split()) for row in page.text.splitlines()]
    assert any(row.startswith("pass@2") and "100.0% [34.2, 100.0]" in row for row in rows)
    assert any(row.startswith("<maudlin_0>") for row in rows)
    assert any(row.startswith("PPO − Base, maj@2") for row in rows)


def test_the_verdict_heads_the_page(run: Path) -> None:
    write_evaluation(run, {"SFT": [False] * 8, "PPO": [True] * 8})
    text = page_of(run).text
    assert text.index("Is RL helping?") < text.index("Yes.") < text.index("Evaluation")
    assert "+100.0 points over SFT" in text


def test_text_of_models_data_and_configuration_is_escaped(run: Path) -> None:
    write_lines(run / "metrics.jsonl", [metrics(1, **{f"arm/{ATTACK}": 0.5})])
    (run / "config.toml").write_text(f"# {ATTACK}")
    attacked = group(1, question=ATTACK, text=ATTACK, arm_name=ATTACK, answer=ATTACK)
    write_lines(run / "rollouts/step-000001.jsonl", [attacked | {"gold_answer": ATTACK}])
    page = page_of(run)
    assert "img" not in page.tags
    assert not any(script.startswith("alert(") for script in page.scripts)
    # Shown as text: configuration, question, gold, arm's name, answer, completion.
    assert page.text.count(ATTACK) == 6


def test_torn_lines_are_left_out(run: Path) -> None:
    write_lines(run / "metrics.jsonl", [metrics(1), metrics(2)], torn='{"step": 3, "rew')
    write_lines(run / "rollouts/step-000001.jsonl", [group(1)], torn='{"step": 1, "questio')
    write_lines(run / "rollouts/step-000002.jsonl", [], torn='{"st')
    write_lines(run / "rollouts/step-000001-backup.jsonl", [group(1)])  # somebody's own copy
    page = page_of(run)
    assert "step 2 · last" in page.text
    assert page.text.count("Step 1") == 1
    assert "Step 2" not in page.text


def test_a_run_with_metrics_alone_still_has_its_curves(run: Path) -> None:
    page = page_of(run)
    assert page.tags.count("figure") == NUM_CURVES
    for heading in ("Evaluation", "Sample transcripts", "Settings"):
        assert heading not in page.text


def test_the_page_says_that_settings_cannot_be_read_without_findings_too(run: Path) -> None:
    assert page_of(run).text.count("that it can read") == 1
    (run / "config.toml").write_text("[ppo]\nkl_horizon = 10000\n")
    assert page_of(run).text.count("that it can read") == 1
    (run / "config.toml").write_text("[ppo]\n")
    assert "that it can read" not in page_of(run).text


def test_curves_without_data_are_left_out_and_gaps_stay_gaps(run: Path) -> None:
    write_lines(run / "metrics.jsonl", [{"step": 1, "reward/mean": 0.5}, {"step": 2}])
    page = page_of(run)
    assert page.tags.count("figure") == 1
    assert any('"y":[0.5,null]' in script for script in page.scripts)


def figures_of(page: Page) -> list[dict[str, Any]]:
    """What plotly.js draws, in the order of the page."""
    return [json.loads(script) for script in page.scripts if script.startswith('{"data"')]


def traces_of(page: Page, name: str) -> list[dict[str, Any]]:
    """The curves of the only chart that has a curve with this name."""
    found: list[dict[str, Any]]
    (found,) = (f["data"] for f in figures_of(page) if name in [t["name"] for t in f["data"]])
    return found


def test_arms_are_drawn_by_family_and_each_on_demand(run: Path) -> None:
    shares = {f"wolfram_{i}": 0.1 * i for i in range(4)} | {f"maudlin_{i}": 0.5 for i in range(4)}
    rows = [
        {"step": step, "arm/solo": 0.3} | {f"arm/{arm}": share for arm, share in shares.items()}
        for step in (1, 2)
    ]
    write_lines(run / "metrics.jsonl", rows)
    page = page_of(run)
    traces = traces_of(page, "solo")
    shown = {t["name"]: t["y"] for t in traces if t.get("visible") is not False}
    assert shown == {
        "maudlin, mean of 4 arms": [0.5, 0.5],
        "wolfram, mean of 4 arms": pytest.approx([0.15, 0.15]),
        "solo": [0.3, 0.3],
    }
    assert {t["name"] for t in traces if t.get("meta") == "on demand"} == set(shares)
    assert "Show each arm: Reward by arm" in page.text
    colours = {t["name"]: t["line"]["color"] for t in traces}
    assert colours["wolfram_2"] == colours["wolfram, mean of 4 arms"] != colours["maudlin_2"]


def test_a_curve_that_is_0_in_every_step_is_named_instead_of_drawn(run: Path) -> None:
    page = page_of(run)
    assert "share that hit the token limit. 0 in every step: truncated." in page.text
    (chart,) = (f for f in figures_of(page) if f["data"][0]["name"] == "tokens")
    assert len(chart["data"]) == 1
    assert "yaxis2" not in chart["layout"]
    write_lines(run / "metrics.jsonl", [{"step": 1, "rollout/truncated": 0.0}])
    assert [t["y"] for t in traces_of(page_of(run), "truncated")] == [[0.0]]


def test_held_out_accuracy_is_a_curve_of_the_steps_that_were_evaluated(run: Path) -> None:
    found = {"eval/accuracy": 0.5, "eval/low": 0.4, "eval/high": 0.7, "eval/best_accuracy": 0.5}
    rows = [metrics(step) for step in range(1, 80)]
    rows += [metrics(80, **found, **{"eval/step": 70}), metrics(81)]
    rows += [metrics(90, **found | {"eval/accuracy": 0.6}, **{"eval/step": 80})]
    write_lines(run / "metrics.jsonl", rows)
    accuracy, best = traces_of(page_of(run), "held-out accuracy")
    assert (accuracy["x"], accuracy["y"]) == ([70, 80], [0.5, 0.6])
    assert accuracy["error_y"]["array"] == pytest.approx([0.2, 0.1])
    assert accuracy["error_y"]["arrayminus"] == pytest.approx([0.1, 0.2])
    assert (best["name"], "error_y" in best) == ("best so far", False)
    # Both are visible where the newest accuracy is the best.
    assert best["line"]["dash"] == "dot"


@pytest.mark.parametrize("is_alone", [False, True])
def test_an_evaluation_with_a_line_of_its_own_is_a_point_like_others(
    is_alone: bool, run: Path
) -> None:
    found = {"eval/accuracy": 0.5, "eval/low": 0.4, "eval/high": 0.7, "eval/best_accuracy": 0.5}
    late = {"step": 3, **found, "eval/step": 3, "eval/accuracy": 0.75}
    rows = [metrics(1), metrics(2), metrics(3, **({} if is_alone else {**found, "eval/step": 2}))]
    write_lines(run / "metrics.jsonl", [*rows, late])
    page = page_of(run)
    accuracy, _ = traces_of(page, "held-out accuracy")
    assert (accuracy["x"], accuracy["y"]) == (([3], [0.75]) if is_alone else ([2, 3], [0.5, 0.75]))
    assert traces_of(page, "entropy")[0]["x"] == [1, 2, 3]


def test_every_curve_can_be_seen_and_read(run: Path) -> None:
    rows = [metrics(step) for step in range(1, 101)]
    for row in rows[::10]:
        row["sync/mismatch"] = 4.8e-7
    rows[50]["ppo/entropy"] = float("nan")
    rows[50] = {name: value for name, value in rows[50].items() if value == value}
    write_lines(run / "metrics.jsonl", rows)
    page = page_of(run)
    rare, gap = traces_of(page, "weight-sync check")[1], traces_of(page, "entropy")[0]
    assert (rare["mode"], rare["connectgaps"]) == ("lines+markers", True)
    assert (gap["mode"], gap["connectgaps"]) == ("lines", False)
    axes = [f["layout"][name] for f in figures_of(page) for name in ("xaxis", "yaxis")]
    shares = [axis for axis in axes if axis.get("title", {}).get("text", "").startswith("share ")]
    assert {axis["tickformat"] for axis in shares} == {",.3~%"}
    others = {axis["tickformat"] for axis in axes if axis not in shares}
    assert others == {",.6~g"}  # 12,000 and 4.8e-7, not 12k and 480n


def test_tables_can_be_scrolled_by_keyboard_and_have_names(run: Path) -> None:
    write_evaluation(run, {"SFT": [False], "PPO": [True]})
    html = report_run(run, QUIET).read_text()
    assert html.count('<div class="scroll" tabindex="0" role="region" aria-labelledby="table-') == 3


def test_completions_without_a_judgement_or_an_answer_say_so(run: Path) -> None:
    rows = [
        group(1, answer=None, correct=None, finish_reason="length", sample=1)
        | {"policy_version": None}
    ]
    write_lines(run / "rollouts/step-000001.jsonl", rows)
    text = page_of(run).text
    assert "correct" not in text.split("Sample transcripts")[1]
    for shown in ("sample 1", "answernone", "endedtruncated", "generated bybase"):
        assert shown in text


def test_completions_without_a_reward_say_so_and_count_in_no_mean(run: Path) -> None:
    row = group(1, rewards={"mine": 1.5})
    (given,) = row["arm_outputs"]
    none = given | {"reward": None, "rewards": {"mine": None}}
    # The mean is one of the rewards that are shown.
    for arms, mean, num_none in (([given, none, none], "1.500", 2), ([none, none], "none", 3)):
        write_lines(run / "rollouts/step-000001.jsonl", [row | {"arm_outputs": arms}])
        text = page_of(run).text
        assert f"mean reward{mean}" in text
        assert text.count("rewardnone") == num_none


@pytest.mark.parametrize("functions", [{}, {"reward_function/regime_w": 1.0}])
def test_parts_sum_to_the_reward_only_without_other_functions(
    functions: dict[str, float], run: Path
) -> None:
    parts = {"reward/base": 1.0, "reward/coherence": 0.5, "reward/length": 0.0}
    write_lines(run / "metrics.jsonl", [metrics(1, **parts, **functions)])
    text = page_of(run).text
    assert ("sum to the reward" in text) is (not functions)
    assert ("parts of regime_w alone" in text) is bool(functions)


def test_each_reward_function_is_a_curve_and_a_row(run: Path) -> None:
    functions = {"reward_function/regime_w": 1.0, "reward_function/brevity": -0.5}
    write_lines(run / "metrics.jsonl", [metrics(step, **functions) for step in (1, 2)])
    page = page_of(run)
    shown = {trace["name"]: trace["y"] for trace in traces_of(page, "brevity")}
    assert shown["brevity"] == [-0.5, -0.5]
    assert {"reward", "regime_w"} <= set(shown)
    assert "reward of brevity" in page.text


def test_text_of_any_direction_begins_on_its_own_side(run: Path) -> None:
    write_lines(run / "rollouts/step-000001.jsonl", [group(1)])
    html = report_run(run, QUIET).read_text()
    # Question, gold solution, answer and completion.
    assert html.split("Sample transcripts")[1].count('dir="auto"') == 4


def test_a_pair_of_questions_shows_how_the_other_question_was_answered(run: Path) -> None:
    row = group(1)
    arms = len(row["arm_outputs"])
    pair = {"id": "q~", "question": f"2 + 3? {ATTACK}", "gold_answer": "#### 5"}
    for answer, judged in (("5", "✓ correct"), ("6", "✗ wrong"), (None, "✗ wrong")):
        paired = row | {"counterfactual": pair | {"answers": [answer] * arms}}
        write_lines(run / "rollouts/step-000001.jsonl", [paired])
        page = page_of(run)
        assert "Scored in a pair with another question2 + 3?" in page.text
        assert page.text.count(f"pair's other question{judged}") == arms
    write_lines(run / "rollouts/step-000001.jsonl", [row])
    assert "pair's other" not in page_of(run).text


def test_a_broken_evaluation_is_reported_and_the_curves_are_still_drawn(run: Path) -> None:
    (run / "evaluation.json").write_text('{"models"')
    page = page_of(run)
    said = "evaluation.json cannot be read: it is damaged, or another version wrote it."
    assert page.text.count(said) == 2  # in the verdict too
    assert page.tags.count("figure") == NUM_CURVES


def test_a_missing_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no run folder"):
        report_run(tmp_path / "nowhere", QUIET)


def test_a_folder_that_cannot_be_written_to_gets_a_verdict_but_no_page(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (run / "report.html.unfinished").mkdir()
    monkeypatch.setattr(sys, "argv", ["trainer", "report", str(run)])
    with pytest.raises(SystemExit) as raised:
        main()
    printed = capsys.readouterr()
    assert raised.value.code == 2
    assert printed.out.startswith("Is RL helping?")
    assert "report.html: Is a directory; `watch` shows the page and writes nothing" in printed.err
    assert printed.err.count("\n") == 1


@pytest.mark.parametrize("content", [None, "", '{"step": 1, "rew'])
def test_a_run_without_metrics_is_refused(tmp_path: Path, content: str | None) -> None:
    if content is not None:
        (tmp_path / "metrics.jsonl").write_text(content)
    with pytest.raises(UsageError, match="no metrics in") as raised:
        report_run(tmp_path, QUIET)
    assert "\n" not in str(raised.value)
    assert list(tmp_path.glob("report*")) == []


def test_an_evaluation_of_another_base_is_left_out_and_said_to_be(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = Path(shutil.copytree(MADE_RUN, tmp_path / "run"))
    path = run / "evaluation.json"
    older = Evaluation.read(path)
    write_base(run, BaseRecord(base_model="models/tiny-base", fingerprint="trained"))
    report_run(run, Console())
    assert "Is RL helping? Yes." in capsys.readouterr().out
    older.model_copy(update={"base_fingerprint": "served"}).write(path)
    report_run(run, Console())
    said = " ".join(capsys.readouterr().out.split())
    line = (
        "evaluation.json is left out: the run was trained on models/tiny-base with fingerprint trained, not on "
        "models/tiny-base with served, which was evaluated."
    )
    assert f"Is RL helping? Not measured. {line} Evaluate" in said
    assert line in page_of(run).text
    older.model_copy(update={"base_fingerprint": "trained"}).write(path)
    report_run(run, Console())
    assert "Is RL helping? Yes." in capsys.readouterr().out

"""The page of an SFT: the curves of its losses, where it stands, and no verdict."""

import json
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.unit.trainer.report.test_page import QUIET, figures_of, page_of
from trainer.cli import main
from trainer.config.sections import DataConfig, PolicyConfig, SFTConfig, SFTRunConfig
from trainer.errors import DataError, UsageError
from trainer.io.kept_settings import as_toml
from trainer.io.locks import locked_folder
from trainer.report.page import live_html, report_run
from trainer.report.sft import SFT_KIND, read_sft, sft_progress, sft_setup
from trainer.report.watch import Watch

NOW = 1798034700.0
CONFIG = SFTRunConfig(
    policy=PolicyConfig(base_model="models/tiny-base", adapter=Path("runs/first")),
    data=DataConfig(source="mine.jsonl"),
    sft=SFTConfig(learning_rate=1e-4),
)
OLDER = [
    {"step": 0, "eval_loss": 3.0},
    # An older version repeated the line of a start that had no checkpoint yet.
    {"step": 0, "eval_loss": 3.0},
    {"step": 1, "loss": 2.5, "learning_rate": 1e-4},
    {"step": 3, "eval_loss": 2.0},
    {"step": 5, "loss": 1.5, "learning_rate": 5e-5},
    {"step": 6, "eval_loss": 1.0},
]
"""Lines as older versions wrote them."""


def newer(row: dict[str, float]) -> dict[str, float]:
    measured = {"mean_token_accuracy": 0.5, "entropy": 1.25}
    more = {"grad_norm": 3.5, "time/step_s": 2.0, **measured} if "loss" in row else {}
    return {**row, **more, "num_steps": 6, "time": NOW + 2 * row["step"]}


NEWER = [newer(row) for row in OLDER]


def write(sft: Path, rows: Sequence[dict[str, float]], *, torn: str = "") -> None:
    (sft / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows) + torn)


@pytest.fixture
def sft(tmp_path: Path) -> Path:
    (tmp_path / "config.toml").write_text(as_toml(CONFIG))
    write(tmp_path, NEWER)
    return tmp_path


def finish(sft: Path) -> None:
    (sft / "adapter_model.safetensors").touch()


def progress(sft: Path, *, live: bool = False) -> list[str]:
    return [*sft_progress(read_sft(sft, with_steps=False), live=live)]


def curves(sft: Path) -> list[dict[str, tuple[list[float], list[float]]]]:
    """Steps and values of each curve of each chart, where it has a value."""
    found = []
    for figure in figures_of(page_of(sft)):
        drawn = {}
        for trace in figure["data"]:
            assert trace["connectgaps"]
            points = [(x, y) for x, y in zip(trace["x"], trace["y"], strict=True) if y is not None]
            drawn[trace["name"]] = ([x for x, _ in points], [y for _, y in points])
        found.append(drawn)
    return found


def test_the_page_has_the_curves_the_facts_and_the_settings(sft: Path) -> None:
    finish(sft)
    loss, rate, tokens = curves(sft)
    assert loss == {"training": ([1, 5], [2.5, 1.5]), "held out": ([0, 3, 6], [3.0, 2.0, 1.0])}
    assert rate == {
        "learning rate": ([1, 5], [1e-4, 5e-5]),
        "gradient norm": ([1, 5], [3.5, 3.5]),
    }
    assert tokens == {"accuracy": ([1, 5], [0.5, 0.5]), "entropy": ([1, 5], [1.25, 1.25])}
    page = page_of(sft)
    text = " ".join(page.text.split())
    head = f"{SFT_KIND} · step 6 of 6 · finished · 2 s a step · newest line written 2026-12-23 "
    assert head in text
    setup = "base models/tiny-base · from runs/first · questions mine.jsonl · learning rate 0.0001"
    assert setup in text
    assert "training loss, nats per token2.50001.5000" in text
    assert "held-out loss, nats per token3.00001.0000" in text
    assert 'source = "mine.jsonl"' in text
    assert page.links == ["data:,"]
    for absent in ("RL", "Evaluation", "transcripts", "Waiting", "No metrics"):
        assert absent not in text


def test_an_sft_of_an_older_version_has_what_it_measured(sft: Path) -> None:
    write(sft, OLDER, torn='{"step": 9, "lo')
    loss, rate = curves(sft)
    assert loss == {"training": ([1, 5], [2.5, 1.5]), "held out": ([0, 3, 6], [3.0, 2.0, 1.0])}
    assert rate == {"learning rate": ([1, 5], [1e-4, 5e-5])}
    assert progress(sft) == ["step 6", "not running, stopped before its last step"]
    finish(sft)
    assert progress(sft) == ["step 6", "finished"]


def test_it_is_running_then_stopped_then_finished(sft: Path) -> None:
    write(sft, NEWER[:-1])
    ended = "newest line written 2026-12-23 14:05 UTC"
    with locked_folder(sft, taken="taken"):
        found = ["step 5 of 6", "running", "2 s a step"]
        assert progress(sft) == [*found, ended]
        assert progress(sft, live=True) == [*found, "about 2 s left", ended]
    assert progress(sft, live=True)[1] == "not running, stopped before its last step"
    # The adapter is being written as long as there is a checkpoint.
    checkpoint = sft / "checkpoints/checkpoint-6/trainer_state.json"
    checkpoint.parent.mkdir(parents=True)
    checkpoint.touch()
    finish(sft)
    assert progress(sft)[1] == "not running, stopped before its last step"
    # A copy that somebody made is no checkpoint.
    copy = sft / "checkpoints/checkpoint-6-backup/trainer_state.json"
    copy.parent.mkdir()
    copy.touch()
    assert progress(sft)[1] == "not running, stopped before its last step"
    checkpoint.unlink()
    # The last steps have no line of their own.
    assert progress(sft)[:2] == ["step 6 of 6", "finished"]


def test_seconds_a_step_are_the_measured_ones_whatever_the_clock_says(sft: Path) -> None:
    rows = [newer({"step": step, "loss": 1.0}) for step in (1, 2, 3)]
    rows[1]["time"] += 3600  # after a pause, and before the clock was set back
    write(sft, rows)
    assert progress(sft)[2] == "2 s a step"
    for row in rows:
        del row["time/step_s"]  # as an older version wrote them
    write(sft, rows)
    assert not any("a step" in phrase for phrase in progress(sft))


def test_an_sft_without_its_losses_says_so(sft: Path) -> None:
    (sft / "metrics.jsonl").unlink()
    checkpoint = sft / "checkpoints/checkpoint-5/trainer_state.json"
    checkpoint.parent.mkdir(parents=True)
    checkpoint.touch()
    missing = "its losses are missing"
    assert progress(sft) == ["step 5", missing, "not running, stopped before its last step"]
    text = " ".join(live_html(sft, "a").split())
    assert "Waiting" not in text
    assert "What is measured appears here once a further step is finished" in text
    with pytest.raises(UsageError, match=r"metrics\.jsonl: .* losses of this SFT are missing"):
        report_run(sft, QUIET)
    finish(sft)
    checkpoint.unlink()
    assert progress(sft) == [missing, "finished"]
    text = " ".join(live_html(sft, "b").split())
    assert "the file was lost" in text
    assert "a further step" not in text
    with pytest.raises(UsageError, match=r"metrics\.jsonl: .* losses of this SFT are missing"):
        report_run(sft, QUIET)


@pytest.mark.parametrize(
    "impossible", [{"time": 1e18}, {"time": -1e13}, {"num_steps": 1e308}, {"time/step_s": 1e308}]
)
def test_a_line_with_an_impossible_time_or_number_is_damaged(
    impossible: dict[str, float], sft: Path
) -> None:
    write(sft, [NEWER[0], NEWER[1] | impossible, *NEWER[2:]])
    with pytest.raises(DataError, match=r"metrics\.jsonl:2: not a line of metrics; remove it"):
        report_run(sft, QUIET)


def test_settings_that_this_version_cannot_read_are_shown_all_the_same(sft: Path) -> None:
    (sft / "config.toml").write_text("[sft]\nunknown = 1\n")
    assert sft_setup(read_sft(sft, with_steps=True)) == []
    assert "unknown = 1" in page_of(sft).text


def test_the_live_page_waits_for_the_first_step_and_follows(sft: Path) -> None:
    (sft / "metrics.jsonl").unlink()
    page = live_html(sft, "a")
    assert "Waiting for the first step" in page
    assert "no step finished yet" in page
    write(sft, NEWER[:1])
    page = live_html(sft, "b")
    assert "Waiting" not in page
    assert "held-out loss, nats per token" in page
    # What the page replaces has to be there, or its script would fail.
    for part in ("progress", "settings", "verdict", "evaluation", "summary", "curves"):
        assert page.count(f'id="part-{part}"') == 1
    finish(sft)
    (sft / "metrics.jsonl").unlink()
    assert "the file was lost" in live_html(sft, "c")


def test_watch_says_whether_it_is_running(sft: Path) -> None:
    with Watch(sft, 0) as watch:
        assert json.loads(watch.state())["is_running"] is False
        with locked_folder(sft, taken="taken"):
            at_work = json.loads(watch.state())
            assert at_work["is_running"] is True
            page = watch.page().decode()
    assert SFT_KIND in page
    # A line is written every few steps.
    assert "The newest line was written ${ago(now.age_s)} ago" in page


def test_a_report_without_a_loss_is_refused_in_one_line(sft: Path) -> None:
    write(sft, [])
    with pytest.raises(UsageError, match=r"no losses in .*metrics\.jsonl; name an SFT with") as e:
        report_run(sft, QUIET)
    assert "\n" not in str(e.value)


def test_the_command_prints_where_the_page_is(
    sft: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["trainer", "report", str(sft)])
    main()
    assert capsys.readouterr().out == f"{sft / 'report.html'}\n"

"""``python -m regime_w score``: rollout files scored again."""

import codecs
import gzip
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import zstandard

from regime_w import ArmOutput, RewardConfig, arm_rewards
from regime_w.__main__ import main
from regime_w.algebra import math_process
from regime_w.rescore import NUM_SHOWN, RescoreError, report, rescore_file

QUESTION = "Ada has 12 pens and buys 7 more. How many has she?"
TEXTS = ["12+7=19\n#### 19", "12-7=5\n#### 5"]
ORIGINAL = RewardConfig(formulas="original")


def row(texts: list[str], config: RewardConfig = ORIGINAL, **fields: object) -> dict[str, object]:
    outputs = [ArmOutput.from_text(f"arm_{i}", text) for i, text in enumerate(texts)]
    rewards = arm_rewards(QUESTION, outputs, "#### 19", config=config)
    return {
        "question": QUESTION,
        "gold_answer": "#### 19",
        "arm_outputs": [
            {"arm_name": o.arm_name, "full_text": o.full_text, "answer": o.answer, "reward": r}
            for o, r in zip(outputs, rewards, strict=True)
        ],
        "reward": sum(rewards) / len(rewards),
        "step": 3,
    } | fields


def write(path: Path, rows: list[dict[str, object]]) -> Path:
    path.write_text("\n".join(json.dumps(r) for r in rows) + "\n\n", encoding="utf-8")
    return path


def test_under_the_same_configuration_nothing_changes(tmp_path: Path) -> None:
    path = write(tmp_path / "r.jsonl", [row(TEXTS), row(TEXTS[:1])])
    groups = list(rescore_file(path, ORIGINAL))
    assert [g.new_reward for g in groups] == [g.stored.reward for g in groups]
    text = report(groups)
    assert "groups changed    0" in text
    assert "answers changed   0" in text
    assert "correct           2 (66.7%)" in text
    assert "largest" not in text


PAIR = {"id": "o", "question": "12 - 7?", "gold_answer": "#### 5", "answers": ["5", "19"]}


def test_a_row_of_a_pair_is_scored_with_what_the_other_question_was_answered(
    tmp_path: Path,
) -> None:
    names = ["wolfram_0", "maudlin_0"]
    outputs = [ArmOutput.from_text(name, TEXTS[0]) for name in names]
    stored = row([TEXTS[0]] * 2, counterfactual=PAIR)
    arms = [{"arm_name": o.arm_name, "full_text": o.full_text, "answer": o.answer} for o in outputs]
    path = write(tmp_path / "r.jsonl", [stored | {"arm_outputs": arms}])
    (found,) = rescore_file(path, RewardConfig())
    # Right on both questions and right on the first alone: two of the four contexts agree.
    assert found.result.scores.s_cf == pytest.approx((2 / 4 + 0) / 2)


@pytest.mark.parametrize(
    ("pair", "fields", "fragment"),
    [
        (PAIR | {"answers": ["5"]}, {}, "counterfactual: 1 answers of 2 arms"),
        (PAIR | {"gold_answer": "no"}, {}, "counterfactual.gold_answer"),
        (PAIR, {"answer_type": "text"}, "counterfactual: answers must be numbers, not text"),
    ],
)
def test_a_pair_that_cannot_be_is_named_with_its_line(
    pair: dict[str, object], fields: dict[str, object], fragment: str, tmp_path: Path
) -> None:
    path = write(tmp_path / "r.jsonl", [row(TEXTS), row(TEXTS) | fields | {"counterfactual": pair}])
    with pytest.raises(RescoreError, match=f"r.jsonl:2: .*{fragment}"):
        list(rescore_file(path, RewardConfig()))


def test_under_another_one_what_changes_is_shown(tmp_path: Path) -> None:
    rows = [row(TEXTS, id=f"q{i}") for i in range(NUM_SHOWN + 1)]
    rows.append(row([TEXTS[1]], id="wrong"))
    path = write(tmp_path / "r.jsonl", rows)
    text = report(list(rescore_file(path, RewardConfig())))
    # The right arm: 1 + 0.7 (0.4·0 + 0.3·1 + 0.3·0.5)/1 before; now its path is (1 + 0)/2 and the
    # single family has no cross-check: 1 + 0.7 (0.3·0.5)/0.7 = 1.15. The other earns -0.5.
    assert f"groups changed    {NUM_SHOWN + 1}" in text
    assert text.count("+0.4075 → +0.3250  'q") == NUM_SHOWN
    assert f"s_cf              -  ({NUM_SHOWN + 2} abstained)" in text


def test_answers_that_are_read_otherwise_are_counted(tmp_path: Path) -> None:
    stored = row(TEXTS)
    stored["arm_outputs"][0]["answer"] = "1"  # type: ignore[index]
    path = write(tmp_path / "r.jsonl", [stored])
    assert "answers changed   1" in report(list(rescore_file(path, ORIGINAL)))


@pytest.mark.parametrize(
    ("suffix", "compress"),
    [(".gz", gzip.compress), (".GZ", gzip.compress), (".zst", zstandard.compress)],
)
def test_compressed_files_are_read_and_damaged_ones_named(
    suffix: str, compress: Callable[[bytes], bytes], tmp_path: Path
) -> None:
    plain = write(tmp_path / "r.jsonl", [row(TEXTS), row(TEXTS)]).read_bytes()
    path = tmp_path / f"r.jsonl{suffix}"
    # As `collect` appends: a member or frame a row.
    path.write_bytes(b"".join(compress(line) for line in plain.splitlines(keepends=True)))
    assert len(list(rescore_file(path, ORIGINAL))) == 2
    path.write_bytes(plain)
    with pytest.raises(RescoreError, match=r"r\.jsonl"):
        list(rescore_file(path, ORIGINAL))


@pytest.mark.parametrize("chunk_bytes", [1, 7, 2**16])
def test_zstd_frames_are_read_and_a_torn_one_is_named(
    chunk_bytes: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("regime_w.compressed_lines._CHUNK_BYTES", chunk_bytes)
    line = json.dumps(row(["#### 4"] * 8)).encode() + b"\n"
    frames = [
        zstandard.compress(line),
        zstandard.compress(line + line),
        zstandard.compress(line[:-1]),
    ]
    path = tmp_path / "rollouts.jsonl.zst"
    path.write_bytes(b"".join(frames))
    assert len([*rescore_file(path, ORIGINAL)]) == 4
    path.write_bytes(b"".join(frames)[:-1])
    with pytest.raises(RescoreError, match="truncated"):
        [*rescore_file(path, ORIGINAL)]


def test_a_byte_order_mark_is_skipped(tmp_path: Path) -> None:
    path = write(tmp_path / "r.jsonl", [row(TEXTS)])
    path.write_bytes(codecs.BOM_UTF8 + path.read_bytes())
    assert len(list(rescore_file(path, ORIGINAL))) == 1


def test_an_empty_file_has_no_groups(tmp_path: Path) -> None:
    assert report(list(rescore_file(write(tmp_path / "r.jsonl", []), ORIGINAL))) == "no groups"


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", ":2: line: "),
        ("{}", ":2: question: Field required"),
        (json.dumps(row(TEXTS) | {"arm_outputs": []}), ":2: arm_outputs: "),
        (json.dumps(row(TEXTS) | {"reward": "much"}), ":2: reward: "),
    ],
)
def test_a_bad_line_is_named(line: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "r.jsonl"
    path.write_text(json.dumps(row(TEXTS)) + "\n" + line)
    with pytest.raises(RescoreError, match=message):
        list(rescore_file(path, ORIGINAL))


def test_the_command_reads_a_runs_config_and_its_flags_win(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write(tmp_path / "r.jsonl", [row(TEXTS)])
    config = tmp_path / "config.toml"
    config.write_text(
        '[run]\nnum_steps = 3\n[reward]\nformulas = "original"\nfree_words = 0\n'
        'functions = ["regime_w", "f.py:g"]\nweights = [1, 2]\ntimeout_s = 9.0\n'
    )
    assert main(["score", str(path), "--config", str(config), "--free_words", "400"]) == 0
    assert "groups changed    0" in capsys.readouterr().out
    assert main(["score", str(path), "--config", str(config)]) == 0
    assert "groups changed    1" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["no-such.jsonl"], "no-such.jsonl: No such file"),
        (["x.jsonl", "--formulas", "new"], "formulas: Input should be"),
        (["x.jsonl", "--free_words", "-1"], "free_words: "),
        (
            ["x.jsonl", "--w_end", "1"],
            "configuration: Value error, w_end + w_path + w_cf must be 1",
        ),
        (["x.jsonl", "--config", "no-such.toml"], "--config no-such.toml: No such file"),
        (["x.jsonl", "--config", "broken.toml"], "--config broken.toml: "),
        (["x.jsonl", "--config", "deep.toml"], "--config deep.toml: "),
        (["x.jsonl", "--config", "long.toml"], "--config long.toml: "),
        (["x.jsonl", "--config", "scalar.toml"], "--config scalar.toml: reward is not a section"),
        (["x.jsonl", "--config", "unknown.toml"], "colour: Extra inputs"),
    ],
)
def test_a_wrong_command_is_one_line_and_2(
    arguments: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("broken.toml").write_text("[reward")
    Path("scalar.toml").write_text("reward = 1")
    Path("deep.toml").write_text("reward = " + "[" * 5000)
    Path("long.toml").write_text("reward = " + "9" * 5000)
    Path("unknown.toml").write_text("[reward]\ncolour = 1")
    assert main(["score", *arguments]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("regime_w: error: ")
    assert message in err
    assert err.count("\n") == 1


def test_an_interrupted_command_is_one_line_and_130(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("regime_w.__main__.rescore_file", interrupted)
    assert main(["score", str(tmp_path / "r.jsonl")]) == 130
    assert capsys.readouterr().err == "regime_w: interrupted\n"


def test_a_file_that_does_not_fit_in_memory_is_one_line_and_2(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """``/dev/zero`` is one line without an end."""

    def endless(*_: object) -> None:
        raise MemoryError

    monkeypatch.setattr("regime_w.__main__.rescore_file", endless)
    assert main(["score", str(tmp_path / "r.jsonl")]) == 2
    assert capsys.readouterr().err == "regime_w: error: the file does not fit in memory\n"


def test_help_explains_every_setting(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["score", "--help"])
    assert caught.value.code == 0
    shown = capsys.readouterr().out
    assert all(f"--{name}" in shown for name in RewardConfig.model_fields)


def test_rows_are_scored_by_their_type_of_answer(tmp_path: Path) -> None:
    path = tmp_path / "choices.jsonl"
    row = {
        "id": "q",
        "question": "Where?",
        "gold_answer": "London",
        "answer_type": "choice",
        "choices": ["Paris", "London"],
        "reward": 0.0,
        "arm_outputs": [{"arm_name": f"arm_{i}", "full_text": t} for i, t in enumerate("BA")],
    }
    path.write_text(json.dumps(row) + "\n")
    (group,) = rescore_file(path, RewardConfig())
    assert group.result.scores.answers == ("B", "A")
    assert group.result.scores.correct == (True, False)


def test_rows_whose_library_is_missing_are_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(math_process, "LIBRARY", "no_such_library")
    path = tmp_path / "math.jsonl"
    path.write_text(json.dumps(row(TEXTS, answer_type="math")) + "\n")
    assert main(["score", str(path)]) == 2
    error = capsys.readouterr().err
    assert "pip install 'regime-w[math]'" in error
    assert len(error.splitlines()) == 1

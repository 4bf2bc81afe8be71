"""Runs rewarded by a user's function: trained, replayed, and stopped when the function fails."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.unit.memory_server import MemoryServer
from tests.unit.runs_in_memory import run_config, server_roles, train, write_questions
from trainer.config.sections import TrainConfig
from trainer.errors import RewardFunctionError
from trainer.io.metrics_file import Metrics, read_metrics
from trainer.io.run_layout import checkpoint_folders, step_of
from trainer.online.loop import Training
from trainer.replay.verify import verify
from trainer.replay.what_if import what_if
from trainer.run_state.journal_entries import rollouts_file
from trainer.run_state.journal_reader import JournalReader

EXAMPLE = Path(__file__).parents[4] / "examples/short_answers.py"
NUM_STEPS = 3


@pytest.fixture
def function(tmp_path: Path) -> Path:
    """A copy of the example, to change."""
    return Path(shutil.copy(EXAMPLE, tmp_path))


@pytest.fixture
def config(tiny_base: Path, tmp_path: Path, function: Path) -> TrainConfig:
    return run_config(
        tiny_base,
        tmp_path / "run",
        write_questions(tmp_path / "seven.jsonl"),
        rollout={"dynamic_sampling": False, "max_staleness": 0},
        reward={
            "functions": ["regime_w", f"{function}:reward"],
            "weights": [1.0, 0.25],
            "timeout_s": 5,
        },
        run={"num_steps": NUM_STEPS, "checkpoint_every": 9},
    )


@pytest.fixture
def server(tiny_base: Path) -> MemoryServer:
    return MemoryServer(server_roles(tiny_base))


def with_function_alone(config: TrainConfig, function: Path) -> TrainConfig:
    reward = config.reward.model_copy(update={"functions": (f"{function}:reward",), "weights": ()})
    return config.model_copy(update={"reward": reward})


def rows_of(run: Path, step: int) -> list[dict[str, object]]:
    return [json.loads(line) for line in rollouts_file(run, step).read_text().splitlines()]


def replayed(run: Path) -> tuple[bool, list[str]]:
    said: list[str] = []
    return verify(run, from_step=0, stop_at_first=True, say=said.append), said


def test_the_example_trains_and_replay_says_when_its_source_has_changed(
    config: TrainConfig, server: MemoryServer, function: Path
) -> None:
    train(config, server)
    folder, name = config.run.folder, f"{function}:reward"
    arms = [arm for row in rows_of(folder, NUM_STEPS) for arm in row["arm_outputs"]]  # type: ignore[attr-defined]
    for arm in arms:
        # Two words each: "#### 1".
        assert arm["rewards"][name] == pytest.approx(1 - 2 / 60)
        assert arm["reward"] == pytest.approx(arm["rewards"]["regime_w"] + 0.25 * (1 - 2 / 60))
    metrics = read_metrics(folder)[-1]
    assert metrics["reward_function/short_answers.py:reward"] == pytest.approx(1 - 2 / 60)
    assert len({adapter.sha256 for adapter in JournalReader(folder).adapters}) == NUM_STEPS

    is_same, said = replayed(folder)
    assert is_same, said
    assert not any("reward.functions" in line for line in said)

    function.write_text(function.read_text().replace("/ 60", "/ 6"))
    is_same, said = replayed(folder)
    assert is_same, said  # the rewards are those of the journal
    (line,) = [line for line in said if "reward.functions" in line]
    assert line.startswith(f"reward.functions: {name} was changed: SHA-256 ")
    said = []
    what_if(folder, ["reward.weights=[1, 6]"], from_step=0, say=said.append)
    (mean,) = [line for line in said if line.startswith("mean of")]
    now, then = (float(word.strip("()")) for word in mean.split("reward ")[1].split()[:2])
    assert now - then == pytest.approx(6 * (1 - 2 / 6) - 0.25 * (1 - 2 / 60), abs=0.01)


@pytest.mark.parametrize("failure", ["raise ValueError('no judge')", "time.sleep(1e6)"])
def test_a_function_that_fails_in_the_middle_leaves_a_checkpoint_and_the_run_resumes_once_it_is_mended(
    failure: str, config: TrainConfig, server: MemoryServer, function: Path
) -> None:
    folder, mended = config.run.folder, function.read_text()
    # One step's two groups are rewarded.
    function.write_text(
        f"import pathlib, time\n\ncalls = pathlib.Path(__file__ + '.calls')\n\n\n"
        "def reward(completions, **columns):\n"
        "    with calls.open('a') as file:\n        file.write('x')\n"
        f"    if len(calls.read_text()) > 2:\n        {failure}\n"
        "    return [1.0] * len(completions)\n"
    )
    with pytest.raises(RewardFunctionError) as caught:
        train(config, server)
    assert "failed twice for question" in str(caught.value)
    (note,) = caught.value.__notes__
    assert "in reward" in note
    assert step_of(checkpoint_folders(folder)[-1]) == JournalReader(folder).last_step == 1
    assert [row["step"] for row in read_metrics(folder)] == [1]

    function.write_text(mended)
    train(config, server)
    assert [row["step"] for row in read_metrics(folder)] == [1, 2, 3]
    assert [step for step, _ in JournalReader(folder).reward_sources] == [1, 2]
    is_same, said = replayed(folder)
    assert is_same, said
    assert any("from step 1, " in line and "from step 2, " in line for line in said)


def test_a_run_does_not_begin_with_a_function_that_needs_a_column_that_the_data_lacks(
    config: TrainConfig, server: MemoryServer, function: Path
) -> None:
    function.write_text("def reward(completions, level, **columns):\n    return [1.0]\n")
    with pytest.raises(RewardFunctionError, match="needs level, which it is not passed"):
        train(config, server)
    assert not checkpoint_folders(config.run.folder)


def test_a_question_that_is_too_long_to_be_asked_needs_no_column(
    config: TrainConfig, server: MemoryServer, function: Path
) -> None:
    rows = [{"question": f"What is {i}?", "answer": "#### 1", "level": 3} for i in range(7)]
    too_long = {"question": "What is 1?" * 999, "answer": "#### 1"}
    source = Path(config.data.source)
    source.write_text("".join(json.dumps(row) + "\n" for row in (too_long, *rows)))
    function.write_text("def reward(completions, level, **columns):\n    return level\n")
    run = config.run.model_copy(update={"num_steps": 1})
    train(with_function_alone(config.model_copy(update={"run": run}), function), server)
    assert [row["reward/mean"] for row in read_metrics(run.folder)] == [3]


def without_rewards_in_calls(*calls: int) -> str:
    """The source of a function that has no rewards in some of its calls, counted from 1; a step makes two."""
    return (
        "import pathlib\n\ncalls = pathlib.Path(__file__ + '.calls')\n\n\n"
        "def reward(completions, **columns):\n"
        "    with calls.open('a') as file:\n        file.write('x')\n"
        f"    if len(calls.read_text()) in {calls}:\n        return [None] * len(completions)\n"
        "    return [float(i) for i in range(len(completions))]\n"
    )


@pytest.mark.parametrize("advantage", ["gae", "grpo"])
def test_a_step_without_any_reward_teaches_nothing_and_the_run_goes_on(
    advantage: str,
    config: TrainConfig,
    server: MemoryServer,
    function: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    function.write_text(without_rewards_in_calls(3, 4))
    config = with_function_alone(config, function)
    ppo = config.ppo.model_copy(update={"advantage": advantage, "critic_warmup_steps": 0})
    config = config.model_copy(update={"ppo": ppo})
    folder = config.run.folder
    train(config, server)
    (warning,) = [line for line in capsys.readouterr().out.splitlines() if "warning: step" in line]
    assert warning == (
        "warning: step 2: no completion has a reward, so nothing was learned: each of reward.functions returned "
        "None for all"
    )
    _, first, second, third = JournalReader(folder).adapters
    assert first.sha256 == second.sha256 != third.sha256
    rows = read_metrics(folder)
    assert [row["rollout/num_trained_samples"] for row in rows] == [6, 0, 6]
    assert ["reward/mean" in row for row in rows] == [True, False, True]
    assert [row["ppo/policy_frozen"] for row in rows] == [0, 1, 0]
    coefs = [row["ppo/kl_coef"] for row in rows]
    assert coefs[0] != coefs[1] == coefs[2]
    for name in ("policy_loss", "approx_kl", "clip_fraction", "policy_grad_norm"):
        assert [f"ppo/{name}" in row for row in rows] == [True, False, True]
    # Each version is proven, that of the step without rewards by a probe.
    assert [row["sync/version"] for row in rows] == [0, 1, 2]
    is_same, said = replayed(folder)
    assert is_same, said
    assert [line.split(" policy-")[0] for line in said if "has a reward" in line] == [
        "step    2 no completion has a reward"
    ]
    assert not any("nan" in line for line in said)
    said = []
    what_if(folder, ["ppo.clip_low=0.1"], from_step=0, say=said.append)
    steps = [line for line in said if line.startswith("step ")]
    assert [" reward none (none) " in line for line in steps] == [False, True, False]
    assert steps[1].endswith(
        " grad none (none) weight none (none) ess none (none) mismatch none (none)"
    )
    (mean,) = [line for line in said if line.startswith("mean of")]
    assert mean.startswith("mean of 2 of 3 reward 1 (1) ")
    assert "none" not in mean
    losses = [re.findall(r"loss (\S+) \((\S+)\)", line) for line in (steps[0], steps[2], mean)]
    for first_loss, third_loss, mean_loss in zip(*(values[0] for values in losses), strict=True):
        assert float(mean_loss) == pytest.approx(
            (float(first_loss) + float(third_loss)) / 2, rel=1e-2, abs=1e-6
        )


def test_what_if_warns_of_a_small_sample_although_the_last_step_has_no_reward(
    config: TrainConfig, server: MemoryServer, function: Path
) -> None:
    function.write_text(without_rewards_in_calls(5, 6))
    config = with_function_alone(config, function)
    ppo = config.ppo.model_copy(update={"advantage": "grpo", "critic_warmup_steps": 0})
    config = config.model_copy(update={"ppo": ppo})
    train(config, server)
    said: list[str] = []
    what_if(config.run.folder, ["ppo.learning_rate=0.3"], from_step=0, say=said.append)
    assert said[-1].startswith("warning: the effective sample size is down to ")


def test_a_run_resumes_in_and_after_a_step_without_any_reward(
    config: TrainConfig,
    server: MemoryServer,
    function: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    function.write_text(without_rewards_in_calls(1, 2, 5, 6))
    config = with_function_alone(config, function)
    # An evaluation would come with a checkpoint.
    run = config.run.model_copy(update={"evaluate_every": 9})
    config = config.model_copy(update={"run": run})
    folder = config.run.folder
    learn = Training._learn

    def killed(self: Training, step: int, *arguments: Any) -> Metrics:
        found = learn(self, step, *arguments)
        if step != NUM_STEPS or len(killed_in) > 0:
            return found
        killed_in.append(step)
        raise KeyError("killed")

    killed_in: list[int] = []
    monkeypatch.setattr(Training, "_learn", killed)
    with pytest.raises(KeyError):
        train(config, server)
    # The journal has the third step, and the newest checkpoint is that of the start.
    assert JournalReader(folder).last_step == NUM_STEPS
    assert step_of(checkpoint_folders(folder)[-1]) == 0
    train(config, server)
    assert [row["step"] for row in read_metrics(folder)] == [1, 2, 3]
    start, first, second, third = JournalReader(folder).adapters
    assert start.sha256 == first.sha256 != second.sha256 == third.sha256
    is_same, said = replayed(folder)
    assert is_same, said


def test_questions_without_a_reward_are_left_out_and_the_others_train(
    config: TrainConfig, server: MemoryServer, function: Path
) -> None:
    function.write_text(
        "def reward(completions, question, **columns):\n"
        "    return [None if '0' in q or '3' in q else float(i) for i, q in enumerate(question)]\n"
    )
    config = with_function_alone(config, function)
    train(config, server)
    folder = config.run.folder
    trained = {
        row["question"]: {arm["trained"] for arm in row["arm_outputs"]}  # type: ignore[attr-defined]
        for step in range(1, NUM_STEPS + 1)
        for row in rows_of(folder, step)
    }
    assert any("0" in str(question) or "3" in str(question) for question in trained)
    for question, flags in trained.items():
        assert flags == {not ("0" in str(question) or "3" in str(question))}
    is_same, said = replayed(folder)
    assert is_same, said

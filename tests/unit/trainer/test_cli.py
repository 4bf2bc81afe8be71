import subprocess
import sys
from pathlib import Path

import pytest

from trainer.cli import main
from trainer.errors import RewardFunctionError

# Every test starts the command as a process.
pytestmark = pytest.mark.slow


def trainer(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "trainer", *arguments], capture_output=True, text=True, timeout=120
    )


@pytest.mark.parametrize(
    "command",
    ["train", "sft", "eval", "diff", "sample", "report", "replay", "tiny-model", "doctor"],
)
def test_every_command_has_help_that_explains_its_fields(command: str) -> None:
    done = trainer(command, "--help")
    assert done.returncode == 0, done.stderr
    assert "usage: python -m trainer" in done.stdout


def test_help_lists_the_commands() -> None:
    done = trainer("--help")
    assert done.returncode == 0
    assert all(name in done.stdout for name in ("train", "sft", "eval", "sample", "report"))


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["trian"], "unknown command 'trian'"),
        (["train", "--ppo.lerning_rate", "1"], "lerning_rate"),
        (["train", "--ppo.learning_rate", "-1"], "ppo.learning_rate"),
        (["train", "--config", "missing.toml"], "missing.toml"),
        (["train", "--policy.base_model", "./no/such/model"], "no/such/model"),
        (["sft", "--policy.base_model", "./no/such/model"], "no/such/model"),
        (["report", "no/such/run"], "no/such/run"),
        (["replay", "no/such/run", "--from", "3"], "no/such/run"),
        (["replay", "x", "--verify", "--what-if", "ppo.kl_coef=1"], "choose one"),
        (["diff", "no/such/evaluation.json", "A", "B"], "no/such/evaluation.answers.jsonl"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_a_wrong_input_is_one_line_and_exit_code_2(arguments: list[str], said: str) -> None:
    done = trainer(*arguments)
    assert done.returncode == 2
    assert said in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert "Traceback" not in done.stderr


def test_a_dead_server_is_exit_code_3() -> None:
    done = trainer(
        *("sample", "2+2?", "--server.url", "http://127.0.0.1:9"),
        *("--server.give_up_after_s", "0"),
    )
    assert done.returncode == 3
    assert ":9" in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr


def test_a_dead_server_is_one_line_and_nothing_is_left_behind(
    tmp_path: Path, tiny_base: Path
) -> None:
    run = tmp_path / "run"
    done = trainer(
        *("train", "--server.url", "http://127.0.0.1:9", "--server.give_up_after_s", "0"),
        *("--policy.base_model", str(tiny_base), "--run.folder", str(run)),
    )
    assert done.returncode == 3
    assert "http://127.0.0.1:9" in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr


def test_the_traceback_of_a_reward_function_stands_above_the_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    error = RewardFunctionError("reward.functions: f.py:g failed twice")
    error.add_note("Traceback (most recent call last):\n  in g\n")

    def fails(*arguments: object, **options: object) -> None:
        raise error

    monkeypatch.setattr("trainer.cli.load_config", fails)
    monkeypatch.setattr("trainer.cli.prepare_environment", lambda: None)
    monkeypatch.setattr("sys.argv", ["trainer", "train"])
    with pytest.raises(SystemExit) as caught:
        main()
    assert caught.value.code == 2
    *lines, last = capsys.readouterr().err.splitlines()
    assert lines == ["Traceback (most recent call last):", "  in g"]
    assert last.endswith("reward.functions: f.py:g failed twice")

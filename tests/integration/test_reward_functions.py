"""``trainer train`` with a user's reward function, against a real vLLM server."""

import shutil
import subprocess
from pathlib import Path

import pytest

from inference_server.launch.server_process import ServerProcess
from tests.integration.test_training import metrics_of, run_trainer, train_command
from trainer.io.run_layout import checkpoint_folders

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

EXAMPLE = Path(__file__).parents[2] / "examples/short_answers.py"


def test_the_example_trains_replays_and_when_it_fails_ends_with_its_traceback(
    server: ServerProcess, tiny_base: Path, tmp_path: Path
) -> None:
    run, function = tmp_path / "run", Path(shutil.copy(EXAMPLE, tmp_path))
    # The random model gives no answer, which the example would leave unrewarded.
    source = function.read_text().replace('"####" in text', "text")
    function.write_text(source)

    def train(num_steps: int) -> subprocess.CompletedProcess[str]:
        options = {
            "reward.functions": f'["regime_w", "{function}:reward"]',
            "reward.weights": "[1, 0.2]",
            "run.num_steps": str(num_steps),
            "run.checkpoint_every": "9",
        }
        command = train_command(server, tiny_base, run, **options)
        return subprocess.run(command, capture_output=True, text=True, timeout=300)

    done = train(2)
    assert done.returncode == 0, done.stderr
    assert len(metrics_of(run)) == 2
    for row in metrics_of(run):
        assert 0 < row["reward_function/short_answers.py:reward"] < 1
    replayed = run_trainer("replay", str(run), "--verify")
    assert replayed.returncode == 0, replayed.stdout + replayed.stderr
    assert "reward.functions" not in replayed.stdout

    function.write_text(source.replace("return [", "raise ValueError('no judge')\n    return ["))
    failed = train(4)
    assert failed.returncode == 2
    *notes, line = failed.stderr.strip().splitlines()
    assert f"{function}:reward failed twice for question " in line
    assert "ValueError: no judge" in line
    assert any(str(function) in note and "in reward" in note for note in notes)
    assert [folder.name for folder in checkpoint_folders(run)][-1] == "step-000002"
    replayed = run_trainer("replay", str(run), "--verify")
    assert replayed.returncode == 0, replayed.stdout + replayed.stderr
    assert f"{function}:reward was changed: SHA-256 " in replayed.stdout

    function.write_text(source)
    done = train(4)
    assert done.returncode == 0, done.stderr
    assert len(metrics_of(run)) == 4

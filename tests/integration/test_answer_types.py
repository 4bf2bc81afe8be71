"""``trainer train`` on questions of each type of answer, against a real vLLM server."""

import json
from pathlib import Path

import pytest

from inference_server.launch.server_process import ServerProcess
from tests.integration.test_training import metrics_of, train_settings
from trainer import cli

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

# A random model gives such answers by chance: one token that is a letter or a digit, a number, or a line.
SYMBOLS = [*"0123456789abcdefghijklmnop"]
ROWS: dict[str, dict[str, object]] = {
    "number": {"answer": "7"},
    # By its index, since the letter E alone is also the text of another choice and therefore refused.
    "choice": {"answer": 4, "choices": SYMBOLS},
    "text": {"answer": "Mary Shelley"},
    "math": {"answer": "x^2"},
}
MAX_TOKENS = {"number": "4", "choice": "1", "text": "2", "math": "2"}
NUM_STEPS = 6


@pytest.mark.parametrize("answer_type", ROWS)
def test_a_run_on_answers_of_each_type(
    server: ServerProcess,
    tiny_base: Path,
    tmp_path: Path,
    answer_type: str,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    if answer_type == "math":
        pytest.importorskip("math_verify", reason="needs the extra math")
    data, run = tmp_path / "data.jsonl", tmp_path / "run"
    rows = [{"question": f"Which is it, {i}?", **ROWS[answer_type]} for i in range(2 * NUM_STEPS)]
    data.write_text("\n".join(map(json.dumps, rows)))
    settings = {
        "data.source": str(data),
        "data.answer_type": answer_type,
        **({"data.choices": "choices"} if answer_type == "choice" else {}),
        "rollout.max_tokens": MAX_TOKENS[answer_type],
        "run.num_steps": str(NUM_STEPS),
        "run.checkpoint_every": str(NUM_STEPS),
    }

    def trainer(*arguments: str) -> str:
        # In this process, since starting another one takes longer than the run. A failure raises an exception here.
        monkeypatch.setattr("sys.argv", ["trainer", *arguments])
        cli.main()
        return capfd.readouterr().out

    options = train_settings(server.url, tiny_base, run, **settings)
    trainer("train", *(word for key, value in options.items() for word in (f"--{key}", value)))
    metrics = metrics_of(run)
    assert [row["step"] for row in metrics] == [*range(1, NUM_STEPS + 1)]
    assert any(row["reward/answered"] > 0 for row in metrics)
    groups = [
        json.loads(line)
        for path in sorted((run / "rollouts").glob("step-*.jsonl"))
        for line in path.read_text().splitlines()
    ]
    assert len(groups) == 2 * NUM_STEPS
    assert {group.get("answer_type", "number") for group in groups} == {answer_type}
    answers = [arm["answer"] for group in groups for arm in group["arm_outputs"]]
    assert {answer for answer in answers if answer is not None}

    if answer_type == "choice":
        assert {len(group["choices"]) for group in groups} == {len(SYMBOLS)}
        shown = trainer("replay", str(run), "--verify")
        assert "all digests and metrics are as recorded" in shown

"""Online PPO on a base whose layers carry a state: a real server and a real trainer, with weight-sync checks on."""

import json
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
from transformers import Lfm2Config

from tests.integration.server_fixture import save_random_model, server_with

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

CONVOLUTIONS = partial(
    Lfm2Config,
    block_auto_adjust_ff_dim=False,
    layer_types=["conv", "full_attention"],
    # vLLM reads these keys, which LFM2's own config.json has too.
    conv_dim=64,
    block_dim=64,
    block_multiple_of=32,
    block_ffn_dim_multiplier=1.0,
)


def test_a_policy_of_convolutions_is_served_as_it_is_trained(tmp_path: Path) -> None:
    base = save_random_model(tmp_path / "base", kind=CONVOLUTIONS)
    run = tmp_path / "run"
    with server_with(base, tmp_path / "server") as server:
        settings = {
            "policy.base_model": str(base),
            "policy.target_modules": '["all-linear"]',
            "server.url": server.url,
            "run.folder": str(run),
            "run.num_threads": "1",
            "run.num_steps": "3",
            "data.num_questions": "64",
            "rollout.questions_per_step": "2",
            "rollout.max_tokens": "12",
            "ppo.learning_rate": "1e-3",
            "ppo.critic_warmup_steps": "0",
        }
        words = [word for key, value in settings.items() for word in (f"--{key}", value)]
        done = subprocess.run(
            [sys.executable, "-m", "trainer", "train", *words],
            capture_output=True,
            text=True,
            timeout=300,
        )
    assert done.returncode == 0, done.stderr
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [1, 2, 3]
    # The server's logprobs are those of rows with one sequence each, whatever was pushed.
    assert all(row["ppo/logprob_mismatch"] < 1e-3 for row in rows)
    verified = subprocess.run(
        [sys.executable, "-m", "trainer", "replay", str(run), "--verify"],
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert verified.returncode == 0, verified.stdout + verified.stderr
    assert "all digests and metrics are as recorded" in verified.stdout

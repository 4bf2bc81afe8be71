"""Online PPO on several ranks against a real server: a rank is killed, and any number of ranks can continue the run."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch.distributed as dist

from inference_server.launch.server_process import ServerProcess
from tests.integration.test_training import metrics_of, run_trainer, train_command

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


def wait_for_step(run: Path, step: int, process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 300
    while len(metrics_of(run)) < step:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.mark.parametrize("flags", [[], ["--policy.shard_base"]])
def test_a_lost_rank_ends_the_run_and_any_number_goes_on(
    server: ServerProcess, tiny_base: Path, tmp_path: Path, flags: list[str]
) -> None:
    run = tmp_path / "run"
    options = {
        "run.checkpoint_every": "9",
        "rollout.max_tokens": "24",
        "ppo.questions_per_mini_batch": "2",
    }

    def command(num_steps: int) -> list[str]:
        settings = {**options, "run.num_steps": str(num_steps)}
        return [*train_command(server, tiny_base, run, **settings), *flags]

    # Started as torchrun would, but without it, since torchrun would stop the first rank once the second has ended.
    store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)  # type: ignore[attr-defined]
    environment = {
        **os.environ,
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(store.port),
        "WORLD_SIZE": "2",
        "TORCHELASTIC_USE_AGENT_STORE": "True",
    }
    ranks = [
        subprocess.Popen(
            command(50),
            env={**environment, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    try:
        wait_for_step(run, 2, ranks[0])
        ranks[1].kill()
        _, errors = ranks[0].communicate(timeout=200)
    finally:
        for rank in ranks:
            rank.kill()
            rank.communicate()
    assert ranks[0].returncode == 3, errors
    assert "another rank of this job has ended" in errors
    num_done = len(metrics_of(run))
    assert num_done >= 2

    alone = subprocess.run(
        [*command(num_done + 2), "--resume"], capture_output=True, text=True, timeout=300
    )
    assert alone.returncode == 0, alone.stderr
    assert "differs" not in alone.stdout
    launched = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    together = subprocess.run(
        [*launched, *command(num_done + 4)[1:], "--resume"],
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert together.returncode == 0, together.stderr
    assert [row["step"] for row in metrics_of(run)] == list(range(1, num_done + 5))
    assert f"is finished: step {num_done + 4}" in together.stdout

    replayed = run_trainer("replay", str(run), "--verify")
    assert replayed.returncode == 0, replayed.stdout
    assert f"{num_done + 4} steps, " in replayed.stdout
    assert "all digests and metrics are as recorded" in replayed.stdout

"""Online PPO on several ranks against a real server: a rank is killed, and one process or several continue the run."""

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


TORCHRUN = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]


@pytest.mark.parametrize(
    ("flags", "launcher"), [([], []), (["--policy.shard_base"], TORCHRUN)], ids=["alone", "shards"]
)
def test_a_lost_rank_ends_the_run_and_one_process_or_several_go_on(
    server: ServerProcess, tiny_base: Path, tmp_path: Path, flags: list[str], launcher: list[str]
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

    resumed = subprocess.run(
        [sys.executable, *launcher, *command(num_done + 2)[1:], "--resume"],
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert resumed.returncode == 0, resumed.stderr
    assert "differs" not in resumed.stdout
    assert [row["step"] for row in metrics_of(run)] == list(range(1, num_done + 3))
    assert f"is finished: step {num_done + 2}" in resumed.stdout

    replayed = run_trainer("replay", str(run), "--verify")
    assert replayed.returncode == 0, replayed.stdout
    assert f"{num_done + 2} steps, " in replayed.stdout
    assert "all digests and metrics are as recorded" in replayed.stdout

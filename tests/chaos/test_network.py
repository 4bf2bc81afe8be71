"""A network that resets, delays, cuts, garbles and refuses: the run finishes, and trains only on whole groups."""

import logging
from pathlib import Path
from typing import Any

import pytest

from inference_server.launch.server_process import ServerProcess
from tests.chaos.proxy import Fault, Schedule, faulty_proxy
from tests.chaos.trainer_process import TrainerProcess

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]

_log = logging.getLogger(__name__)

SERVER_TIMEOUT_S = "3"


def test_faults_cost_time_and_nothing_else(
    server: ServerProcess, tiny_base: Path, tmp_path: Path, soak: bool
) -> None:
    # The number of requests, and with it which faults occur, also depends on timing.
    num_steps, min_faults, min_kinds = (64, 200, len(Fault)) if soak else (8, 10, 3)
    with faulty_proxy(server.url, Schedule(seed=6, rate=0.45)) as proxy:
        trainer = TrainerProcess(
            proxy.url,
            tiny_base,
            tmp_path / "run",
            num_steps=num_steps,
            **{"server.request_timeout_s": SERVER_TIMEOUT_S},
        )
        trainer.finish(timeout_s=3000)
    _log.info("%d faults: %s", sum(proxy.injected.values()), dict(proxy.injected))
    assert sum(proxy.injected.values()) >= min_faults
    assert len(proxy.injected) >= min_kinds
    assert trainer.events("server_fails")
    assert trainer.events("server_answers")
    trainer.require_whole()
    trainer.require_replayed()
    # Every group that trained is one that the server generated and that came through whole.
    delivered = [
        fingerprint(group["id"], group["arms"], "logprobs")
        for group in proxy.groups(delivered=True)
    ]
    for group in trainer.groups():
        assert fingerprint(group["id"], group["arm_outputs"], "sampler_logprobs") in delivered


def fingerprint(group_id: str, arms: list[dict[str, Any]], logprobs: str) -> tuple[Any, ...]:
    return group_id, *((tuple(arm["token_ids"]), tuple(arm[logprobs])) for arm in arms)

"""Evaluation against a real vLLM server: the same adapter twice is the same numbers."""

import asyncio
from pathlib import Path

import pytest

from inference_server.launch.server_process import ServerProcess
from tests.integration.server_fixture import (
    running_server,
    save_random_adapter,
    save_random_model,
)
from trainer.client.arms_client import ArmsClient
from trainer.config.sections import EvaluationConfig, ServerConfig
from trainer.evaluation.ask import evaluate
from trainer.evaluation.records import answers_path, read_answers
from trainer.evaluation.results import Evaluation

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


def run(server: ServerProcess, config: EvaluationConfig) -> Evaluation:
    async def ask() -> Evaluation:
        async with ArmsClient(ServerConfig(url=server.url)) as client:
            return await evaluate(config, client, lambda num_done, num_total: None)

    return asyncio.run(ask())


def test_the_same_adapter_twice_is_the_same_numbers(tmp_path: Path) -> None:
    base = save_random_model(tmp_path / "base")
    adapter = save_random_adapter(base, tmp_path / "adapter", seed=1)
    other = save_random_adapter(base, tmp_path / "other", seed=2)
    with running_server(base, tmp_path / "state", max_model_len=512) as server:
        # Each time under another version, once beside another batch of the same questions.
        found = [
            run(
                server,
                EvaluationConfig(
                    models=(f"A={adapter}", f"Again={adapter}", f"B={other}"),
                    num_questions=40,
                    max_tokens=24,
                    samples_per_arm=2,
                    batch_size=batch_size,
                    seed=3,
                    output=tmp_path / f"{batch_size}.json",
                ),
            )
            for batch_size in (40, 40, 16)
        ]
    first = found[0]
    assert first == found[1] == found[2]
    one, again, other_result = first.models
    assert one.model_copy(update={"label": "Again"}) == again
    for difference in first.differences:
        if difference.label == "Again":
            assert (difference.points, difference.num_won, difference.num_lost) == (0, 0, 0)
            assert difference.p_value in (1.0, None)
    # Nothing of this would be seen if every answer were the same.
    lines = list(read_answers(answers_path(tmp_path / "40.json")))
    assert all(line.models["A"] == line.models["Again"] for line in lines)
    assert any(line.models["A"] != line.models["B"] for line in lines)
    texts = {c.text for line in lines if (arms := line.models["A"].arms) for c in arms.completions}
    assert len(texts) > 100
    assert one.arms is not None
    assert one.arms.num_completions == 16
    assert 0 < one.completions.mean_tokens <= 24
    assert one.completions.truncated > 0
    assert other_result.completions != one.completions

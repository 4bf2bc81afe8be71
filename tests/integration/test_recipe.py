"""The recipe's stages against a real vLLM server: SFT, collecting through kills, PPO from the file."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel

from inference_server.launch.server_process import ServerProcess
from trainer.config.sections import PolicyConfig
from trainer.io.jsonl import read_lines
from trainer.model.base_model import load_base
from trainer.model.batches.sample import Sample
from trainer.model.roles import PolicyRoles, Role

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

NUM_QUESTIONS = 160


def trainer(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "trainer", *map(str, arguments)]


def run(*arguments: object) -> str:
    done = subprocess.run(trainer(*arguments), capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def sft(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("recipe") / "sft"
    run(
        *("sft", "--policy.base_model", tiny_base, "--policy.lora_rank", 8, "--output", folder),
        *("--sft.num_examples", 64, "--sft.learning_rate", "1e-2"),
        *("--sft.num_evaluation_examples", 8),
    )
    return folder


@pytest.fixture(scope="module")
def rollouts(server: ServerProcess, sft: Path) -> Path:
    """A file whose collection was killed three times, and then finished."""
    output = sft.parent / "rollouts.jsonl.zst"
    command = trainer(
        *("collect", "--model", sft, "--limit", NUM_QUESTIONS, "--output", output),
        *("--server.url", server.url, "--rollout.max_tokens", 24, "--num_in_flight", 8),
    )
    size = 0
    for _ in range(3):
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        try:
            deadline = time.monotonic() + 120
            # Wait for some new rows.
            while not output.exists() or output.stat().st_size < size + 20_000:
                assert process.poll() is None, "the collection ended before it could be killed"
                assert time.monotonic() < deadline
                time.sleep(0.01)
        finally:
            process.send_signal(signal.SIGKILL)
            process.wait()
        size = output.stat().st_size
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert f"{NUM_QUESTIONS} questions in" in done.stdout
    return output


def rows_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for _, line in read_lines(path)]


def mismatches(base: Path, adapter: Path | None, rows: list[dict[str, Any]]) -> torch.Tensor:
    """|trainer - server| logprob of every token of the rows."""
    arms = [arm for row in rows for arm in row["arm_outputs"]]
    samples = [
        Sample(
            prompt_ids=tuple(arm["prompt_token_ids"]),
            completion_ids=tuple(arm["token_ids"]),
            sampler_logprobs=tuple(arm["sampler_logprobs"]),
            temperature=arm["temperature"],
            top_p=arm["top_p"],
            reward=0.0,
            truncated=arm["finish_reason"] == "length",
            version=None,
        )
        for arm in arms
    ]
    roles = PolicyRoles(
        PolicyConfig(base_model=str(base), adapter=adapter),
        device=torch.device("cpu"),
        serve_dtype=torch.float32,
    )
    found = roles.completion_logprobs(Role.POLICY, samples, token_budget=4096)
    return (
        torch.cat(found).sub(torch.cat([torch.tensor(s.sampler_logprobs) for s in samples])).abs()
    )


def test_a_collection_that_was_killed_three_times_has_every_question_once(rollouts: Path) -> None:
    rows = rows_of(rollouts)
    assert len(rows) == len({row["id"] for row in rows}) == NUM_QUESTIONS
    for row in rows:
        assert len(row["arm_outputs"]) == 8
        for arm in row["arm_outputs"]:
            assert len(arm["token_ids"]) == len(arm["sampler_logprobs"]) >= 1


def test_the_sft_adapter_is_served_as_it_is(rollouts: Path, sft: Path, tiny_base: Path) -> None:
    found = mismatches(tiny_base, sft, rows_of(rollouts)[:20])
    assert len(found) > 1000
    # Not the maximum: now and then a token at the edge of a nucleus is in it on one side only.
    assert found.mean() < 1e-3
    assert found.quantile(0.99) < 1e-3
    # The adapter was sampled, not the base.
    assert mismatches(tiny_base, None, rows_of(rollouts)[:20]).mean() > 0.01


def test_ppo_from_the_file_ends_in_an_adapter_that_is_served(
    server: ServerProcess, rollouts: Path, sft: Path, tiny_base: Path
) -> None:
    folder = sft.parent / "offline"
    printed = run(
        *("train-offline", "--policy.base_model", tiny_base, "--policy.adapter", sft),
        *("--rollouts", rollouts, "--limit", 16, "--run.folder", folder, "--run.num_threads", 1),
        *("--ppo.learning_rate", "1e-3", "--ppo.critic_warmup_steps", 0),
        # As in the collection: a reward would hardly reach the first of 256 tokens, which gives a warning.
        *("--rollout.max_tokens", 24),
    )
    assert f"adapter in {folder / 'adapters/policy-000002'}" in printed
    assert "warning" not in printed
    metrics = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert metrics[0]["ppo/logprob_mismatch"] < 1e-3

    again = sft.parent / "again.jsonl"
    run(
        *("collect", "--model", folder, "--limit", 8, "--output", again),
        *("--server.url", server.url, "--rollout.max_tokens", 24),
    )
    adapter = folder / "adapters/policy-000002"
    assert mismatches(tiny_base, adapter, rows_of(again)).mean() < 1e-3

    base = load_base(PolicyConfig(base_model=str(tiny_base)), torch.device("cpu"))
    for path in (sft, adapter):
        model = PeftModel.from_pretrained(base, path)
        assert any(p.abs().max() > 0 for name, p in model.named_parameters() if "lora_B" in name)
        base = model.unload()

    models = ["Base=base", f"SFT={sft}", f"Offline PPO={folder}"]
    table = run(
        *("eval", "--models", json.dumps(models), "--num_questions", 8, "--max_tokens", 8),
        *("--server.url", server.url),
    )
    assert all(label in table for label in ("Base", "SFT", "Offline PPO"))

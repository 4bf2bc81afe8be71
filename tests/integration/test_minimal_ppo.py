"""examples/minimal_ppo.py as a newcomer runs it, against a real server with a model that guesses."""

import json
import math
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import httpx
import pytest
from safetensors.torch import load_file

from examples import minimal_ppo
from inference_server.launch.server_process import ServerProcess, free_port, running_server
from inference_server.wire.adapters.infos import AdapterList
from inference_server.wire.schemas import ADAPTER_WEIGHTS_FILE, adapter_name
from trainer.data.word_problems import Split, word_problems
from trainer.tiny_model.build import build_tiny_model
from trainer.tiny_model.pretraining import TinyModelRecipe

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

ROOT = Path(__file__).resolve().parents[2]
EXAMPLE = ROOT / "examples/minimal_ppo.py"
NUM_STEPS = 2


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=600,
        env={**os.environ, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"},
    )


def run_example(*arguments: object) -> subprocess.CompletedProcess[str]:
    return run(EXAMPLE, *arguments)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that writes text of the right shape after a few seconds of training."""
    small = TinyModelRecipe(
        hidden_size=64, num_layers=2, num_heads=2, batch_size=16, num_drills=2, num_steps=60
    )
    return build_tiny_model(tmp_path_factory.mktemp("models") / "base", small)


@pytest.fixture(scope="module")
def adapter(base: Path) -> Path:
    """A model that guesses plausible answers: now and then one is right, so that rewards differ within groups."""
    demonstrations = base.parent / "answers.jsonl"
    problems = islice(word_problems(Split.TRAIN, seed=5), 320)
    rows = [{"question": p.question, "answer": f"#### {p.steps[-1].result}"} for p in problems]
    demonstrations.write_text("".join(json.dumps(row) + "\n" for row in rows))
    command = (
        *("sft", "--policy.base_model", base, "--policy.lora_rank", 8),
        *("--data.source", demonstrations, "--output", base.parent / "adapter"),
        *("--sft.num_examples", len(rows), "--sft.learning_rate", 1e-2),
        *("--sft.num_evaluation_examples", 8),
    )
    done = run("-m", "trainer", *command)
    assert done.returncode == 0, done.stderr
    return base.parent / "adapter"


@pytest.fixture(scope="module")
def server(base: Path) -> Iterator[ServerProcess]:
    with running_server(
        model=base,
        log_path=base.parent / "server.log",
        flags=["--max-model-len", "256", "--state-dir", str(base.parent / "state")],
    ) as running:
        yield running


def test_it_pushes_versions_that_are_served_and_differ(
    server: ServerProcess, base: Path, adapter: Path, tmp_path: Path
) -> None:
    output = tmp_path / "trained"
    done = run_example(
        *("--url", server.url, "--model", base, "--adapter", adapter, "--output", output),
        *("--steps", NUM_STEPS, "--questions", 64, "--max-tokens", 8, "--eval-questions", 8),
    )
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert len(lines) == NUM_STEPS + 2, done.stdout
    assert lines[0].startswith("version ")
    first = int(lines[0].split()[1].rstrip(":"))
    for step, line in enumerate(lines[1:-1], 1):
        assert line.startswith(f"step {step} version {first + step} reward ")
        (loss,) = re.findall(r"loss (\S+)", line)
        (mismatch,) = re.findall(r"mismatch (\S+)", line)
        assert math.isfinite(float(loss))
        assert float(mismatch) < 1e-4
    assert re.fullmatch(
        rf"version {first + NUM_STEPS}: .+ -> .+ correct after \d+ s of PPO", lines[-1]
    )

    with httpx.Client(base_url=server.url, timeout=60, trust_env=False) as client:
        held = AdapterList.model_validate_json(client.get("/v1/adapters").content)
        assert held.active_version == first + NUM_STEPS
        versions = {info.version: info for info in held.adapters}
        assert set(range(first, first + NUM_STEPS + 1)) <= set(versions)
        assert len({info.sha256 for info in versions.values()}) == len(versions)
        models = {model["id"] for model in client.get("/v1/models").json()["data"]}
        assert adapter_name(first + NUM_STEPS) in models
    before, after = (load_file(folder / ADAPTER_WEIGHTS_FILE) for folder in (adapter, output))
    assert before.keys() == after.keys()
    assert any((before[name] != after[name]).any() for name in before)


def test_a_wrong_model_or_adapter_is_one_line(
    server: ServerProcess,
    base: Path,
    adapter: Path,
    tiny_base: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The random tiny base has the same shapes, so only its fingerprint tells it apart."""

    def error_of(model: Path, adapter: Path) -> str:
        words = [EXAMPLE, "--url", server.url, "--model", model, "--adapter", adapter]
        monkeypatch.setattr(sys, "argv", [*map(str, words)])
        assert minimal_ppo.main() == 2
        return capsys.readouterr().err.splitlines()[-1]

    for model in (tiny_base, tmp_path / "nowhere"):
        assert f"minimal_ppo: error: --model {model}: " in error_of(model, adapter)
    assert error_of(base, tmp_path / "nowhere").startswith(
        f"minimal_ppo: error: --adapter {tmp_path}"
    )


def test_a_server_that_is_not_up_is_one_line(base: Path, adapter: Path) -> None:
    url = f"http://127.0.0.1:{free_port()}"
    done = run_example("--url", url, "--model", base, "--adapter", adapter)
    assert (done.returncode, done.stdout) == (2, "")
    # Libraries may print lines before it, for instance about a kernel that this kind of CPU could have.
    assert done.stderr.splitlines()[-1].startswith(f"minimal_ppo: error: --url {url}")

"""Trainer and server use one dtype without a setting, and a run keeps the dtype that it began with."""

import shutil
from pathlib import Path

import pytest
import torch
from transformers import Qwen2Config

from tests.unit.memory_server import MemoryServer
from tests.unit.runs_in_memory import run_config, server_roles, train, write_questions
from trainer.config.sections import OfflineRunConfig, PolicyConfig, TrainConfig
from trainer.io.adapter_settings import kept_dtype
from trainer.io.kept_settings import CONFIG_FILE, read_run_config
from trainer.model.dtype import difference_line, torch_dtype, with_default_dtype, with_dtype
from trainer.run_state.run_folder import open_run, with_kept_dtype

CPU, GPU = torch.device("cpu"), torch.device("cuda")


def policy(tmp_path: Path, dtype: str = "auto", own: str | None = "bfloat16") -> PolicyConfig:
    """A policy on a base with the dtype ``own``; of the base, only its configuration exists."""
    Qwen2Config(dtype=own).save_pretrained(tmp_path)
    return PolicyConfig.model_validate({"base_model": str(tmp_path), "dtype": dtype})


@pytest.mark.parametrize(
    ("dtype", "own", "device", "expected"),
    [
        ("auto", "bfloat16", GPU, "bfloat16"),
        ("auto", "float16", GPU, "float16"),
        ("auto", None, GPU, "float32"),
        ("auto", "float64", GPU, "float32"),
        ("auto", "bfloat16", CPU, "float32"),
        ("float16", "bfloat16", CPU, "float16"),
        ("float32", "bfloat16", GPU, "float32"),
    ],
)
def test_without_a_server_it_is_the_bases_own_on_a_gpu(
    dtype: str, own: str | None, device: torch.device, expected: str, tmp_path: Path
) -> None:
    config = policy(tmp_path, dtype, own)
    said: list[str] = []
    assert torch_dtype(config, device) == getattr(torch, expected)
    assert with_default_dtype(config, device, said.append).dtype == expected
    assert [expected in line for line in said] == [True] * (dtype == "auto")


def test_with_a_server_it_is_the_servers_and_a_difference_is_one_line() -> None:
    assert with_dtype(PolicyConfig(), "float16").dtype == "float16"
    given = PolicyConfig(dtype="float32")
    assert with_dtype(given, "bfloat16") == given
    assert difference_line(PolicyConfig(), "bfloat16") is None
    assert difference_line(given, "float32") is None
    line = difference_line(given, "bfloat16")
    assert line is not None
    assert "server computes in bfloat16 and the trainer in float32 (policy.dtype)" in line
    assert "\n" not in line


def test_a_run_records_the_servers_dtype_and_resumes_with_it(
    tiny_base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    questions = write_questions(tmp_path / "seven.jsonl")
    config = run_config(tiny_base, tmp_path / "run", questions, run={"num_steps": 1})
    assert config.policy.dtype == "auto"
    server = MemoryServer(server_roles(tiny_base))
    train(config, server)
    assert read_run_config(tmp_path / "run").policy.dtype == "float32"
    assert "computing in float32, as the server does" in capsys.readouterr().out
    # Begun in another dtype than the server has now: it stays in it, and says so.
    path = tmp_path / "run" / CONFIG_FILE
    path.write_text(path.read_text().replace('dtype = "float32"', 'dtype = "bfloat16"'))
    longer = run_config(tiny_base, tmp_path / "run", questions, run={"num_steps": 2})
    assert with_kept_dtype(longer).policy.dtype == "bfloat16"
    path.write_text(path.read_text().replace('dtype = "bfloat16"', 'dtype = "float32"'))
    train(longer, server)
    assert read_run_config(tmp_path / "run").policy.dtype == "float32"
    assert "computing in" not in capsys.readouterr().out


def test_what_was_left_of_a_run_that_never_began_decides_nothing(tmp_path: Path) -> None:
    config = TrainConfig.model_validate(
        {"run": {"folder": tmp_path}, "policy": {"dtype": "float16"}}
    )
    with open_run(config, must_resume=False):
        pass
    shutil.rmtree(tmp_path / "checkpoints", ignore_errors=True)
    again = OfflineRunConfig.model_validate({"run": {"folder": tmp_path}})
    assert with_kept_dtype(again) == again


def test_kept_settings_that_cannot_be_read_have_no_dtype(tmp_path: Path) -> None:
    path = tmp_path / CONFIG_FILE
    assert kept_dtype(path) is None
    path.write_text("policy = [")
    assert kept_dtype(path) is None

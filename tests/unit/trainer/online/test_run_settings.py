"""Whole runs with settings of the update that are seldom used: resumed and replayed exactly."""

import json
import shutil
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest

from inference_server.wire.prompt_frames import Prompt
from tests.unit.memory_server import MemoryServer
from tests.unit.runs_in_memory import run_config, server_roles, train, write_questions
from trainer.commands.early_checks import check_online
from trainer.config.sections import TrainConfig
from trainer.errors import DataError, TrainerError
from trainer.io.kept_settings import CONFIG_FILE, keep_settings
from trainer.io.metrics_file import read_metrics
from trainer.model.prompts import load_renderer
from trainer.ppo.critic_fit import CriticFit
from trainer.replay.verify import verify
from trainer.rollouts import pretrained_critic
from trainer.rollouts.pretrained_critic import CRITIC_FILE
from trainer.run_state.journal_reader import JournalReader


@pytest.fixture(scope="module")
def questions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_questions(tmp_path_factory.mktemp("data") / "seven.jsonl")


@pytest.fixture(scope="module")
def first_run(tiny_base: Path, questions: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An undisturbed run of three steps."""
    folder = tmp_path_factory.mktemp("first") / "run"
    train(config_of(tiny_base, folder, questions, {}), server(tiny_base))
    return folder


def server(base: Path) -> MemoryServer:
    return MemoryServer(server_roles(base))


def config_of(
    base: Path, folder: Path, questions: Path, ppo: dict[str, Any], *, num_steps: int = 3
) -> TrainConfig:
    return run_config(
        base, folder, questions, ppo=ppo, run={"num_steps": num_steps, "evaluate_every": None}
    )


def with_real_prompts(base: Path, steps: list[Path], file: Path) -> Path:
    """The rollouts of steps in one file, with the prompts that the server in memory only draws."""
    renderer = load_renderer(str(base))
    prompt_format = renderer.resolve("auto")
    lines = []
    for row in (json.loads(line) for step in steps for line in step.read_text().splitlines()):
        prompt = Prompt(system_prompt="Be brief.", question=row["question"])
        (token_ids,) = renderer.prompts([prompt], prompt_format)
        arms = [{**arm, "prompt_token_ids": token_ids} for arm in row["arm_outputs"]]
        lines.append(json.dumps({**row, "prompt_format": prompt_format, "arm_outputs": arms}))
    file.write_text("\n".join(lines))
    return file


def digests(run: Path) -> list[str]:
    return [adapter.sha256 for adapter in JournalReader(run).adapters]


def is_replayed(run: Path) -> bool:
    said: list[str] = []
    assert verify(run, from_step=0, stop_at_first=True, say=said.append), said
    return True


@pytest.mark.parametrize(
    "ppo",
    [
        {
            "critic_gae_lambda": 0.5,
            "length_adaptive_alpha": 0.4,
            "learning_rate_warmup_steps": 3,
            "kl_horizon_steps": 2.0,
            "critic_rollouts": "FILE",
            "critic_pretrain_epochs": 2,
            "critic_warmup_steps": 0,
        },
        {"advantage": "rloo", "kl_coef": 0.0, "adaptive_kl": False},
    ],
)
def test_a_run_with_it_is_resumed_and_replayed_exactly(
    ppo: dict[str, Any],
    first_run: Path,
    tiny_base: Path,
    questions: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    steps = sorted((first_run / "rollouts").glob("*.jsonl"))
    file = with_real_prompts(tiny_base, steps, tmp_path / "rollouts.jsonl")
    if "critic_rollouts" in ppo:
        ppo = {**ppo, "critic_rollouts": str(file)}
    whole, resumed = tmp_path / "whole", tmp_path / "resumed"
    train(config_of(tiny_base, whole, questions, ppo), server(tiny_base))
    said = capsys.readouterr().out
    assert (
        ("critic fitted to" in said) == ("critic_rollouts" in ppo) == (whole / CRITIC_FILE).exists()
    )

    shutil.copytree(whole, resumed)
    file.unlink()  # of no more use once the run has begun
    for folder in sorted((resumed / "checkpoints").glob("step-*"))[1:]:
        shutil.rmtree(folder)
    train(config_of(tiny_base, resumed, questions, ppo), server(tiny_base), must_resume=True)
    assert digests(resumed) == digests(whole)
    assert "critic fitted to" not in capsys.readouterr().out
    assert is_replayed(whole)
    assert all(row["ppo/skipped_updates"] >= 0 for row in read_metrics(whole))


def test_the_journal_has_the_rates_of_the_warm_up(
    tiny_base: Path, questions: Path, tmp_path: Path
) -> None:
    config = config_of(
        tiny_base, tmp_path / "run", questions, {"learning_rate_warmup_steps": 2}, num_steps=3
    )
    train(config, server(tiny_base))
    journal = JournalReader(tmp_path / "run")
    scales = [0.5, 1.0, 0.5]
    assert [journal.step(step).learning_rate_scale for step in (1, 2, 3)] == scales
    rates = [row["ppo/learning_rate"] for row in read_metrics(tmp_path / "run")]
    assert rates == [config.ppo.learning_rate * scale for scale in scales]
    assert is_replayed(tmp_path / "run")


def test_the_critic_begins_as_it_was_fitted(
    first_run: Path, tiny_base: Path, questions: Path, tmp_path: Path
) -> None:
    step = first_run / "rollouts/step-000001.jsonl"
    file = with_real_prompts(tiny_base, [step], tmp_path / "rollouts.jsonl")
    ppo = {"critic_rollouts": str(file), "critic_pretrain_learning_rate": 0.01}
    train(config_of(tiny_base, tmp_path / "run", questions, ppo, num_steps=1), server(tiny_base))
    record = json.loads((tmp_path / "run" / CRITIC_FILE).read_bytes())
    assert record["rollouts"] == str(file)
    assert len(record["rollouts_sha256"]) == 64
    assert record["explained_variance"] >= record["explained_variance_before"] == 0.0
    (row,) = read_metrics(tmp_path / "run")
    assert (row["ppo/value_mean"] != 0.0) == (record["num_epochs"] > 0)


@pytest.mark.parametrize(
    ("explained", "num_epochs", "expected"),
    [
        (0.4, 2, ["(pass 2)"]),
        (0.0, 0, ["(no pass was better: it stays as it was)", "(0.03) lower"]),
    ],
)
def test_a_fit_that_came_to_nothing_is_said_and_prompts_of_another_format_are_refused(
    explained: float,
    num_epochs: int,
    expected: list[str],
    first_run: Path,
    tiny_base: Path,
    questions: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    fit = CriticFit(
        num_completions=9,
        num_held_out=1,
        explained_variance_before=0.0,
        explained_variance=explained,
        num_epochs=num_epochs,
    )
    monkeypatch.setattr(pretrained_critic, "fit_critic", lambda *args, **kwargs: fit)
    step = first_run / "rollouts/step-000001.jsonl"
    file = with_real_prompts(tiny_base, [step], tmp_path / "rollouts.jsonl")
    ppo = {"critic_rollouts": str(file), "critic_pretrain_learning_rate": 0.03}
    config = config_of(tiny_base, tmp_path, questions, ppo)
    said: list[str] = []
    pretrained_critic.pretrain_critic(config, server_roles(tiny_base), said.append)
    rollout = config.rollout.model_copy(update={"prompt_format": "plain"})
    with pytest.raises(DataError, match="sampled with chat prompts, and this run asks with plain"):
        pretrained_critic.pretrain_critic(
            config.model_copy(update={"rollout": rollout}), server_roles(tiny_base), print
        )
    assert len(said) == len(expected), said
    assert all(words in line for words, line in zip(expected, said, strict=True)), said


@pytest.mark.parametrize("advantage", ["gae", "rloo"])
def test_the_critics_rollouts_are_needed_only_with_a_critic(
    advantage: str, tiny_base: Path, questions: Path, tmp_path: Path
) -> None:
    ppo = {"critic_rollouts": "no.jsonl", "advantage": advantage}
    config = config_of(tiny_base, tmp_path / "run", questions, ppo)
    needed = pytest.raises(DataError, match=r"ppo\.critic_rollouts: no\.jsonl: no such file")
    with needed if advantage == "gae" else nullcontext():
        check_online(config)


# --- whether a run has begun ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sections", "said"),
    [
        (
            {"ppo": {"critic_rollouts": "no.jsonl"}},
            r"ppo\.critic_rollouts: no\.jsonl: no such file",
        ),
        ({"policy": {"adapter": "no-adapter"}}, r"policy\.adapter no-adapter"),
        ({"data": {"source": "no.jsonl"}}, r"data source 'no\.jsonl'"),
    ],
)
def test_a_run_that_was_killed_before_its_first_checkpoint_is_checked_as_a_new_one(
    sections: dict[str, dict[str, Any]],
    said: str,
    tiny_base: Path,
    questions: Path,
    tmp_path: Path,
) -> None:
    config = run_config(tiny_base, tmp_path, questions, **sections)
    keep_settings(tmp_path / CONFIG_FILE, config, free=())
    with pytest.raises(TrainerError, match=said):
        check_online(config)
    (tmp_path / "checkpoints/step-000000").mkdir(parents=True)
    check_online(config)


def test_without_checkpoints_a_run_is_computed_again_from_the_adapter_that_it_began_with(
    tiny_base: Path, questions: Path, tmp_path: Path
) -> None:
    sft, folder = tmp_path / "sft", tmp_path / "run"
    sft.mkdir()
    server_roles(tiny_base).export_policy(sft)
    config = run_config(
        *(tiny_base, folder, questions),
        policy={"adapter": sft},
        run={"num_steps": 2, "evaluate_every": None},
    )
    train(config, server(tiny_base))
    start = (folder / "start/adapter_model.safetensors").read_bytes()
    before = digests(folder)
    shutil.rmtree(folder / "checkpoints")
    shutil.rmtree(sft)
    train(config, server(tiny_base), must_resume=True)
    assert digests(folder) == before
    assert (folder / "start/adapter_model.safetensors").read_bytes() == start
    assert is_replayed(folder)

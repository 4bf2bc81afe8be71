"""What was begun on one base does not go on with other weights at the same path."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from inference_server.wire.base_files import fingerprint
from tests.unit.base_variants import copy_of, retrain
from tests.unit.memory_server import MemoryServer
from tests.unit.runs_in_memory import run_config, server_roles, train, write_questions
from trainer.config.sections import ExportCommand, OfflineRunConfig, SFTRunConfig, TrainConfig
from trainer.errors import UsageError
from trainer.export.export import export
from trainer.io.base_record import BaseRecord, read_base
from trainer.io.kept_settings import CONFIG_FILE, read_run_config
from trainer.offline.training import train_offline
from trainer.replay.verify import verify
from trainer.run_state.run_folder import require_own_run
from trainer.sft.training import run_sft


@pytest.fixture
def base(tiny_base: Path, tmp_path: Path) -> Path:
    return copy_of(tiny_base, tmp_path / "base")


def begun(base: Path, folder: Path) -> TrainConfig:
    """A run of one step, to which a second one is to be added."""
    questions = write_questions(folder.parent / "seven.jsonl")
    config = run_config(base, folder, questions, run={"num_steps": 1, "evaluate_every": None})
    train(config, MemoryServer(server_roles(base)))
    return longer(config)


def longer(config: TrainConfig) -> TrainConfig:
    return config.model_copy(update={"run": config.run.model_copy(update={"num_steps": 2})})


def replay(folder: Path) -> bool:
    return verify(folder, from_step=0, stop_at_first=True, say=lambda line: None)


def from_file(run: Path, folder: Path, policy: dict[str, Any]) -> OfflineRunConfig:
    return OfflineRunConfig.model_validate(
        {
            "policy": policy,
            "rollouts": run / "rollouts/step-000001.jsonl",
            "rollout": {"questions_per_step": 1},
            "ppo": {"critic_warmup_steps": 0},
            "run": {"folder": folder},
        }
    )


def test_a_run_neither_resumes_nor_replays_on_other_weights(base: Path, tmp_path: Path) -> None:
    config = begun(base, tmp_path / "run")
    kept = shutil.copytree(base, tmp_path / "kept")
    before = fingerprint(base)
    after = fingerprint(retrain(base))
    wanted = f"run was trained on {base} with fingerprint {before}, not on {base} with {after}: put"
    for refused in (
        lambda: train(config, MemoryServer(server_roles(base))),
        lambda: require_own_run(config),
        lambda: replay(config.run.folder),
    ):
        with pytest.raises(UsageError) as caught:
            refused()
        assert wanted in str(caught.value)
        assert "\n" not in str(caught.value)
    # The same files again, in another place, which the run's settings then name.
    moved = config.model_copy(
        update={"policy": config.policy.model_copy(update={"base_model": str(kept)})}
    )
    settings = config.run.folder / CONFIG_FILE
    settings.write_text(settings.read_text().replace(str(base), str(kept)))
    assert train(moved, MemoryServer(server_roles(kept))).step == 2
    assert replay(config.run.folder)


def test_a_run_from_before_the_record_goes_on_and_gets_one(base: Path, tmp_path: Path) -> None:
    config = begun(base, tmp_path / "run")
    (config.run.folder / "base.json").unlink()
    assert replay(config.run.folder)
    to = tmp_path / "merged"
    export(ExportCommand(run=config.run.folder, to=str(to), merged=True), print)
    assert (to / "config.json").exists()
    assert read_base(config.run.folder) is None
    assert train(config, MemoryServer(server_roles(base))).step == 2
    assert read_base(config.run.folder) == BaseRecord(
        base_model=str(base), fingerprint=fingerprint(base), served_fingerprint=fingerprint(base)
    )
    assert read_run_config(config.run.folder).run.num_steps == 2


def test_a_new_run_in_the_folder_of_a_removed_one_may_have_another_base(
    base: Path, tmp_path: Path
) -> None:
    config = begun(base, tmp_path / "run")
    for name in ("checkpoints", "adapters", "rollouts"):
        shutil.rmtree(config.run.folder / name)
    (config.run.folder / "journal.jsonl").unlink()
    (config.run.folder / "metrics.jsonl").unlink()
    retrain(base)
    assert train(config, MemoryServer(server_roles(base))).step == 2
    record = read_base(config.run.folder)
    assert record is not None
    assert record.fingerprint == fingerprint(base)


def test_a_run_from_a_file_does_not_resume_on_other_weights(base: Path, tmp_path: Path) -> None:
    policy = {"base_model": str(base), "lora_rank": 2}
    run = begun(base, tmp_path / "run").run.folder
    config = from_file(run, tmp_path / "offline", policy)
    train_offline(config)
    retrain(base)
    with pytest.raises(UsageError, match=r"offline was trained on .* with fingerprint"):
        train_offline(config)


def test_every_training_says_that_its_adapter_is_of_another_base(
    base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    started = begun(base, tmp_path / "run")
    adapter = started.run.folder / "adapters/policy-000000"
    retrain(base)
    said = f"warning: {adapter} was trained on {base} with fingerprint "
    policy = {"base_model": str(base), "adapter": adapter}
    questions = tmp_path / "seven.jsonl"
    config = run_config(base, tmp_path / "next", questions, policy=policy, run={"num_steps": 1})
    train(config, MemoryServer(server_roles(base)))
    assert said in capsys.readouterr().out
    # From then on the run has its own copy, of its own base.
    train(longer(config), MemoryServer(server_roles(base)))
    assert said not in capsys.readouterr().out
    train_offline(from_file(started.run.folder, tmp_path / "offline", policy))
    assert said in capsys.readouterr().out
    lines: list[str] = []
    sft = {"num_examples": 4, "batch_size": 4, "num_evaluation_examples": 0}
    run_sft(
        SFTRunConfig.model_validate(
            {"policy": policy, "output": tmp_path / "sft", "device": "cpu", "sft": sft}
        ),
        lambda step, num_steps, loss: None,
        lines.append,
    )
    assert any(line.startswith(said) for line in lines)


def test_sft_does_not_resume_on_other_weights(base: Path, tmp_path: Path) -> None:
    class Killed(BaseException):
        pass

    def on_step(step: int, num_steps: int, loss: float) -> None:
        if step > 1:
            raise Killed

    output = tmp_path / "sft"
    config = SFTRunConfig.model_validate(
        {
            "policy": {"base_model": str(base), "lora_rank": 2},
            "output": output,
            "device": "cpu",
            "sft": {
                "num_examples": 24,
                "batch_size": 4,
                "num_evaluation_examples": 0,
                "checkpoint_every": 2,
            },
        }
    )
    with pytest.raises(Killed):
        run_sft(config, on_step, print)
    kept = json.loads((output / "base.json").read_text())
    assert kept["fingerprint"] == fingerprint(base)
    assert list((output / "checkpoints").glob("checkpoint-*"))
    retrain(base)
    with pytest.raises(UsageError, match=r"sft was trained on .* with fingerprint"):
        run_sft(config, on_step, print)
    shutil.rmtree(output / "checkpoints")
    with pytest.raises(Killed):  # It begins anew.
        run_sft(config, on_step, print)
    kept = json.loads((output / "base.json").read_text())
    assert kept["fingerprint"] == fingerprint(base)

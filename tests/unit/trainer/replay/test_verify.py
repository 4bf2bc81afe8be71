"""A run replayed from its journal is equal to the last bit, or the first step and quantity that differ are named."""

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from safetensors.torch import load_file

from tests.unit.memory_server import MemoryServer
from tests.unit.runs_in_memory import run_config, server_roles, train, write_questions
from trainer.errors import CheckpointError, UsageError
from trainer.io.kept_settings import read_run_config
from trainer.io.metrics_file import read_metrics
from trainer.replay.changed_settings import changed_config
from trainer.replay.verify import verify
from trainer.replay.what_if import what_if
from trainer.run_state.journal import Journal
from trainer.run_state.journal_entries import JournaledStep, rollouts_file
from trainer.run_state.journal_reader import JournalReader

NUM_STEPS = 4


@pytest.fixture(scope="module")
def recorded(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("recorded")
    questions = write_questions(folder / "seven.jsonl")
    config = run_config(tiny_base, folder / "run", questions, run={"num_steps": NUM_STEPS})
    train(config, MemoryServer(server_roles(tiny_base)))
    return folder / "run"


@pytest.fixture
def run(recorded: Path, tmp_path: Path) -> Path:
    """A copy of the recorded run that a test may spoil."""
    return shutil.copytree(recorded, tmp_path / "run")


def replayed(
    run: Path, *, from_step: int = 0, stop_at_first: bool = True
) -> tuple[bool, list[str]]:
    said: list[str] = []
    is_same = verify(run, from_step=from_step, stop_at_first=stop_at_first, say=said.append)
    return is_same, said


def steps_said(said: list[str]) -> list[int]:
    return [int(line.split()[1]) for line in said if line.startswith("step ")]


@pytest.mark.parametrize(
    ("from_step", "steps"), [(0, [1, 2, 3, 4]), (1, [1, 2, 3, 4]), (2, [3, 4]), (3, [3, 4])]
)
def test_an_undisturbed_run_comes_out_as_it_was_recorded(
    from_step: int, steps: list[int], recorded: Path
) -> None:
    is_same, said = replayed(recorded, from_step=from_step)
    assert is_same, said
    assert steps_said(said) == steps
    assert said[-1].startswith(f"{len(steps)} steps, {len(steps) + 1} adapters: all")
    digests = [adapter.sha256[:12] for adapter in JournalReader(recorded).adapters]
    assert len(set(digests)) == NUM_STEPS  # the first step is the critic's alone
    assert all(any(digest in line for line in said) for digest in digests[-len(steps) :])


def test_a_replay_needs_neither_the_adapters_nor_the_later_checkpoints(run: Path) -> None:
    shutil.rmtree(run / "adapters")
    for folder in (run / "checkpoints").glob("step-*[1-9]"):
        shutil.rmtree(folder)
    is_same, said = replayed(run)
    assert is_same, said
    assert steps_said(said) == [1, 2, 3, 4]


# --- a run of another device -----------------------------------------------------------------------


@pytest.fixture(scope="module")
def recorded_in_half(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run as a GPU records it: with the rounding of bfloat16, which a replay in float32 does not have."""
    folder = tmp_path_factory.mktemp("half")
    questions = write_questions(folder / "seven.jsonl")
    config = run_config(
        tiny_base,
        folder / "run",
        questions,
        policy={"base_model": str(tiny_base), "lora_rank": 2, "dtype": "bfloat16"},
        run={"num_steps": NUM_STEPS, "num_checkpoints": NUM_STEPS},
    )
    train(config, MemoryServer(server_roles(tiny_base)))
    for manifest in (folder / "run/checkpoints").glob("*/manifest.json"):
        written = json.loads(manifest.read_text())
        assert written["device"] == "cpu"
        manifest.write_text(json.dumps({**written, "device": "cuda"}))
    settings = folder / "run/config.toml"
    text = settings.read_text().replace('dtype = "bfloat16"', 'dtype = "float32"')
    settings.write_text(text.replace('device = "auto"', 'device = "cuda"'))
    return folder / "run"


def test_a_run_of_a_gpu_is_replayed_on_a_cpu_up_to_rounding(recorded_in_half: Path) -> None:
    is_same, said = replayed(recorded_in_half, stop_at_first=False)
    assert is_same, said
    assert "recorded on cuda, replayed on cpu, which rounds differently" in said
    assert "metrics are within 20% or 0.02" in said[-1]


def test_more_than_rounding_is_found_on_another_device(
    recorded_in_half: Path, tmp_path: Path
) -> None:
    run = shutil.copytree(recorded_in_half, tmp_path / "run")
    settings = run / "config.toml"
    before = settings.read_text()
    changed = before.replace("\nlearning_rate = 0.001\n", "\nlearning_rate = 0.004\n")
    assert changed != before
    settings.write_text(changed)
    is_same, said = replayed(run, stop_at_first=False)
    assert not is_same
    assert any("from what was recorded, which moved by" in line for line in said)


# --- differences -----------------------------------------------------------------------------------


def flip_a_bit(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def flip_a_bit_of_rollouts(run: Path) -> None:
    flip_a_bit(rollouts_file(run, 3))


def lose_rollouts(run: Path) -> None:
    rollouts_file(run, 3).unlink()


def change_a_metric(run: Path) -> None:
    rows = read_metrics(run)
    rows[2]["ppo/policy_loss"] += 1e-9
    (run / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def lose_a_line_of_metrics(run: Path) -> None:
    rows = [row for row in read_metrics(run) if row["step"] != 3]
    (run / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def change_an_adapter(run: Path) -> None:
    flip_a_bit(run / "adapters/policy-000003/adapter_model.safetensors")


def damage_the_journals_step(run: Path) -> None:
    damage_the_line(run, '"kind":"step","step":3,')


def damage_the_journals_adapter(run: Path) -> None:
    damage_the_line(run, '"kind":"adapter","step":3,')


def damage_the_line(run: Path, start: str) -> None:
    path = run / "journal.jsonl"
    text = path.read_text()
    assert text.count(start) == 1
    path.write_text(text.replace(start, start.replace("3", "9")))


def forge_a_reward(run: Path) -> None:
    """Rollouts and their checksum are changed together, as no accident would."""
    journal = JournalReader(run)
    path = rollouts_file(run, 3)
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    rows[0]["arm_outputs"][0]["reward"] += 0.25
    data = "".join(json.dumps(row) + "\n" for row in rows).encode()
    path.write_bytes(data)
    change_entry(run, journal, {"rollouts_sha256": hashlib.sha256(data).hexdigest()})


def change_the_learning_rate(run: Path) -> None:
    change_entry(run, JournalReader(run), {"learning_rate_scale": 0.7})


def change_entry(run: Path, journal: JournalReader, changes: dict[str, object]) -> None:
    """Write the journal again with another line of step 3."""
    entries: list[JournaledStep] = [journal.step(step) for step in range(1, NUM_STEPS + 1)]
    entries[2] = entries[2].model_copy(update=changes)
    (run / "journal.jsonl").unlink()
    with Journal(run) as again:
        for adapter in journal.adapters_of(0):
            again.write_adapter(adapter)
        for entry in entries:
            again._append(entry)
            for adapter in journal.adapters_of(entry.step):
                again.write_adapter(adapter)


@pytest.mark.parametrize(
    ("spoil", "fragments"),
    [
        (flip_a_bit_of_rollouts, ["step-000003.jsonl was changed"]),
        (lose_rollouts, ["step-000003.jsonl: No such file"]),
        (change_a_metric, ["ppo/policy_loss was recorded as", "recomputed as"]),
        (lose_a_line_of_metrics, ["metrics.jsonl has no line for this step"]),
        (change_an_adapter, ["policy-000003/adapter_model.safetensors was changed"]),
        (damage_the_journals_step, ["has no line for this step", "is damaged"]),
        (damage_the_journals_adapter, ["has no adapter for this step"]),
        (
            forge_a_reward,
            ["ppo/", "more metrics", "policy-000003 has digest", "tensors differ", "lora_"],
        ),
        (change_the_learning_rate, ["policy-000003 has digest", "tensors differ", "lora_"]),
    ],
)
def test_the_first_difference_is_named_with_its_step_and_quantity(
    spoil: Callable[[Path], None], fragments: list[str], run: Path
) -> None:
    spoil(run)
    is_same, said = replayed(run)
    assert not is_same
    assert said[-1].startswith("first difference: step 3: ")
    assert all(fragment in said[-1] for fragment in fragments), said[-1]
    assert [step for step in steps_said(said) if step < 3] == [1, 2]
    assert not any("difference: " in line for line in said[:-1])


def test_a_difference_of_a_tensor_is_measured(run: Path) -> None:
    file = run / "adapters/policy-000003/adapter_model.safetensors"
    change_the_learning_rate(run)
    tensors = load_file(file)
    is_same, said = replayed(run)
    assert not is_same
    name, by = said[-1].split("tensors differ, ")[1].split(" the most, by ")
    assert name in tensors
    assert 0 < float(by) < 1e-3  # less than a step of AdamW


def test_without_verify_every_difference_is_told(run: Path) -> None:
    forge_a_reward(run)
    is_same, said = replayed(run, stop_at_first=False)
    assert not is_same
    differences = [line for line in said if "difference: " in line]
    assert [line.split(": ")[1] for line in differences] == ["step 3", "step 4"]
    assert steps_said(said) == [1, 2, 3, 4]


def test_lines_that_the_journal_does_not_know_are_a_difference(run: Path) -> None:
    with (run / "metrics.jsonl").open("a") as file:
        file.write('{"step": 5}\n')
    is_same, said = replayed(run)
    assert not is_same
    assert said[-1] == "first difference: step 5: is in metrics.jsonl but not in journal.jsonl"


def move_the_base_model(run: Path) -> None:
    config = read_run_config(run)
    path = run / "config.toml"
    path.write_text(path.read_text().replace(config.policy.base_model, "models/moved"))


@pytest.mark.parametrize(
    ("spoil", "error", "said"),
    [
        (lambda run: (run / "config.toml").unlink(), UsageError, r"config\.toml: missing"),
        (lambda run: (run / "journal.jsonl").unlink(), UsageError, "has no step"),
        (move_the_base_model, UsageError, "policy.base_model models/moved: no such folder"),
        (
            lambda run: flip_a_bit(run / "checkpoints/step-000000/state.pt"),
            CheckpointError,
            "no checkpoint",
        ),
    ],
)
def test_what_cannot_be_replayed_is_an_error_in_one_line(
    spoil: Callable[[Path], None], error: type[Exception], said: str, run: Path
) -> None:
    spoil(run)
    with pytest.raises(error, match=said) as caught:
        replayed(run)
    assert "\n" not in str(caught.value)


def test_a_step_that_the_run_has_not_reached_cannot_be_started_from(recorded: Path) -> None:
    with pytest.raises(UsageError, match=f"--from {NUM_STEPS}: the last step"):
        replayed(recorded, from_step=NUM_STEPS)


# --- what if ---------------------------------------------------------------------------------------


def compared(line: str) -> dict[str, tuple[float, float]]:
    """Name to (here, recorded) of a line such as ``step 3 loss 0.1 (0.2) kl …``."""
    words = line.split(" ")
    return {
        words[i - 1]: (float(words[i]), float(words[i + 1].strip("()")))
        for i in range(1, len(words) - 1)
        if words[i + 1].startswith("(")
    }


def asked(run: Path, *changes: str, from_step: int = 0) -> list[str]:
    said: list[str] = []
    what_if(run, changes, from_step=from_step, say=said.append)
    return said


def test_the_same_setting_changes_nothing(recorded: Path) -> None:
    config = read_run_config(recorded)
    said = asked(recorded, f"ppo.kl_coef={config.ppo.kl_coef}", "reward.credit=per_arm")
    for line in said[1:-1]:
        assert all(here == there for here, there in compared(line).values()), line
    assert steps_said(said) == [1, 2, 3, 4]
    assert "are 0 apart" in said[-1]


def test_another_setting_shows_from_where_it_matters(recorded: Path) -> None:
    said = asked(recorded, "ppo.learning_rate=0.01")
    lines = {int(line.split()[1]): compared(line) for line in said if line.startswith("step ")}
    # Up to the first step that moves the policy both are the same; then they part.
    assert all(here == there for here, there in lines[1].values())
    assert lines[4]["weight"][1] == lines[4]["ess"][1] == 1
    assert lines[4]["ess"][0] < 1
    assert lines[4]["mismatch"][0] > 1e-2
    apart, moved = (float(word) for word in said_numbers(said))
    assert 0.2 * moved < apart


def said_numbers(said: list[str]) -> list[str]:
    (line,) = [line for line in said if "apart" in line]
    return [line.split(" are ")[1].split()[0], line.split("moved ")[1].split()[0]]


def test_another_reward_is_paid_to_the_same_rollouts(recorded: Path) -> None:
    said = asked(recorded, "reward.correct_bonus=2", "reward.wrong_base=0", from_step=2)
    assert "from step 3 on" in said[0]
    assert "rollouts stay those of the recorded policy" in said[0]
    lines = [compared(line) for line in said if line.startswith("step ")]
    assert len(lines) == 2
    assert all(line["reward"][0] > line["reward"][1] for line in lines)


def test_far_off_policy_there_is_a_warning(recorded: Path) -> None:
    assert not any(line.startswith("warning") for line in asked(recorded, "ppo.kl_coef=0.06"))
    said = asked(recorded, "ppo.learning_rate=0.3")
    assert said[-1].startswith("warning: the effective sample size is down to ")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("ppo.learning_rate", "expected ppo.KEY=VALUE"),
        ("ppo.lerning_rate=1", "expected ppo.KEY=VALUE"),
        ("run.seed=1", "expected ppo.KEY=VALUE"),
        ("kl_coef=1", "expected ppo.KEY=VALUE"),
        ("ppo.learning_rate=fast", "ppo.learning_rate: "),
        ("ppo.clip_low=7", "ppo.clip_low: "),
        ("reward.credit=all", "reward.credit: "),
    ],
)
def test_a_change_that_is_none_is_an_error_that_names_it(
    change: str, said: str, recorded: Path
) -> None:
    with pytest.raises(UsageError, match="--what_if") as caught:
        changed_config(read_run_config(recorded), [change])
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_change_can_be_of_any_type(recorded: Path) -> None:
    config = changed_config(
        read_run_config(recorded),
        ["ppo.dual_clip=null", "ppo.adaptive_kl=false", "ppo.num_epochs=2", "ppo.clip_high=0.3"],
    )
    ppo = config.ppo
    assert (ppo.dual_clip, ppo.adaptive_kl, ppo.num_epochs, ppo.clip_high) == (None, False, 2, 0.3)


def test_a_replay_whose_rollouts_were_deleted_names_the_first_step_that_works(run: Path) -> None:
    rollouts_file(run, 1).unlink()
    fix = "step-000001.jsonl, which is gone: give --from 2, the first checkpoint"
    with pytest.raises(UsageError, match=fix):
        replayed(run, from_step=1)
    is_same, said = replayed(run, from_step=2)
    assert is_same, said
    rollouts_file(run, 4).unlink()
    with pytest.raises(UsageError, match="gone: no kept checkpoint has the rollouts of all steps"):
        replayed(run)

"""Checkpoints: everything comes back bit for bit, damage is noticed, old ones go."""

import random
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from trainer.batch import Sample
from trainer.checkpoint import (
    Best,
    Progress,
    checkpoint_folders,
    load_checkpoint,
    read_best,
    save_checkpoint,
    write_best,
)
from trainer.config import PolicyConfig, PPOConfig
from trainer.errors import CheckpointError
from trainer.policy import PolicyRoles, Role
from trainer.questions import PendingQuestions, QuestionState
from trainer.update import PPOUpdate

MakeRoles = Callable[..., PolicyRoles]
CONFIG = PPOConfig(
    learning_rate=1e-3, critic_learning_rate=1e-3, questions_per_mini_batch=1, kl_horizon=10
)


def make_groups(seed: int) -> list[list[Sample]]:
    rng = random.Random(seed)
    return [
        [
            Sample(
                prompt_ids=tuple(rng.choices(range(500), k=4)),
                completion_ids=tuple(rng.choices(range(500), k=5)),
                sampler_logprobs=(-6.0,) * 5,
                temperature=1.0,
                top_p=1.0,
                reward=rng.uniform(-1, 1),
                truncated=False,
                version=0,
            )
            for _ in range(2)
        ]
        for _ in range(2)
    ]


def train(update: PPOUpdate, seed: int) -> dict[str, float]:
    return update.step(update.experience(make_groups(seed), seed=""), train_policy=True).to_json()


def everything(roles: PolicyRoles, update: PPOUpdate) -> dict[str, torch.Tensor]:
    """All that a later step depends on."""
    found = {f"value_head/{name}": t.clone() for name, t in roles.value_head.state_dict().items()}
    for role in Role:
        for name, tensor in roles.adapter_state(role).items():
            found[f"{role}/{name}"] = tensor
    optimizers = {"policy": update.policy_optimizer, "critic": update.critic_optimizer}
    for of, optimizer in optimizers.items():
        for i, moments in optimizer.state_dict()["state"].items():
            for name, value in moments.items():
                found[f"{of}_optimizer/{i}/{name}"] = value.clone()
    found["kl_coef"] = torch.tensor(update.kl.coef, dtype=torch.float64)
    return found


def differing(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> set[str]:
    """The names of what is not bit for bit the same."""
    assert one.keys() == other.keys()
    return {name for name in one if not torch.equal(one[name], other[name])}


def questions_after(step: int) -> QuestionState:
    pending = PendingQuestions(records=("q1", "q2"), spares=("q3",), salt=8 * step)
    return QuestionState(cursor=8 * step, pending=(pending,), streaks={"q4": step})


def saved(
    run_folder: Path, step: int, roles: PolicyRoles, update: PPOUpdate, kept: int = 9
) -> Path:
    progress = Progress(step=step, questions=questions_after(step))
    return save_checkpoint(run_folder, progress, roles, update, num_kept=kept)


def test_a_resumed_run_goes_on_bit_for_bit_as_if_nothing_had_happened(
    make_roles: MakeRoles, tmp_path: Path
) -> None:
    roles = make_roles(seed=0)
    update = PPOUpdate(roles, CONFIG)
    train(update, seed=1)
    folder = saved(tmp_path, 12, roles, update)
    roles.export_policy(folder)
    random_after = torch.rand(3)
    at_save = everything(roles, update)
    roles.load_proximal(folder)
    metrics = train(update, seed=2)

    resumed_roles = make_roles(seed=1)  # every weight is another
    resumed = PPOUpdate(resumed_roles, CONFIG)
    train(resumed, seed=3)
    assert load_checkpoint(folder, resumed_roles, resumed) == Progress(
        step=12, questions=questions_after(12)
    )
    assert torch.equal(torch.rand(3), random_after)
    # The proximal role is not in it: it is read from the published version that generates.
    assert differing(everything(resumed_roles, resumed), at_save) == {
        name for name in at_save if name.startswith("proximal/")
    }
    resumed_roles.load_proximal(folder)
    assert train(resumed, seed=2) == metrics
    gone_on = everything(roles, update)
    assert differing(everything(resumed_roles, resumed), gone_on) == set()
    assert {"kl_coef", "value_head/bias"} <= differing(gone_on, at_save)


@pytest.fixture(scope="module")
def roles_and_update(make_roles: MakeRoles) -> tuple[PolicyRoles, PPOUpdate]:
    """For tests that do not mind what is in them."""
    roles = make_roles()
    update = PPOUpdate(roles, CONFIG)
    train(update, seed=0)
    return roles, update


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: b"",
        lambda data: data[:3],
        lambda data: data[:100],
        lambda data: data[: len(data) // 2],
        lambda data: data[:-1],
        lambda data: b"\0" * len(data),
        lambda data: b"not a checkpoint at all",
    ],
    ids=["empty", "3 bytes", "100 bytes", "half", "but one byte", "zeros", "text"],
)
def test_a_torn_checkpoint_is_an_error_that_names_it(
    damage: Callable[[bytes], bytes],
    roles_and_update: tuple[PolicyRoles, PPOUpdate],
    tmp_path: Path,
) -> None:
    folder = saved(tmp_path, 1, *roles_and_update)
    (state,) = folder.iterdir()
    state.write_bytes(damage(state.read_bytes()))
    with pytest.raises(CheckpointError) as caught:
        load_checkpoint(folder, *roles_and_update)
    assert str(folder) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_folder_without_a_state_is_an_error(
    roles_and_update: tuple[PolicyRoles, PPOUpdate], tmp_path: Path
) -> None:
    with pytest.raises(CheckpointError, match="No such file"):
        load_checkpoint(tmp_path, *roles_and_update)


@pytest.mark.parametrize(
    "key",
    [
        "step",
        "questions",
        "policy",
        "reference",
        "critic",
        "value_head",
        "policy_optimizer",
        "critic_optimizer",
        "kl_coef",
        "torch_rng",
    ],
)
def test_a_state_that_lacks_something_is_an_error_that_names_it(
    key: str, roles_and_update: tuple[PolicyRoles, PPOUpdate], tmp_path: Path
) -> None:
    folder = saved(tmp_path, 1, *roles_and_update)
    (path,) = folder.iterdir()
    state = torch.load(path, weights_only=True)
    del state[key]
    torch.save(state, path)
    with pytest.raises(CheckpointError, match=key):
        load_checkpoint(folder, *roles_and_update)


def test_a_checkpoint_of_another_rank_is_an_error(
    roles_and_update: tuple[PolicyRoles, PPOUpdate], tiny_base: Path, tmp_path: Path
) -> None:
    folder = saved(tmp_path, 1, *roles_and_update)
    roles = PolicyRoles(
        PolicyConfig(base_model=str(tiny_base), lora_rank=2),
        device=torch.device("cpu"),
        serve_dtype=torch.float32,
    )
    with pytest.raises(CheckpointError):
        load_checkpoint(folder, roles, PPOUpdate(roles, CONFIG))


@pytest.mark.parametrize(
    ("num_kept", "steps"),
    [
        (1, ["step-000100"]),
        (2, ["step-000020", "step-000100"]),
        (9, ["step-000003", "step-000020", "step-000100"]),
    ],
)
def test_only_the_newest_checkpoints_are_kept(
    num_kept: int,
    steps: list[str],
    roles_and_update: tuple[PolicyRoles, PPOUpdate],
    tmp_path: Path,
) -> None:
    for step in (3, 20, 100):
        folder = saved(tmp_path, step, *roles_and_update, kept=num_kept)
        assert checkpoint_folders(tmp_path)[-1] == folder
    assert [folder.name for folder in checkpoint_folders(tmp_path)] == steps
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == steps


def test_a_killed_save_leaves_nothing_that_counts_and_the_next_one_replaces_it(
    roles_and_update: tuple[PolicyRoles, PPOUpdate], tmp_path: Path
) -> None:
    leftover = tmp_path / "checkpoints" / "step-000007.unfinished"
    leftover.mkdir(parents=True)
    (leftover / "state.pt").write_bytes(b"half of it")
    assert checkpoint_folders(tmp_path) == []
    folder = saved(tmp_path, 7, *roles_and_update)
    assert [path.name for path in folder.parent.iterdir()] == ["step-000007"]
    assert load_checkpoint(folder, *roles_and_update).step == 7


def test_a_step_done_again_replaces_its_checkpoint(
    roles_and_update: tuple[PolicyRoles, PPOUpdate], tmp_path: Path
) -> None:
    saved(tmp_path, 7, *roles_and_update)
    again = Progress(step=7, questions=QuestionState(cursor=1))
    folder = save_checkpoint(tmp_path, again, *roles_and_update, num_kept=3)
    assert checkpoint_folders(tmp_path) == [folder]
    assert load_checkpoint(folder, *roles_and_update) == again


def test_a_run_without_checkpoints_has_none(tmp_path: Path) -> None:
    assert checkpoint_folders(tmp_path) == []


def best_at(step: int, accuracy: float = 0.5) -> Best:
    return Best(
        step=step,
        version=step,
        adapter=f"adapters/policy-{step:06d}",
        accuracy=accuracy,
        num_questions=10,
    )


def test_the_best_checkpoint_and_the_one_being_evaluated_are_never_deleted(
    roles_and_update: tuple[PolicyRoles, PPOUpdate], tmp_path: Path
) -> None:
    def save(step: int, evaluating: int | None = None) -> list[str]:
        progress = Progress(step=step, questions=QuestionState())
        save_checkpoint(tmp_path, progress, *roles_and_update, num_kept=1, evaluating=evaluating)
        return [folder.name for folder in checkpoint_folders(tmp_path)]

    assert save(1) == ["step-000001"]
    write_best(tmp_path, best_at(1))
    assert save(2, evaluating=2) == ["step-000001", "step-000002"]
    assert save(3, evaluating=2) == ["step-000001", "step-000002", "step-000003"]
    write_best(tmp_path, best_at(2, accuracy=0.75))
    assert save(4) == ["step-000002", "step-000004"]
    assert read_best(tmp_path) == best_at(2, accuracy=0.75)


def test_a_run_that_was_never_evaluated_has_no_best(tmp_path: Path) -> None:
    assert read_best(tmp_path) is None


@pytest.mark.parametrize("text", ["", "{", "{}", '{"step": "x"}'])
def test_a_damaged_best_file_is_an_error_that_names_it(text: str, tmp_path: Path) -> None:
    write_best(tmp_path, best_at(1))
    path = tmp_path / "checkpoints" / "best.json"
    path.write_text(text)
    with pytest.raises(CheckpointError, match=r"best\.json") as caught:
        read_best(tmp_path)
    assert "\n" not in str(caught.value)

"""Checkpoints: everything comes back bit for bit, damage is noticed, old ones go."""

import json
import os
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from trainer.config.sections import PolicyConfig, PPOConfig, TrainConfig
from trainer.errors import CheckpointError
from trainer.io.run_layout import checkpoint_folders, step_of
from trainer.model.batches.sample import Sample
from trainer.model.roles import PolicyRoles, Role
from trainer.ppo.learner import Learner
from trainer.ppo.update import PPOUpdate
from trainer.rollouts.questions import PendingQuestions, QuestionState
from trainer.run_state.best import Best, read_best, skip_damaged_best, write_best
from trainer.run_state.checkpoint import (
    Checkpoint,
    TrainProgress,
    load_checkpoint,
    newest_checkpoint,
    save_checkpoint,
)
from trainer.run_state.manifest import verify_checkpoint, write_manifest

INF = float("inf")
MakeRoles = Callable[..., PolicyRoles]
CONFIG = TrainConfig(
    ppo=PPOConfig(
        learning_rate=1e-3,
        critic_learning_rate=1e-3,
        questions_per_mini_batch=1,
        kl_horizon_steps=1,
    )
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


def train(learner: Learner, seed: int, served: dict[str, torch.Tensor]) -> dict[str, float]:
    mini_batches = learner.experience(9, make_groups(seed), served)
    return learner.learn(9, mini_batches, learning_rate_scale=1.0).by_name()


def everything(learner: Learner) -> dict[str, torch.Tensor]:
    """All that a later step depends on."""
    roles, update = learner.roles, learner.update
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


def saved(run_folder: Path, step: int, learner: Learner, kept: int = 9) -> Path:
    progress = TrainProgress(step=step, questions=questions_after(step))
    served = {7: learner.roles.rounded_policy()}
    return save_checkpoint(
        run_folder, progress, learner.roles, learner.update, served=served, num_kept=kept
    )


def test_a_resumed_run_goes_on_bit_for_bit_as_if_nothing_had_happened(
    make_roles: MakeRoles, tmp_path: Path
) -> None:
    learner = Learner(CONFIG.ppo, CONFIG.run, make_roles(seed=0))
    train(learner, 1, learner.roles.rounded_policy())
    served = learner.roles.rounded_policy()
    folder = saved(tmp_path, 12, learner)
    random_after = torch.rand(3)
    at_save = everything(learner)
    metrics = train(learner, 2, served)

    resumed = Learner(CONFIG.ppo, CONFIG.run, make_roles(seed=1))  # every weight is another
    train(resumed, 3, served)
    checkpoint = load_checkpoint(folder, resumed.roles, resumed.update)
    assert checkpoint.progress == TrainProgress(step=12, questions=questions_after(12))
    assert torch.equal(torch.rand(3), random_after)
    assert checkpoint.served.keys() == {7}
    assert differing(checkpoint.served[7], served) == set()
    # The proximal role is not in it: each step loads the version that generated its rollouts.
    assert differing(everything(resumed), at_save) == {
        name for name in at_save if name.startswith("proximal/")
    }
    assert train(resumed, 2, checkpoint.served[7]) == metrics
    gone_on = everything(learner)
    assert differing(everything(resumed), gone_on) == set()
    assert {"kl_coef", "value_head/bias"} <= differing(gone_on, at_save)


@pytest.fixture(scope="module")
def learner(make_roles: MakeRoles) -> Learner:
    """A learner for tests to which its state does not matter."""
    learner = Learner(CONFIG.ppo, CONFIG.run, make_roles())
    train(learner, 0, learner.roles.rounded_policy())
    return learner


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
    learner: Learner,
    tmp_path: Path,
) -> None:
    folder = saved(tmp_path, 1, learner)
    state = folder / "state.pt"
    state.write_bytes(damage(state.read_bytes()))
    for read in (
        verify_checkpoint,
        lambda folder: load_checkpoint(folder, learner.roles, learner.update),
    ):
        with pytest.raises(CheckpointError) as caught:
            read(folder)
        assert str(folder) in str(caught.value)
        assert "\n" not in str(caught.value)


def test_a_folder_without_a_state_is_an_error(learner: Learner, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="No such file"):
        load_checkpoint(tmp_path, learner.roles, learner.update)


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
        "served",
        "torch_rng",
        "cuda_rng",
    ],
)
def test_a_state_that_lacks_something_is_an_error_that_names_it(
    key: str, learner: Learner, tmp_path: Path
) -> None:
    folder = saved(tmp_path, 1, learner)
    path = folder / "state.pt"
    state = torch.load(path, weights_only=True)
    del state[key]
    torch.save(state, path)
    with pytest.raises(CheckpointError, match=key):
        load_checkpoint(folder, learner.roles, learner.update)


def test_a_checkpoint_of_another_rank_is_an_error(
    learner: Learner, tiny_base: Path, tmp_path: Path
) -> None:
    folder = saved(tmp_path, 1, learner)
    roles = PolicyRoles(
        PolicyConfig(base_model=str(tiny_base), lora_rank=2),
        device=torch.device("cpu"),
        serve_dtype=torch.float32,
    )
    with pytest.raises(CheckpointError):
        load_checkpoint(folder, roles, PPOUpdate(roles, CONFIG.ppo))


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
    learner: Learner,
    tmp_path: Path,
) -> None:
    for step in (3, 20, 100):
        folder = saved(tmp_path, step, learner, kept=num_kept)
        assert checkpoint_folders(tmp_path)[-1] == folder
    assert [folder.name for folder in checkpoint_folders(tmp_path)] == steps
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == steps


def test_a_killed_save_leaves_nothing_that_counts_and_the_next_one_replaces_it(
    learner: Learner, tmp_path: Path
) -> None:
    leftover = tmp_path / "checkpoints" / "step-000007.unfinished"
    leftover.mkdir(parents=True)
    (tmp_path / "checkpoints" / "step-backup").mkdir()
    (leftover / "state.pt").write_bytes(b"half of it")
    assert checkpoint_folders(tmp_path) == []
    folder = saved(tmp_path, 7, learner)
    assert sorted(path.name for path in folder.parent.iterdir()) == ["step-000007", "step-backup"]
    assert checkpoint_folders(tmp_path) == [folder]
    assert load_checkpoint(folder, learner.roles, learner.update).progress.step == 7


def test_a_step_done_again_replaces_its_checkpoint(learner: Learner, tmp_path: Path) -> None:
    saved(tmp_path, 7, learner)
    again = TrainProgress(step=7, questions=QuestionState(cursor=1))
    folder = save_checkpoint(tmp_path, again, learner.roles, learner.update, num_kept=3)
    assert checkpoint_folders(tmp_path) == [folder]
    assert load_checkpoint(folder, learner.roles, learner.update) == Checkpoint(
        progress=again, served={}
    )


def test_the_first_checkpoint_stays(learner: Learner, tmp_path: Path) -> None:
    for step in (0, 1, 2):
        saved(tmp_path, step, learner, kept=1)
    assert [step_of(folder) for folder in checkpoint_folders(tmp_path)] == [0, 2]


# --- which one is resumed from -----------------------------------------------------------------


def name_in_manifest(name: str) -> Callable[[Path], None]:
    """Makes the manifest of a checkpoint name another file than its state."""

    def damage(folder: Path) -> None:
        path = folder / "manifest.json"
        manifest = json.loads(path.read_text())
        files = {name: {"size_bytes": 0, "sha256": "0"}} if name else {}
        path.write_text(json.dumps(manifest | {"files": files}))

    return damage


def replace_by(make: Callable[[Path], None], name: str) -> Callable[[Path], None]:
    """Puts something that is no plain file in a file's place."""

    def damage(folder: Path) -> None:
        (folder / name).unlink()
        make(folder / name)

    return damage


def a_link_to_zeros(path: Path) -> None:
    path.symlink_to("/dev/zero")


def with_kl_coef(value: object) -> Callable[[Path], None]:
    """Writes a state with another KL coefficient, and a manifest that fits."""

    def damage(folder: Path) -> None:
        state = torch.load(folder / "state.pt", weights_only=True)
        torch.save(state | {"kl_coef": value}, folder / "state.pt")
        write_manifest(folder, step=step_of(folder), device="cpu")

    return damage


def with_numbers(change: Callable[[dict[str, Any]], object]) -> Callable[[Path], None]:
    """Writes a state in which a number was changed, and a manifest that fits."""

    def damage(folder: Path) -> None:
        state = torch.load(folder / "state.pt", weights_only=True)
        change(state)
        torch.save(state, folder / "state.pt")
        write_manifest(folder, step=step_of(folder), device="cpu")

    return damage


def flip_a_bit(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize(
    "damage",
    [
        lambda folder: flip_a_bit(folder / "state.pt"),
        lambda folder: (folder / "state.pt").unlink(),
        lambda folder: (folder / "manifest.json").unlink(),
        lambda folder: (folder / "manifest.json").write_text("{"),
        lambda folder: flip_a_bit(folder / "manifest.json"),
        name_in_manifest("/dev/zero"),
        name_in_manifest("../../secret"),
        name_in_manifest(""),
        replace_by(os.mkfifo, "state.pt"),
        replace_by(os.mkfifo, "manifest.json"),
        replace_by(a_link_to_zeros, "state.pt"),
        replace_by(a_link_to_zeros, "manifest.json"),
        with_kl_coef(float("nan")),
        with_kl_coef(float("inf")),
        with_kl_coef("0.1"),
        with_kl_coef(10**400),
        with_numbers(lambda state: state["questions"].update(cursor=-(10**400))),
        with_numbers(lambda state: state["policy_optimizer"]["param_groups"][0].update(eps=INF)),
        with_numbers(lambda state: next(iter(state["critic"].values())).fill_(INF)),
        with_numbers(lambda state: next(iter(state["served"][7].values())).fill_(-INF)),
        with_numbers(lambda state: state["value_head"]["bias"].fill_(float("nan"))),
    ],
    ids=[
        *("flipped bit", "no state", "no manifest", "torn manifest", "flipped bit in manifest"),
        *("device named", "outside", "nothing named", "state a pipe", "manifest a pipe"),
        *("state a device", "manifest a device", "kl_coef nan", "kl_coef inf", "kl_coef text"),
        *("kl_coef too large", "cursor too large", "optimizer inf", "critic inf"),
        *("served version inf", "value head nan"),
    ],
)
def test_a_damaged_checkpoint_is_passed_over_with_a_line_that_says_so(
    damage: Callable[[Path], None], learner: Learner, tmp_path: Path
) -> None:
    folders = [saved(tmp_path, step, learner) for step in (0, 10, 20)]
    said: list[str] = []
    assert newest_checkpoint(tmp_path, said.append) == folders[2]
    assert newest_checkpoint(tmp_path, said.append, not_after=19) == folders[1]
    assert said == []
    damage(folders[2])
    assert newest_checkpoint(tmp_path, said.append) == folders[1]
    assert len(said) == 1
    assert str(folders[2]) in said[0]
    assert "\n" not in said[0]
    for folder in folders[:2]:
        damage(folder)
    with pytest.raises(CheckpointError, match="no checkpoint in") as caught:
        newest_checkpoint(tmp_path, said.append)
    assert "\n" not in str(caught.value)


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
    learner: Learner, tmp_path: Path
) -> None:
    def save(step: int, evaluating: int | None = None) -> list[str]:
        progress = TrainProgress(step=step, questions=QuestionState())
        save_checkpoint(
            tmp_path,
            progress,
            learner.roles,
            learner.update,
            num_kept=1,
            kept_steps=[] if evaluating is None else [evaluating],
        )
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


def test_a_checkpoint_may_hold_a_container_that_holds_itself(
    learner: Learner, tmp_path: Path
) -> None:
    folder = saved(tmp_path, 1, learner)
    with_numbers(lambda state: state["served"].update({8: state["served"]}))(folder)
    verify_checkpoint(folder)


@pytest.mark.parametrize(
    "make",
    [
        Path.mkdir,
        os.mkfifo,
        a_link_to_zeros,
        lambda path: path.symlink_to(path.parent),
        lambda path: path.symlink_to(path),
    ],
    ids=["folder", "pipe", "device", "link to a folder", "link to itself"],
)
def test_what_is_no_file_in_the_place_of_the_best_is_named(
    make: Callable[[Path], None], tmp_path: Path
) -> None:
    path = tmp_path / "checkpoints" / "best.json"
    path.parent.mkdir()
    make(path)
    with pytest.raises(CheckpointError, match=r"best\.json: .*; remove it") as caught:
        read_best(tmp_path)
    assert "\n" not in str(caught.value)


def test_a_dangling_link_in_the_place_of_the_best_is_passed_over(tmp_path: Path) -> None:
    path = tmp_path / "checkpoints" / "best.json"
    path.parent.mkdir()
    path.symlink_to("nowhere")
    assert read_best(tmp_path) is None
    write_best(tmp_path, best_at(1))
    assert read_best(tmp_path) == best_at(1)


@pytest.mark.parametrize(
    "text",
    [
        *("", "{", "{}", '{"step": "x"}'),
        *(
            best_at(1).model_dump_json().replace("0.5", number)
            for number in ("NaN", "Infinity", "-0.1", "1" + "0" * 400)
        ),
        best_at(1).model_dump_json().replace('"step":1', '"step":1' + "0" * 400),
        best_at(1).model_dump_json().replace('"version":1', '"version":2'),
        *(
            best_at(1).model_dump_json().replace("adapters/policy-000001", adapter)
            for adapter in ("../..", "/etc", "policy-000001", "adapters/../policy-000001", "")
        ),
        *(best_at(1).model_dump_json().replace("0.5", value) for value in ("true", '"0.5"')),
    ],
)
def test_a_damaged_best_file_is_an_error_that_names_it(text: str, tmp_path: Path) -> None:
    write_best(tmp_path, best_at(1))
    path = tmp_path / "checkpoints" / "best.json"
    path.write_text(text)
    with pytest.raises(CheckpointError, match=r"best\.json") as caught:
        read_best(tmp_path)
    assert "\n" not in str(caught.value)
    said: list[str] = []
    for _ in range(2):
        skip_damaged_best(tmp_path, said.append)
    (line,) = said
    assert line.startswith(f"{path}: ")
    assert "best.json.damaged" in line
    assert "remove it" not in line
    assert path.with_name("best.json.damaged").read_text() == text
    assert read_best(tmp_path) is None

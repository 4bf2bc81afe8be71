"""PPO from a file: it reads our rows and the recipe's text, resumes where it was killed, and moves the right way."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoTokenizer

from inference_server.wire.schemas import ArmCompletion, ArmGroup, FinishReason
from regime_w import RewardConfig, build_all_arms, build_prompt
from trainer.config.sections import OfflineRunConfig, PolicyConfig
from trainer.data.sources import Record
from trainer.errors import (
    DataError,
    NonFiniteError,
    OutOfMemoryError,
    RewardFunctionError,
    UsageError,
)
from trainer.model.base_model import load_base
from trainer.model.batches.sample import Sample
from trainer.model.roles import PolicyRoles, Role
from trainer.offline.training import train_offline
from trainer.ppo.diagnostics import UpdateMetrics
from trainer.ppo.learner import Learner
from trainer.rollouts.groups import as_sample, score_group
from trainer.rollouts.rows import rollout_row

CPU = torch.device("cpu")
NUM_QUESTIONS = 6
ARMS = build_all_arms()


@pytest.fixture(scope="module")
def policy(tiny_base: Path) -> PolicyConfig:
    return PolicyConfig(base_model=str(tiny_base), lora_rank=4, lora_alpha=8)


@pytest.fixture(scope="module")
def rows(policy: PolicyConfig) -> list[dict[str, Any]]:
    """Groups as the starting policy would have sampled them: half right, some cut off."""
    roles = PolicyRoles(policy, device=CPU, serve_dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(policy.base_model)
    found = []
    for i in range(NUM_QUESTIONS):
        question = f"Ada has {i + 2} pens and buys {i} more. How many pens does Ada have now?"
        arms = []
        for place, arm in enumerate(ARMS):
            text = f"{i + 2}+{i}={2 * i + 2} pens\n#### {2 * i + 2 + place % 2}"
            ids = tokenizer(text)["input_ids"]
            is_cut_off = place == i
            arms.append(
                ArmCompletion(
                    arm=arm.name,
                    sample=0,
                    text=text,
                    finish_reason=FinishReason.LENGTH if is_cut_off else FinishReason.STOP,
                    temperature=arm.temperature,
                    top_p=arm.top_p,
                    seed=None,
                    prompt_token_ids=tokenizer(build_prompt(arm.system_prompt, question))[
                        "input_ids"
                    ],
                    token_ids=ids if is_cut_off else [*ids, tokenizer.eos_token_id],
                    logprobs=[0.0] * (len(ids) + (not is_cut_off)),
                )
            )
        samples = [as_sample(arm, version=3) for arm in arms]
        logprobs = roles.completion_logprobs(Role.REFERENCE, samples, token_budget=4096)
        sampled = [
            arm.model_copy(update={"logprobs": each.tolist()})
            for arm, each in zip(arms, logprobs, strict=True)
        ]
        record = Record(id=f"q{i}", question=question, gold=f"#### {2 * i + 2}")
        group = ArmGroup(id=record.id, question=question, policy_version=3, arms=sampled)
        found.append(rollout_row(score_group(record, group, RewardConfig())))
    return found


def as_recipe(rows: list[dict[str, Any]], *, with_prompt: bool) -> list[dict[str, Any]]:
    """The rows as the recipe's collector writes them; it decodes prompt and completion together."""
    prompts = {arm.name: arm.system_prompt for arm in ARMS}
    return [
        {
            "question": row["question"],
            "gold_answer": row["gold_answer"],
            "reward": row["reward"],
            "arm_outputs": [
                {
                    "arm_name": arm["arm_name"],
                    "answer": arm["answer"],
                    **dict.fromkeys(
                        ("full_text", "reasoning"),
                        build_prompt(prompts[arm["arm_name"]], row["question"]) * with_prompt
                        + arm["full_text"],
                    ),
                }
                for arm in row["arm_outputs"]
            ],
        }
        for row in rows
    ]


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def config(policy: PolicyConfig, rollouts: Path, folder: Path, **changes: Any) -> OfflineRunConfig:
    return OfflineRunConfig.model_validate(
        {
            "policy": policy.model_dump(),
            "rollouts": rollouts,
            "rollout": {"questions_per_step": 3},
            "ppo": {
                "learning_rate": 1e-3,
                "critic_learning_rate": 1e-3,
                "critic_warmup_steps": 1,
                "questions_per_mini_batch": 2,
                "learning_rate_schedule": "linear",
            },
            "offline": {"num_epochs": 2},
            "run": {"folder": folder, "checkpoint_every": 2},
            **changes,
        }
    )


def weights(adapter: Path) -> dict[str, torch.Tensor]:
    found: dict[str, torch.Tensor] = load_file(adapter / "adapter_model.safetensors")
    return found


def metrics(folder: Path) -> list[dict[str, float]]:
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    return [
        {name: value for name, value in json.loads(line).items() if not name.startswith("time")}
        for line in lines
    ]


@pytest.fixture(scope="module")
def whole(
    policy: PolicyConfig, rows: list[dict[str, Any]], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A run of four steps that nobody disturbed."""
    folder = tmp_path_factory.mktemp("whole")
    return train_offline(config(policy, write(folder / "rows.jsonl", rows), folder / "run"))


def test_a_run_leaves_metrics_adapters_and_checkpoints(whole: Path, policy: PolicyConfig) -> None:
    folder = whole.parent.parent
    assert [path.name for path in sorted(whole.parent.iterdir())] == [
        "policy-000002",
        "policy-000004",
    ]
    assert train_offline(config(policy, folder.parent / "rows.jsonl", folder)) == whole  # finished
    assert sorted(path.name for path in (folder / "checkpoints").iterdir()) == [
        "step-000002",
        "step-000004",
    ]
    found = metrics(folder)
    assert [row["step"] for row in found] == [1, 2, 3, 4]
    assert [row["ppo/learning_rate"] for row in found] == [1e-3, 7.5e-4, 5e-4, 2.5e-4]
    # The file's logprobs are the starting policy's, from which the policy moves away.
    assert all(row["ppo/logprob_mismatch"] < 1e-5 for row in found)
    assert found[0]["ppo/policy_frozen"] == 1
    assert found[-1]["ppo/approx_kl"] > found[1]["ppo/approx_kl"] > 0
    # There is no penalty, and its metrics would say that the policy has not moved.
    assert not {"ppo/reference_kl", "ppo/kl_coef"} & {key for row in found for key in row}
    model = PeftModel.from_pretrained(load_base(policy, CPU), whole)
    assert any(p.abs().max() > 0 for name, p in model.named_parameters() if "lora_B" in name)


def test_no_more_adapters_are_kept_than_asked_for(
    policy: PolicyConfig, rows: list[dict[str, Any]], tmp_path: Path
) -> None:
    given = config(
        policy,
        write(tmp_path / "rows.jsonl", rows),
        tmp_path / "run",
        rollout={"questions_per_step": 2},
        run={"folder": tmp_path / "run", "checkpoint_every": 1, "num_adapters": 3}
        | {"num_checkpoints": 1},
    )
    (tmp_path / "run/adapters/policy-000001-mine").mkdir(parents=True)
    newest = train_offline(given)
    adapters = ["policy-000001-mine", *(f"policy-{step:06d}" for step in (4, 5, 6))]
    assert sorted(path.name for path in newest.parent.iterdir()) == adapters
    # Each checkpoint keeps its adapter.
    fewer = {"num_adapters": 1, "num_checkpoints": 2, "folder": tmp_path / "fewer"}
    newest = train_offline(given.model_copy(update={"run": given.run.model_copy(update=fewer)}))
    assert sorted(path.name for path in newest.parent.iterdir()) == [
        "policy-000005",
        "policy-000006",
    ]


def test_the_critic_can_be_fitted_to_the_same_file_first(
    whole: Path, policy: PolicyConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = whole.parents[2] / "rows.jsonl"
    given = config(policy, file, tmp_path / "run", offline={"num_epochs": 1})
    ppo = given.ppo.model_copy(
        update={
            "critic_rollouts": file,
            "critic_pretrain_learning_rate": 0.01,
            "critic_warmup_steps": 0,
            "learning_rate": 1e-6,
        }
    )
    train_offline(given.model_copy(update={"ppo": ppo}))
    output = capsys.readouterr().out
    assert f"completions of {file}: explained variance +0.00 → " in output
    assert "warning: ppo.learning_rate = 1e-06 is low" in output
    record = json.loads((tmp_path / "run/critic.json").read_text())
    # One of the eight completions of every question is cut off.
    assert record["num_completions"] + record["num_held_out"] == NUM_QUESTIONS * 7
    first = metrics(tmp_path / "run")[0]
    assert (first["ppo/value_mean"] != 0.0) == (record["num_epochs"] > 0)


def test_what_was_rewarded_has_become_likelier(
    whole: Path, policy: PolicyConfig, rows: list[dict[str, Any]]
) -> None:
    samples, correct = [], []
    for row in rows:
        for arm in row["arm_outputs"]:
            correct.append(arm["correct"])
            samples.append(
                Sample(
                    prompt_ids=tuple(arm["prompt_token_ids"]),
                    completion_ids=tuple(arm["token_ids"]),
                    sampler_logprobs=tuple(arm["sampler_logprobs"]),
                    temperature=1.0,
                    top_p=1.0,
                    reward=0.0,
                    truncated=False,
                    version=None,
                )
            )
    trained = policy.model_copy(update={"adapter": whole})
    before, after = (
        PolicyRoles(each, device=CPU, serve_dtype=torch.float32).completion_logprobs(
            Role.POLICY, samples, token_budget=4096
        )
        for each in (policy, trained)
    )
    gains = torch.stack([b.sum() - a.sum() for a, b in zip(before, after, strict=True)])
    right = torch.tensor(correct)
    assert gains[right].mean() > gains[~right].mean() + 0.1


def test_a_killed_run_goes_on_to_the_same_weights(
    whole: Path,
    policy: PolicyConfig,
    rows: list[dict[str, Any]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked = config(policy, write(tmp_path / "rows.jsonl", rows), tmp_path / "run")
    with killed_after(3, monkeypatch), pytest.raises(KeyboardInterrupt):
        train_offline(asked)
    assert [row["step"] for row in metrics(asked.run.folder)] == [1, 2, 3]
    with pytest.raises(UsageError, match=r"ppo\.gamma was 1\.0 and is 0\.5"):
        train_offline(asked.model_copy(update={"ppo": asked.ppo.model_copy(update={"gamma": 0.5})}))
    adapter = train_offline(asked, must_resume=True)
    assert metrics(asked.run.folder) == metrics(whole.parent.parent)
    expected = weights(whole)
    assert all(torch.equal(tensor, expected[name]) for name, tensor in weights(adapter).items())


@pytest.mark.parametrize("has_record", [True, False])
def test_a_file_that_grew_or_changed_is_not_resumed_on(
    has_record: bool,
    policy: PolicyConfig,
    rows: list[dict[str, Any]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The cursor is of a shuffle of the rows that there were: questions would train twice, and others never."""
    file = write(tmp_path / "rows.jsonl", rows[:5])
    asked = config(policy, file, tmp_path / "run", offline={"num_epochs": 1})
    asked = asked.model_copy(update={"run": asked.run.model_copy(update={"checkpoint_every": 1})})
    # The second step has no checkpoint.
    with killed_after(2, monkeypatch), pytest.raises(KeyboardInterrupt):
        train_offline(asked)
    if not has_record:
        # Somebody has removed the record.
        (tmp_path / "run/rollouts.json").unlink()
        write(file, rows)
        train_offline(asked)
        return
    for changed in (rows, [*rows[:4], rows[5]]):
        write(file, changed)
        with pytest.raises(DataError, match=r"rows\.jsonl was changed since .*run began to train"):
            train_offline(asked)
    assert [row["step"] for row in metrics(asked.run.folder)] == [1, 2]
    write(file, rows[:5])
    train_offline(asked)
    assert [row["step"] for row in metrics(asked.run.folder)] == [1, 2]


@contextmanager
def killed_after(step: int, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A block in which the run is killed right after this step's line is written."""
    from trainer.console.run_output import RunOutput
    from trainer.io.metrics_file import Metrics

    write_line = RunOutput.step

    def killing(self: RunOutput, number: int, row: Metrics) -> None:
        write_line(self, number, row)
        if number == step:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(RunOutput, "step", killing)
        yield


@pytest.mark.parametrize("with_prompt", [False, True])
def test_text_alone_trains_as_if_the_starting_policy_had_sampled_it(
    with_prompt: bool,
    whole: Path,
    policy: PolicyConfig,
    rows: list[dict[str, Any]],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """It had, in this file, so the recomputed tokens and logprobs come to the same adapter."""
    texts = as_recipe(rows, with_prompt=with_prompt)
    # What was cut off cannot be known of text, but by its length.
    for text, row in zip(texts, rows, strict=True):
        for stored, arm in zip(text["arm_outputs"], row["arm_outputs"], strict=True):
            if arm["finish_reason"] == "length":
                stored |= {name: arm[name] for name in arm if "token" in name or "logprobs" in name}
                stored |= {name: arm[name] for name in ("temperature", "top_p", "finish_reason")}
                stored["full_text"] = arm["full_text"]
    asked = config(policy, write(tmp_path / "rows.jsonl", texts), tmp_path / "run")
    adapter = train_offline(asked)
    output = capsys.readouterr().out
    assert f"warning: {NUM_QUESTIONS * 7} of the completions are text without tokens" in output
    assert "another policy sampled it" not in output
    expected = weights(whole)
    for name, tensor in weights(adapter).items():
        # Weights have moved by 2e-3; Adam makes rounding in tiny gradients larger.
        torch.testing.assert_close(tensor, expected[name], atol=2e-4, rtol=0)


def test_a_text_of_so_many_tokens_was_cut_off(
    policy: PolicyConfig, rows: list[dict[str, Any]], tmp_path: Path
) -> None:
    texts = write(tmp_path / "rows.jsonl", as_recipe(rows[:3], with_prompt=False))
    options = {"rollout": {"questions_per_step": 3, "max_tokens": 4}, "offline": {"num_epochs": 1}}
    train_offline(config(policy, texts, tmp_path / "run", **options))
    assert metrics(tmp_path / "run")[0]["rollout/truncated"] == 1


def test_a_file_of_another_policy_is_said_to_be_one(
    policy: PolicyConfig,
    rows: list[dict[str, Any]],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    others = json.loads(json.dumps(rows[:3]))
    for row in others:
        for arm in row["arm_outputs"]:
            arm["sampler_logprobs"] = [logprob - 0.3 for logprob in arm["sampler_logprobs"]]
    asked = config(
        policy,
        write(tmp_path / "rows.jsonl", others),
        tmp_path / "run",
        offline={"num_epochs": 1},
    )
    train_offline(asked)
    assert "by 0.3 nats a token: another policy sampled it" in capsys.readouterr().out


@pytest.mark.parametrize("is_resumed", [False, True])
def test_a_file_of_another_policy_is_said_to_be_one_after_a_step_without_any_reward(
    is_resumed: bool,
    policy: PolicyConfig,
    rows: list[dict[str, Any]],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    function, folder = tmp_path / "mine.py", tmp_path / "run"
    function.write_text(
        "def reward(completions, **columns):\n"
        "    with open(__file__ + '.calls', 'a+') as file:\n        file.write('x')\n"
        "        has_none = file.tell() <= 3\n"
        "    return [None if has_none else float(i) for i in range(len(completions))]\n"
    )
    others = json.loads(json.dumps(rows))
    for row in others:
        for arm in row["arm_outputs"]:
            arm["sampler_logprobs"] = [logprob - 0.3 for logprob in arm["sampler_logprobs"]]
    asked = config(
        policy,
        write(tmp_path / "rows.jsonl", others),
        folder,
        reward={"functions": [f"{function}:reward"]},
        offline={"num_epochs": 1},
    )
    if is_resumed:
        rewards = function.read_text()
        function.write_text(
            rewards.replace("None if has_none else", "None if has_none else 1 / 0 +")
        )
        with pytest.raises(RewardFunctionError):
            train_offline(asked)
        assert [row["step"] for row in metrics(folder)] == [1]
        function.write_text(rewards)
    train_offline(asked)
    said = capsys.readouterr().out
    assert said.count("no completion has a reward, so nothing was learned") == 1
    assert said.count("by 0.3 nats a token: another policy sampled it") == 1


def test_rows_of_another_dtype_or_too_long_are_said_to_be_so(
    policy: PolicyConfig,
    rows: list[dict[str, Any]],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    long = json.loads(json.dumps(rows[2]))
    long["arm_outputs"][0] |= {"token_ids": [3] * 20_000, "sampler_logprobs": [-1.0] * 20_000}
    path = write(tmp_path / "rows.jsonl", [rows[0] | {"dtype": "bfloat16"}, rows[1], long])
    options = {"rollout": {"questions_per_step": 2}, "offline": {"num_epochs": 1}}
    train_offline(config(policy, path, tmp_path / "run", **options))
    lines = capsys.readouterr().out.splitlines()
    assert any(
        line.startswith(f"1 questions of {path} left out, {path}:3 with 20") for line in lines
    )
    said = "collected from a server that computed in bfloat16, and the trainer computes in float32"
    assert [said in line for line in lines].count(True) == 1
    assert metrics(tmp_path / "run")[0]["rollout/num_samples"] == 16


def test_the_same_question_twice_is_two_groups_and_with_the_same_completions_a_warning(
    policy: PolicyConfig,
    rows: list[dict[str, Any]],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    path = write(tmp_path / "rows.jsonl", [rows[0], rows[0], rows[1]])
    train_offline(config(policy, path, tmp_path / "run", offline={"num_epochs": 1}))
    assert metrics(tmp_path / "run")[0]["rollout/num_samples"] == 24
    warning = "warning: 1 of the 3 rows repeat the question, the version and the completions of an "
    assert warning in capsys.readouterr().out


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"question": None}, "rows.jsonl:2: question"),
        ({"gold_answer": None}, "rows.jsonl:2: gold_answer"),
        ({"arm_outputs": []}, "rows.jsonl:2: arm_outputs"),
        (
            {"arm_outputs": [{"arm_name": "solo", "full_text": "7"}]},
            "rows.jsonl:2: arm 'solo' is none of wolfram_0",
        ),
    ],
)
def test_a_row_that_cannot_be_used_is_an_error_that_names_its_line(
    change: dict[str, Any],
    complaint: str,
    policy: PolicyConfig,
    rows: list[dict[str, Any]],
    tmp_path: Path,
) -> None:
    path = write(tmp_path / "rows.jsonl", [rows[0], {**rows[1], **change}, rows[2]])
    with pytest.raises(DataError) as caught:
        train_offline(config(policy, path, tmp_path / "run"))
    assert complaint in str(caught.value)
    assert "\n" not in str(caught.value)


def test_advantages_that_compare_completions_need_some(
    policy: PolicyConfig, rows: list[dict[str, Any]], tmp_path: Path
) -> None:
    path = tmp_path / "rows.jsonl"
    for reward in ({"selection": "best"}, {"credit": "shared"}):
        with pytest.raises(ValueError, match=r"rloo compares a question's completions, but reward"):
            config(policy, path, tmp_path / "run", ppo={"advantage": "rloo"}, reward=reward)
    write(path, [{**row, "arm_outputs": row["arm_outputs"][:1]} for row in rows])
    alone = config(policy, path, tmp_path / "run", ppo={"advantage": "grpo"})
    with pytest.raises(DataError, match=r"one completion of each question, .*: set it to gae"):
        train_offline(alone)


def test_a_warm_up_longer_than_the_run_is_refused(
    policy: PolicyConfig, rows: list[dict[str, Any]], tmp_path: Path
) -> None:
    path = write(tmp_path / "rows.jsonl", rows)
    given = config(policy, path, tmp_path / "run", ppo={"learning_rate_warmup_steps": 1000})
    with pytest.raises(UsageError, match=r"ppo\.learning_rate_warmup_steps = 1000 is more than"):
        train_offline(given)


@pytest.mark.parametrize("error", [NonFiniteError("loss"), OutOfMemoryError(64)])
def test_a_step_that_cannot_be_done_leaves_a_checkpoint_of_those_before_it(
    error: Exception,
    policy: PolicyConfig,
    rows: list[dict[str, Any]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    folder = tmp_path / "run"
    given = config(
        policy,
        write(tmp_path / "rows.jsonl", rows),
        folder,
        run={"folder": folder, "checkpoint_every": 9},
        offline={"num_epochs": 1},
    )

    class Failing(Learner):
        def step(self, step: int, *args: Any, **kwargs: Any) -> UpdateMetrics:
            if step == 2:
                raise error
            return super().step(step, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr("trainer.offline.training.Learner", Failing)
        with pytest.raises(type(error)):
            train_offline(given)
    assert [path.name for path in (folder / "checkpoints").iterdir()] == ["step-000001"]
    train_offline(given)
    assert [row["step"] for row in metrics(folder)] == [1, 2]


def test_text_alone_that_does_not_fit_the_gpu_is_scored_in_halves_which_stay(
    policy: PolicyConfig,
    rows: list[dict[str, Any]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    path = write(tmp_path / "rows.jsonl", as_recipe(rows, with_prompt=False))
    given = config(policy, path, tmp_path / "run", ppo={"token_budget": 512})
    real, budgets = PolicyRoles.logprobs_by_sampling, list[int]()

    def scored(*arguments: Any, token_budget: int) -> Any:
        budgets.append(token_budget)
        if token_budget > 256:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return real(*arguments, token_budget=token_budget)

    with monkeypatch.context() as patch:
        patch.setattr(PolicyRoles, "logprobs_by_sampling", scored)
        train_offline(given)
    assert budgets[0] == 512
    assert len(budgets) > 2
    assert {*budgets[1:]} == {256}


def test_text_alone_that_does_not_fit_in_halves_either_leaves_a_checkpoint(
    policy: PolicyConfig,
    rows: list[dict[str, Any]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    path = write(tmp_path / "rows.jsonl", as_recipe(rows, with_prompt=False))
    given = config(policy, path, tmp_path / "run")

    def full(*_: Any, **__: Any) -> Any:
        raise torch.OutOfMemoryError("CUDA out of memory")

    with monkeypatch.context() as patch:
        patch.setattr(PolicyRoles, "logprobs_by_sampling", full)
        with pytest.raises(OutOfMemoryError, match=r"\(the memory plan has .*ppo\.token_budget"):
            train_offline(given)
    assert [folder.name for folder in (tmp_path / "run/checkpoints").iterdir()] == ["step-000000"]


def test_a_function_of_the_users_rewards_the_file_and_leaves_a_checkpoint_where_it_fails(
    policy: PolicyConfig, rows: list[dict[str, Any]], tmp_path: Path
) -> None:
    function = tmp_path / "mine.py"
    function.write_text(
        "def reward(completions, level, **columns):\n"
        "    with open(__file__ + '.calls', 'a+') as file:\n        file.write('x')\n"
        "        if file.tell() > 3:\n            raise ValueError\n"
        "    return [float(l) for l in level]\n"
    )
    folder = tmp_path / "run"
    given = config(
        policy,
        write(tmp_path / "rows.jsonl", [{**row, "columns": {"level": 3}} for row in rows]),
        folder,
        reward={"functions": [f"{function}:reward"]},
        run={"folder": folder, "checkpoint_every": 9},
        offline={"num_epochs": 1},
    )
    with pytest.raises(RewardFunctionError, match="failed twice for question "):
        train_offline(given)
    assert [path.name for path in (folder / "checkpoints").iterdir()] == ["step-000001"]
    function.write_text("def reward(level, **columns):\n    return [l + 1 for l in level]\n")
    train_offline(given)
    assert [(row["step"], row["reward/mean"]) for row in metrics(folder)] == [(1, 3), (2, 4)]


def test_a_step_without_any_reward_teaches_nothing(
    policy: PolicyConfig,
    rows: list[dict[str, Any]],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    function, folder = tmp_path / "mine.py", tmp_path / "run"
    function.write_text(
        "def reward(completions, **columns):\n    return [None for _ in completions]\n"
    )
    given = config(
        policy,
        write(tmp_path / "rows.jsonl", rows),
        folder,
        reward={"functions": [f"{function}:reward"]},
        run={"folder": folder, "checkpoint_every": 9},
        offline={"num_epochs": 1},
    )
    train_offline(given)
    said = capsys.readouterr().out
    assert said.count("no completion has a reward, so nothing was learned") == 2
    assert "nan" not in said
    assert [row["ppo/num_optimizer_steps"] for row in metrics(folder)] == [0, 0]

"""Work resumes with the settings that it was begun with, even if it was begun before some of them existed."""

import re
import tomllib
from pathlib import Path

import pytest
import tomli_w
from pydantic import BaseModel

from regime_w import ArmSpec, build_all_arms
from trainer.config.sections import (
    CollectConfig,
    OfflineRunConfig,
    PPOConfig,
    RolloutConfig,
    SFTRunConfig,
    TrainConfig,
)
from trainer.errors import UsageError
from trainer.io.adapter_settings import kept_prompt_format, prompt_format_advice
from trainer.io.kept_settings import (
    CONFIG_FILE,
    as_toml,
    keep_settings,
    read_run_config,
    settings_beside,
)
from trainer.run_state.run_folder import (
    open_run,
    require_whole_run,
    with_prompt_format,
)

SOLO = ArmSpec(name="solo", system_prompt="Be brief.", temperature=0.7, top_p=1.0)


@pytest.mark.parametrize(
    ("config", "command"), [(OfflineRunConfig(), "train-offline"), (SFTRunConfig(), "sft")]
)
def test_what_another_command_began_is_called_by_its_name(
    config: OfflineRunConfig | SFTRunConfig, command: str, tmp_path: Path
) -> None:
    (tmp_path / CONFIG_FILE).write_text(as_toml(config))
    with pytest.raises(
        UsageError, match=rf"was written by `{command}`, .*nothing to replay"
    ) as raised:
        read_run_config(tmp_path)
    assert "Extra inputs" not in str(raised.value)


@pytest.mark.parametrize(
    ("begun", "now", "command"),
    [
        (OfflineRunConfig(), TrainConfig(), "train-offline"),
        (TrainConfig(), OfflineRunConfig(), "train"),
        (TrainConfig(), SFTRunConfig(), "train"),
    ],
)
def test_what_another_command_began_is_not_compared_key_by_key(
    begun: BaseModel, now: BaseModel, command: str, tmp_path: Path
) -> None:
    keep_settings(tmp_path / CONFIG_FILE, begun, free=())
    said = f"{tmp_path} was begun by `{command}`, which goes on with it; choose another folder"
    with pytest.raises(UsageError, match=f"^{re.escape(said)}$"):
        keep_settings(tmp_path / CONFIG_FILE, now, free=())


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"dynamic_sampling": True}, "rollout.dynamic_sampling was False and is True"),
        ({"arms": (SOLO,)}, "rollout.arms: was recipe and is solo"),
    ],
)
def test_a_run_refuses_other_settings(
    change: dict[str, object], named: str, tmp_path: Path
) -> None:
    config = TrainConfig()
    keep_settings(tmp_path / CONFIG_FILE, config, free=())
    changed = config.model_copy(update={"rollout": config.rollout.model_copy(update=change)})
    with pytest.raises(UsageError, match=named):
        keep_settings(tmp_path / CONFIG_FILE, changed, free=())


@pytest.mark.parametrize("config", [TrainConfig(), SFTRunConfig(), CollectConfig()])
def test_the_eight_arms_are_not_spelt_out(config: BaseModel, tmp_path: Path) -> None:
    stored = as_toml(config)
    assert "arms" not in stored
    assert type(config).model_validate(tomllib.loads(stored)) == config
    keep_settings(tmp_path / CONFIG_FILE, config, free=())
    keep_settings(tmp_path / CONFIG_FILE, config, free=())


def test_custom_arms_are_stored_and_read_back(tmp_path: Path) -> None:
    config = TrainConfig(rollout=RolloutConfig(arms=(SOLO,)))
    keep_settings(tmp_path / CONFIG_FILE, config, free=())
    assert read_run_config(tmp_path).rollout.arms == (SOLO,)
    keep_settings(tmp_path / CONFIG_FILE, config, free=())
    with pytest.raises(UsageError, match=r"arms: was solo .* and is recipe"):
        keep_settings(tmp_path / CONFIG_FILE, TrainConfig(), free=())


@pytest.mark.parametrize("config", [TrainConfig(), SFTRunConfig(), CollectConfig()])
def test_settings_that_were_begun_with_the_eight_arms_spelt_out_resume(
    config: BaseModel, tmp_path: Path
) -> None:
    path = tmp_path / CONFIG_FILE
    stored = tomllib.loads(as_toml(config))
    section = stored if isinstance(config, SFTRunConfig) else stored["rollout"]
    section["arms"] = [arm.model_dump() for arm in build_all_arms()]
    path.write_text(tomli_w.dumps(stored))
    keep_settings(path, config, free=())
    section["arms"][0]["temperature"] = 0.9
    path.write_text(tomli_w.dumps(stored))
    with pytest.raises(UsageError, match=r"arms: wolfram_0 had temperature 0\.9 and has 0\.2"):
        keep_settings(path, config, free=())


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ("[ppo2]\nx = 1\n", r"ppo2: unknown key; did you mean ppo\?"),
        ("[data]\nno_key = 1\n", "data.no_key: unknown key"),
        ("kl_horizon = 1\n", r"ppo.kl_horizon: unknown key; did you mean ppo\.kl_horizon_steps\?"),
        ("[run]\nnum_steps = 0\n", r"run.num_steps: Input should be greater .*\(got 0\)"),
        ("[[data]]\n", "data: must be a table"),
        ("sft = 3\n", "ppo.sft: unknown key"),
    ],
)
def test_a_stored_file_that_is_not_valid_names_the_key(
    more: str, said: str, tmp_path: Path
) -> None:
    path = tmp_path / CONFIG_FILE
    path.write_text(f"[ppo]\n{more}")
    with pytest.raises(UsageError, match=rf"config\.toml: {said}"):
        keep_settings(path, TrainConfig(), free=())


def test_a_file_that_no_command_has_kept_is_called_so(tmp_path: Path) -> None:
    (tmp_path / CONFIG_FILE).write_text("[policy]\n")
    with pytest.raises(UsageError, match=r"config\.toml: not the settings that a command has kept"):
        read_run_config(tmp_path)


def test_a_key_of_another_command_that_is_no_table_does_not_hide_whose_settings_they_are(
    tmp_path: Path,
) -> None:
    (tmp_path / CONFIG_FILE).write_text(f"sft = 3\n{as_toml(TrainConfig())}")
    with pytest.raises(UsageError, match=r"config\.toml: sft: unknown key"):
        read_run_config(tmp_path)


def test_a_setting_that_is_newer_than_the_file_has_its_default(tmp_path: Path) -> None:
    path = tmp_path / CONFIG_FILE
    stored = as_toml(TrainConfig())
    for key in ("clip_high", "whiten_advantages", "questions_per_step", "num_threads"):
        stored = "".join(line for line in stored.splitlines(True) if not line.startswith(key))
    path.write_text(stored)
    keep_settings(path, TrainConfig(), free=())
    assert path.read_text() == as_toml(TrainConfig())
    path.write_text(stored)
    changed = TrainConfig(ppo=PPOConfig(clip_high=0.3))
    with pytest.raises(UsageError, match=r"ppo\.clip_high was 0\.2 and is 0\.3\. Resume"):
        keep_settings(path, changed, free=())


def test_null_is_stored_where_it_is_not_the_default(tmp_path: Path) -> None:
    path = tmp_path / CONFIG_FILE
    config = TrainConfig(ppo=PPOConfig(dual_clip=None))
    keep_settings(path, config, free=())
    assert "value_clip = 0.2" in path.read_text()
    assert read_run_config(tmp_path) == config
    keep_settings(path, config, free=())
    with pytest.raises(UsageError, match=r"ppo[.]dual_clip was null and is 3.0"):
        keep_settings(path, TrainConfig(), free=())


@pytest.mark.parametrize("prompt_format", ["plain", "chat"])
def test_the_prompt_format_that_was_kept_is_read(prompt_format: str, tmp_path: Path) -> None:
    given = {"prompt_format": prompt_format}
    for name, config in (
        ("run", TrainConfig.model_validate({"rollout": given})),
        ("sft", SFTRunConfig.model_validate(given)),
        ("collected", CollectConfig.model_validate({"rollout": given})),
    ):
        assert kept_prompt_format(tmp_path / name) is None
        keep_settings(tmp_path / name, config, free=())
        assert kept_prompt_format(tmp_path / name) == prompt_format


def test_an_adapter_of_another_prompt_format_is_warned_about(tmp_path: Path) -> None:
    def advice(prompt_format: str) -> list[str]:
        given = {"policy": {"adapter": tmp_path}, "rollout": {"prompt_format": prompt_format}}
        return prompt_format_advice(TrainConfig.model_validate(given))

    assert advice("chat") == []  # nothing says how it was trained
    keep_settings(tmp_path / CONFIG_FILE, SFTRunConfig(prompt_format="plain"), free=())
    assert advice("plain") == []
    (line,) = advice("chat")
    assert "trained with plain prompts" in line


def test_an_adapter_whose_settings_cannot_be_read_is_warned_about(tmp_path: Path) -> None:
    path = tmp_path / CONFIG_FILE
    path.write_text(f"prompt_fromat = 'chat'\n{as_toml(SFTRunConfig(prompt_format='plain'))}")
    given = {"policy": {"adapter": tmp_path}, "rollout": {"prompt_format": "chat"}}
    (line,) = prompt_format_advice(TrainConfig.model_validate(given))
    assert line == (
        f"whether {tmp_path} was trained with chat prompts was not checked: {path}: prompt_fromat: unknown key; "
        "did you mean prompt_format?"
    )


@pytest.mark.parametrize("adapter", ["adapters/policy-000012", "start"])
def test_an_adapter_in_the_folder_of_its_run_is_warned_about(adapter: str, tmp_path: Path) -> None:
    def advice(folder: Path) -> list[str]:
        given = {"policy": {"adapter": folder}, "rollout": {"prompt_format": "chat"}}
        return prompt_format_advice(TrainConfig.model_validate(given))

    run = TrainConfig.model_validate({"rollout": {"prompt_format": "plain"}})
    keep_settings(tmp_path / CONFIG_FILE, run, free=())
    (line,) = advice(tmp_path / adapter)
    assert f"{tmp_path / adapter} was trained with plain prompts" in line
    # Neither a run's nor an SFT's: settings two folders up may be of anything.
    assert advice(tmp_path / "other/folder") == advice(tmp_path / "other") == []


def test_auto_is_what_a_run_was_begun_with(tmp_path: Path) -> None:
    plain = TrainConfig.model_validate({"rollout": {"prompt_format": "plain"}})
    keep_settings(tmp_path / CONFIG_FILE, plain, free=())

    def resolved(folder: Path, choice: str = "auto") -> str:
        config = TrainConfig.model_validate(
            {"run": {"folder": folder}, "rollout": {"prompt_format": choice}}
        )
        return with_prompt_format(config, lambda: "chat").rollout.prompt_format

    # A folder without a checkpoint is of a run that has not begun.
    assert resolved(tmp_path) == "chat"
    (tmp_path / "checkpoints/step-000000").mkdir(parents=True)
    assert resolved(tmp_path) == "plain"
    assert resolved(tmp_path, "chat") == "chat"
    assert resolved(tmp_path / "new") == "chat"
    assert resolved(tmp_path / "new", "plain") == "plain"


# --- held-out questions ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "is_free"),
    [
        ({}, True),
        ({"counterfactual": 0.25}, False),
        ({"evaluation_source": "other.jsonl"}, False),
        ({"source": "word-problems"}, False),
    ],
)
def test_a_run_without_held_out_questions_is_given_some_when_it_goes_on(
    data: dict[str, object], is_free: bool, tmp_path: Path
) -> None:
    def config(**more: object) -> TrainConfig:
        tables = {"data": {"source": "mine.jsonl", **data, **more}, "run": {"folder": tmp_path}}
        return TrainConfig.model_validate(tables)

    with open_run(config(), must_resume=False):
        (tmp_path / "checkpoints/step-000000").mkdir(parents=True)
    named = config(evaluation_source="test.jsonl")
    if not is_free:
        with (
            pytest.raises(UsageError, match=r"data\.evaluation_source was"),
            open_run(named, must_resume=True),
        ):
            pass
        return
    with open_run(named, must_resume=True):
        assert read_run_config(tmp_path) == named
    # From then on they stay.
    with (
        pytest.raises(UsageError, match=r"evaluation_source was test\.jsonl and is null"),
        open_run(config(), must_resume=True),
    ):
        pass


def test_a_run_from_rollouts_resumes_even_if_their_settings_cannot_be_read(tmp_path: Path) -> None:
    rollouts = tmp_path / "rollouts.jsonl"
    settings_beside(rollouts).write_text("nonsense = 1\n" + as_toml(CollectConfig()))
    config = OfflineRunConfig.model_validate(
        {"rollouts": rollouts, "run": {"folder": tmp_path / "run"}}
    )
    for must_resume in (False, True):
        with open_run(config, must_resume=must_resume):
            (tmp_path / "run/checkpoints/step-000000").mkdir(parents=True, exist_ok=True)


# --- whose settings a run's folder has -------------------------------------------------------------


def test_a_file_of_somebody_s_own_is_not_overwritten(tmp_path: Path) -> None:
    path = tmp_path / CONFIG_FILE
    config = TrainConfig.model_validate({"run": {"folder": tmp_path}})
    written = "# Mine.\n" + as_toml(config)
    path.write_text(written)
    with (
        pytest.raises(UsageError, match=r"run\.folder: .*config\.toml does not belong to a run"),
        open_run(config, must_resume=False),
    ):
        pass
    assert [each.name for each in tmp_path.iterdir()] == [CONFIG_FILE]
    assert path.read_text() == written
    # What is left of a run that never began is.
    path.write_text(as_toml(TrainConfig(ppo=PPOConfig(clip_high=0.3))))
    with open_run(config, must_resume=False):
        assert read_run_config(tmp_path) == config


@pytest.mark.parametrize(
    "name",
    ["adapter_model.safetensors", CONFIG_FILE, "checkpoints/checkpoint-5/trainer_state.json"],
)
def test_the_folder_of_an_sft_is_not_overwritten(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(as_toml(SFTRunConfig(output=tmp_path)) if name == CONFIG_FILE else "")
    config = TrainConfig.model_validate({"run": {"folder": tmp_path}})
    with (
        pytest.raises(UsageError, match=r"run\.folder: .* holds the adapter, .* such as `sft`"),
        open_run(config, must_resume=False),
    ):
        pass
    assert [each for each in tmp_path.rglob("*") if each.is_file()] == [path]


@pytest.mark.parametrize(
    ("before", "now", "is_same"),
    [
        ("runs/sft", "/home/me/runs/sft", True),
        ("/home/me/runs/sft", "runs/sft", True),
        ("./runs/sft/", "runs/sft", True),
        ("runs/sft", "/home/me/other-runs/sft", False),
        ("runs/sft", "my/runs/sft", False),
        ("/here/runs/sft", "/there/runs/sft", False),
        ("runs/sft", None, False),
    ],
)
def test_an_adapter_may_be_written_from_another_folder(
    before: str, now: str | None, is_same: bool, tmp_path: Path
) -> None:
    def keep(adapter: str | None) -> None:
        config = TrainConfig.model_validate({"policy": {"adapter": adapter}})
        keep_settings(tmp_path / CONFIG_FILE, config, free=())

    keep(before)
    if is_same:
        keep(now)
    else:
        with pytest.raises(UsageError, match=r"policy\.adapter was "):
            keep(now)


@pytest.mark.parametrize(
    ("key", "before", "now"),
    [
        ("policy.base_model", "models/base", "/home/me/models/base"),
        ("data.source", "train.jsonl", "/home/me/train.jsonl"),
    ],
)
def test_a_path_of_what_a_run_reads_again_is_another_setting(
    key: str, before: str, now: str, tmp_path: Path
) -> None:
    """What lies there could be something else: a run has no copy of it."""
    section, name = key.split(".")
    keep_settings(
        tmp_path / CONFIG_FILE, TrainConfig.model_validate({section: {name: before}}), free=()
    )
    with pytest.raises(UsageError, match=f"{key} was {before} and is {now}"):
        keep_settings(
            tmp_path / CONFIG_FILE, TrainConfig.model_validate({section: {name: now}}), free=()
        )


def test_of_many_other_settings_some_are_shown(tmp_path: Path) -> None:
    many = PPOConfig(
        learning_rate=1e-3,
        critic_learning_rate=1e-3,
        kl_coef=0.3,
        target_kl=0.3,
        adaptive_kl=False,
        max_grad_norm=0.3,
        num_epochs=3,
        clip_low=0.3,
        clip_high=0.3,
    )
    keep_settings(tmp_path / CONFIG_FILE, TrainConfig(), free=())
    with pytest.raises(UsageError, match=r"; and \d+ more\. Resume") as caught:
        keep_settings(tmp_path / CONFIG_FILE, TrainConfig(ppo=many), free=())
    assert str(caught.value).count(" was ") == 8 + 1
    assert "; and 1 more. " in str(caught.value)


def test_a_file_of_rollouts_with_other_settings_is_called_by_its_name(tmp_path: Path) -> None:
    path = tmp_path / "rollouts.jsonl.zst.toml"
    keep_settings(path, CollectConfig(), free=())
    said = (
        r"rollouts\.jsonl\.zst was begun with other settings: .*zst\.toml, or choose another output"
    )
    with pytest.raises(UsageError, match=said):
        keep_settings(path, CollectConfig(model="base"), free=())


@pytest.mark.parametrize(
    ("left", "said"),
    [
        (None, "config.toml: missing, and the run has begun; restore"),
        ("", r"lacks \[policy\], \[ppo\], \[run\], which every run has; restore"),
        ("[policy]\n[run]\n", r"lacks \[ppo\], which every run has"),
        ("[policy", "config.toml: "),
    ],
)
def test_a_run_does_not_go_on_without_the_settings_that_it_began_with(
    left: str | None, said: str, tmp_path: Path
) -> None:
    (tmp_path / "checkpoints/step-000000").mkdir(parents=True)
    if left is not None:
        (tmp_path / CONFIG_FILE).write_text(left)
    with pytest.raises(UsageError, match=said):
        require_whole_run(tmp_path)
    if left is None:
        with pytest.raises(UsageError, match=said):
            read_run_config(tmp_path)

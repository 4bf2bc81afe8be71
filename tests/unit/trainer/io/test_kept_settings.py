"""Work resumes with the settings that it was begun with, even if an earlier version of the program began it."""

import shutil
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
from trainer.io.adapter_settings import kept_prompt_format, prompt_format_advice, training_data
from trainer.io.kept_settings import CONFIG_FILE, as_begun, as_toml, keep_settings, read_run_config
from trainer.run_state.run_folder import (
    open_run,
    run_as_begun,
    with_prompt_format,
)

OLD_RUN = Path(__file__).parents[3] / "fixtures/verdict/improves" / CONFIG_FILE
"""Written when arms were null and dynamic sampling had another name."""
SOLO = ArmSpec(name="solo", system_prompt="Be brief.", temperature=0.7, top_p=1.0)


@pytest.fixture
def old_run(tmp_path: Path) -> Path:
    shutil.copy(OLD_RUN, tmp_path / CONFIG_FILE)
    return tmp_path


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


def test_a_run_of_an_earlier_version_resumes(old_run: Path) -> None:
    path = old_run / CONFIG_FILE
    stored = tomllib.loads(path.read_text())["rollout"]
    assert "arms" not in stored
    assert stored["refill_zero_variance"] is False
    config = read_run_config(old_run)
    assert config.rollout.arms == build_all_arms()
    assert config.rollout.dynamic_sampling is False
    keep_settings(path, config, free=())
    assert "dynamic_sampling" in tomllib.loads(path.read_text())["rollout"]
    assert read_run_config(old_run) == config
    keep_settings(path, config, free=())


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"dynamic_sampling": True}, "rollout.dynamic_sampling was False and is True"),
        ({"arms": (SOLO,)}, "rollout.arms: was recipe and is solo"),
    ],
)
def test_a_run_of_an_earlier_version_refuses_other_settings(
    change: dict[str, object], named: str, old_run: Path
) -> None:
    config = read_run_config(old_run)
    changed = config.model_copy(update={"rollout": config.rollout.model_copy(update=change)})
    with pytest.raises(UsageError, match=named):
        keep_settings(old_run / CONFIG_FILE, changed, free=())


@pytest.mark.parametrize("config", [TrainConfig(), SFTRunConfig(), CollectConfig()])
def test_the_eight_arms_are_stored_as_they_were_before(config: BaseModel, tmp_path: Path) -> None:
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


def test_a_stored_file_that_is_not_valid_now_names_what_differs(tmp_path: Path) -> None:
    path = tmp_path / CONFIG_FILE
    path.write_text(as_toml(TrainConfig()) + "[ppo2]\nx = 1\n")
    with pytest.raises(UsageError, match=r"other settings: ppo2.x was 1 and is null[.] Resume"):
        keep_settings(path, TrainConfig(), free=())


@pytest.mark.parametrize("cannot_be_read", ["", "[ppo2]\nx = 1\n"])
def test_a_setting_that_is_newer_than_the_file_has_its_default(
    cannot_be_read: str, tmp_path: Path
) -> None:
    path = tmp_path / CONFIG_FILE
    stored = as_toml(TrainConfig())
    for key in ("clip_high", "whiten_advantages", "questions_per_step", "num_threads"):
        stored = "".join(line for line in stored.splitlines(True) if not line.startswith(key))
    path.write_text(stored + cannot_be_read)
    if not cannot_be_read:
        keep_settings(path, TrainConfig(), free=())
    changed = TrainConfig(ppo=PPOConfig(clip_high=0.3))
    path.write_text(stored + cannot_be_read)
    with pytest.raises(UsageError, match=r"ppo\.clip_high was 0\.2 and is 0\.3") as caught:
        keep_settings(path, changed, free=())
    others = {"ppo2.x was 1 and is null"} if cannot_be_read else set()
    said = str(caught.value).partition("other settings: ")[2].partition(". Resume")[0]
    assert set(said.split("; ")) == {"ppo.clip_high was 0.2 and is 0.3", *others}


def test_null_is_stored_where_it_is_not_the_default(tmp_path: Path) -> None:
    path = tmp_path / CONFIG_FILE
    config = TrainConfig(ppo=PPOConfig(dual_clip=None))
    keep_settings(path, config, free=())
    assert "value_clip = 0.2" in path.read_text()
    assert read_run_config(tmp_path) == config
    keep_settings(path, config, free=())
    with pytest.raises(UsageError, match=r"ppo[.]dual_clip was null and is 3.0"):
        keep_settings(path, TrainConfig(), free=())
    # Earlier versions left it out.
    path.write_text(path.read_text().replace('dual_clip = "null"\n', ""))
    keep_settings(path, config, free=())


def test_settings_from_before_chat_prompts_mean_plain_ones(old_run: Path) -> None:
    path = old_run / CONFIG_FILE
    assert kept_prompt_format(path) == "plain"
    assert read_run_config(old_run).rollout.prompt_format == "plain"
    assert kept_prompt_format(old_run / "missing.toml") is None
    chat = TrainConfig.model_validate({"rollout": {"prompt_format": "chat"}})
    with pytest.raises(UsageError, match=r"rollout\.prompt_format was plain and is chat"):
        keep_settings(path, chat, free=("policy", "data", "ppo", "reward", "run"))
    for name, config in (("run", chat), ("sft", SFTRunConfig(prompt_format="chat"))):
        keep_settings(old_run / name, config, free=())
        assert kept_prompt_format(old_run / name) == "chat"


def test_an_adapter_of_another_prompt_format_is_warned_about(tmp_path: Path) -> None:
    def advice(prompt_format: str) -> list[str]:
        given = {"policy": {"adapter": tmp_path}, "rollout": {"prompt_format": prompt_format}}
        return prompt_format_advice(TrainConfig.model_validate(given))

    assert advice("chat") == []  # nothing says how it was trained
    keep_settings(tmp_path / CONFIG_FILE, SFTRunConfig(prompt_format="plain"), free=())
    assert advice("plain") == []
    (line,) = advice("chat")
    assert "trained with plain prompts" in line


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


def test_auto_is_what_a_run_was_begun_with(old_run: Path) -> None:
    def resolved(folder: Path, choice: str = "auto") -> str:
        config = TrainConfig.model_validate(
            {"run": {"folder": folder}, "rollout": {"prompt_format": choice}}
        )
        return with_prompt_format(config, lambda: "chat").rollout.prompt_format

    # A folder without a checkpoint is of a run that has not begun.
    assert resolved(old_run) == "chat"
    (old_run / "checkpoints/step-000000").mkdir(parents=True)
    assert resolved(old_run) == "plain"
    assert resolved(old_run, "chat") == "chat"
    assert resolved(old_run / "new") == "chat"
    assert resolved(old_run / "new", "plain") == "plain"


# --- held-out questions, whose default was once word-problems beside every source ------------------


def kept_by_an_earlier_version(path: Path, data: dict[str, object], run: dict[str, object]) -> None:
    """Writes a run's settings as an earlier version kept them, with that version's default."""
    config = TrainConfig.model_validate({"data": data, "run": {"folder": path.parent, **run}})
    tables = tomllib.loads(as_toml(config))
    tables["data"].setdefault("evaluation_source", "word-problems")
    path.write_text(tomli_w.dumps(tables))


@pytest.mark.parametrize(
    ("data", "run", "meant", "held_out"),
    [
        ({}, {}, None, "word-problems"),
        ({}, {"evaluate_every": 2}, None, "word-problems"),
        ({"source": "mine.jsonl"}, {}, None, None),
        # They were asked, or never asked, so the run goes on with them.
        ({"source": "mine.jsonl"}, {"evaluate_every": 2}, *("word-problems#held_out",) * 2),
        ({"source": "mine.jsonl", "counterfactual": 0.25}, {}, *("word-problems#held_out",) * 2),
        (
            {"source": "mine.jsonl", "evaluation_source": "test.jsonl"},
            {},
            "test.jsonl",
            "test.jsonl",
        ),
    ],
)
def test_word_problems_that_nobody_chose_are_not_a_run_s_held_out_questions(
    data: dict[str, object],
    run: dict[str, object],
    meant: str | None,
    held_out: str | None,
    tmp_path: Path,
) -> None:
    path = tmp_path / CONFIG_FILE
    kept_by_an_earlier_version(path, data, run)
    kept, of_adapters = read_run_config(tmp_path).data, training_data(tmp_path)
    assert (kept.evaluation_source, kept.held_out_source) == (meant, held_out)
    assert of_adapters == kept
    # It resumes with the settings that it was begun with, as they are given.
    given = TrainConfig.model_validate({"data": data, "run": {"folder": tmp_path, **run}})
    lines: list[str] = []
    config = as_begun(path, given, lines.append)
    assert config.data == kept
    assert bool(lines) == (config.data != given.data)
    keep_settings(path, config, free=())
    assert read_run_config(tmp_path) == config


def test_word_problems_that_somebody_chose_stay_a_run_s_held_out_questions(tmp_path: Path) -> None:
    path = tmp_path / CONFIG_FILE
    chosen = {"source": "mine.jsonl", "evaluation_source": "word-problems"}
    for evaluate_every in (2, None, 2):
        run = {"folder": tmp_path, "evaluate_every": evaluate_every}
        config = TrainConfig.model_validate({"data": chosen, "run": run})
        lines: list[str] = []
        assert as_begun(path, config, lines.append) == config
        keep_settings(path, config, free=("run.evaluate_every",))
        assert read_run_config(tmp_path).data.held_out_source == "word-problems#held_out"
        assert lines == []
    forgotten = TrainConfig.model_validate({"data": {"source": "mine.jsonl"}})
    assert as_begun(path, forgotten, lines.append) == forgotten
    with pytest.raises(UsageError, match=r"was word-problems#held_out and is null"):
        keep_settings(path, forgotten, free=("run",))


def test_beside_a_built_in_source_the_default_may_be_named_or_not(tmp_path: Path) -> None:
    path = tmp_path / CONFIG_FILE
    for data in ({}, {"evaluation_source": "word-problems"}, {}):
        keep_settings(path, TrainConfig.model_validate({"data": data}), free=())


@pytest.mark.parametrize("config", [TrainConfig(), SFTRunConfig(), CollectConfig()])
def test_settings_with_the_earlier_default_are_not_other_ones(
    config: BaseModel, tmp_path: Path
) -> None:
    path = tmp_path / CONFIG_FILE
    stored = tomllib.loads(as_toml(config))
    assert "evaluation_source" not in stored["data"]
    stored["data"]["evaluation_source"] = "word-problems"
    path.write_text(tomli_w.dumps(stored))
    keep_settings(path, config, free=())
    keep_settings(path, config, free=())


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


@pytest.mark.parametrize("is_weights", [True, False])
def test_the_folder_of_an_sft_is_not_overwritten(is_weights: bool, tmp_path: Path) -> None:
    path = tmp_path / ("adapter_model.safetensors" if is_weights else CONFIG_FILE)
    path.write_text("" if is_weights else as_toml(SFTRunConfig(output=tmp_path)))
    config = TrainConfig.model_validate({"run": {"folder": tmp_path}})
    with (
        pytest.raises(UsageError, match=r"run\.folder: .* holds the adapter, .* such as `sft`"),
        open_run(config, must_resume=False),
    ):
        pass
    assert list(tmp_path.iterdir()) == [path]


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
    keep_settings(tmp_path / CONFIG_FILE, TrainConfig(), free=())
    with pytest.raises(UsageError, match=r"; and \d+ more\. Resume") as caught:
        keep_settings(tmp_path / CONFIG_FILE, SFTRunConfig(), free=())
    assert str(caught.value).count(" was ") == 8 + 1


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
        (None, "config.toml is missing, and the run has begun: restore"),
        ("", r"lacks \[policy\], \[ppo\], \[run\], which every run has: restore"),
        ("[policy]\n[run]\n", r"lacks \[ppo\], which every run has"),
        ("[policy", "config.toml: "),
    ],
)
def test_a_run_does_not_go_on_without_the_settings_that_it_began_with(
    left: str | None, said: str, tmp_path: Path
) -> None:
    config = TrainConfig.model_validate({"run": {"folder": tmp_path}})
    (tmp_path / "checkpoints/step-000000").mkdir(parents=True)
    if left is not None:
        (tmp_path / CONFIG_FILE).write_text(left)
    with pytest.raises(UsageError, match=said):
        run_as_begun(config, print)

"""Evaluated models are asked as they were trained, unless somebody says otherwise."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from regime_w import ArmSpec, build_all_arms
from trainer.config.sections import (
    CollectConfig,
    EvaluationConfig,
    OfflineRunConfig,
    SFTRunConfig,
    TrainConfig,
)
from trainer.errors import UsageError
from trainer.evaluation.questions import contamination_lines
from trainer.evaluation.training_settings import own_configuration_lines, with_training_settings
from trainer.io.kept_settings import CONFIG_FILE, as_toml, settings_beside

SOLO = ArmSpec(name="solo", system_prompt="Be brief.", temperature=0.7, top_p=1.0)
ROLLOUT = {"arms": [SOLO], "prompt_format": "chat", "stop": ["\n\n"], "max_tokens": 64}


def adapter(folder: Path) -> Path:
    folder.mkdir(parents=True)
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        (folder / name).touch()
    return folder


def run_folder(folder: Path, data: dict[str, Any] | None = None, **rollout: Any) -> Path:
    adapter(folder / "adapters/policy-000003")
    config = TrainConfig.model_validate({"rollout": {**ROLLOUT, **rollout}, "data": data or {}})
    (folder / CONFIG_FILE).write_text(as_toml(config))
    return folder


def asked(*models: Path | str, **given: Any) -> EvaluationConfig:
    return EvaluationConfig(
        models=tuple(f"M{i}={model}" for i, model in enumerate(models)), **given
    )


@pytest.mark.parametrize("of_the_run", ["", "adapters/policy-000003"])
def test_a_run_is_asked_as_it_was_trained(of_the_run: str, tmp_path: Path) -> None:
    run = run_folder(tmp_path / "run")
    config, line = with_training_settings(asked("base", run / of_the_run))
    assert (config.arms, config.prompt_format, config.stop) == ((SOLO,), "chat", ("\n\n",))
    assert (config.max_tokens, config.greedy_arm) == (64, SOLO)
    assert line is not None
    assert str(run) in line
    for part in ("arms solo", "prompt_format chat", r"stop '\n\n'", "max_tokens 64"):
        assert part in line


def test_what_is_given_stays(tmp_path: Path) -> None:
    run = run_folder(tmp_path / "run")
    given = {"max_tokens": 7, "prompt_format": "plain", "arms": build_all_arms(), "stop": ()}
    config = asked(run, **given)
    assert with_training_settings(config) == (config, None)
    config, line = with_training_settings(asked(run, max_tokens=7))
    assert config.max_tokens == 7
    assert line is not None
    assert "max_tokens" not in line


def test_an_sft_says_its_prompts_alone(tmp_path: Path) -> None:
    folder = adapter(tmp_path / "sft")
    (folder / CONFIG_FILE).write_text(as_toml(SFTRunConfig(prompt_format="chat", arms=(SOLO,))))
    config, _ = with_training_settings(asked("base", folder))
    assert (config.prompt_format, config.greedy_arm, config.max_tokens) == ("chat", SOLO, 256)
    # Beside a run with the same prompts, the run's other settings hold.
    config, _ = with_training_settings(asked("base", folder, run_folder(tmp_path / "run")))
    assert config.max_tokens == 64


def test_runs_that_were_asked_otherwise_need_a_word(tmp_path: Path) -> None:
    runs = run_folder(tmp_path / "a"), run_folder(tmp_path / "b", prompt_format="plain")
    with pytest.raises(UsageError, match=r"prompt_format: .*chat.*plain.*--prompt_format"):
        with_training_settings(asked(*runs))
    config, _ = with_training_settings(asked(*runs, prompt_format="chat"))
    assert config.prompt_format == "chat"


def test_a_model_that_was_trained_without_is_shown_with_none(tmp_path: Path) -> None:
    runs = run_folder(tmp_path / "a", stop=["shells"]), run_folder(tmp_path / "b", stop=[])
    with pytest.raises(UsageError, match=r"a was trained with 'shells' and .*b with none; say"):
        with_training_settings(asked(*runs))


def test_runs_whose_arms_differ_in_sampling_alone_are_asked_greedily_alike(tmp_path: Path) -> None:
    runs = [
        run_folder(tmp_path / name, arms=[SOLO.model_copy(update={"temperature": temperature})])
        for name, temperature in (("a", 0.7), ("b", 1.0))
    ]
    config, _ = with_training_settings(asked(*runs))
    assert [arm.name for arm in config.arms] == ["solo"]
    with pytest.raises(UsageError, match=r"arms: .*solo \(temperature 0.7.*solo \(temperature 1,"):
        with_training_settings(asked(*runs, samples_per_arm=1))
    other = run_folder(tmp_path / "c", arms=[SOLO.model_copy(update={"system_prompt": "Think."})])
    with pytest.raises(UsageError, match="arms: "):
        with_training_settings(asked(runs[0], other))


MATH = {"source": "a.jsonl", "evaluation_source": "b.jsonl", "question": "problem"} | {
    "answer": "solution",
    "answer_type": "math",
}


def test_a_run_is_asked_its_own_held_out_questions(tmp_path: Path) -> None:
    run = run_folder(tmp_path / "run", MATH)
    sft = adapter(tmp_path / "sft")
    other = SFTRunConfig.model_validate({"arms": (SOLO,), "data": {"source": "c.jsonl"}})
    (sft / CONFIG_FILE).write_text(as_toml(other))
    # What the SFT learned from is not the run's.
    config, line = with_training_settings(asked(sft, run, prompt_format="chat"))
    assert (config.data, config.data_question, config.data_answer) == (
        *("b.jsonl", "problem", "solution"),
    )
    assert config.data_answer_type == "math"
    assert line is not None
    assert "data b.jsonl" in line
    # Other questions have columns of their own.
    config, _ = with_training_settings(asked(run, data="word-problems"))
    assert (config.data, config.data_answer_type) == ("word-problems", "number")


def test_models_that_name_no_held_out_questions_are_not_asked_built_in_ones(tmp_path: Path) -> None:
    run = run_folder(tmp_path / "run", {"source": "a.jsonl"})
    with pytest.raises(UsageError, match=r"data: .*run was trained on a\.jsonl, .*--data"):
        with_training_settings(asked(run))
    assert with_training_settings(asked(run, data="word-problems"))[0].data == "word-problems"
    runs = run_folder(tmp_path / "b", MATH), run_folder(tmp_path / "c")
    with pytest.raises(UsageError, match=r"data: .*b\.jsonl.*word-problems; say with --data"):
        with_training_settings(asked(*runs))


def test_a_run_from_collected_rollouts_is_asked_what_they_hold_out(tmp_path: Path) -> None:
    folder = adapter(tmp_path / "offline/adapters/policy-000003").parents[1]
    rollouts = tmp_path / "rollouts.jsonl"
    offline = OfflineRunConfig.model_validate({"rollout": ROLLOUT, "rollouts": rollouts})
    (folder / CONFIG_FILE).write_text(as_toml(offline))
    # Rollouts of another program have no settings beside them.
    with pytest.raises(
        UsageError, match=r"offline was trained on .*rollouts.jsonl, and no settings"
    ):
        with_training_settings(asked(folder))
    assert with_training_settings(asked(folder, data="word-problems"))[0].data == "word-problems"
    assert (
        with_training_settings(asked(folder, run_folder(tmp_path / "run", MATH)))[0].data
        == "b.jsonl"
    )
    collected = settings_beside(rollouts)
    for data in (MATH, {"source": "a.jsonl"}):
        collected.write_text(as_toml(CollectConfig.model_validate({"data": data})))
        if data is MATH:
            config, _ = with_training_settings(asked(folder))
            assert (config.data, config.data_question) == ("b.jsonl", "problem")
        else:
            with pytest.raises(UsageError, match=r"offline was trained on a\.jsonl, .*--data"):
                with_training_settings(asked(folder))


def test_a_run_from_another_run_s_rollouts_is_asked_what_that_one_holds_out(tmp_path: Path) -> None:
    rollouts = run_folder(tmp_path / "run", MATH) / "rollouts/step-000001.jsonl.zst"
    folder = adapter(tmp_path / "offline/adapters/policy-000003").parents[1]
    offline = OfflineRunConfig.model_validate({"rollout": ROLLOUT, "rollouts": rollouts})
    (folder / CONFIG_FILE).write_text(as_toml(offline))
    assert with_training_settings(asked(folder))[0].data == "b.jsonl"


def test_adapters_that_say_nothing_change_nothing(tmp_path: Path) -> None:
    folder = adapter(tmp_path / "elsewhere/adapter")
    (folder / CONFIG_FILE).write_text("not TOML [")
    config = asked("base", folder)
    assert with_training_settings(config) == (config, None)


# --- settings that cannot be read -----------------------------------------------------------------

DAMAGE: dict[str, tuple[Callable[[str], str | None], str]] = {
    "an unknown key": (
        lambda text: text.replace("[ppo]", "[ppo]\nkl_horizon = 10000"),
        "ppo.kl_horizon: unknown key; did you mean ppo.kl_horizon_steps?",
    ),
    "an unknown table": (lambda text: f"{text}[nonsense]\n", "nonsense: unknown key"),
    "empty": (lambda _: "", "not the settings that a command has kept"),
    "cut off": (lambda text: text[: text.index("[ppo]") + 3], "Expected ']'"),
    "missing": (lambda _: None, "missing, and the run has begun"),
}
"""What becomes of a text, None if its file is removed, and what is said of it."""


@pytest.mark.parametrize(("damage", "said"), DAMAGE.values(), ids=DAMAGE)
@pytest.mark.parametrize("of_the_run", ["", "adapters/policy-000003", "start"])
def test_a_run_whose_settings_cannot_be_read_is_not_asked_with_defaults(
    of_the_run: str, damage: Callable[[str], str | None], said: str, tmp_path: Path
) -> None:
    run = run_folder(tmp_path / "run", MATH)
    adapter(run / "start")
    (run / "journal.jsonl").write_text("{}\n")
    path = run / CONFIG_FILE
    damaged = damage(path.read_text())
    path.unlink() if damaged is None else path.write_text(damaged)
    with pytest.raises(UsageError) as caught:
        with_training_settings(asked("base", run / of_the_run, prompt_format="plain"))
    line = str(caught.value)
    assert line.startswith(f"{path}: {said}")
    assert "say with --data, --arms, --stop, --max_tokens how to ask it" in line
    assert "\n" not in line
    given = {"data": "word-problems", "arms": (SOLO,), "stop": (), "max_tokens": 9}
    config = asked("base", run / of_the_run, prompt_format="plain", **given)
    assert with_training_settings(config) == (config, None)
    (line,) = contamination_lines(config)
    assert line.startswith("warning: whether word-problems has questions that were trained on was")
    assert f"not checked: {path}: {said}" in line


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        ("", "not the settings"),
        ("[sft", "Expected ']'"),
        ("[sft]\nepochs = 1\n", "sft.epochs: unknown key"),
    ],
)
def test_an_sft_whose_settings_cannot_be_read_is_not_asked_with_defaults(
    damage: str, said: str, tmp_path: Path
) -> None:
    folder = adapter(tmp_path / "sft")
    (folder / "metrics.jsonl").touch()
    (folder / CONFIG_FILE).write_text(damage)
    with pytest.raises(
        UsageError, match=rf"config\.toml: {re.escape(said)}.*--data, --arms how to"
    ):
        with_training_settings(asked(folder, prompt_format="chat"))
    config = asked(folder, prompt_format="chat", arms=(SOLO,), data="word-problems")
    assert with_training_settings(config) == (config, None)


def test_a_run_from_rollouts_whose_settings_cannot_be_read_is_not_asked_built_in_questions(
    tmp_path: Path,
) -> None:
    folder = adapter(tmp_path / "offline/adapters/policy-000003").parents[1]
    rollouts = tmp_path / "rollouts.jsonl"
    offline = as_toml(
        OfflineRunConfig.model_validate({"rollout": ROLLOUT, "rollouts": str(rollouts)})
    )
    (folder / CONFIG_FILE).write_text(f"nonsense = 1\n{offline}")
    with pytest.raises(UsageError, match=r"offline/config\.toml: nonsense: unknown key .*--data"):
        with_training_settings(asked(folder))
    (folder / CONFIG_FILE).write_text(offline)
    settings_beside(rollouts).write_text("nonsense = 1\n" + as_toml(CollectConfig()))
    with pytest.raises(UsageError, match=r"rollouts\.jsonl\.toml: nonsense: unknown key .*--data"):
        with_training_settings(asked(folder))
    config, _ = with_training_settings(asked(folder, data="word-problems"))
    assert config.max_tokens == 64


def test_somebody_s_own_configuration_above_a_folder_of_rollouts_is_not_read(
    tmp_path: Path,
) -> None:
    folder = adapter(tmp_path / "offline/adapters/policy-000003").parents[1]
    offline = {"rollout": ROLLOUT, "rollouts": tmp_path / "rollouts/mine.jsonl"}
    (folder / CONFIG_FILE).write_text(as_toml(OfflineRunConfig.model_validate(offline)))
    (tmp_path / CONFIG_FILE).write_text("[mine]\nx = 1\n")
    with pytest.raises(UsageError, match=r"offline was trained on .*mine.jsonl, and no settings"):
        with_training_settings(asked(folder))


@pytest.mark.parametrize("text", ["", "rollout = 3\n", "[mine]\nx = 1\n"])
@pytest.mark.parametrize("of_a_run", [True, False])
def test_somebody_s_own_configuration_is_named_where_defaults_may_hold(
    of_a_run: bool, text: str, tmp_path: Path
) -> None:
    folder = adapter(tmp_path / "adapters/policy-000001")
    path = (tmp_path if of_a_run else folder) / CONFIG_FILE
    path.write_text(text)
    config = asked("base", folder, max_tokens=9)
    assert with_training_settings(config) == (config, None)
    (line,) = own_configuration_lines(config)
    assert line.startswith(f"warning: {path}: not the settings that a command has kept")
    assert "--data, --arms, --prompt_format, --stop say how to ask it" in line
    given = {"data": "word-problems", "arms": (SOLO,), "stop": (), "prompt_format": "chat"}
    assert own_configuration_lines(config.model_copy(update=given)) == []
    assert own_configuration_lines(asked("base", run_folder(tmp_path / "run"))) == []

"""Where a setting comes from, and what the error for a wrong one says."""

import json
import re
from itertools import combinations
from pathlib import Path

import pytest
from pydantic import BaseModel

from inference_server.settings import Settings, read_settings
from inference_server.wire.settings.errors import SettingsError, got, known_keys
from inference_server.wire.settings.other_names import OTHER_NAMES
from regime_w import ArmSpec, build_all_arms, build_exploring_arms
from trainer.cli import COMMANDS
from trainer.config.loading import load_config
from trainer.config.sections import (
    SECTIONS,
    CollectConfig,
    CommandConfig,
    DequantizeCommand,
    EvaluationConfig,
    PPOConfig,
    ReplayCommand,
    SampleConfig,
    TrainConfig,
)

ROOT = Path(__file__).resolve().parents[4]
DEFAULT = PPOConfig().learning_rate
SOURCES = {"flag": 3e-4, "environment": 2e-4, "file": 1e-4}
"""What each source says, strongest first."""


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("REGIME_W_API_KEY", raising=False)


def load(*arguments: str) -> TrainConfig:
    return load_config(TrainConfig, list(arguments), prog="trainer train")


def config_file(tmp_path: Path, text: str) -> tuple[str, str]:
    path = tmp_path / "config.toml"
    path.write_text(text)
    return "--config", str(path)


@pytest.mark.parametrize(
    "given", [given for count in range(4) for given in combinations(SOURCES, count)]
)
def test_flags_beat_environment_beats_file_beats_default(
    given: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments: list[str] = []
    if "flag" in given:
        arguments += ["--ppo.learning_rate", str(SOURCES["flag"])]
    if "environment" in given:
        monkeypatch.setenv("REGIME_W_PPO__LEARNING_RATE", str(SOURCES["environment"]))
    if "file" in given:
        arguments += config_file(tmp_path, f"[ppo]\nlearning_rate = {SOURCES['file']}\n")
    expected = SOURCES[given[0]] if given else DEFAULT
    assert load(*arguments).ppo.learning_rate == expected


def test_sources_are_merged_key_by_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REGIME_W_PPO__NUM_EPOCHS", "3")
    file = config_file(tmp_path, "[ppo]\nnum_epochs = 2\nclip_low = 0.1\n[run]\nnum_steps = 7\n")
    config = load(*file, "--ppo.clip_high", "0.3")
    assert config.ppo == PPOConfig(num_epochs=3, clip_low=0.1, clip_high=0.3)
    assert config.run.num_steps == 7
    assert config.rollout == TrainConfig().rollout


@pytest.mark.parametrize(
    ("arguments", "section", "key", "value"),
    [
        (["--ppo.dual_clip", "None"], "ppo", "dual_clip", None),
        (["--ppo.dual_clip", "null"], "ppo", "dual_clip", None),
        (["--ppo.stop_kl=null"], "ppo", "stop_kl", None),
        (["--policy.adapter", "null"], "policy", "adapter", None),
        (["--rollout.arms", "null"], "rollout", "arms", build_all_arms()),
        (["--ppo.learning_rate", "1e-3"], "ppo", "learning_rate", 1e-3),
        (["--ppo.learning-rate", "1e-3"], "ppo", "learning_rate", 1e-3),
        (["--ppo.learning-rate=1e-3"], "ppo", "learning_rate", 1e-3),
        (["--no-ppo.adaptive-kl"], "ppo", "adaptive_kl", False),
        (["--rollout.arms", "None"], "rollout", "arms", build_all_arms()),
        (["--rollout.dynamic-sampling"], "rollout", "dynamic_sampling", True),
        (["--no-ppo.adaptive_kl"], "ppo", "adaptive_kl", False),
        (["--ppo.adaptive_kl", "false"], "ppo", "adaptive_kl", False),
        (["--ppo.adaptive-kl=False"], "ppo", "adaptive_kl", False),
        (["--rollout.dynamic_sampling", "True"], "rollout", "dynamic_sampling", True),
        (["--run.folder", "true"], "run", "folder", Path("true")),
        (["--ppo.truncation=mask"], "ppo", "truncation", "mask"),
        (["--rollout.seed", "7"], "rollout", "seed", 7),
        (["--run.folder", "runs/x"], "run", "folder", Path("runs/x")),
    ],
)
def test_flags_of_every_type(arguments: list[str], section: str, key: str, value: object) -> None:
    assert getattr(getattr(load(*arguments), section), key) == value


@pytest.mark.parametrize("null", ["null", "None"])
def test_null_turns_off_an_optional_setting_everywhere(
    null: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert load(*config_file(tmp_path, f'[ppo]\ndual_clip = "{null}"\n')).ppo.dual_clip is None
    monkeypatch.setenv("REGIME_W_PPO__DUAL_CLIP", null)
    assert load().ppo.dual_clip is None


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ((), ""),
        (("--policy.base_model", "mine"), ""),
        (("--policy.quantization", "null"), ""),
        ((), '[policy]\ndtype = "bfloat16"\n'),
        ((), '[policy]\nquantization = "null"\nshard_base = true\n'),
        ((), '[policy]\nquantization = "nf4"\n'),
    ],
)
def test_what_is_dequantized_is_in_four_bits_whatever_the_policy(
    arguments: tuple[str, ...], text: str, tmp_path: Path
) -> None:
    given = [*config_file(tmp_path, text), *arguments]
    asked = load_config(DequantizeCommand, given, prog="trainer dequantize")
    assert asked.policy.quantization == "nf4"


def test_arms_come_from_a_file(tmp_path: Path) -> None:
    arm = '{name = "solo", system_prompt = "Be brief.", temperature = 0.7, top_p = 1.0}'
    config = load(*config_file(tmp_path, f"[rollout]\narms = [{arm}]\n"))
    assert [(a.name, a.temperature) for a in config.rollout.arms] == [("solo", 0.7)]
    assert load().rollout.arms == build_all_arms()


@pytest.mark.parametrize("given", ["--what-if", "--what_if", "what_if", "REGIME_W_WHAT_IF"])
def test_a_key_of_two_words_has_the_usual_spellings(
    given: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = ["runs/x"]
    if given.startswith("--"):
        arguments += [given, "ppo.kl_coef=1"]
    elif given.isupper():
        monkeypatch.setenv(given, '["ppo.kl_coef=1"]')
        read_settings(["--model", "x"])
    else:
        arguments += config_file(tmp_path, f'{given} = ["ppo.kl_coef=1"]\n')
    assert load_config(ReplayCommand, arguments, prog="t").what_if == ("ppo.kl_coef=1",)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ('"exploring"', build_exploring_arms()),
        ('"recipe"', build_all_arms()),
        ('["wolfram_1", "maudlin_0"]', (build_all_arms()[1], build_all_arms()[4])),
    ],
)
def test_arms_are_given_by_name(tmp_path: Path, given: str, expected: tuple[ArmSpec, ...]) -> None:
    assert load(*config_file(tmp_path, f"[rollout]\narms = {given}\n")).rollout.arms == expected
    assert load("--rollout.arms", given).rollout.arms == expected


_SOLO = '{"name": "solo", "system_prompt": "a, b", "temperature": 0.7, "top_p": 1.0}'
_SEVERAL = """several items are a list in JSON, '["a", "b"]', or the flag several times"""


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        # A text is one item, with its commas, as it is.
        (["--rollout.stop", "Well, so"], ("Well, so",)),
        (["--rollout.stop= Q"], (" Q",)),
        (["--rollout.stop", r"\n\n"], (r"\n\n",)),
        (["--rollout.stop", "[END]"], ("[END]",)),
        (["--rollout.stop", "[END], [1"], ("[END], [1",)),
        (["--rollout.stop", '{"a": 1}'], ('{"a": 1}',)),
        (["--rollout.stop", 'so "it'], ('so "it',)),
        # A list is JSON; JSON has line breaks.
        (["--rollout.stop", r'["\n\n", "a, b"]'], ("\n\n", "a, b")),
        (["--rollout.stop", r'"\n\n"'], ("\n\n",)),
        (["--rollout.stop", "[]"], ()),
        (["--rollout.stop", "[1, 2.50]"], ("1", "2.50")),
        # Several flags add up.
        (["--rollout.stop", '["a", "b"]', "--rollout.stop=c, d"], ("a", "b", "c, d")),
    ],
)
def test_a_list_of_texts_is_json_or_one_item(
    arguments: list[str], expected: tuple[str, ...]
) -> None:
    assert load(*arguments).rollout.stop == expected


@pytest.mark.parametrize("written", ["q_proj,v_proj", "q_proj v_proj"])
def test_several_modules_in_one_text_are_no_modules_name(
    written: str, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--policy.target_modules", written]
    assert_one_line_error(capsys, arguments, f"{written!r} is not the name of a module", _SEVERAL)


def test_lists_of_other_types_are_json_or_one_item() -> None:
    arms = load("--rollout.arms", "wolfram_0", "--rollout.arms", _SOLO).rollout.arms
    assert [arm.name for arm in arms] == ["wolfram_0", "solo"]
    assert arms[1].system_prompt == "a, b"
    functions = ["--reward.functions", '["regime_w", "a:b"]']
    assert load(*functions, "--reward.weights", "[1, 0.5]").reward.weights == (1, 0.5)
    one_by_one = ["--reward.weights", "1", "--reward.weights=0.5"]
    assert load(*functions, *one_by_one).reward.weights == (1, 0.5)
    what_if = ["runs/x", "--what-if", "reward.weights=[1, 0.5]", "--what-if", "ppo.kl_coef=1"]
    command = load_config(ReplayCommand, what_if, prog="t")
    assert command.what_if == ("reward.weights=[1, 0.5]", "ppo.kl_coef=1")
    models = ["--models", "A, b=base", "--models", "B=policy"]
    assert load_config(EvaluationConfig, models, prog="t").models == ("A, b=base", "B=policy")


@pytest.mark.parametrize(
    ("command", "arguments", "said"),
    [
        (TrainConfig, ["--reward.weights", "1,0.5"], f"(got '1,0.5'); {_SEVERAL}"),
        (TrainConfig, ["--rollout.arms", "wolfram_0,maudlin_0"], _SEVERAL),
        (TrainConfig, ["--rollout.stop", '["a", "b"'], "begins like a list in JSON but is not one"),
        (TrainConfig, ["--rollout.arms", "[{]"], "begins like a list in JSON but is not one"),
        (EvaluationConfig, ["--models", "A=base", "B=x"], f"'B=x'; of --models {_SEVERAL}"),
        (
            SampleConfig,
            ["Capital?", "--answer_type=choice", "--choices", "Paris", "Rome"],
            f"'Rome'; of --choices {_SEVERAL}",
        ),
        (
            SampleConfig,
            ["--answer_type=choice", "--choices", "Paris", "Rome", "Capital?"],
            f"one choice is not enough: give 2 or more; {_SEVERAL}",
        ),
    ],
)
def test_how_several_items_are_given_is_said(
    command: type[CommandConfig],
    arguments: list[str],
    said: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit, match="2"):
        load_config(command, arguments, prog="t")
    assert said in capsys.readouterr().err


def test_a_named_set_and_an_arm_of_ones_own(tmp_path: Path) -> None:
    arm = '{name = "solo", system_prompt = "Be brief.", temperature = 0.7, top_p = 1.0}'
    config = load(*config_file(tmp_path, f'[rollout]\narms = ["exploring", {arm}]\n'))
    assert [arm.name for arm in config.rollout.arms][-2:] == ["maudlin_3", "solo"]


_ARM = 'name = "solo", system_prompt = "", temperature = 0.7, top_p = 1.0'


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ('["wolfram_9"]', "rollout.arms: unknown arm 'wolfram_9'"),
        (f"[{{{_ARM}}}, {{{_ARM}}}]", "rollout.arms: two arms have the name 'solo'"),
        ('["recipe", "exploring"]', "(the names in a set are the recipe's eight)"),
        (f"[{{{_ARM.replace('0.7', '0.005')}}}]", "temperature 0.005 of arm 'solo' is below 0.01"),
        (
            "[" + ", ".join(f"{{{_ARM.replace('solo', f'solo_{i}')}}}" for i in range(65)) + "]",
            "65 arms; the server takes 64",
        ),
        ("[]", "rollout.arms: must be a set of arms (recipe, exploring) or a list of arms"),
        ("3", "rollout.arms: must be a set of arms (recipe, exploring) or a list of arms"),
        (f"{{{_ARM}}}", "rollout.arms: must be a list: write [[rollout.arms]]"),
        (f"[{{{_ARM}, stop = 3}}]", "rollout.arms.0.stop: unknown key, in"),
        (f'["exploring", {{{_ARM}, stop = 3}}]', "rollout.arms.1.stop: unknown key, in"),
    ],
)
def test_arms_that_cannot_be_asked_are_refused(
    given: str, expected: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = config_file(tmp_path, f"[rollout]\narms = {given}\n")
    assert_one_line_error(capsys, [*file], expected, file[1])


def test_an_empty_variable_counts_as_not_set(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REGIME_W_PPO__NUM_EPOCHS", "")
    monkeypatch.setenv("REGIME_W_POLICY__ADAPTER", "")
    config = load(*config_file(tmp_path, "[ppo]\nnum_epochs = 2\n"))
    assert (config.ppo.num_epochs, config.policy.adapter) == (2, None)


def test_the_api_key_comes_from_its_own_variable_and_is_not_shown(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("REGIME_W_API_KEY", "secret")
    config = load()
    assert config.server.api_key is not None
    assert config.server.api_key.get_secret_value() == "secret"
    assert "secret" not in repr(config)


def assert_one_line_error(
    capsys: pytest.CaptureFixture[str], arguments: list[str], *fragments: str
) -> None:
    with pytest.raises(SystemExit) as caught:
        load(*arguments)
    assert caught.value.code == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("trainer train: error: ")
    assert err.count("\n") == 1
    for fragment in fragments:
        assert fragment in err


@pytest.mark.parametrize("key", [" ", " s3cret", "s3cret\n", "s3crét"])
def test_an_api_key_that_no_header_can_carry_is_refused_and_not_shown(
    key: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The server would answer 401 to it, for ever."""
    file = config_file(tmp_path, f"[server]\napi_key = {json.dumps(key)}\n")
    with pytest.raises(SystemExit) as caught:
        load(*file)
    from_file = capsys.readouterr().err
    assert (caught.value.code, from_file.count("\n")) == (2, 1)
    assert "server.api_key: must be printable ASCII" in from_file
    monkeypatch.setenv("REGIME_W_API_KEY", key)
    with pytest.raises(SystemExit):
        load()
    from_environment = capsys.readouterr().err
    assert "api_key: must be printable ASCII" in from_environment
    assert "REGIME_W_API_KEY" in from_environment
    assert "s3cr" not in from_file.partition(", in ")[0] + from_environment


@pytest.mark.parametrize(
    ("text", "fragments"),
    [
        ("[ppo]\nlearnig_rate = 1\n", ["ppo.learnig_rate", "unknown key"]),
        ("[pppo]\nx = 1\n", ["pppo", "unknown key"]),
        ("learning_rate = 1\n", ["learning_rate", "unknown key"]),
        ("[ppo]\nlearning_rate = -1\n", ["ppo.learning_rate", "greater than 0", "-1"]),
        ('[ppo]\nlearning_rate = "fast"\n', ["ppo.learning_rate", "fast"]),
        ('[ppo]\ntruncation = "drop"\n', ["ppo.truncation", "bootstrap", "drop"]),
        ("ppo = 3\n", ["ppo"]),
        ("[rollout]\nmax_staleness = -1\n", ["rollout.max_staleness"]),
        ('[[rollout.arms]]\nname = "solo"\n', ["rollout.arms.0.system_prompt"]),
        ("[reward]\nw_end = 0.9\n", ["reward", "must be 1"]),
        ("[ppo\n", ["config.toml"]),
        ("\0", ["config.toml"]),
    ],
)
def test_what_is_wrong_in_a_file_is_said_in_one_line_that_names_the_key(
    text: str, fragments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if "arms" in text:
        text += "temperature = 0.5\ntop_p = 1.0\n"
    assert_one_line_error(capsys, list(config_file(tmp_path, text)), *fragments)


@pytest.mark.parametrize(
    ("name", "value", "fragments"),
    [
        ("REGIME_W_PPO__LEARNIG_RATE", "1", ["ppo.learnig_rate", "unknown key"]),
        (
            "REGIME_W_PPO__LERNING_RATE",
            "1",
            ["REGIME_W_PPO__LERNING_RATE", "mean ppo.learning_rate?"],
        ),
        ("REGIME_W_PPOO__NUM_EPOCHS", "1", ["REGIME_W_PPOO__NUM_EPOCHS", "mean ppo.num_epochs?"]),
        ("REGIME_W_SERVE__PRT", "1", ["REGIME_W_SERVE__PRT", "mean serve.port?"]),
        ("REGIME_W_POLICY__TARGET_MODULES", "q_proj", ["policy.target_modules", "JSON", "q_proj"]),
        ("REGIME_W_PPO__LEARNING_RATE", "fast", ["ppo.learning_rate", "fast"]),
        ("REGIME_W_RUN__NUM_STEPS", "0", ["run.num_steps"]),
    ],
)
def test_what_is_wrong_in_the_environment_names_the_key(
    name: str,
    value: str,
    fragments: list[str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv(name, value)
    assert_one_line_error(capsys, [], *fragments)


TWICE = '{"name": "solo", "system_prompt": "", "temperature": 0.5, "top_p": 1.0, "top_p": 0.5}'


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("ppo.learning_rate", "true", "number"),
        ("ppo.learning_rate", "1" + "0" * 400, "number"),
        ("rollout.max_tokens", "true", "must be a"),
        ("reward.free_words", "true", "must be a"),
        ("rollout.max_tokens", str(10**30), "must be below 2^63 (got "),
        ("reward.free_words", str(10**30), "must be below 2^63"),
        ("rollout.max_tokens", "9" * 5000, ""),
    ],
)
@pytest.mark.parametrize("source", ["flag", "environment", "file"])
def test_what_is_no_number_of_a_sensible_size_is_named_wherever_it_is_given(
    source: str,
    key: str,
    value: str,
    said: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    section, _, name = key.partition(".")
    if source == "environment":
        monkeypatch.setenv(f"REGIME_W_{section}__{name}".upper(), value)
    arguments = [f"--{key}={value}"] if source == "flag" else []
    if source == "file":
        arguments += config_file(tmp_path, f"[{section}]\n{name} = {value}\n")
        if len(value) == 5000:  # which Python does not read at all
            assert_one_line_error(capsys, arguments, "config.toml")
            return
    if value == "true" and source != "file":
        said = "should be a valid"
    assert_one_line_error(capsys, arguments, key, said)


@pytest.mark.parametrize(
    ("variable", "arguments", "value", "said"),
    [
        ("ROLLOUT__ARMS", ["--rollout.arms"], f"[{TWICE}]", "'top_p' is given twice"),
        ("", ["--rollout.arms"], TWICE, "--rollout.arms: 'top_p' is given twice"),
        ("ROLLOUT", ["--rollout"], '{"seed": 1, "seed": 2}', "'seed' is given twice"),
        ("PPO", ["--ppo"], '{"clip_low": NaN}', "'clip_low' is NaN, which JSON does not have"),
        ("PPO", ["--ppo"], '{"clip_low": true}', "clip_low"),
        (
            "ROLLOUT__ARMS",
            ["--rollout.arms"],
            '[{"name": "solo", "system_prompt": "", "temperature": true, "top_p": 1.0}]',
            "rollout.arms.0.temperature",
        ),
    ],
)
def test_json_of_a_setting_is_read_as_json_has_it(
    variable: str,
    arguments: list[str],
    value: str,
    said: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for flag in arguments:
        assert_one_line_error(capsys, [flag, value], said)
        assert_one_line_error(capsys, [f"{flag}={value}"], said)
    if variable:
        monkeypatch.setenv(f"REGIME_W_{variable}", value)
        assert_one_line_error(capsys, [], said, f"REGIME_W_{variable}")


def test_variables_of_other_names_are_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_OTHER_ROLLOUT__ARMS", '{"a": 1, "a": 2}')
    monkeypatch.setenv("FROM", "2")
    assert load() == TrainConfig()
    assert load_config(ReplayCommand, ["runs/x"], prog="t").from_step == 0
    monkeypatch.setenv("REGIME_W_FROM", "3")
    assert load_config(ReplayCommand, ["runs/x"], prog="t").from_step == 3


def test_a_text_may_look_like_json() -> None:
    question = 'What is {"a": 1, "a": 2}?'
    assert load_config(SampleConfig, [question], prog="trainer sample").question == question


@pytest.mark.parametrize(
    ("given", "is_by_path"),
    [(["--", "--server.push_by_path=x"], False), (["--server.push_by_path", "--", "true"], True)],
)
def test_behind_two_dashes_nothing_is_a_switch(given: list[str], is_by_path: bool) -> None:
    found = load_config(SampleConfig, given, prog="trainer sample")
    assert (found.question, found.server.push_by_path) == (given[-1], is_by_path)


SECRET = "s3cret"


@pytest.mark.parametrize(
    ("source", "given"),
    [
        ("variable", '{"api_key": "s3cret"'),
        ("variable", '[{"api_key": "s3cret"}]'),
        ("variable", SECRET),
        ("variable", f'"{SECRET}"'),
        ("file", '[[server]]\napi_key = "s3cret"\n'),
        ("file", '[[serve]]\napi_key = "s3cret"\n'),
        ("file", f'server = "{SECRET}"\n'),
        ("file", '[server]\napi_key = ["s3cret"]\n'),
        ("file", 'api_key = "s3cret"\n'),
        ("file", '[server]\napikey = "s3cret"\n'),
        ("file", '[server]\napi-key = "s3cret"\n'),
        ("file", '[server.apikey]\nx = "s3cret"\n'),
        ("file", '[serve]\ntoken = "s3cret"\n'),
        ("file", '[server]\nurl = "http://me:s3cret@host:8000"\n'),
        ("file", '[server]\nurl = "https://s3cret@host"\n'),
        ("file", '[server]\nurl = "me:s3cret@host:8000"\n'),
        ("file", '[server]\nurl = "http://host?api_key=s3cret"\n'),
        ("variable", '{"url": "http://me:s3cret@host:8000"}'),
        ("flag", '{"url": "http://me:s3cret@host:8000"}'),
        ("flag", f'["{SECRET}"]'),
        ("flag", SECRET),
        ("flag", '{"api_key": "s3cret"'),
    ],
)
def test_no_message_shows_a_secret(
    source: str,
    given: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    arguments = ["--server", given] if source == "flag" else []
    if source == "variable":
        monkeypatch.setenv("REGIME_W_SERVER", given)
    if source == "file":
        arguments = [*config_file(tmp_path, given)]
    with pytest.raises(SystemExit):
        load(*arguments)
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert "serve" in err or "api_key" in err
    assert SECRET not in err


@pytest.mark.parametrize(
    "key",
    [
        *(
            "api_key",
            "server.api_key",
            "apikey",
            "serve.API-KEY",
            "hf_token",
            "a.password",
            "passwd",
        ),
        *("client_secret", "server.url", "server", "serve", "rollout.secrets.0", "Authorization"),
    ],
)
def test_what_may_be_a_secret_is_never_shown(key: str) -> None:
    assert got(key, SECRET) == ""


@pytest.mark.parametrize(
    "key",
    ["max_tokens", "ppo.token_budget", "rollout.arms.0.temperature", "serve.port", "data.source"],
)
def test_what_is_no_secret_is_shown(key: str) -> None:
    assert got(key, "fast") == " (got 'fast')"


def test_a_url_with_a_password_says_where_the_key_belongs(
    capsys: pytest.CaptureFixture[str],
) -> None:
    url = ["--server.url", f"http://me:{SECRET}@host:8000"]
    assert_one_line_error(capsys, url, "--server.url: must be", "REGIME_W_API_KEY")
    assert load("--server.url", "https://host:8000/policy").server.url == "https://host:8000/policy"


def test_several_urls_stand_in_place_of_one(capsys: pytest.CaptureFixture[str]) -> None:
    urls = '["http://a:8000", "http://b:8000"]'
    server = load("--server.urls", urls).server
    # What asks one server asks the first.
    assert (server.urls, server.url) == (("http://a:8000", "http://b:8000"), "http://a:8000")
    again = load("--server.urls", urls, "--server.url", "http://a:8000").server
    assert again.urls == server.urls
    both = ["--server.urls", urls, "--server.url", "http://c:1"]
    assert_one_line_error(capsys, both, "server", "give one of the two")
    twice = ["--server.urls", '["http://a:1", "http://a:1/"]']
    assert_one_line_error(capsys, twice, "server", "names a server twice")
    secret = ["--server.urls", f'["http://me:{SECRET}@a:1"]']
    assert_one_line_error(capsys, secret, "server.urls", "REGIME_W_API_KEY")


@pytest.mark.parametrize("command", [TrainConfig, EvaluationConfig, CollectConfig])
def test_every_variable_that_does_not_parse_is_named(
    command: type[CommandConfig],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    sections = SECTIONS if command is TrainConfig else {}
    keys = [f"{name}__{key}" for name, table in sections.items() for key in table.model_fields]
    num_refused = 0
    for key in keys or command.model_fields:
        variable = f"REGIME_W_{key.upper()}"
        with monkeypatch.context() as patch:
            patch.setenv(variable, '{"x"')
            try:
                load_config(command, [], prog="trainer")
            except SystemExit:
                num_refused += 1
                error = capsys.readouterr().err
                assert variable in error
                assert error.count("\n") == 1
    # Texts and paths can be anything.
    assert num_refused > (100 if keys else 5)


@pytest.mark.parametrize(
    ("arguments", "fragments"),
    [
        (["--ppo.learnig_rate", "1"], ["ppo.learnig_rate"]),
        (["--ppo.lerning-rate=1"], ["--ppo.lerning-rate", "did you mean --ppo.learning_rate?"]),
        (
            ["--learning_rate", "1"],
            ["--learning_rate: unknown flag; did you mean --ppo.learning_rate?"],
        ),
        (["--num-epochs", "1"], ["--num-epochs: unknown flag; did you mean --ppo.num_epochs?"]),
        (["--lr=1"], ["--lr: unknown flag; did you mean --ppo.learning_rate?"]),
        (["--ppo.beta", "1"], ["--ppo.beta: unknown flag; did you mean --ppo.kl_coef?"]),
        (["--output_dir", "x"], ["did you mean --run.folder?"]),
        (["--rollout.temperature", "1"], ["did you mean --rollout.arms (each arm has a"]),
        (["--gradient_accumulation_steps=4"], ["ppo.questions_per_mini_batch (the questions of"]),
        (
            ["--per_device_train_batch_size=4"],
            ["did you mean --ppo.token_budget (tokens in memory;"],
        ),
        (["--warmup_ratio=0.1"], ["--ppo.learning_rate_warmup_steps (a number of steps, not a"]),
        (["--ppo.scale_rewards", "none"], ["did you mean --ppo.advantage?"]),
        (["--sft.num-examples=9"], ["--sft.num-examples: a setting of other commands"]),
        (["--ppo.learning_rate", "fast"], ["ppo.learning_rate", "fast"]),
        (["--ppo.learning_rate"], ["ppo.learning_rate"]),
        (["--run.num_steps", "0"], ["run.num_steps", "greater than or equal to 1"]),
        (["surplus"], ["surplus"]),
        (["--config", "no-such-file.toml"], ["no-such-file.toml", "No such file"]),
        (["--config", "."], ["--config .", "directory"]),
        (["--config"], ["--config"]),
    ],
)
def test_what_is_wrong_in_a_flag_names_the_flag(
    arguments: list[str], fragments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert_one_line_error(capsys, arguments, *fragments)


def test_settings_that_others_name_otherwise_are_there() -> None:
    there_are = {key for command in COMMANDS.values() for key in known_keys(command.config)}
    assert set(OTHER_NAMES) <= there_are | set(known_keys(Settings))


@pytest.mark.parametrize("advantage", ["rloo", "grpo"])
@pytest.mark.parametrize(
    ("key", "value"), [("selection", "random"), ("selection", "best"), ("credit", "shared")]
)
def test_advantages_over_groups_need_completions_that_differ(
    key: str, value: str, advantage: str, capsys: pytest.CaptureFixture[str]
) -> None:
    reward = ["--reward." + key, value]
    assert_one_line_error(
        capsys,
        ["--ppo.advantage", advantage, *reward],
        f"ppo.advantage = {advantage}",
        f"reward.{key} = {value}",
    )
    assert load(*reward).ppo.advantage == "gae"
    assert load("--ppo.advantage", advantage).reward.selection == "all"


@pytest.mark.parametrize("advantage", ["rloo", "grpo"])
def test_a_single_completion_has_nothing_to_be_compared_with(
    advantage: str, capsys: pytest.CaptureFixture[str]
) -> None:
    one = ["--ppo.advantage", advantage, "--rollout.arms", '["wolfram_0"]']
    assert_one_line_error(capsys, one, f"ppo.advantage = {advantage}", "rollout.samples_per_arm")
    assert load(*one, "--rollout.samples_per_arm", "2").rollout.samples_per_arm == 2
    assert load(*one[2:]).ppo.advantage == "gae"


def test_a_file_that_is_no_text_names_the_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "latin1.toml"
    path.write_bytes(b"# \xc4\n")
    assert_one_line_error(capsys, ["--config", str(path)], "latin1.toml")


def test_every_mistake_gets_a_line_of_its_own(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = config_file(tmp_path, "[ppo]\nlearning_rate = -1\nclip_low = 2\n[run]\nfoo = 1\n")
    with pytest.raises(SystemExit) as caught:
        load(*file)
    assert caught.value.code == 2
    lines = capsys.readouterr().err.splitlines()
    assert sorted(line.split(": ")[2] for line in lines) == [
        "ppo.clip_low",
        "ppo.learning_rate",
        "run.foo",
    ]


def test_help_tells_every_field_and_its_meaning(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        load("--help")
    assert caught.value.code == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert "trainer train" in out
    assert "--config" in out
    text = re.sub(r"\s", "", out)  # lines are broken anywhere, at hyphens too
    for section, field in TrainConfig.model_fields.items():
        model = field.annotation
        assert isinstance(model, type)
        assert issubclass(model, BaseModel)
        for name, setting in model.model_fields.items():
            assert f"--{section}.{name}" in text
            assert setting.description is not None
            assert re.sub(r"\s", "", setting.description) in text, name


@pytest.mark.parametrize("command", [TrainConfig, EvaluationConfig, SampleConfig, ReplayCommand])
def test_help_shows_types_and_defaults_in_plain_words(
    command: type[CommandConfig],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("REGIME_W_API_KEY", "very-secret")
    with pytest.raises(SystemExit, match="0"):
        load_config(command, ["--help"], prog="t")
    text = re.sub(r"\s+", " ", capsys.readouterr().out)
    for jargon in (
        "tuple",
        "SecretStr",
        "factory",
        "<lambda>",
        "ArmSpec",
        "default: None",
        "very-secret",
        "default: ()",
    ):
        assert jargon not in text
    assert re.search(r"""A LIST is JSON, such as '\["a", "b"\]'""", text)
    assert " LIST " in text
    if command is TrainConfig:
        assert "trained on. (default: [])" in text
        assert '(default: ["wolfram_0", "wolfram_1"' in text
        assert '(default: ["tensorboard"])' in text
        assert "(default: 8)" in text
        assert (
            "--server.api_key str Sent as a bearer token; from REGIME_W_API_KEY by default. --"
            in text
        )


@pytest.mark.parametrize(
    ("variable", "meant"),
    [
        ("REGIME_W_PPO_LEARNING_RATE", "ppo.learning_rate"),
        ("REGIME_W_POLICY_BASE_MODLE", "policy.base_model"),
    ],
)
def test_a_variable_that_is_nearly_a_key_is_refused(
    variable: str, meant: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(variable, "1")
    with pytest.raises(SystemExit, match="2"):
        load()
    error = capsys.readouterr().err
    assert f"from {variable}: unknown key; did you mean {meant}?" in error
    assert error.count("\n") == 1


VARIABLE = re.compile(rb"REGIME_W_([A-Z0-9_]*[A-Z0-9])")


def test_variables_of_other_programs_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of the server, of other commands, and of whatever else the repository has."""
    files = [
        path
        for folder in ("trainer", "inference_server", "regime_w", "deploy", "scripts", "docs", ".")
        for path in (ROOT.glob("*") if folder == "." else (ROOT / folder).rglob("*"))
        if path.is_file()
        and path.suffix in ("", ".py", ".md", ".yml", ".sh", ".service", ".example")
    ]
    used = {name.decode() for path in files for name in VARIABLE.findall(path.read_bytes())}
    assert {"API_KEY", "RUN__FOLDER", "SERVER__URL", "REAL_MODEL"} <= used
    sections = {name for name in used if "__" in name} - {"SECTION__KEY"}
    for name in {"PORT", "API_KEY", "MODELS", "OUTPUT", "GSM8K_DIR", *(used - sections)}:
        if name != "SECTION__KEY":
            monkeypatch.setenv(f"REGIME_W_{name}", "1")
    assert load().policy == TrainConfig().policy


@pytest.mark.parametrize("variable", ["NOPE", "IMAGE", "CONFIG", "RUN_"])
def test_variables_that_no_part_knows_are_refused(
    variable: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(f"REGIME_W_{variable}", "1")
    assert_one_line_error(capsys, [], f"from REGIME_W_{variable}: unknown key")
    with pytest.raises(SettingsError, match=f"from REGIME_W_{variable}: unknown key"):
        read_settings(["--model", "x"])


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('[run]\nnum_steps = "5"\n', "run.num_steps: must be a number, without quotes (got '5')"),
        ("[run]\nnum_steps = 5.0\n", "run.num_steps: must be a whole number (got 5.0)"),
        ("[run]\nverbose = 1\n", "run.verbose: must be true or false (got 1)"),
        ('[run]\nverbose = "true"\n', "run.verbose: must be true or false, without quotes"),
        ('[ppo]\nstop_kl = "0.1"\n', "ppo.stop_kl: must be a number, without quotes"),
        ("[run]\nfolder = 3\n", "run.folder: "),
        ("[policy]\nbase_model = 3\n", "policy.base_model: "),
        ('[reward]\nweights = ["1"]\n', "reward.weights: must be a number, without quotes"),
        ('[serve]\nport = "80"\n', "serve.port: must be a number, without quotes (got '80')"),
        ('[collect]\nlimit = "3"\n', "collect.limit: must be a number, without quotes (got '3')"),
        (
            '[[rollout.arms]]\nname = "a"\nsystem_prompt = ""\ntop_p = 1.0\ntemperature = "1"\n',
            "rollout.arms.0.temperature",
        ),
    ],
)
def test_types_in_a_file_are_strict(
    text: str, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = config_file(tmp_path, text)
    assert_one_line_error(capsys, [*file], said, f"in {file[1]}")


def test_flags_and_variables_are_texts_that_are_parsed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REGIME_W_RUN__VERBOSE", "1")
    file = config_file(tmp_path, '[ppo]\nlearning_rate = 1\ndual_clip = "null"\n')
    config = load(*file, "--run.num_steps", "5")
    assert (config.run.verbose, config.run.num_steps) == (True, 5)
    assert (config.ppo.learning_rate, config.ppo.dual_clip) == (1.0, None)


@pytest.mark.parametrize(
    "key",
    [
        *("run.folder", "policy.base_model", "policy.adapter", "data.source", "run.metrics_host"),
        *("data.evaluation_source", "ppo.critic_rollouts"),
    ],
)
@pytest.mark.parametrize("source", ["flag", "file"])
def test_an_empty_text_is_refused(
    source: str, key: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    section, _, name = key.partition(".")
    given = [f"--{key}", ""]
    if source == "file":
        given = [*config_file(tmp_path, f'[{section}]\n{name} = ""\n')]
    assert_one_line_error(capsys, given, f"{key}: must not be blank")


@pytest.mark.parametrize(
    ("arguments", "key"),
    [
        (["--run.num_steps", "5", "--run.num-steps=6"], "--run.num_steps"),
        (["--verbose", "--no-run.verbose"], "--run.verbose"),
        (["--run.folder=a", "--run.folder", "b"], "--run.folder"),
        (["--config", "demo", "--config=gsm8k_a100"], "--config"),
    ],
)
def test_a_flag_that_is_given_twice_with_other_values_is_refused(
    arguments: list[str], key: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert_one_line_error(capsys, arguments, f"{key}: given twice with different values")


def test_a_flag_may_be_repeated_with_its_value_and_one_of_a_list_with_others() -> None:
    assert load(
        "--run.num_steps", "5", "--run.num-steps=5", "--verbose", "--run.verbose"
    ).run.verbose
    with pytest.raises(SettingsError, match="--port: given twice"):
        read_settings(["--model", "x", "--port", "1", "--port", "2"])
    assert read_settings(["--model", "x", "--seed", "1", "--seed", "2"])[1][-1] == "2"  # vLLM's


def test_a_file_may_begin_with_the_mark_of_an_editor(tmp_path: Path) -> None:
    path = tmp_path / "config.toml"
    path.write_bytes(b"\xef\xbb\xbf[run]\r\nnum_steps = 3\r\n")
    assert load("--config", str(path)).run.num_steps == 3


def test_a_key_at_the_top_and_in_its_table_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = "limit = 3\n[collect]\nlimit = 4\n"
    with pytest.raises(SystemExit, match="2"):
        load_config(CollectConfig, list(config_file(tmp_path, text)), prog="trainer collect")
    assert "limit: given here and as collect.limit" in capsys.readouterr().err


@pytest.mark.parametrize(
    "url",
    [
        *("", "localhost:8000", "ftp://host", "http://"),
        "http://host:80a0",
        *("http://h/#f", "http://h#", "http://h?", "http://h/p?a=1#f"),
        "http://[::1",
        "http://a\x01b",
    ],
)
def test_a_url_that_is_no_address_is_refused(url: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert_one_line_error(capsys, ["--server.url", url], "server.url")


@pytest.mark.parametrize("text", ["a=" + "[" * 5000, "a=" + "{b=" * 5000, "a=" + "9" * 5000])
def test_settings_that_pythons_parser_cannot_take_are_one_line(
    text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = config_file(tmp_path, text)
    assert_one_line_error(capsys, [*file], file[1])


def test_a_variable_of_many_levels_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("REGIME_W_ROLLOUT__ARMS", "[" * 5000)
    assert_one_line_error(capsys, [], "REGIME_W_ROLLOUT__ARMS", "must be JSON")


def test_a_list_as_a_variable_is_told_how_it_is_written(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("REGIME_W_ROLLOUT__ARMS", "exploring")
    assert_one_line_error(capsys, [], "(got 'exploring'); a list of it is [\"exploring\"]")
    monkeypatch.setenv("REGIME_W_ROLLOUT__ARMS", '["exploring"]')
    assert load_config(TrainConfig, [], prog="t").rollout.arms[0].temperature == 0.6


def test_a_short_flag_stands_for_its_key(capsys: pytest.CaptureFixture[str]) -> None:
    assert load_config(TrainConfig, ["--verbose"], prog="t").run.verbose
    assert not load_config(TrainConfig, ["--no-verbose"], prog="t").run.verbose
    with pytest.raises(SystemExit):
        load_config(EvaluationConfig, ["--verbose"], prog="t")
    assert capsys.readouterr().err.startswith("t: error: --verbose: unknown flag")

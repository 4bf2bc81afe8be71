"""The shipped configurations: the server and every command can read each of them, and none of their keys is unread."""

import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from inference_server.settings import OTHER_KEYS, OTHER_SECTIONS, read_settings
from inference_server.wire.settings import sources
from inference_server.wire.settings.errors import SettingsError
from regime_w.arms import build_exploring_arms
from trainer.cli import COMMANDS
from trainer.config.loading import command_keys, load_config
from trainer.config.sections import SECTIONS, CommandConfig, EvaluationConfig, TrainConfig

ROOT = Path(__file__).parents[4]
PRESETS = sorted((ROOT / "deploy/configs").glob("*.toml"))
FILES = [
    *PRESETS,
    *(ROOT / f"examples/{name}.toml" for name in ("smollm2", "capitals", "algebra", "grpo")),
]
POSITIONALS = {
    "diff": ["evaluation.json", "SFT", "PPO"],
    "export": ["runs/x", "--to", "x"],
    "replay": ["runs/x"],
    "report": ["runs/x"],
    "sample": ["What is 1 + 1?"],
    "text-model": ["models/x"],
    "watch": ["runs/x"],
}
"""Arguments that a command cannot do without."""

each_file = pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)


def parsed(command: str, *arguments: str) -> CommandConfig:
    """What a command would run with."""
    given = [*POSITIONALS.get(command, ()), *arguments]
    return load_config(COMMANDS[command].config, given, prog=command)


def test_there_are_presets_for_both_sizes_in_16_and_4_bits() -> None:
    presets = [load_config(TrainConfig, ["--config", str(f)], prog="t").policy for f in PRESETS]
    sizes = {(p.base_model.rsplit("/", 1)[1], p.quantization) for p in presets}
    assert sizes == {
        ("tiny-base", None),
        *((name, q) for name in ("Qwen2.5-1.5B-Instruct", "Qwen3-8B") for q in (None, "nf4")),
    }


@each_file
@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_takes_its_sections_of_a_file(command: str, file: Path) -> None:
    config = parsed(command, "--config", str(file))
    found = config.model_dump(mode="json")
    for name, section in tomllib.loads(file.read_text()).items():
        assert name in SECTIONS
        section = {key: None if value == "null" else value for key, value in section.items()}
        if section.get("arms") == "exploring":
            arms = [arm.model_dump(mode="json") for arm in build_exploring_arms()]
            section = {**section, "arms": arms}
        if isinstance(getattr(config, name, None), BaseModel):
            assert section.items() <= comparable(found[name], section).items()


def comparable(found: dict[str, Any], section: dict[str, Any]) -> dict[str, Any]:
    return {key: found[key] for key in section}


@each_file
def test_the_server_takes_its_section_of_a_file(file: Path) -> None:
    settings, vllm_flags = read_settings(["--config", str(file)])
    written = tomllib.loads(file.read_text())
    serve = {"model": written["policy"]["base_model"], **written.get("serve", {})}
    assert serve.items() <= settings.model_dump().items()
    assert vllm_flags == []


def test_the_server_knows_the_names_of_the_trainers_sections() -> None:
    assert {*OTHER_SECTIONS, "serve"} == set(SECTIONS)
    assert set(OTHER_KEYS) == command_keys()


def test_no_command_loads_torch_or_vllm_to_read_a_file() -> None:
    code = (
        "import sys\n"
        "from trainer.cli import COMMANDS\n"
        "from trainer.config.loading import load_config\n"
        "from inference_server.settings import read_settings\n"
        f"file = ['--config', {str(FILES[0])!r}]\n"
        "load_config(COMMANDS['train'].config, file, prog='t')\n"
        "read_settings(file)\n"
        "print({'torch', 'vllm', 'transformers'} & set(sys.modules))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"


def test_a_preset_is_known_by_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "demo").mkdir()  # a folder is no configuration
    for path in PRESETS:
        named = parsed("train", "--config", path.stem)
        assert named == parsed("train", "--config", str(path))
        assert read_settings(["--config", path.stem]) == read_settings(["--config", str(path)])
    (tmp_path / "demo").rmdir()
    (tmp_path / "demo").write_text("[run]\nnum_steps = 3\n")
    assert load_config(TrainConfig, ["--config", "demo"], prog="t").run.num_steps == 3


def test_an_installed_package_has_the_presets_where_they_are_looked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    files = project["tool"]["hatch"]["build"]["targets"]["wheel"]["force-include"]
    for source, target in files.items():
        (tmp_path / target).parent.mkdir(parents=True)
        (tmp_path / target).symlink_to(ROOT / source)
    monkeypatch.setattr("importlib.resources.files", tmp_path.joinpath)
    assert sources.presets() == {
        path.stem: tmp_path / "inference_server/presets" / path.name for path in PRESETS
    }


RECIPE = """
[data]
source = "train.jsonl"
evaluation_source = "test.jsonl"
seed = 3
[server]
url = "http://elsewhere:1"
[rollout]
max_tokens = 99
arms = [{name = "solo", system_prompt = "Be brief.", temperature = 0.7, top_p = 1.0}]
[serve]
model = "models/nf4"
[eval]
num_questions = 7
[collect]
output = "all.jsonl"
[run]
trackers = ["mlflow"]
"""


@pytest.fixture
def recipe(tmp_path: Path) -> list[str]:
    path = tmp_path / "recipe.toml"
    path.write_text(RECIPE)
    return ["--config", str(path)]


def test_an_evaluation_follows_the_recipe(recipe: list[str]) -> None:
    config = load_config(EvaluationConfig, recipe, prog="t")
    assert (config.data, config.data_seed, config.train_data) == ("test.jsonl", 3, "train.jsonl")
    assert (config.max_tokens, config.num_questions) == (99, 7)
    assert [arm.name for arm in config.arms] == ["solo"]
    assert config.server.url == "http://elsewhere:1"
    given = ["--data", "mine.jsonl", "--max_tokens", "5", "--num-questions", "2"]
    config = load_config(EvaluationConfig, [*recipe, *given], prog="t")
    assert (config.data, config.max_tokens, config.num_questions) == ("mine.jsonl", 5, 2)


def test_an_evaluation_without_a_file_has_the_defaults_it_had() -> None:
    config = load_config(EvaluationConfig, [], prog="t")
    assert (config.data, config.data_seed, config.train_data) == ("word-problems", 0, None)
    assert (config.max_tokens, config.num_questions, config.samples_per_arm) == (256, 400, 0)


def test_a_variable_of_a_section_counts_where_the_file_would(
    recipe: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REGIME_W_DATA__EVALUATION_SOURCE", "other.jsonl")
    monkeypatch.setenv("REGIME_W_EVAL__NUM_QUESTIONS", "8")
    config = load_config(EvaluationConfig, recipe, prog="t")
    assert (config.data, config.num_questions) == ("other.jsonl", 8)
    monkeypatch.setenv("REGIME_W_DATA", "flat.jsonl")
    assert load_config(EvaluationConfig, recipe, prog="t").data == "flat.jsonl"


@pytest.mark.parametrize("command", ["sft", "sample"])
def test_every_stage_asks_the_arms_of_the_recipe(command: str, recipe: list[str]) -> None:
    assert [arm["name"] for arm in parsed(command, *recipe).model_dump()["arms"]] == ["solo"]


def test_sft_logs_where_a_run_does_unless_it_is_told_otherwise(recipe: list[str]) -> None:
    assert parsed("sft").model_dump()["trackers"] == ("tensorboard",)
    assert parsed("sft", *recipe).model_dump()["trackers"] == ("mlflow",)
    assert parsed("sft", *recipe, "--trackers", "[]").model_dump()["trackers"] == ()


def test_commands_read_keys_of_their_own_and_of_the_server(recipe: list[str]) -> None:
    assert parsed("collect", *recipe).model_dump()["output"] == Path("all.jsonl")
    assert parsed("dequantize", *recipe).model_dump()["output"] == Path("models/nf4")
    assert parsed("sft", *recipe).model_dump()["output"] == Path("runs/sft")


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("[sfd]\nnum_examples = 3\n", "sfd: unknown key; did you mean sft?"),
        (
            "[ppo]\nlerning_rate = 1\n",
            "ppo.lerning_rate: unknown key; did you mean ppo.learning_rate?",
        ),
        ("[serve]\nprot = 1\n", "serve.prot: unknown key; did you mean serve.port?"),
        (
            "[eval]\nnum_question = 1\n",
            "eval.num_question: unknown key; did you mean eval.num_questions?",
        ),
        ("learning_rate = 1\n", "learning_rate: unknown key; did you mean "),
        (
            "[ppo]\nnum_epochs = 0\n",
            "ppo.num_epochs: Input should be greater than or equal to 1 (got 0)",
        ),
    ],
)
def test_every_command_refuses_a_file_with_a_mistake_anywhere(
    command: str, text: str, line: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "c.toml"
    path.write_text(text)
    with pytest.raises(SystemExit) as caught:
        parsed(command, "--config", str(path))
    assert caught.value.code == 2
    err = capsys.readouterr().err
    assert err.startswith(f"{command}: error: {line}")
    assert err.endswith(f", in {path}\n")
    assert err.count("\n") == 1


@pytest.mark.parametrize("program", [*COMMANDS, "server"])
@pytest.mark.parametrize("section", SECTIONS)
@pytest.mark.parametrize("text", ["{} = 3\n", '[[{}]]\napi_key = "s3cret"\n'])
def test_a_section_that_is_no_table_is_refused_in_one_line(
    text: str, section: str, program: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "c.toml"
    path.write_text(text.format(section))
    if program == "server":
        with pytest.raises(SettingsError) as refusal:
            read_settings(["--model", "m", "--config", str(path)])
        lines = list(refusal.value.lines)
    else:
        with pytest.raises(SystemExit):
            parsed(program, "--config", str(path))
        lines = capsys.readouterr().err.splitlines()
    (line,) = lines
    assert f"{section}: must be a table" in line
    assert str(path) in line
    assert "s3cret" not in line


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize(
    ("table", "line"),
    [
        ("doctor.ppo", "doctor.ppo: unknown key; did you mean ppo?"),
        ("doctor.serve", "doctor.serve: unknown key; did you mean serve?"),
        ("collect.server", "collect.server: unknown key; did you mean server?"),
        ("eval.server", "eval.server: unknown key; did you mean server?"),
    ],
)
def test_a_commands_table_holds_no_sections(
    command: str, table: str, line: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "c.toml"
    path.write_text(f"[{table}]\n")
    with pytest.raises(SystemExit):
        parsed(command, "--config", str(path))
    assert capsys.readouterr().err == f"{command}: error: {line}, in {path}\n"


@pytest.mark.parametrize("command", COMMANDS)
def test_no_key_of_a_section_in_a_commands_table_is_suggested(
    command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "c.toml"
    path.write_text('api_key = "s3cret"\n')
    with pytest.raises(SystemExit):
        parsed(command, "--config", str(path))
    err = capsys.readouterr().err
    assert "did you mean serve" in err
    assert "s3cret" not in err

import json
import os
import subprocess
import sys
import tomllib
from collections.abc import Callable
from importlib.metadata import EntryPoint, version
from pathlib import Path

import pytest

from inference_server.launch.launcher import main as serve
from trainer.__main__ import main as program
from trainer.cli import COMMANDS, main
from trainer.errors import RewardFunctionError

# The commands are run in processes of their own.
pytestmark = pytest.mark.slow


def trainer(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "trainer", *arguments], capture_output=True, text=True, timeout=400
    )


@pytest.mark.parametrize("command", ["--help", "--version", "--print-completion bash"])
def test_a_reader_that_has_seen_enough_is_no_error(command: str) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "wb") as output:
        done = subprocess.run(
            [sys.executable, "-m", "trainer", *command.split()],
            stdout=output,
            stderr=subprocess.PIPE,
            text=True,
            timeout=400,
        )
    assert (done.returncode, done.stderr) == (1, "")


ROOT = Path(__file__).resolve().parents[3]
HELP = {
    "trainer": ("train", "sft", "eval", "sample", "report"),
    **dict.fromkeys((f"trainer {name}" for name in COMMANDS), ("usage: python -m trainer",)),
    "inference_server": ("usage: python -m inference_server",),
    "regime_w": ("usage: python -m regime_w",),
    "regime_w score": ("usage: python -m regime_w score",),
    "trainer score": ("usage: python -m regime_w score",),
}
"""Commands, and what their --help says."""
MISTAKES = {
    "trainer trian": "unknown command 'trian'; did you mean train?",
    "trainer train --ppo.lerning_rate 1": "lerning_rate",
    "trainer train --ppo.adaptive_kl true false": "unexpected argument 'false'",
    "trainer train --ppo.adaptive_kl=false true": "unexpected argument 'true'",
    "trainer train --ppo.adaptive_kl=maybe": "--ppo.adaptive_kl: true or false, not 'maybe'",
    "trainer train --hos 0.0.0.0": "--hos: unknown flag",
    "trainer sample --rollout.arms recipe": "--rollout.arms: a setting of other commands; here it is --arms",
    "trainer eval --data.answer solution": "--data.answer: a setting of other commands; here it is --data_answer",
    "trainer eval --data.evaluation_source x.jsonl": "a setting of other commands; here it is --data",
    "trainer replay --run runs/x": "--run: unknown flag; give RUN without a flag in front of it",
    "trainer replay --runs runs/x": "--runs: unknown flag; give RUN without a flag in front of it",
    "trainer replay --run=runs/x": "are required: RUN; give RUN without a flag in front of it",
    "trainer collect --policy.base_model x": "--policy.base_model: a setting of other commands; of no use",
    "trainer train --ppo.learning_rate -1": "ppo.learning_rate",
    "trainer train --config missing.toml": "missing.toml",
    "trainer train --policy.base_model ./no/such/model": "no/such/model",
    "trainer train --policy.base_model BASE --data.source no.jsonl": "data source 'no.jsonl'",
    "trainer train --policy.base_model BASE --policy.adapter no/such": "policy.adapter no/such",
    "trainer train --policy.base_model BASE --run.folder BASE/config.json": "run.folder: ",
    "trainer train --policy.base_model BASE --ppo.critic_rollouts no.jsonl": "ppo.critic_rollouts: no.jsonl",
    "trainer train-offline --policy.base_model BASE --ppo.critic_rollouts no.jsonl": "ppo.critic_rollouts: ",
    "trainer train --ppo.learning_rate_warmup_steps 101": "more than run.num_steps = 100",
    "trainer sft --policy.base_model ./no/such/model": "no/such/model",
    "trainer sft --policy.base_model BASE --output BASE/config.json": "output: ",
    "trainer sft --policy.base_model BASE --output BASE/new --data.source no.jsonl": "'no.jsonl'",
    "trainer train-offline --policy.base_model BASE --rollouts no.jsonl": "rollouts: no.jsonl",
    "trainer collect --output .": "output: . is a folder; name a file in it",
    "trainer collect --data.source no.jsonl": "data source 'no.jsonl'",
    "trainer eval --models ['Base=base'] --data no.jsonl": "data source 'no.jsonl'",
    "trainer eval --train_data BASE/config.json": "data.evaluation_source: eval (or --data) needs held-out",
    "trainer train --policy.base_model BASE --data.source BASE/config.json --run.evaluate_every 2": (
        "data.evaluation_source: run.evaluate_every needs held-out questions"
    ),
    "trainer report no/such/run": "no/such/run",
    "trainer replay no/such/run --from 3": "no/such/run",
    "trainer watch no/such/run": "no/such/run",
    "trainer replay x --verify --what-if ppo.kl_coef=1": "choose one",
    "trainer replay BASE --what-if ppo.kl_coeff=1": "did you mean ppo.kl_coef?",
    "trainer replay BASE --what-if ppo.kl_coef=much": "ppo.kl_coef: ",
    "trainer train --config gsm8k": "one of demo, gsm8k_a100, ",
    "trainer demo --port 0": "--port: ",
    "trainer export no/such/run --to x --merged": "no/such/run",
    "trainer export BASE --to x": "give --merged",
    "trainer export BASE --to BASE --adapter": "exists already",
    "trainer diff no/such/evaluation.json A B": "no/such/evaluation.answers.jsonl",
    "trainer dequantize --policy.base_model ./no/such --output x": "no/such",
    "trainer text-model no/such-model": "nor in the Hub's cache",
    "trainer text-model ./no/such --output x": "no/such",
    "trainer text-model BASE --output BASE/config.json": "output: ",
    "trainer tiny-model --output BASE/config.json": "output: ",
    "inference_server": "--model",
    "inference_server --model ./no/such/model": "no such folder",
    "inference_server --model no/such-model": "neither a folder nor in the Hub's cache",
    "trainer train --policy.base_model no/such-model": "neither a folder nor in the Hub's cache",
    "trainer sft --policy.base_model no/such-model": "neither a folder nor in the Hub's cache",
    "trainer train-offline --policy.base_model no/such-model": "nor in the Hub's cache",
    "trainer dequantize --policy.base_model no/such-model": "nor in the Hub's cache",
    "inference_server --model BASE --hos 0.0.0.0": "--hos: unknown flag; did you mean --host?",
    "inference_server --model BASE --state-dirr x": "--state-dirr: unknown flag",
    "regime_w score no.jsonl": "no.jsonl",
}
"""Commands that cannot be run, and what they say."""
# Torch and vllm take from three seconds to half a minute to import; a test that blocks them is quick.
PROGRAM = """
import contextlib, io, json, sys

class Refusal:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("torch", "transformers", "vllm", "peft", "trl", "datasets"):
            raise RuntimeError(f"imports {name}")

sys.meta_path.insert(0, Refusal())
import inference_server.launch.launcher, regime_w.__main__, trainer.cli
MAINS = {
    "trainer": trainer.cli.main,
    "inference_server": inference_server.launch.launcher.main,
    "regime_w": regime_w.__main__.main,
}
for arguments in json.load(sys.stdin):
    sys.argv, code = arguments, None
    with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.redirect_stderr(io.StringIO()) as err:
        try:
            code = MAINS[arguments[0]]()
        except SystemExit as end:
            code = end.code
        except RuntimeError as error:
            print(error, file=sys.stderr)
    print(json.dumps([code, out.getvalue(), err.getvalue()]))
"""


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[int | None, str, str]]:
    """Exit code, output and errors of every command above, run in one process without torch."""
    base = tmp_path_factory.mktemp("base")
    (base / "config.json").write_text("{}")
    (base / "config.toml").write_text("[ppo]\n")  # of a run with the defaults
    commands = [*(f"{command} --help" for command in HELP), *MISTAKES]
    arguments = [command.replace("BASE", str(base)).split() for command in commands]
    for words in arguments:
        words[:] = [word.replace("['", '["').replace("']", '"]') for word in words]
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        input=json.dumps(arguments),
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
    )
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    return dict(zip(commands, map(tuple, lines), strict=True))


@pytest.mark.parametrize("command", HELP)
def test_help_needs_neither_torch_nor_vllm(
    command: str, answers: dict[str, tuple[int | None, str, str]]
) -> None:
    code, said, errors = answers[f"{command} --help"]
    assert (code or 0, errors) == (0, "")
    assert all(words in said for words in HELP[command])


@pytest.mark.parametrize("command", MISTAKES)
def test_a_mistake_in_the_settings_is_one_line_and_exit_code_2_before_torch_is_imported(
    command: str, answers: dict[str, tuple[int | None, str, str]]
) -> None:
    code, _, errors = answers[command]
    assert code == 2, errors
    assert MISTAKES[command] in errors
    assert len(errors.strip().splitlines()) == 1


@pytest.mark.parametrize("program", [main, serve])
def test_programs_know_their_version(
    program: Callable[[], int | None],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("sys.argv", ["program", "--version"])
    assert not program()
    assert capsys.readouterr().out.split()[1] == version("regime-w")


def test_a_program_is_named_as_it_was_started(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["/somewhere/bin/regime-w", "--help"])
    main()
    assert capsys.readouterr().out.startswith("usage: regime-w COMMAND")
    monkeypatch.setattr("sys.argv", ["regime-w", "trian"])
    with pytest.raises(SystemExit):
        main()
    assert capsys.readouterr().err.startswith("regime-w: error: unknown command")


def test_the_console_scripts_are_the_programs() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    functions = {name: EntryPoint(name, at, "").load() for name, at in project["scripts"].items()}
    assert functions == {"regime-w": program, "regime-w-server": serve}


_INTERRUPTED = """
import importlib.abc, os, runpy, signal, sys

class InterruptAt(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name == MODULE:
            try:
                os.kill(os.getpid(), signal.SIGINT)
            except KeyboardInterrupt:
                raise RuntimeError("an error of a library's own, as C++ code raises it") from None

# Whoever started the tests may have them ignore it, as a shell does for a command in the background.
signal.signal(signal.SIGINT, signal.default_int_handler)
sys.meta_path.insert(0, InterruptAt())
"""
"""Sends Ctrl-C while the module named MODULE is imported."""


@pytest.mark.parametrize(
    ("module", "command"),
    [
        ("trainer.cli", "doctor"),
        ("pydantic", "--help"),
        ("torch", "train --policy.base_model BASE"),
        # Transformers said of an interrupt there that it could not import AutoModelForCausalLM.
        ("transformers.models.auto.modeling_auto", "doctor"),
        ("transformers.generation.utils", "sft --policy.base_model BASE --output OUTPUT"),
        ("torch", "tiny-model --output OUTPUT"),
    ],
)
@pytest.mark.parametrize("is_script", [False, True])
def test_a_command_that_is_interrupted_while_it_imports_ends_at_once_with_one_line(
    module: str, command: str, is_script: bool, tiny_base: Path, tmp_path: Path
) -> None:
    words = command.replace("BASE", str(tiny_base)).replace("OUTPUT", str(tmp_path / "new")).split()
    name = "regime-w" if is_script else "python -m trainer"
    start = (
        "from trainer.__main__ import main; main()"
        if is_script
        else "runpy.run_module('trainer', run_name='__main__', alter_sys=True)"
    )
    code = f"MODULE = {module!r}{_INTERRUPTED}sys.argv = {['/bin/regime-w', *words]}\n{start}"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=400, cwd=tmp_path
    )
    assert done.stderr == f"{name} {words[0]}: interrupted\n"
    assert done.returncode == 130
    assert not (tmp_path / "new").exists()


def test_a_dead_server_is_exit_code_3() -> None:
    done = trainer(
        *("sample", "2+2?", "--server.url", "http://127.0.0.1:9"),
        *("--server.give_up_after_s", "0"),
    )
    assert done.returncode == 3
    assert ":9" in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr


def test_a_dead_server_is_one_line_and_nothing_is_left_behind(
    tmp_path: Path, tiny_base: Path
) -> None:
    run = tmp_path / "run"
    done = trainer(
        *("train", "--server.url", "http://127.0.0.1:9", "--server.give_up_after_s", "0"),
        *("--policy.base_model", str(tiny_base), "--run.folder", str(run)),
    )
    assert done.returncode == 3
    assert "http://127.0.0.1:9" in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr


def test_the_traceback_of_a_reward_function_stands_above_the_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    error = RewardFunctionError("reward.functions: f.py:g failed twice")
    error.add_note("Traceback (most recent call last):\n  in g\n")

    def fails(*arguments: object, **options: object) -> None:
        raise error

    monkeypatch.setattr("trainer.cli.load_config", fails)
    monkeypatch.setattr("trainer.cli.prepare_environment", lambda: None)
    monkeypatch.setattr("sys.argv", ["trainer", "train"])
    with pytest.raises(SystemExit) as caught:
        main()
    assert caught.value.code == 2
    *lines, last = capsys.readouterr().err.splitlines()
    assert lines == ["Traceback (most recent call last):", "  in g"]
    assert last.endswith("reward.functions: f.py:g failed twice")

"""A user's reward functions: what they are called with, what becomes of their rewards, and how they fail."""

import json
import os
import py_compile
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from importlib.util import spec_from_file_location
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from inference_server.wire.digests import sha256_of_bytes
from inference_server.wire.schemas import ArmGroup, FinishReason
from tests.unit.groups import RECORDS, group_of
from trainer.config.data import RecordShape
from trainer.config.sections import RewardSettings, TrainConfig
from trainer.data.sources import Record, load_records
from trainer.data.word_problems import Split
from trainer.errors import RewardFunctionError, UsageError
from trainer.rollouts.groups import ScoredGroup, score_group
from trainer.rollouts.metrics import group_metrics
from trainer.rollouts.reward_functions import RewardFunctions, changed_sources
from trainer.rollouts.reward_sources import source_of
from trainer.rollouts.rows import RolloutRow, rollout_row

RECORD = RECORDS[2]
GROUP = group_of(RECORD, 12, FinishReason.STOP, FinishReason.LENGTH, FinishReason.STOP)


@pytest.fixture
def function(tmp_path: Path) -> Callable[..., str]:
    """Writes a function into a file of its own, and names it as ``reward.functions`` does."""

    def write(body: str, name: str = "mine") -> str:
        path = tmp_path / f"{name}.py"
        path.write_text(f"import os, time\n\n\ndef reward(completions, **columns):\n    {body}\n")
        return f"{path}:reward"

    return write


def scored(
    *functions: str, weights: tuple[float, ...] = (), record: Record = RECORD, **settings: Any
) -> ScoredGroup:
    config = RewardSettings(functions=functions, weights=weights, **settings)
    with RewardFunctions(config) as opened:
        return opened.score(record, GROUP, config)


CHILD_S = 60
"""How long a child lives that nobody ends."""
LONG_S = 600.0
"""More than a call takes on a busy machine."""

REGIME_W = score_group(RECORD, GROUP, RewardSettings()).rewards


@pytest.mark.parametrize(
    ("returned", "beside_regime_w", "weights", "rewards", "trained"),
    [
        ("[1, 2.5, True]", False, (), (1.0, 2.5, 1.0), (0, 1, 2)),
        ("(0.5, None, 2)", False, (), (0.5, 0.0, 2.0), (0, 2)),
        ("[0.5, 1, 2]", False, (-2.0,), (-1.0, -2.0, -4.0), (0, 1, 2)),
        ("[None] * 3", False, (), (0.0, 0.0, 0.0), ()),
        ("[0.5, None, 2]", True, (), (REGIME_W[0] + 0.5, REGIME_W[1], REGIME_W[2] + 2), (0, 1, 2)),
        (
            "[1, 1, None]",
            True,
            (0.5, 0.2),
            (REGIME_W[0] / 2 + 0.2, REGIME_W[1] / 2 + 0.2, REGIME_W[2] / 2),
            (0, 1, 2),
        ),
    ],
)
def test_a_reward_is_the_weighted_sum_of_what_the_functions_gave(
    returned: str,
    beside_regime_w: bool,
    weights: tuple[float, ...],
    rewards: tuple[float, ...],
    trained: tuple[int, ...],
    function: Callable[..., str],
) -> None:
    names = ("regime_w",) * beside_regime_w + (function(f"return {returned}"),)
    found = scored(*names, weights=weights)
    assert found.rewards == pytest.approx(rewards)
    assert found.trained == trained
    assert len(found.samples) == len(trained)
    # What Regime W reads of the answers stays, whoever pays.
    assert found.scores == score_group(RECORD, GROUP, RewardSettings()).scores


@pytest.mark.parametrize(("selection", "trained"), [("best", (2,)), ("all", (0, 2))])
def test_only_completions_with_a_reward_are_selected(
    selection: str, trained: tuple[int, ...], function: Callable[..., str]
) -> None:
    assert scored(function("return [-3, None, -2]"), selection=selection).trained == trained


def test_groups_and_metrics_are_about_the_completions_with_a_reward(
    function: Callable[..., str],
) -> None:
    name = function("return [2, None, 2]")
    found = scored(name)
    assert found.zero_variance
    metrics = group_metrics([found], [found])
    assert metrics["reward/mean"] == 2
    assert metrics["reward_function/mine.py:reward"] == 2
    assert "arm/arm_1" not in metrics
    beside = scored("regime_w", name, weights=(1.0, 0.25))
    metrics = group_metrics([beside], [beside])
    assert metrics["reward_function/regime_w"] == pytest.approx(sum(REGIME_W) / 3)
    assert metrics["reward/mean"] == pytest.approx(sum(REGIME_W) / 3 + 0.25 * 2 * 2 / 3)


def test_a_row_says_which_completions_have_no_reward(function: Callable[..., str]) -> None:
    found = scored(function("return [2, None, 1]"))
    row = json.loads(json.dumps(rollout_row(found, step=1)))
    assert row["reward"] == 1.5
    assert [arm["reward"] for arm in row["arm_outputs"]] == [2, None, 1]
    read = RolloutRow.model_validate_json(json.dumps(row))
    assert [arm.reward for arm in read.arm_outputs] == [2, None, 1]
    assert read.samples == found.samples
    nothing = json.loads(json.dumps(rollout_row(scored(function("return [None] * 3")), step=1)))
    assert nothing["reward"] == 0
    assert RolloutRow.model_validate_json(json.dumps(nothing)).samples == []


def test_regime_w_alone_is_the_default_and_starts_no_process(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("subprocess.Popen", None)
    config = RewardSettings()
    with RewardFunctions(config) as opened:
        found = opened.score(RECORD, GROUP, config)
    assert found == score_group(RECORD, GROUP, config)
    assert "rewards" not in rollout_row(found)["arm_outputs"][0]  # type: ignore[index]
    assert scored("regime_w", weights=(2.0,)).rewards == tuple(2 * r for r in REGIME_W)


# --- what a function is called with -------------------------------------------------------------------


def test_a_function_gets_the_lists_that_trl_passes(
    tmp_path: Path, function: Callable[..., str]
) -> None:
    path = tmp_path / "data.jsonl"
    row = {"question": "What is 2 + 1?", "answer": "#### 3", "level": 4, "tags": ["sum", None]}
    path.write_text(json.dumps(row) + "\n")
    (record,) = load_records(str(path), Split.TRAIN, num_records=1)
    seen = tmp_path / "seen.json"
    body = (
        "import json; print('no answer'); os.write(1, b'nor this\\n'); "
        f"open({str(seen)!r}, 'w').write(json.dumps(dict(columns, completions=completions))); return [1, 2, 3]"
    )
    found = scored(function(body), record=record)
    assert found.rewards == (1, 2, 3)
    assert json.loads(seen.read_text()) == {
        "prompts": ["What is 2 + 1?"] * 3,
        "completions": [arm.text for arm in GROUP.arms],
        "completion_ids": [[3, 4, 5]] * 3,
        "question": ["What is 2 + 1?"] * 3,
        "answer": ["#### 3"] * 3,
        "arm": ["arm_0", "arm_1", "arm_2"],
        "level": [4] * 3,
        "tags": [["sum", None]] * 3,
    }
    # The columns are in the rollouts, so that replay and train-offline can reward them again.
    line = json.dumps(rollout_row(found, step=1), default=str)
    again = RolloutRow.model_validate_json(line).scored(RewardSettings())
    assert again.record == record
    assert again.record.columns == {"level": 4, "tags": ["sum", None]}


def test_a_function_knows_question_and_answer_by_their_names_in_the_data_too(
    tmp_path: Path, function: Callable[..., str]
) -> None:
    path = tmp_path / "data.jsonl"
    path.write_text('{"problem": "What is 2 + 1?", "solution": "#### 3"}\n')
    shape = RecordShape(question="problem", answer="solution")
    (record,) = load_records(str(path), Split.TRAIN, num_records=1, shape=shape)
    assert record.columns == {}
    name = function(
        "return [s == a == '#### 3' for s, a in zip(columns['solution'], columns['answer'])]"
    )
    found = scored(name, record=record)
    assert found.rewards == (1, 1, 1)
    line = json.dumps(rollout_row(found, step=1), default=str)
    again = RolloutRow.model_validate_json(line).scored(RewardSettings())
    assert again.record.columns == {"problem": "What is 2 + 1?", "solution": "#### 3"}


@pytest.mark.parametrize("change", ["append('more')", "pop()", "clear()"])
def test_what_a_function_does_to_its_lists_reaches_nobody(
    change: str, function: Callable[..., str]
) -> None:
    names = [
        function(
            f"for each in (completions, *columns.values()): each.{change}\n    return [1] * 3"
        ),
        function("return [len(completions)] * 3", "other"),
    ]
    found = scored(*names)
    assert list(found.by_function.values()) == [[1, 1, 1], [3, 3, 3]]
    name = function(f"completions.{change}; return [1] * len(completions)")
    with pytest.raises(RewardFunctionError, match="rewards for 3 completions"):
        scored(name)


@pytest.mark.parametrize("kind", ["file", "module", "coroutine"])
def test_a_function_is_found_in_a_file_or_a_module_and_may_be_a_coroutine(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    package = tmp_path / "rewards_of_mine"
    package.mkdir()
    (package / "neighbour.py").write_text("BONUS = 4\n")
    path = package / "lengths.py"
    source = "from neighbour import BONUS" if kind == "file" else "from .neighbour import BONUS"
    keyword = "async def" if kind == "coroutine" else "def"
    path.write_text(
        f"{source}\n\n{keyword} reward(completions, **columns):\n    return [BONUS] * 3\n"
    )
    name = (
        "rewards_of_mine/lengths.py:reward" if kind == "file" else "rewards_of_mine.lengths:reward"
    )
    assert scored(name).rewards == (4, 4, 4)


def test_the_example_rewards_short_answers() -> None:
    example = Path(__file__).parents[4] / "examples/short_answers.py"
    assert len([line for line in example.read_text().splitlines() if line.strip()]) <= 14
    texts = ["one two #### 3", "no answer", "word " * 99 + "#### 3"]
    arms = [a.model_copy(update={"text": t}) for a, t in zip(GROUP.arms, texts, strict=True)]
    config = RewardSettings(functions=(f"{example}:reward",))
    with RewardFunctions(config) as opened:
        found = opened.score(RECORD, ArmGroup(**{**dict(GROUP), "arms": arms}), config)
    assert list(found.by_function.values()) == [[1 - 4 / 60, None, 0]]


# --- failures -----------------------------------------------------------------------------------------

COUNT = "open(__file__ + '.calls', 'a').write('x'); "


@pytest.mark.parametrize(
    ("body", "said", "noted"),
    [
        ("raise ValueError('no\\n judge')", "ValueError: no judge", "ValueError: no"),
        ("pass", "returned None; it must return a list with a number or None for", None),
        (
            "return [float(c[0]['content']) for c in completions]",
            'Completions are texts here: use c instead of c[0]["content"])',
            "in reward",
        ),
        (
            "return [c.get('content') for c in completions]",
            "(a function for lists of messages? Completions are texts here",
            "in reward",
        ),
        ("return [1, 2]", "returned 2 rewards for 3 completions", None),
        ("return [1, 2, float('nan')]", "returned nan for completion 2", None),
        ("return [1, 'b', 3]", "returned a value of type str for completion 1: expected a", None),
        (
            "return [[1], [2], [3]]",
            "returned a value of type list for completion 0: expected",
            None,
        ),
        ("return [10**400] * 3", "OverflowError: int too large to convert to float", None),
        ("return 3", "returned a value of type int: expected a list", None),
        ("return dict.fromkeys(range(3))", "returned a value of type dict: expected a list", None),
        ("return '123'", "returned a value of type str: expected a list", None),
        ("return {1, 2, 3}", "returned a value of type set: expected a list", None),
        ("exit()", "SystemExit", "in reward"),
        ("raise KeyboardInterrupt", "KeyboardInterrupt", "in reward"),
        ("raise GeneratorExit", "GeneratorExit", "in reward"),
        ("import asyncio; raise asyncio.CancelledError", "CancelledError", "in reward"),
        (
            "raise type('Mute', (Exception,), {'__str__': lambda self: 1 / 0})",
            "Mute: its text cannot be read",
            "in reward",
        ),
        ("os._exit(7)", "its process ended with exit code 7", None),
        ("time.sleep(1e6)", "took longer than reward.timeout_s = 0.5 s", "in reward"),
        # Never lets go of the interpreter, so that no thread and no signal handler of Python's runs.
        ("import re; re.match('(a+)+$', 'a' * 99 + 'b')", "took longer than", "in reward"),
    ],
)
def test_a_function_that_fails_is_called_once_more_and_then_ends_the_run_with_its_traceback(
    body: str, said: str, noted: str | None, function: Callable[..., str]
) -> None:
    name = function(COUNT + body)
    with pytest.raises(RewardFunctionError) as caught:
        scored("regime_w", name, timeout_s=0.5 if "took longer" in said else LONG_S)
    message = str(caught.value)
    assert message.startswith(f"reward.functions: {name} failed twice for question 'r2': ")
    assert said in message
    assert "\n" not in message
    assert Path(name.partition(":")[0] + ".calls").read_text() == "xx"
    notes = getattr(caught.value, "__notes__", [])
    assert len(notes) == (noted is not None)
    assert all(noted in note and "mine.py" in note for note in notes if noted)


def test_the_text_of_a_functions_error_is_bounded_and_reaches_no_terminal_raw(
    function: Callable[..., str], caplog: pytest.LogCaptureFixture
) -> None:
    name = function("raise ValueError('\\x1b[31mred\\x07 ' + 'x' * 5_000_000)")
    with pytest.raises(RewardFunctionError) as caught:
        scored(name)
    (note,) = caught.value.__notes__
    (record,) = caplog.records
    shown = (str(caught.value), record.message, note)
    assert all(r"\x1b[31mred\x07 xxx" in text and "\x1b" not in text for text in shown)
    assert max(map(len, shown[:2])) < 1_000
    assert len(note) < 21_000
    assert note.startswith("Traceback")
    assert "in reward" in note
    assert note.endswith("x\n")


@pytest.mark.parametrize("first", ["raise ValueError", "time.sleep(1e6)", "os._exit(7)"])
def test_a_failure_that_passes_costs_the_group_one_retry(
    first: str, function: Callable[..., str], caplog: pytest.LogCaptureFixture
) -> None:
    name = function(
        f"{COUNT}exec('' if os.path.getsize(__file__ + '.calls') > 1 else {first!r}); return [1, 2, 3]"
    )
    # The second call is none that takes long, though the machine may be busy.
    timeout_s = 5 if "sleep" in first else LONG_S
    assert scored(name, timeout_s=timeout_s).rewards == (1, 2, 3)
    assert [record.message.split(" reason")[0] for record in caplog.records] == [
        f"event=reward_function_fails function={name} question=r2"
    ]


@pytest.mark.parametrize(
    ("body", "said"),
    [("os._exit(7)", "ended with exit code 7"), ("time.sleep(1e6)", "took longer than")],
)
def test_a_child_that_outlives_the_process_is_not_waited_for(
    body: str, said: str, function: Callable[..., str], tmp_path: Path
) -> None:
    children, over = tmp_path / "children", tmp_path / "over"
    # Forked, so that it holds the pipes, and in a session of its own, so that it is not ended with the process.
    child = f"os.setsid(); time.sleep({CHILD_S}); open({str(over)!r}, 'w'); os._exit(0)"
    name = function(
        f"child = os.fork()\n    if not child:\n        {child}\n"
        f"    open({str(children)!r}, 'a').write(f'{{child}} '); {body}"
    )
    try:
        with pytest.raises(RewardFunctionError, match=said):
            scored(name, timeout_s=0.5 if "took longer" in said else LONG_S)
        assert not over.exists()
    finally:
        for pid in children.read_text().split():
            with suppress(ProcessLookupError):
                os.kill(int(pid), signal.SIGKILL)


@pytest.mark.parametrize(
    ("returned", "weights", "named", "said"),
    [
        (("[1, 1e308, 1]",), (), "mine0.py:reward", "1e+308"),
        (("[1, 1e38, 1]",), (10.0,), "mine0.py:reward", "1e+39"),
        (("[1, -3e38, 1]",) * 2, (), "mine1.py:reward", "-6e+38"),
        (("[1, 1e308, 1]",) * 2, (), "mine0.py:reward", "1e+308"),
    ],
)
def test_rewards_too_large_to_add_or_train_are_an_error_that_names_the_function(
    returned: tuple[str, ...],
    weights: tuple[float, ...],
    named: str,
    said: str,
    function: Callable[..., str],
) -> None:
    names = [function(f"return {text}", f"mine{i}") for i, text in enumerate(returned)]
    with pytest.raises(RewardFunctionError, match=r"^reward\.functions: ") as caught:
        scored(*names, weights=weights)
    assert named in str(caught.value)
    assert f"a reward of {said} for completion 1 of question 'r2' is too large" in str(caught.value)


def error_of_a_score_that_is_left(config: RewardSettings, *, once: Path) -> RewardFunctionError:
    """The error of a score whose block is left as soon as the file ``once`` exists."""
    errors: list[RewardFunctionError] = []

    def score(opened: RewardFunctions) -> None:
        try:
            opened.score(RECORD, GROUP, config)
        except RewardFunctionError as error:
            errors.append(error)

    with RewardFunctions(config) as opened:
        thread = threading.Thread(target=score, args=(opened,))
        thread.start()
        while not once.exists():
            time.sleep(0.01)
    thread.join()
    (error,) = errors
    return error


def test_leaving_ends_a_call_in_the_middle_and_is_no_failure_of_the_function(
    function: Callable[..., str], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    name = function(f"{COUNT}time.sleep(1e6)")
    config = RewardSettings(functions=(name,), timeout_s=86_000)
    error = error_of_a_score_that_is_left(config, once=tmp_path / "mine.py.calls")
    assert "the run is stopping" in str(error)
    assert (tmp_path / "mine.py.calls").read_text() == "x"
    assert not caplog.records


def test_leaving_does_not_wait_for_a_process_that_loads(tmp_path: Path) -> None:
    path, is_loaded, loads_again = (tmp_path / name for name in ("mine.py", "loaded", "again"))
    path.write_text(
        "import os, pathlib, time\n"
        f"if os.path.exists({str(is_loaded)!r}):\n"
        f"    pathlib.Path({str(loads_again)!r}).touch()\n"
        "    time.sleep(1e6)\n"
        f"pathlib.Path({str(is_loaded)!r}).touch()\n"
        "def f(completions, **_):\n"
        "    os._exit(1)\n"
    )
    config = RewardSettings(functions=(f"{path}:f",), timeout_s=86_000)
    error = error_of_a_score_that_is_left(config, once=loads_again)
    assert "the run is stopping" in str(error)


@pytest.mark.parametrize(
    ("name", "error", "said"),
    [
        ("nowhere.py:reward", UsageError, "there is no file nowhere.py"),
        ("nowhere.at_all:reward", UsageError, "there is no module nowhere.at_all"),
        ("{folder}/mine.py:rewards", RewardFunctionError, "has no attribute 'rewards'"),
        (
            "{folder}/constant.py:CONST",
            RewardFunctionError,
            "CONST is of type int: expected a func",
        ),
        (
            "{folder}/constant.py:Judge",
            RewardFunctionError,
            "Judge is a class: expected a function, or an object that can be called",
        ),
        (
            "{folder}/constant.py:by_position",
            RewardFunctionError,
            "takes completions only by position, but arguments are passed by name: remove the / from its arguments",
        ),
        ("{folder}/raises.py:reward", RewardFunctionError, "ModuleNotFoundError: No module named"),
        ("{folder}/ends.py:reward", RewardFunctionError, "exit code 3"),
    ],
)
def test_what_cannot_be_loaded_is_an_error_before_the_run_begins(
    name: str, error: type[Exception], said: str, function: Callable[..., str], tmp_path: Path
) -> None:
    function("return [0] * 3")
    (tmp_path / "constant.py").write_text(
        "CONST = 1\n\n\nclass Judge:\n    pass\n\n\ndef by_position(completions, /, **columns):\n    pass\n"
    )
    (tmp_path / "raises.py").write_text("import no_such_module_of_mine\n")
    (tmp_path / "ends.py").write_text("import os\nos._exit(3)\n")
    with pytest.raises(error, match=r"^reward\.functions: ") as caught:
        scored(name.format(folder=tmp_path))
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)
    # Only what the user's code raises has a traceback to show.
    assert hasattr(caught.value, "__notes__") == ("raises.py" in name)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ("completions, **kwargs", None),
        ("completions, level, trainer_state=None, **kwargs", None),
        ("completions, log_metric=None, *, level, **kwargs", None),
        ("*args, **kwargs", None),
        ("prompts, completions, completion_ids, question, answer, arm, level", None),
        ("completions, trainer_state, **kwargs", "needs trainer_state, which it is not passed"),
        (
            "completions, *, log_extra, log_metric, **kwargs",
            "needs log_extra, log_metric, which it is not passed: give a default, or leave it out; for question 'r2' ",
        ),
        (
            "completions, solution, **kwargs",
            "needs solution, which it is not passed: give a default, or leave it out; for question 'r2' it is passed "
            "prompts, completions, completion_ids, question, answer, arm, level",
        ),
        (
            "completions, answer",
            "takes no argument prompts, completion_ids, question, arm: add **kwargs to its arguments; ",
        ),
        (
            "prompts, completions, completion_ids, question, answer, arm",
            "takes no argument level: add **kwargs to its arguments; for question 'r2' ",
        ),
    ],
)
def test_a_function_that_cannot_be_called_with_what_it_is_passed_is_refused_before_the_run(
    arguments: str, said: str | None, tmp_path: Path
) -> None:
    path = tmp_path / "mine.py"
    path.write_text(f"def reward({arguments}):\n    return [1, 2, 3]\n")
    config = RewardSettings(functions=("regime_w", f"{path}:reward"))
    record = replace(RECORD, columns={"level": 4})
    errors = []
    try:
        with RewardFunctions(config) as opened:
            opened.require_columns([record])
            opened.score(record, GROUP, config)
    except RewardFunctionError as error:
        errors.append(str(error))
    assert len(errors) == (said is not None)
    assert all(error.startswith(f"reward.functions: {path}:reward {said}") for error in errors)


def test_a_column_may_have_the_name_of_an_argument_that_trl_passes(tmp_path: Path) -> None:
    path = tmp_path / "mine.py"
    path.write_text(
        "def reward(completions, trainer_state, **columns):\n    return trainer_state\n"
    )
    config = RewardSettings(functions=(f"{path}:reward",))
    record = replace(RECORD, columns={"trainer_state": 4})
    with RewardFunctions(config) as opened:
        opened.require_columns([record])
        assert opened.score(record, GROUP, config).rewards == (4, 4, 4)


def test_an_object_whose_attributes_raise_is_called_with_everything(tmp_path: Path) -> None:
    path = tmp_path / "mine.py"
    path.write_text(
        "class Lazy:\n"
        "    def __getattr__(self, name):\n        raise RuntimeError(name)\n"
        "    def __call__(self, completions, **columns):\n        return [1, 2, 3]\n\n\n"
        "reward = Lazy()\n"
    )
    config = RewardSettings(functions=(f"{path}:reward",))
    with RewardFunctions(config) as opened:
        assert opened.score(RECORD, GROUP, config).rewards == (1, 2, 3)


def test_a_process_whose_trainer_was_killed_ends_without_a_traceback(
    function: Callable[..., str],
) -> None:
    name = function("return [1]")
    command = [sys.executable, "-m", "trainer.rollouts.reward_worker", "60", "2", name]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.readline()
        process.stdout.close()
        process.stdin.write(json.dumps([0, {"completions": ["a"]}]).encode() + b"\n")
        process.stdin.close()
        said = process.stderr.read()
    assert (process.returncode, said) == (1, b"")


def test_what_a_decorator_passes_need_not_be_a_column(tmp_path: Path) -> None:
    path = tmp_path / "mine.py"
    path.write_text(
        "import functools\n\n\ndef judged(function):\n"
        "    @functools.wraps(function)\n"
        "    def with_judge(**columns):\n        return function(judge=len, **columns)\n"
        "    return with_judge\n\n\n@judged\n"
        "def reward(completions, judge, **columns):\n    return [1, 2, judge('abc')]\n"
    )
    config = RewardSettings(functions=(f"{path}:reward",))
    with RewardFunctions(config) as opened:
        opened.require_columns([RECORD])
        assert opened.score(RECORD, GROUP, config).rewards == (1, 2, 3)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"functions": ["length"]}, "'length' is neither 'regime_w' nor 'pkg.module:name'"),
        ({"functions": ["a.py:"]}, "is neither"),
        ({"functions": []}, "at least 1"),
        ({"functions": ["a/f.py:g", "b/f.py:g"]}, "has two called 'f.py:g'"),
        ({"weights": [1, 2]}, "reward.weights has 2 and reward.functions 1 entries"),
        ({"timeout_s": 0}, "greater than 0"),
    ],
)
def test_settings_that_cannot_be_meant_are_errors(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError) as caught:
        RewardSettings.model_validate(settings)
    assert said in str(caught.value)


def test_a_shared_credit_can_be_compared_where_a_function_tells_completions_apart() -> None:
    reward = {"credit": "shared", "functions": ["regime_w", "f.py:g"]}
    TrainConfig.model_validate({"reward": reward, "ppo": {"advantage": "grpo"}})
    with pytest.raises(ValidationError, match="rewards all of them alike"):
        TrainConfig.model_validate({"reward": {"credit": "shared"}, "ppo": {"advantage": "grpo"}})


def test_a_module_of_an_editable_install_is_found_without_importing_its_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "src/editable_rewards"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("raise AssertionError")
    (package / "lengths.py").touch()

    class Finder:
        """As setuptools has them: at the end of `sys.meta_path`, with a map of the packages."""

        @classmethod
        def find_spec(cls, name: str, path: object = None, target: object = None) -> object:
            if name != package.name:
                return None
            return spec_from_file_location(name, package / "__init__.py")

    assert source_of("editable_rewards:reward") is None
    monkeypatch.setattr(sys, "meta_path", [*sys.meta_path, Finder])
    assert source_of("editable_rewards:reward") == package / "__init__.py"
    assert source_of("editable_rewards.lengths:reward") == package / "lengths.py"
    assert source_of("editable_rewards.other:reward") is None
    assert source_of("time:sleep") is None  # built in: there is no file


# --- digests ------------------------------------------------------------------------------------------


def test_a_changed_source_is_told_with_its_digests(
    function: Callable[..., str], tmp_path: Path
) -> None:
    name = function("return [0] * 3")
    config = RewardSettings(functions=("regime_w", name))
    with RewardFunctions(config) as opened:
        before = opened.sources
    assert list(before) == [name]
    assert len(before[name]) == 64
    assert changed_sources([]) == changed_sources([(1, before)]) == []
    function("return [1] * 3")
    (line,) = changed_sources([(1, before), (5, {name: "0" * 64})])
    assert f"SHA-256 {before[name][:12]} from step 1, {'0' * 12} from step 5, " in line
    (tmp_path / "mine.py").unlink()
    assert "not to be found now" in changed_sources([(1, before)])[0]


@pytest.mark.parametrize("name", ["{folder}/mine.py:reward", "package_of_mine.mine:reward"])
def test_the_code_that_runs_is_that_of_the_digest_whatever_was_compiled_before(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "package_of_mine"
    folder.mkdir()
    path = folder / "mine.py"
    path.write_text("def reward(**columns):\n    return [1] * 3\n")
    py_compile.compile(str(path), doraise=True)
    was = path.stat()
    path.write_text(path.read_text().replace("1", "2"))
    os.utime(path, ns=(was.st_atime_ns, was.st_mtime_ns))
    config = RewardSettings(functions=(name.format(folder=folder),))
    with RewardFunctions(config) as opened:
        assert opened.score(RECORD, GROUP, config).rewards == (2, 2, 2)
        assert list(opened.sources.values()) == [sha256_of_bytes(path.read_bytes())]


def test_a_source_that_changes_in_the_middle_of_a_run_stops_it(
    function: Callable[..., str],
) -> None:
    name = function("os._exit(1)")
    config = RewardSettings(functions=(name,))
    with RewardFunctions(config) as opened:
        function("return [1] * 3")
        with pytest.raises(RewardFunctionError, match="was changed while it was in use"):
            opened.score(RECORD, GROUP, config)

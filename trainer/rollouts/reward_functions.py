"""``reward.functions``: rewards by the user's functions, which are called in a process of their own.

A function that raises, hangs, or ends its process is called once more for the same group, in a fresh process if the
first has ended. A second failure is an error with the function's traceback.
"""

import logging
import threading
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Self

from inference_server.wire.schemas import ArmGroup
from regime_w import RewardConfig
from regime_w.counterfactual.pairs import PairedQuestion
from trainer.config.rollout import REGIME_W, RewardSettings
from trainer.data.sources import Record
from trainer.errors import RewardFunctionError, UsageError
from trainer.rollouts.groups import ScoredGroup, score_group, with_functions
from trainer.rollouts.reward_process import FunctionFailure, FunctionProcess, LoadedFunction
from trainer.rollouts.reward_sources import source_of, source_sha256

_ARGUMENTS = ("prompts", "completions", "completion_ids", "question", "answer", "arm")
"""The arguments of every call, besides the columns of the data."""
_DIGITS = 12
"""Digits of a digest to show."""

_log = logging.getLogger(__name__)


class RewardFunctions:
    """Regime W and the user's functions, which add to it or replace it; their process runs within the block.

    Several threads may call `score`; the functions score one group at a time.
    """

    def __init__(self, config: RewardSettings):
        """Functions are loaded when the block begins; with Regime W alone, there are none."""
        self.sources: Mapping[str, str] = {}
        """SHA-256 of each function's source file, in hex; modules that the function imports are not included."""
        self._config = config
        self._own = tuple(name for name in config.functions if name != REGIME_W)
        self._lock = threading.Lock()
        self._worker: FunctionProcess | None = None
        self._is_closed = False
        self._loaded: Mapping[str, LoadedFunction] = {}

    def __enter__(self) -> Self:
        """Load the functions.

        Raises:
            UsageError: A function's file or module does not exist.
            RewardFunctionError: A function cannot be imported, or takes no such arguments as it is passed.
        """
        for name in self._own:
            if source_of(name) is None:
                target = name.rpartition(":")[0]
                kind = "file" if target.endswith(".py") else "module"
                raise UsageError(f"reward.functions: {name}: there is no {kind} {target}")
        if self._own:
            self._start()
        return self

    def __exit__(self, *error: object) -> None:
        """End the process, even in the middle of a call."""
        self._is_closed = True
        if self._worker is not None:
            self._worker.kill()
        with self._lock:
            if self._worker is not None:
                self._worker.close()

    def require_columns(self, records: Iterable[Record]) -> None:
        """Check that each function can be called with the columns of each record.

        Raises:
            RewardFunctionError: A function has an argument without default that a record has no column for, or takes
                no argument for a column.
        """
        for record in records:
            others = [name for name in record.named_columns if name not in _ARGUMENTS]
            for name, function in self._loaded.items():
                passed = (*_ARGUMENTS, *others)
                if flaw := _flaw(
                    function, passed, [n for n in function.required if n not in passed]
                ):
                    raise RewardFunctionError(
                        f"reward.functions: {name} {flaw}; for question {record.id!r} it is passed {', '.join(passed)}"
                    )

    def score(
        self,
        record: Record,
        group: ArmGroup,
        config: RewardConfig,
        paired: PairedQuestion | None = None,
    ) -> ScoredGroup:
        """Score a group with Regime W, and reward each of its completions.

        Raises:
            RewardFunctionError: A function failed twice, or the rewards are too large.
        """
        scored = score_group(record, group, config, paired)
        weight_of = self._config.weight_of
        if weight_of == {REGIME_W: 1.0}:
            return scored
        columns = _columns(record, group)
        by_function = {
            name: scored.rewards if name == REGIME_W else self._call(name, columns, record.id)
            for name in self._config.functions
        }
        return with_functions(scored, by_function, weight_of, config)

    def _call(self, name: str, columns: Mapping[str, Any], question: str) -> list[float | None]:
        with self._lock:
            try:
                return self._call_once(name, columns)
            except FunctionFailure as failure:
                # The end of the run ends a call too, which is no failure of the function.
                if not self._is_closed:
                    _log.warning(
                        'event=reward_function_fails function=%s question=%s reason="%s"',
                        name,
                        question,
                        failure.line,
                    )
            try:
                return self._call_once(name, columns)
            except FunctionFailure as failure:
                what = f"{name} failed twice for question {question!r}"
                raise failure.as_error(what) from None

    def _call_once(self, name: str, columns: Mapping[str, Any]) -> list[float | None]:
        if self._worker is None and not self._is_closed:
            self._start()
        if self._worker is None or self._is_closed:
            raise FunctionFailure("the run is stopping", "")
        try:
            return self._worker.call(self._own.index(name), columns)
        finally:
            if self._worker.has_ended and not self._is_closed:
                self._worker.close()
                self._worker = None

    def _start(self) -> None:
        # Set before the functions are loaded, which may take minutes, so that the run can end without waiting for it.
        self._worker = worker = FunctionProcess(self._own, self._config.timeout_s)
        if self._is_closed:
            worker.kill()
        try:
            loaded = worker.loaded()
            sources = {n: found.sha256 for n, found in loaded.items() if found.sha256 is not None}
            for name, found in loaded.items():
                if flaw := _flaw(found, _ARGUMENTS, missing=()):
                    raise RewardFunctionError(
                        f"reward.functions: {name} {flaw}; it is passed {', '.join(_ARGUMENTS)} and the other columns "
                        "of the data"
                    )
            if changed := [
                name for name in self.sources if self.sources[name] != sources.get(name)
            ]:
                raise RewardFunctionError(
                    f"reward.functions: {', '.join(changed)} was changed while it was in use: start the "
                    "same command again, which goes on with what is there now"
                )
        except BaseException:
            worker.close()
            self._worker = None
            if self._is_closed:
                raise FunctionFailure("the run is stopping", "") from None
            raise
        self.sources, self._loaded = sources, loaded


def _flaw(function: LoadedFunction, passed: Iterable[str], missing: Sequence[str]) -> str | None:
    """Why a function cannot be called: arguments that it needs are missing, or it takes no such as are passed."""
    if missing:
        names = ", ".join(missing)
        return f"needs {names}, which it is not passed: give a default, or leave it out"
    if function.accepted is None or set(passed) <= set(function.accepted):
        return None
    refused = ", ".join(name for name in passed if name not in function.accepted)
    return f"takes no argument {refused}: add **kwargs to its arguments"


def changed_sources(recorded: Sequence[tuple[int, Mapping[str, str]]]) -> list[str]:
    """A line for each function whose source was changed since it began to give rewards.

    Args:
        recorded: Earlier values of `RewardFunctions.sources`, each with the first step whose rewards they gave.
    """
    lines = []
    for name in {name: None for _, sources in recorded for name in sources}:
        then = [(step, sources[name]) for step, sources in recorded if name in sources]
        now = source_sha256(name)
        if {sha256 for _, sha256 in then} != {now}:
            known = ", ".join(f"{sha256[:_DIGITS]} from step {step}" for step, sha256 in then)
            lines.append(
                f"reward.functions: {name} was changed: SHA-256 {known}, "
                f"{'not to be found' if now is None else now[:_DIGITS]} now; the journal keeps the rewards as they "
                "were given"
            )
    return lines


def _columns(record: Record, group: ArmGroup) -> dict[str, Any]:
    """The keyword arguments of a function; each is a list with one entry for each completion.

    A column of the data is left out if its name is also one of the arguments below.
    """
    arms = group.arms
    of_question = {**record.named_columns, "question": record.question, "answer": record.gold}
    return {
        **{name: [value] * len(arms) for name, value in of_question.items()},
        "arm": [arm.arm for arm in arms],
        "prompts": [record.question] * len(arms),
        "completions": [arm.text for arm in arms],
        "completion_ids": [arm.token_ids for arm in arms],
    }

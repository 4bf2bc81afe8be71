"""The program of the process that loads and calls ``reward.functions``; see `trainer.rollouts.reward_process`.

It reads one request per line from stdin and answers each with one line of JSON on stdout. It and what it imports need
only the standard library, so that it starts at once.
"""

import asyncio
import faulthandler
import hashlib
import importlib.abc
import importlib.machinery
import importlib.util
import inspect
import io
import json
import math
import os
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence, Set
from numbers import Number
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any

from trainer.rollouts.reward_sources import source_of, source_sha256

_OF_MESSAGES = (
    "TypeError: string indices must be integers",
    "AttributeError: 'str' object has no attribute 'get'",
)
"""How the errors begin of a function that takes completions for lists of messages."""
_NO_SEQUENCES = (str, bytes, bytearray, Mapping, Set, Number)
"""Types that do not hold one reward for each completion in order."""


class _Output(io.FileIO):
    """The stream that the functions print to; if the terminal is closed, printing raises no error in them."""

    def write(self, data: Any, /) -> int:
        try:
            return super().write(data) or 0
        except OSError:
            return len(data)


class _FromSource(importlib.machinery.SourceFileLoader):
    """Compiles a module from the bytes whose digest it keeps.

    Python's own loader would use a file in ``__pycache__`` if the source's size and modification time match, and these
    do not prove that the code is the same.
    """

    digests: dict[Path, str] = {}  # noqa: RUF012 - of the whole process
    """SHA-256 of each source that was run, in hex."""

    def get_code(self, fullname: str) -> CodeType:
        """The module's code."""
        data = self.get_data(self.path)
        self.digests[Path(self.path).resolve()] = hashlib.sha256(data).hexdigest()
        code: CodeType = self.source_to_code(data, self.path)
        return code


class _FromSourceFinder(importlib.abc.MetaPathFinder):
    """Finds the functions' modules as Python does, but loads them by `_FromSource`; finds no other modules."""

    def __init__(self, names: Set[str]):
        """``names`` are the names of the functions' modules."""
        self._names = names

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None, /
    ) -> importlib.machinery.ModuleSpec | None:
        """What the other finders find, with its loader replaced."""
        if fullname not in self._names:
            return None
        others = (finder for finder in sys.meta_path if finder is not self)
        found = next(filter(None, (o.find_spec(fullname, path, target) for o in others)), None)
        if found is not None and type(found.loader) is importlib.machinery.SourceFileLoader:
            found.loader = _FromSource(found.loader.name, found.loader.path)
        return found


def _sha256_of_run(function: str) -> str | None:
    """Digest of the source that was run; of the file, if the module was loaded before or is not source code."""
    path = source_of(function)
    ran = None if path is None else _FromSource.digests.get(path.resolve())
    return source_sha256(function) if ran is None else ran


def _loaded(function: str, modules: dict[Path, ModuleType]) -> Callable[..., Any]:
    target, _, name = function.rpartition(":")
    if not target.endswith(".py"):
        module = importlib.import_module(target)
    else:
        path = Path(target).resolve()
        if path not in modules:
            # A name that does not hide another module.
            name_of_module = f"reward_function_{path.stem}"
            loader = _FromSource(name_of_module, str(path))
            spec = importlib.util.spec_from_file_location(name_of_module, path, loader=loader)
            assert spec is not None
            modules[path] = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
            # As for a script, modules beside the file can be imported.
            sys.path.insert(0, str(path.parent))
            loader.exec_module(modules[path])
        module = modules[path]
    found: Callable[..., Any] = getattr(module, name)
    if not callable(found):
        raise TypeError(f"{name} is of type {type(found).__name__}: expected a function")
    if inspect.isclass(found):
        raise TypeError(f"{name} is a class: expected a function, or an object that can be called")
    return found


def _signature(function: Callable[..., Any]) -> dict[str, list[str] | None]:
    """The arguments without which a function cannot be called, and those that it takes; None if it takes any.

    Raises:
        TypeError: It needs an argument that cannot be passed by its name.
    """
    try:
        # What a decorator wraps may get more arguments than the decorator's own function does.
        parameters = inspect.signature(function, follow_wrapped=False).parameters.values()
    except Exception:  # It is written in C, or is an object whose attributes raise.
        return {"required": [], "accepted": None}
    if by_position := [
        p.name for p in parameters if p.kind is p.POSITIONAL_ONLY and p.default is p.empty
    ]:
        raise TypeError(
            f"takes {', '.join(by_position)} only by position, but arguments are passed by name: "
            "remove the / from its arguments"
        )
    named = [p for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    takes_any = any(p.kind is p.VAR_KEYWORD for p in parameters)
    return {
        "required": [p.name for p in named if p.default is p.empty],
        "accepted": None if takes_any else [p.name for p in named],
    }


def _rewards(function: Callable[..., Any], columns: Mapping[str, list[Any]]) -> list[float | None]:
    """What a function returns, as numbers.

    Raises:
        TypeError: It is of a type whose entries are not in the order of the completions.
        ValueError: It does not hold one finite number or None for each completion.
    """
    num_completions = len(columns["completions"])
    # The lists were read from this call's request, so that the function may change them without an effect elsewhere.
    returned = function(**columns)
    if inspect.iscoroutine(returned):
        returned = asyncio.run(returned)
    if returned is None:
        raise TypeError(
            "returned None; it must return a list with a number or None for each completion"
        )
    if isinstance(returned, _NO_SEQUENCES):
        raise TypeError(
            f"returned a value of type {type(returned).__name__}: expected a list of a number or None for each completion"
        )
    rewards = [_reward(given, index) for index, given in enumerate(returned)]
    if len(rewards) != num_completions:
        raise ValueError(f"returned {len(rewards)} rewards for {num_completions} completions")
    return rewards


def _reward(given: Any, index: int) -> float | None:
    """What a function returned for the completion with this index, as a number.

    Raises:
        ValueError: It is not a finite number, and not None.
    """
    if given is None:
        return None
    try:
        reward = float(given)
    except (TypeError, ValueError):
        what = f"a value of type {type(given).__name__}"
        raise ValueError(
            f"returned {what} for completion {index}: expected a number or None"
        ) from None
    if not math.isfinite(reward):
        raise ValueError(f"returned {reward} for completion {index}: expected a number or None")
    return reward


def _failure(error: BaseException) -> dict[str, str]:
    innermost = traceback.extract_tb(error.__traceback__)[-1]
    # What this module finds wrong has no traceback that would help.
    lines = [] if innermost.filename == __file__ else traceback.format_exception(error)
    try:
        said = str(error)
    except BaseException:  # The user's code makes this text, and may fail at it.
        said = "its text cannot be read"
    said = f"{type(error).__name__}: {said}"
    if said.startswith(_OF_MESSAGES):
        said += ' (a function for lists of messages? Completions are texts here: use c instead of c[0]["content"])'
    return {"error": said, "traceback": "".join(lines)}


def main() -> None:
    """Answer until stdin ends.

    The program's arguments are the seconds that a call may take, a file descriptor, and the functions. A call that
    takes longer has its traceback written to the descriptor, and the process ends. The first answer has the digests
    of the functions' sources and their arguments' names; each request has the number of a function and its arguments.
    """
    timeout_s, dump, functions = float(sys.argv[1]), int(sys.argv[2]), sys.argv[3:]
    requests, answers = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    # The functions print to stderr, and read nothing from stdin.
    os.dup2(2, 1)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    sys.stdout = sys.stderr = io.TextIOWrapper(_Output(2, "w", closefd=False), write_through=True)

    def answer(content: object) -> None:
        try:
            answers.write(json.dumps(content).encode() + b"\n")
            answers.flush()
        except BrokenPipeError:
            # The trainer was killed. At a normal end, Python would write the answer once more.
            os._exit(1)

    modules: dict[Path, ModuleType] = {}
    called, about = [], dict[str, object]()
    sys.meta_path.insert(0, _FromSourceFinder({name.rpartition(":")[0] for name in functions}))
    for function in functions:
        try:
            called.append(_loaded(function, modules))
            about[function] = {"sha256": _sha256_of_run(function), **_signature(called[-1])}
        except BaseException as error:
            answer({"function": function, **_failure(error)})
            return
    answer(about)
    for line in requests:
        index, columns = json.loads(line)
        # A C thread ends the process, so that even a function that never releases the interpreter is ended.
        faulthandler.dump_traceback_later(timeout_s, exit=True, file=dump)
        try:
            result: dict[str, object] = {"rewards": _rewards(called[index], columns)}
        except BaseException as error:
            result = dict(_failure(error))
        finally:
            faulthandler.cancel_dump_traceback_later()
        answer(result)


if __name__ == "__main__":
    main()

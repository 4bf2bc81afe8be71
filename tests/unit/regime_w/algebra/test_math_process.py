"""The process that compares mathematics: what bounds it, and that its end is no answer."""

import gc
import io
import json
import logging
import os
import resource
import signal
import sys
import warnings
from pathlib import Path

import pytest

from regime_w.algebra import math_process, math_worker
from regime_w.algebra.math_process import LibraryMissing, MathProcess, require_library


class Ended(BaseException):
    """Raised in place of calling `os._exit`."""


def end(code: int) -> None:
    raise Ended(code)


@pytest.fixture
def limits(monkeypatch: pytest.MonkeyPatch) -> dict[int, tuple[int, int]]:
    """The limits that the worker sets; what it would do to its own process is not done to this one."""
    found: dict[int, tuple[int, int]] = {}
    monkeypatch.setattr(resource, "setrlimit", found.__setitem__)
    monkeypatch.setattr(logging, "disable", lambda: None)
    monkeypatch.setattr(gc, "freeze", lambda: None)
    monkeypatch.setattr(sys, "setprofile", lambda budget: None)
    monkeypatch.setattr(os, "_exit", end)
    return found


def test_the_size_of_numbers_is_known_before_they_are_evaluated() -> None:
    from sympy import Integer, Matrix, Pow, Rational, Symbol, binomial, factorial

    nine, x = Integer(9), Symbol("x")
    tower = Pow(nine, Pow(nine, nine, evaluate=False), evaluate=False)
    sizes = [
        (nine, 4),
        (Rational(1, 2), 2),
        (x, 1),
        (Pow(x, 2), 4),
        (Pow(2, x), 4),
        (Pow(nine, nine, evaluate=False), 4 << 4),
        (Pow(Pow(nine, -1, evaluate=False), -1, evaluate=False), 4),
        (tower, 4 << 64),
        (x + tower, 2 + (4 << 64)),
        (Matrix([[nine, x]]), 6),
        (factorial(nine, evaluate=False), 5 << 5),
        (binomial(x, nine), 6 << 6),
    ]
    for expression, size in sizes:
        assert math_worker._bits(expression) == size, expression


@pytest.mark.parametrize(
    ("latex", "is_read"),
    [
        (r"\binom{12}{3}", True),
        (r"\binom{n}{k} p^k (1-p)^{n-k}", True),
        (r"\binom{12}{3} \cdot 2^{10}", True),
        (r"9^{9^{9}} + 1000000!", True),
        (r"\binom{9^{9}}{1000}", False),
        (r"\binom{9^{9^9}}{2}", False),
        (r"\binom{(((9^9)^9)^9)^9}{2}", False),
        (r"\binom{9!!!}{2}", False),
        (r"\gcd(2^{999}, 3)", False),
        (r"\gcd(2^(9+9), 3)", False),
        (r"\begin{vmatrix} 99999 & 1 \\ 1 & 1 \end{vmatrix}", False),
    ],
)
def test_what_is_evaluated_as_it_is_read_is_small(latex: str, is_read: bool) -> None:
    assert bool(math_worker._EVALUATED.search(latex) and math_worker._LARGE.search(latex)) is not (
        is_read
    )


def test_work_is_counted_and_ends_the_process(limits: object) -> None:
    budget = math_worker._budget(2)
    budget(None, "call", None)
    budget(None, "return", None)
    with pytest.raises(Ended, match="2"):
        budget(None, "call", None)


def test_a_request_is_answered_by_a_child_within_its_limits(
    limits: dict[int, tuple[int, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("math_verify")
    monkeypatch.setattr(math_worker, "_SAMPLES", (("x + 1", "1 + x"),))
    children = iter([1, 2, 0])
    monkeypatch.setattr(os, "fork", lambda: next(children))
    monkeypatch.setattr(os, "waitpid", lambda child, options: (child, 256 * (child - 1)))
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b'["x", "y"]\n' * 3)))
    monkeypatch.setattr(sys, "stdout", replies := io.StringIO())
    with pytest.raises(Ended, match="1"):
        math_worker.main()
    assert replies.getvalue() == "true\nfalse\n"
    assert limits[resource.RLIMIT_AS] == (2**30, 2**30)
    assert limits[resource.RLIMIT_CPU] == (20, 20)
    assert limits[resource.RLIMIT_CORE] == (0, 0)
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO()))
    math_worker.main()


@pytest.mark.parametrize(
    ("request_", "code"),
    [
        (["2x", "x \\cdot 2"], 0),
        (["2x", "3x"], 1),
        (["", "3x"], 1),
        (["9^{9^{9}}", "3x"], 1),
        (["\\gcd(9^{9^{9}}, 3)", "3x"], 1),
        (["2x"], 1),
    ],
)
def test_the_exit_code_is_the_answer(limits: object, request_: list[str], code: int) -> None:
    pytest.importorskip("math_verify")
    assert math_worker._exit_code(json.dumps(request_).encode()) == code


def program(folder: Path, source: str) -> Path:
    path = folder / "program.py"
    path.write_text(source)
    return path


def test_a_process_that_ends_is_started_again(tmp_path: Path) -> None:
    process = MathProcess(program(tmp_path, "input(); print('true', flush=True)"))
    assert process.ask("x", "y")
    assert process.ask("x", "y")
    process.end()
    process.end()


def test_a_process_that_always_ends_is_an_error(tmp_path: Path) -> None:
    process = MathProcess(program(tmp_path, ""))
    with pytest.raises(RuntimeError, match=r"compares mathematics ends at once"):
        process.ask("x", "y")
    process.end()


def test_an_interrupted_request_leaves_no_reply_to_the_next(tmp_path: Path) -> None:
    source = "import os, signal, time\nos.kill(os.getppid(), signal.SIGUSR1)\ntime.sleep(600)"
    process = MathProcess(program(tmp_path, source))
    before = signal.signal(signal.SIGUSR1, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            process.ask("x", "y")
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert process._process is None


COMPARES_TEXTS = """
import json, sys
for line in sys.stdin:
    answer, gold = json.loads(line)
    print(json.dumps(answer == gold), flush=True)
"""
MAX_SECONDS = 60
"""After which a forked process that hangs is ended."""


def test_a_forked_process_has_a_process_of_its_own(tmp_path: Path) -> None:
    process = MathProcess(program(tmp_path, COMPARES_TEXTS))
    assert process.ask("x", "x")
    first = process._process
    assert first is not None
    with process._lock, warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # that other threads may hold locks
        child = os.fork()
        if child == 0:
            signal.signal(signal.SIGALRM, signal.SIG_DFL)
            signal.alarm(MAX_SECONDS)
            try:
                is_left = process._process is None
                is_answered = all(process.ask("x", "x") for _ in range(20))
                process.end()
                os._exit(0 if is_left and is_answered else 1)
            finally:
                os._exit(2)
    assert not any(process.ask("x", "y") for _ in range(20))
    _, status = os.waitpid(child, 0)
    assert status == 0
    assert process._process is first
    assert process.ask("x", "x")
    process.end()


def test_what_is_left_to_the_parent_goes_on(tmp_path: Path) -> None:
    process = MathProcess(program(tmp_path, COMPARES_TEXTS))
    process._leave_to_parent()
    assert process.ask("x", "x")
    first, lock = process._process, process._lock
    assert first is not None
    process._leave_to_parent()
    assert process._process is None
    assert process._lock is not lock
    assert os.waitpid(first.pid, 0) == (first.pid, 0)  # ended by the end of its input, not killed


BROKEN = [
    ("raise ImportError('no antlr4:\\nwrong\\nversion')", "ImportError: no antlr4: wrong version"),
    ("import no_such_runtime", "ModuleNotFoundError: No module named 'no_such_runtime'"),
    ("print('hello'); raise RuntimeError('old')", "RuntimeError: old"),
    ("verify = None", "ImportError: cannot import name"),
]


@pytest.mark.parametrize(("source", "reason"), BROKEN)
def test_a_library_that_cannot_be_imported_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str, reason: str
) -> None:
    (tmp_path / "math_verify.py").write_text(source)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with pytest.raises(LibraryMissing, match=r"pip install 'regime-w\[math\]'") as caught:
        MathProcess().ask("x", "y")
    assert reason in str(caught.value)
    assert "\n" not in str(caught.value)


def test_what_is_required_is_tried_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(math_process, "LIBRARY", "json")  # which is there
    math_process.try_library.cache_clear()
    monkeypatch.setattr(math_process, "_PROCESS", MathProcess(program(tmp_path, "")))
    with pytest.raises(LibraryMissing, match=r"does not work here \(the process .* ends at once"):
        require_library()
    working = MathProcess(program(tmp_path, "input(); print('true', flush=True)"))
    monkeypatch.setattr(math_process, "_PROCESS", working)
    require_library()
    working.end()
    monkeypatch.setattr(math_process, "_PROCESS", None)
    require_library()
    math_process.try_library.cache_clear()


def test_a_folder_of_its_name_is_no_library(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a_folder_of_mathematics").mkdir()
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(math_process, "LIBRARY", "a_folder_of_mathematics")
    monkeypatch.setattr(math_process, "try_library", lambda: None)
    with pytest.raises(LibraryMissing, match="is not installed"):
        require_library()


def test_a_worker_that_cannot_compare_says_why(
    limits: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(math_worker, "are_equal", lambda answer, gold: False)
    monkeypatch.setattr(sys, "stdout", replies := io.StringIO())
    with pytest.raises(SystemExit):
        math_worker.main()
    assert json.loads(replies.getvalue()).startswith("it does not find that x^{2}+2x+1 is")

    def fails(answer: str, gold: str) -> bool:
        raise ImportError("two\nlines")

    monkeypatch.setattr(math_worker, "are_equal", fails)
    assert math_worker._why_not_ready() == "ImportError: two lines"

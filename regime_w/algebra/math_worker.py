"""The program that compares mathematics with math-verify, for `regime_w.answer_types.mathematics`.

It answers each line of JSON, a list of an answer and a gold answer, with another line: whether both can be read and
are equal. If math-verify does not work, it writes one string that says why. Computer algebra may take any time and
memory (``9^{9^{9}}``), so

- a new child answers each request, so that nothing depends on earlier requests; a child that ends itself or is
  killed means "no";
- an expression whose evaluation would write out too many digits is refused before it is evaluated;
- work is counted in calls of functions, which are the same on every machine, and not in seconds;
- the kernel bounds the child's memory, and its CPU time for work that makes no calls.

It needs only the standard library and math-verify, so it is started as a file.
"""

import gc
import json
import logging
import os
import re
import resource
import sys
from collections.abc import Callable
from contextlib import redirect_stdout
from typing import Any

_MAX_EVENTS = 2_000_000
"""Most calls and returns for a request; up to three seconds' work."""
_MAX_CPU_SECONDS = 20
"""CPU time for a request: far more than `_MAX_EVENTS` calls take, unless single calls take seconds."""
_MAX_BYTES = 2**30
"""Size of a child's address space."""
_MAX_BITS = 2**15
"""Size of a number that an expression may stand for."""
_MAX_DOUBLINGS = 64
# math-verify evaluates these while it reads them; only their text can tell whether they may become large.
_EVALUATED = re.compile(r"binom|choose|Gamma|gcd|lcm|det|vmatrix|rank|\|\s*_")
_LARGE = re.compile(
    r"[0-9]{4}|!|\^\s*(?:\(|\{[^{}]*[\^({]|\{?\s*-?[0-9]{3})|(?:\^\s*\{?\s*-?[0-9].*?){3}"
)
_YES, _NO, _OVER_BUDGET = 0, 1, 2
# What most answers need is loaded, and the parser's tables filled, before the first child begins.
_SAMPLES = (
    (r"x^{2}+2x+1", "(x+1)^2"),
    (r"\left(-\infty, \frac{1}{2}\right] \cup [3, 5)", r"[3,5) \cup (-\infty, 0.5]"),
    (r"\frac{\sqrt{8}}{3}\pi", r"\frac{2\sqrt2}{3}\pi"),
    (r"y = 2x - 3", r"2x-3"),
    (r"\{1, -2\}", "-2, 1"),
    (r"(1, 2, \frac{3}{4})", "(1,2,0.75)"),
    (r"\begin{pmatrix} 1 \\ 2 \end{pmatrix}", r"\begin{pmatrix}1\\2\end{pmatrix}"),
    (r"6 - 5i", "-5i+6"),
    (r"x > 5", "5 < x"),
    (r"x^{2}+2x+1", "y^7"),
    (r"\sin x + 1", r"x^3 - \frac{\sqrt{3}}{y}"),
    (r"\log_2 x", r"\pi + e^x"),
)


def are_equal(answer: str, gold: str) -> bool:
    """Whether math-verify reads both texts, and finds the answer equal to the gold answer."""
    from math_verify import verify  # noqa: PLC0415

    found = [_parsed(text) for text in dict.fromkeys((gold, answer))]
    found = [found[0], found[-1]]  # a text that is compared with itself is read once
    if any(one is None or _bits(one) > _MAX_BITS for one in found):
        return False
    # Compared to as many digits as a float has: a rounded value is another number.
    return bool(
        verify(*found, float_rounding=14, allow_set_relation_comp=True, timeout_seconds=None)
    )


def _parsed(latex: str) -> Any:
    """The text as an object of SymPy, not evaluated; None where math-verify cannot read it."""
    from latex2sympy2_extended import NormalizationConfig  # noqa: PLC0415
    from math_verify import ExprExtractionConfig, LatexExtractionConfig, parse  # noqa: PLC0415

    if _EVALUATED.search(latex) and _LARGE.search(latex):
        return None
    # Units are gone already, and the library would take factors such as t and ab for units.
    normalization = NormalizationConfig(
        basic_latex=True,
        units=False,
        malformed_operators=True,
        nits=True,
        boxed="none",
        equations=False,
    )
    latex_config = LatexExtractionConfig(
        boxed_match_priority=-1, normalization_config=normalization
    )
    kinds = (latex_config, ExprExtractionConfig())
    # No time-outs: math-verify's own count seconds, and use signals.
    found = parse(f"${latex}$", kinds, fallback_mode="no_fallback", parsing_timeout=None)
    return found[0] if found else None


def _bits(expression: Any) -> int:
    """An upper bound on the bits of any number that evaluating the expression could write out."""
    from sympy import MatrixBase, Pow, Rational  # noqa: PLC0415
    from sympy.functions.combinatorial.factorials import CombinatorialFunction  # noqa: PLC0415

    if isinstance(expression, Rational):
        return int(expression.p).bit_length() + int(expression.q).bit_length() - 1
    parts = expression.flat() if isinstance(expression, MatrixBase) else expression.args
    sizes = [_bits(part) for part in parts]
    if isinstance(expression, Pow):
        return sizes[0] << (0 if expression.exp == -1 else min(sizes[1], _MAX_DOUBLINGS))
    total = sum(sizes, start=1)
    if isinstance(expression, CombinatorialFunction):
        return total << min(total, _MAX_DOUBLINGS)
    return total


def _budget(num_events: int) -> Callable[..., None]:
    """A function for `sys.setprofile` that ends the process after so many events; counting is most of a request's work."""
    num_left = num_events

    def count(frame: object, event: str, argument: object) -> None:
        nonlocal num_left
        num_left -= 1
        if num_left < 0:
            # Not an exception, which SymPy would catch.
            os._exit(_OVER_BUDGET)

    return count


def _exit_code(line: bytes) -> int:
    """Answers a request in a child; the answer is the child's exit code."""
    from sympy.core.random import seed  # noqa: PLC0415

    resource.setrlimit(resource.RLIMIT_AS, (_MAX_BYTES, _MAX_BYTES))
    resource.setrlimit(resource.RLIMIT_CPU, (_MAX_CPU_SECONDS, _MAX_CPU_SECONDS))
    # SymPy tries random values to tell whether an expression is zero.
    seed(0)
    sys.setprofile(_budget(_MAX_EVENTS))
    try:
        return _YES if are_equal(*json.loads(line)) else _NO
    except Exception:  # whatever it is, the texts cannot be compared
        return _NO


def _why_not_ready() -> str | None:
    """Load what answers need; returns one line that says why that fails, or None."""
    try:
        with redirect_stdout(sys.stderr):  # a package may print something when it is imported
            found = [are_equal(*sample) for sample in _SAMPLES]
    except Exception as error:  # whatever a broken package raises when it is imported
        return " ".join(f"{type(error).__name__}: {error}".split())
    return None if found[0] else f"it does not find that {_SAMPLES[0][0]} is {_SAMPLES[0][1]}"


def main() -> None:
    """Answer until stdin ends; if math-verify does not work, write the reason and exit."""
    logging.disable()
    # A core dump for each text that takes too long would fill the disk.
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if reason := _why_not_ready():
        sys.stdout.write(f"{json.dumps(reason)}\n")
        sys.exit(1)
    # Garbage collection in a child would copy every page of memory that is loaded here.
    gc.freeze()
    for line in sys.stdin.buffer:
        child = os.fork()
        if child == 0:
            os._exit(_exit_code(line))
        _, status = os.waitpid(child, 0)
        sys.stdout.write(f"{json.dumps(status == _YES)}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()

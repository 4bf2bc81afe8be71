"""Answers that are a text, compared exactly after normalisation."""

import re
import unicodedata
from dataclasses import dataclass
from typing import ClassVar

from regime_w.answer_types.answer_type import AnswerTypeName
from regime_w.answer_types.kinds import Kind
from regime_w.answer_types.stated_answers import (
    MAX_ANSWER_CHARS,
    only_line,
    stated_answer,
    states_gold,
    states_in_form,
)
from regime_w.texts.completions import completion_of
from regime_w.texts.denials import is_denied, is_withdrawal

_SAME = str.maketrans(
    {**dict.fromkeys("‘’‛`´", "'"), **dict.fromkeys("“”„", '"'), **dict.fromkeys("‐‑‒–—−", "-")}
)
_SUPERSCRIPTS = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻⁼⁽⁾ⁿⁱ", "0123456789+-=()ni")
_SUPERSCRIPT = re.compile(rf"[{''.join(map(chr, _SUPERSCRIPTS))}]+")
_FRACTION = re.compile("[¼-¾⅐-⅞↉]")
_LATEX_TEXT = re.compile(r"\\(?:text|math|mbox|emph)(?:bf|rm|it|tt|sf|up|normal)?\s*\{([^{}]*)\}")
_LATEX_SIGN = re.compile(r"\\([$%&#_])")
# Asterisks that are not operators: "2**3" and "3 * 6" keep theirs.
_EMPHASIS = re.compile(r"(?<![\w)*])(\*{1,3})(?=[^\s*])([^*]*)(?<=\S)\1(?![\w(*])")
_WORDS = r"\s*[^\W\d_]{2}[^\d,;:()\[\]{}\\^_=+*/<>|]*"
_WRAPPED = re.compile(
    rf"""
      "([^"]*)" | '((?:[^']|(?<=\w)'(?=\w))*)' | _([^_]*)_
    | \$\$([^$]*)\$\$ | \$((?:[^$\\]|\\.)*)\$ | \\\((.*)\\\) | \\\[(.*)\\\]
    | \(([^(),;\[\]{{}}\\]*)\) | \[({_WORDS})\] | \{{({_WORDS})\}}
    """,
    re.VERBOSE,
)
"""A whole text in marks that add nothing to it; an interval, a pair or a set keeps its brackets."""
_LEADING = re.compile(r"\A(?:[\s,;:]|\.\s)+")
# "5!" and "n!" are not "5" and "n", and "1, 2, ..." goes on.
_TRAILING = re.compile(
    r"(?:[\s,;:\\。]|(?<![.\s])\.|(?:(?<=[^\W\d_]{2})|(?<=[^\W\d_]{2}[\"')\]]))[!?]+)\Z"
)
_NOTHING = frozenset(" .,;:!?\"'*_$()[]{}\\-")
_ADDITION = re.compile(r",\s+(?:who|whom|whose|which|where|because|since)\s")


def normalised(text: str) -> str:
    """A text without case, markup, enclosing marks and quotes, final full stop, and runs of white space.

    Signs, operators, exponents, brackets around several things, accents and articles stay, and are compared exactly.

    Args:
        text: At most `MAX_ANSWER_CHARS` characters.
    """
    # What one round leaves may have marks around it again: "**(Paris.)**".
    for _ in range(MAX_ANSWER_CHARS):
        before = text
        text = " ".join(_LATEX_TEXT.sub(r"\1", _without_variants(text)).split())
        text = _TRAILING.sub("", _LEADING.sub("", _EMPHASIS.sub(r"\2", text)))
        if wrapped := _WRAPPED.fullmatch(text):
            text = wrapped[wrapped.lastindex or 0]
        text = _LATEX_SIGN.sub(r"\1", text)
        if text == before:
            break
    return "" if _NOTHING.issuperset(text) else text


def _without_variants(text: str) -> str:
    """A text in small letters, in which equal characters have one form; "x²" is "x^2" and "1½" is "1 1/2"."""
    text = _SUPERSCRIPT.sub(lambda found: "^" + found[0].translate(_SUPERSCRIPTS), text)
    text = _FRACTION.sub(r" \g<0>", text).translate(_SAME)
    return unicodedata.normalize("NFKC", text).replace("⁄", "/").casefold().translate(_SAME)


def is_withdrawn(behind: str, answer: str) -> bool:
    """Whether what follows a statement takes its answer back: "Wait, it's London.", "Paris is wrong."."""
    if is_withdrawal(behind):
        return True
    behind = _without_variants(behind)
    own = re.finditer(rf"(?<!\w){re.escape(answer)}(?!\w)", behind)
    return any(is_denied("", behind[found.end() :]) for found in own)


@dataclass(frozen=True, slots=True)
class Text:
    """A short text such as a name, by normalised exact match."""

    name: ClassVar[AnswerTypeName] = "text"
    choices: ClassVar[tuple[str, ...]] = ()
    is_numeric: ClassVar[bool] = False
    expected: ClassVar[str] = (
        f"one line of at most {MAX_ANSWER_CHARS} characters: give the answer alone, or a solution that ends "
        "in '#### Paris'"
    )

    def extract(self, text: str) -> str | None:
        """The stated answer, or a completion that is one line.

        A part of the sentence that begins with a comma and a word of `_ADDITION`, such as ", who …", is left out. None
        if the next sentence takes the answer back, or one nearby says that it is wrong.
        """
        text = completion_of(text)
        stated = stated_answer(text, addition=_ADDITION)
        if stated is None:
            return self.read(text)
        answer = self.read(stated.line)
        if answer is None or (not stated.is_marked and is_withdrawn(stated.behind, answer)):
            return None
        return answer

    def is_formatted(self, text: str) -> bool:
        """Whether `extract` takes the answer from a ``####``, a box or an element."""
        return states_in_form(completion_of(text))

    def read(self, answer: str) -> str | None:
        """The normalised answer; None if nothing is left of it."""
        line = only_line(answer)
        return None if line is None else normalised(line) or None

    def read_gold(self, text: str) -> str | None:
        """Reads a line, or what a solution states after ``####``, in a box or in an element."""
        stated = stated_answer(completion_of(text)) if states_gold(text) else None
        return self.read(text if stated is None else stated.line)

    def kind(self, answer: str) -> Kind:
        """Always the same: an answer has one form."""
        return Kind.FIXED

    def equal(self, a: str | None, b: str | None) -> bool:
        """Whether the normalised texts are the same."""
        return a is not None and a == b

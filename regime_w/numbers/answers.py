r"""Finds the answer that is one number in a text and reads it exactly.

It is looked for in what `regime_w.texts.completions` leaves of a completion: not in thoughts, nor in what is struck out
or follows the end of the turn. The first rule that applies gives the position of the answer:

1. After the last ``####``: its line, or the next if that is empty. The rest is ignored. If the line is a
   heading (``#### Final Answer``, ``#### Step 2``), the answer is in the text under it: see
   `regime_w.texts.marker`.
2. In the last ``\boxed{}``, ``\fbox{}`` or ``<answer></answer>``.
3. After the last "answer is" that claims an answer and that a number follows, or under the last heading "Final Answer".
4. The last number, unless it is part of another, as in ``12:00``: see `regime_w.numbers.prose`.

Rules 1 to 3 take the answer only from a line that clearly gives one number (`read_line`).
Models are rewarded for the answer, so an ambiguous line gives none. Every step works on a window of
bounded length or scans the text once: time is linear in the text.
"""

import re
from collections import deque
from collections.abc import Callable
from itertools import islice

from regime_w.numbers.boxed import are_rivals, number_in_box
from regime_w.numbers.claims import claimed, claimed_in_field
from regime_w.numbers.numerals import to_ascii
from regime_w.numbers.prose import SENTENCE_END, read_last_number, read_sentence
from regime_w.numbers.statements import MAX_LINE, read_gold_line, read_line
from regime_w.texts.announcements import NUMBER_IS, first_line
from regime_w.texts.blocks import HEADING
from regime_w.texts.boxes import BOX, boxes_and_elements, content, is_element
from regime_w.texts.completions import completion_of, struck_number
from regime_w.texts.denials import MAX_BEHIND, denial, is_rejection, is_unclaimed, is_withdrawal
from regime_w.texts.marker import MARKER, after_marker
from regime_w.texts.markup import FACTORIAL

_MAX_GOLD_BOXES = 100
"""A gold answer with more boxes is not a solution."""

_CLAUSE_END = re.compile(rf"[,;](?=\s)|{SENTENCE_END.pattern}")
_BEFORE_STATEMENT = 80
"""The most characters before an "answer is" that are looked at."""
_MAX_STATEMENTS = 20
"""The most occurrences of "answer is" that are looked at, from the end of a text."""
_MINUS = re.compile(r"\s*(?:minus|negative)\s", re.IGNORECASE)
"""Matches the sign word of a text that is only a number: "minus 5"."""
_MINUS_SIGN = re.compile(r"^(\s*)−\s+", re.MULTILINE)


def extract_answer(text: str) -> str | None:
    r"""Extracts the canonical numeric answer of a completion.

    It never raises and never evaluates; a text that cannot be read exactly gives no answer.

    Example:
        >>> extract_answer("9 * 2 = 18\n#### $1,018.00")
        '1018'
        >>> extract_answer("#### 18 or 26") is None
        True

    Args:
        text: Completion without its prompt (which itself says ``#### 42``).

    Returns:
        The answer in the form of `regime_w.numbers.numerals.canonical`, or None if there is none.
    """
    return _extracted(text)[0]


def is_formatted(text: str) -> bool:
    r"""Whether `extract_answer` takes the answer from a ``####`` or a box, and not from a sentence or a formula.

    Example:
        >>> is_formatted("#### 18"), is_formatted("#### Step 2: double it\nThe answer is 18.")
        (True, False)
    """
    answer, is_formatted = _extracted(text)
    return answer is not None and is_formatted


def extract_gold(text: str) -> str | None:
    r"""Extracts the canonical answer of a gold answer: a solution, or the number alone.

    Unlike a completion's, a gold answer is never taken from prose: a text without ``####`` and ``\boxed{}``
    must be one number, and boxes must agree.

    Example:
        >>> extract_gold("9 * 2 = 18\n#### 18"), extract_gold("$1,018.00"), extract_gold("12:00")
        ('18', '1018', None)

    Args:
        text: A solution that ends in ``#### 18``, one with ``\boxed{18}``, or ``18``.

    Returns:
        As `extract_answer`.
    """
    text = to_ascii(text)
    if MARKER in text:
        return _read_marked(text, read_gold_line)[0]
    boxes = [*islice(BOX.finditer(text), _MAX_GOLD_BOXES + 1)]
    if boxes:
        golds = {read_gold_line(box) for box in {number_in_box(text, box) for box in boxes}}
        return golds.pop() if len(golds) == 1 and len(boxes) <= _MAX_GOLD_BOXES else None
    lines = text.strip().splitlines()
    return read_gold_line(lines[0]) if len(lines) == 1 else None


def answers_agree(a: str | None, b: str | None) -> bool:
    """Whether two canonical answers are equal; None agrees with nothing, not even itself."""
    return a is not None and a == b


def _extracted(text: str) -> tuple[str | None, bool]:
    """The answer of a completion, and whether it stands behind a ``####`` or in a box."""
    text = completion_of(text, struck_number)
    # A hyphen followed by a space may mark a list item; a minus sign does not.
    text = to_ascii(_MINUS_SIGN.sub(r"\1-", text) if "−" in text else text)
    if MARKER in text:
        return _read_marked(text, read_line)
    line, is_boxed = _explicit_answer(text)
    if line is not None:
        return read_line(line), is_boxed
    return (read_line(text) if _MINUS.match(text) else None) or read_last_number(text), False


def _read_marked(text: str, read: Callable[[str], str | None]) -> tuple[str | None, bool]:
    """The answer after the last ``####``; under a heading, only a stated answer counts, never the last number.

    Returns:
        The answer, and whether a ``####`` or a box marks it.
    """
    marked = after_marker(text, HEADING)
    answer, is_marked = read(marked.line), True
    if answer is None and marked.is_final and read is read_line:
        answer, is_marked = read_sentence(marked.line), False
    if answer is None and marked.below:
        line, is_boxed = _explicit_answer("\n".join(marked.below))
        return None if line is None else read(line), is_boxed
    return answer, is_marked


def _explicit_answer(text: str) -> tuple[str | None, bool]:
    """The text in the last box or element, or else what is stated; None if there is neither.

    Returns:
        The text, and whether there is a box or an element.
    """
    found = [*deque(boxes_and_elements(text, MAX_LINE), maxlen=2)]
    if not found:
        return _stated(text), False
    *before, last = found
    held = content(text, last, MAX_LINE)
    if held is None:
        return "", True
    line, end = held
    if not is_element(last):
        is_one_of_two = any(not is_element(box) and are_rivals(text, box, last) for box in before)
        line = "" if is_one_of_two else number_in_box(text, last)
    return "" if _is_withdrawn(read_line(line), text[end:]) else line, True


def _stated(text: str) -> str | None:
    """What the last claim gives; None if there is no claim or no number follows, empty if it cannot be read."""
    claim: re.Match[str] | None = None
    denied: re.Match[str] | None = None
    for stated in deque(NUMBER_IS.finditer(text), maxlen=_MAX_STATEMENTS):
        before = text[max(0, stated.start() - _BEFORE_STATEMENT) : stated.start()]
        if is_unclaimed(before) or denial(text, stated.end()):
            denied = stated
        else:
            claim, denied = stated, None
    if claim is None:
        return None
    if claim["field"]:
        return claimed_in_field(text[claim.end() : claim.end() + MAX_LINE])
    sentence = _sentence(text, claim)
    answer = claimed(sentence)
    if not answer:
        return answer
    if denied is None:
        behind = text[claim.end() :].partition(sentence)[2]
        return "" if _is_withdrawn(read_line(answer), behind) else answer
    # "The answer is 20. No, the answer is not 20. It is 18."
    sentence = _sentence(text, denied)
    negation = denial(sentence)
    other = claimed(sentence[negation.end() if negation else 0 :])
    return None if other and read_line(other) == read_line(answer) else answer


def _is_withdrawn(answer: str | None, behind: str) -> bool:
    """Whether what follows an answer takes it back, as in "18. No, it's 20."."""
    behind = behind[:MAX_BEHIND]
    if answer is None or is_rejection(behind):
        return answer is not None
    if not is_withdrawal(behind) or not any(map(str.isdigit, behind)):
        return False
    return answer not in map(read_last_number, _CLAUSE_END.split(behind))


def _sentence(text: str, stated: re.Match[str]) -> str:
    """The rest of the sentence behind an "answer is"."""
    window = text[stated.end() : stated.end() + MAX_LINE]
    line = first_line(window, is_below="\n" in stated.group())
    return SENTENCE_END.split(FACTORIAL.sub(" factorial", line), maxsplit=1)[0]

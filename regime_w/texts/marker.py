"""What stands after the last ``####`` of a text, for answers of every type."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from regime_w.texts.blocks import ANSWER_HEADING, first_block

MARKER = "####"
"""Stands before the answer at the end of a solution, as in GSM8K."""
_MAX_HEADING = 300
_PROMPT_ECHO = re.compile(r"(?:format|end with)\s*[:*]*\s*['\"`]\s*\Z", re.IGNORECASE)
"""Matches text before a ``####`` of a repeated prompt: "in the format '#### 42'" is not an answer."""


@dataclass(frozen=True, slots=True)
class MarkedAnswer:
    """What a ``####`` marks."""

    line: str = ""
    """The line that may be the answer; empty if there is none."""
    below: Sequence[str] = ()
    """Lines under a heading, none of them blank; one of them may state the answer if ``line`` gives none."""
    heading: str = ""
    """A heading other than one that announces an answer."""
    is_final: bool = False
    """Whether ``line`` stands under a heading such as "Final Answer", where a sentence may give the answer."""


def after_marker(text: str, heading: re.Pattern[str]) -> MarkedAnswer:
    """What the last ``####`` marks; everything is empty if that ``####`` belongs to a repeated prompt.

    ``line`` is the marker's line. If that is empty or a heading that announces an answer ("Final Answer"),
    ``line`` is the first block below (under "Solution" only if that is the only block). Under another
    heading the lines are work, in which the answer may be stated.

    Args:
        text: Holds the marker.
        heading: Matches a line that is another heading.
    """
    before, _, tail = text.rpartition(MARKER)
    lines = [*tail.splitlines(), "", ""]
    # Headings may be closed: "#### 42 ####".
    opening, opened, line = before[before.rfind("\n") + 1 :].rpartition(MARKER)
    if opened and line.strip(" #") and not lines[0].strip("# \t"):
        before, lines[0] = opening, line.strip(" #")
    if _PROMPT_ECHO.search(before[-40:]):
        return MarkedAnswer()
    below = [line for line in lines[1:] if line.strip()]
    if not lines[0].strip(" \t*_:"):
        return MarkedAnswer(first_block(below)[0] if lines[1].strip() else "")
    announced = ANSWER_HEADING.fullmatch(lines[0][:_MAX_HEADING])
    if announced and below:
        block, rest = first_block(below)
        is_work = announced["solution"] and rest
        return MarkedAnswer("" if is_work else block, below, is_final=bool(announced["final"]))
    if announced:
        return MarkedAnswer()
    if heading.fullmatch(lines[0][:_MAX_HEADING]):
        return MarkedAnswer(below=below, heading=lines[0])
    return MarkedAnswer(lines[0])

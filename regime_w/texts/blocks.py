r"""Tells the headings that announce answers from others, and finds the first block of text under a heading.

From lines to a line: list marks and Markdown quotes are left out, and displayed mathematics becomes one line.
"""

import re
from collections.abc import Sequence

KINDS = r"step|part|case|phase|stage|section|method|approach|option|example|problem|question"
"""The kinds of parts that headings number: "Step 2"."""
_NUMBERED = rf"(?:{KINDS})\s*+\#?[0-9]++|[0-9]{{1,2}}+(?=[.)])"

NUMBERED_HEADING = re.compile(
    rf"""
    [\s*_]*+ (?:{KINDS})\s*+\#?[0-9]++\b.*
  | [\s*_]*+ [0-9]{{1,2}}+[.)]\s++[A-Za-z].*
  | [\s*_]*+ [0-9]++\s++ (?:[A-Za-z]++\s++){{0,2}}? (?:{KINDS}|way)e?s\s++ (?:to|for|of|towards?|in)\b
    .* \b(?:answer|solution|result|solv|find|comput|calculat).*      # "3 steps to the answer"
    """,
    re.VERBOSE | re.IGNORECASE,
)
"""Matches a heading with a number: "Step 2", "2. Count", "3 steps to the answer"."""
_WORK = (
    r"reasoning|explanations?|explain|verif(?:y|ication)|check(?:ing)?|double[- ]check|work(?:ing)?|steps?|calculations?"
    r"|notes?|analysis|thinking|thoughts?|thought\ process|justification|rationale|summary|discussion|derivation"
    r"|proof|references|sources|background|introduction|context|key\ points|understanding(?:\ the\ (?:problem|question))?|breakdown|approach|method|evaluation|(?:process\ of\ )?elimination|let(?:['’]s|\ us|\ me)\ (?:think|check|verify)"
)
WORK_HEADING = re.compile(
    rf"""{NUMBERED_HEADING.pattern}
  | [\s*_]*+ (?:(?:my|our|the|detailed|short|brief|full|final|quick|step[- ]by[- ]step)\s++){{0,2}} (?:{_WORK})
    (?:\s++(?:and|&)\s++(?:{_WORK}))? (?:\s++step[- ]by[- ]step)? [\s*_:.]*+
    """,
    re.VERBOSE | re.IGNORECASE,
)
"""Matches a heading of work, for answers that may be words: numbered, or one of certain words: "Verification"."""
HEADING = re.compile(rf"[^0-9]+|{NUMBERED_HEADING.pattern}", re.VERBOSE | re.IGNORECASE)
"""Matches a heading; a line with a number that may be an answer does not match."""
ANSWER_HEADING = re.compile(
    rf"""
    [\W_]*+ (?:(?:{_NUMBERED})[\W_]++)? (?:(?:the|my|our)\s++)?
    (?:(?P<final>final\s++)|final_)?
    (?:answer|result|conclusion|(?P<solution>solution))
    (?:\s++(?:to|for|of)\s(?:(?:the|this)\s)?(?:question|problem|exercise|task)(?:\s\#?[0-9]++)?)?
    (?:\s++is)? \s*+ (?:\([^()0-9]*+\))? [\W_]*+
    """,
    re.VERBOSE | re.IGNORECASE,
)
"""Matches a heading that announces an answer; ``solution`` is set if work may come first,
``final`` if a sentence may give the answer."""

_MARK = re.compile(r"\s*+(?:(?=>\s)>\s++)*+(?:[-+*•]\s++)?")
_DISPLAYED = {"$$": "$$", r"\[": r"\]"}
_MAX_DISPLAYED_LINES = 10


def first_block(lines: Sequence[str]) -> tuple[str, Sequence[str]]:
    """The first block and the lines after it.

    Args:
        lines: At least one, none of them blank.

    Returns:
        The block as one line, empty if it is a list of several items; and the lines after it.
    """
    mark, first = _parted(lines[0])
    is_fence = first.startswith("```")
    closing = "```" if is_fence else _DISPLAYED.get(first)
    if closing:
        for end, line in enumerate(lines[1 : _MAX_DISPLAYED_LINES + 1], 1):
            if line.strip() == closing:
                inner = " ".join(map(str.strip, lines[1:end]))
                return inner if is_fence else first + inner + closing, lines[end + 1 :]
    if mark not in ("", ">") and len(lines) > 1 and _parted(lines[1])[0] == mark:
        return "", lines[1:]
    return first, lines[1:]


def _parted(line: str) -> tuple[str, str]:
    """The list or quote mark that a line begins with, and the rest of the line."""
    rest = _MARK.sub("", line, count=1)
    return line[: len(line) - len(rest)].strip(), rest.rstrip()

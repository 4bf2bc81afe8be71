r"""Strips the markup of a short text: LaTeX, Markdown, HTML, calculator annotations.

From a text of bounded length to one that keeps its numbers and words as they read. Innermost braces
are resolved first, so ``\boxed{\frac{1}{2}\text{ cm}^{2}}`` becomes `` 1/2 cm^2``.
"""

import re

_MAX_DEPTH = 6
"""Braces that are nested more deeply stay, and the text then gives no number."""

_Rules = tuple[tuple[re.Pattern[str], str], ...]


def _compiled(*rules: tuple[str, str]) -> _Rules:
    return tuple((re.compile(pattern), replacement) for pattern, replacement in rules)


FACTORIAL = re.compile(r"(?<=[0-9)}])!(?=\$|\s*(?:\}|\\[)\]]|[=×÷·+/*]\s?[-0-9$\\]))")
"""Matches a "!" at the end of mathematics or of a brace, or before an operator, where it is a factorial."""

_WHOLE = r"[0-9]++(?:(?=,[0-9][0-9][0-9]),[0-9]{3})*+"
_NUMERATOR = rf"(?:\{{\s*([+-]?{_WHOLE})\s*\}}|([0-9]))"
_DENOMINATOR = rf"(?:\{{\s*({_WHOLE})\s*\}}|([0-9]))"
# Braces that hold no others; repeated, these undo any nesting.
_BRACES = _compiled(
    (r"\{,\}|(?<=[0-9])\\,(?=[0-9]{3}(?![0-9]))", ","),
    (r"\\!", ""),
    # No digit may follow, as it would join the replacement: \frac123 is 1/2 times 3, not 1/23.
    (rf"\\[dtc]?frac\s*{_NUMERATOR}\s*{_DENOMINATOR}(?![0-9])", r" \1\2/\3\4"),
    (r"\^\{\s*([+-]?[0-9]++)\s*\}(?![0-9])", r"^\1"),
    (
        r"\\(?:boxed|fbox|mbox|emph|(?:text|math)(?:bf|rm|it|tt|sf|up|normal)?|operatorname|bm)"
        r"\s*\{([^{}]*)\}",
        r" \1",
    ),
)
_CLEANING = _compiled(
    (r"<<[^<>]*>>", ""),  # GSM8K's calculator annotations
    (r"</?[A-Za-z_]+>|<\|[^<>|\s]{1,40}\|>", " "),  # HTML and end-of-text tags
    (r"(?:\^\{?\s*)?\\(?:circ|degree)\b\}?", "°"),
    (
        r"\\(?:left|right|displaystyle|quad|qquad)\b|\\[,;: ()\[\]]|(?<=[0-9])~|~(?!\s?[$€£¥]?[0-9.])",
        " ",
    ),
    (r"\\([$%])", r"\1"),
    (r"[✅✔☑✓]\ufe0f?", " "),
    # Done before emphasis is removed, which then leaves two spaces: "3 *600" must not be read as 3 600.
    (r"\s+", " "),
    # Emphasis and quotes, but never an operator: 2**3 and 3 * 6 must not lose theirs.
    (r"(?<![\w)*])[*_`\"]+(?=\S)|(?<=\S)[*_`\"]+(?![\w(*{])", " "),
    (r"(?<!\w)'|(?<=\w)'(?!\w)", " "),
    (r" {3,}", "  "),
)
# Texts that no rule changes; most are.
_PLAIN = re.compile(r"(?:[0-9A-Za-z.,$%:=+/-]| (?! ))*+")


THOUGHT_STARTS, THOUGHT_ENDS = "<think>", "</think>"
_OPENED_THOUGHT = re.compile(rf"{THOUGHT_STARTS}\s*\Z")

STRUCK = "⌧"
"""Stands for a number that is struck out and not followed by another."""
_STRIKES = ("~~", "</del>", "</strike>", "\\sout", "cancel")
_STRUCK_OUT = re.compile(
    r"~~(?=[^~\s])([^~\n]{1,200})~~|<(?:del|strike)>([^<\n]{0,200})</(?:del|strike)>"
    r"|\\(?:sout|[bx]?cancel)\s?\{((?:[^{}]|\{[^{}]{0,60}\}){0,100})\}"
)
_NUMBER_FOLLOWS = re.compile(r"[\s$*_`]*[-+]?\\?[$€£¥]?[0-9]")


def without_thoughts(text: str) -> str:
    """What a reasoning model says outside its thoughts; empty if it is cut off before they end."""
    return text.rpartition(THOUGHT_ENDS)[2].partition(THOUGHT_STARTS)[0]


def opened_thought(prompt: str) -> str:
    """The end of a prompt that begins the answer's thought: ``<think>`` and white space, or nothing."""
    found = _OPENED_THOUGHT.search(prompt)
    return "" if found is None else found[0]


def without_struck(text: str) -> str:
    """The text without what is struck out: ``~~20~~ 18``; `STRUCK` takes the place of a number that is not replaced."""
    return _STRUCK_OUT.sub(_struck, text) if any(mark in text for mark in _STRIKES) else text


def _struck(found: re.Match[str]) -> str:
    is_number = any(map(str.isdigit, found[found.lastindex or 0]))
    return STRUCK if is_number and not _NUMBER_FOLLOWS.match(found.string, found.end()) else " "


def without_markup(text: str) -> str:
    """The text without LaTeX, emphasis, quotes, tags and runs of spaces."""
    if _PLAIN.fullmatch(text):
        return text
    text = FACTORIAL.sub(" factorial", text)
    for _ in range(_MAX_DEPTH):
        before = text
        for pattern, replacement in _BRACES:
            text = pattern.sub(replacement, text)
        if text == before:
            break
    for pattern, replacement in _CLEANING:
        text = pattern.sub(replacement, text)
    return text

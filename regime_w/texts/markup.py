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

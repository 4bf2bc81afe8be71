r"""Whether an equation names its value, as ``x = 18`` does, or asks for an unknown, as ``3x = 18`` does.

From the text before a number to a yes or no. ``9 * 2 = 18`` and ``A = l * w = 18`` give their number; in
``1/x = 18``, ``a + b = 18`` and ``2 * width = 18`` the number is not the value of a name. Nothing is solved.
"""

import re
from itertools import pairwise

# The text before these does not belong to the equation: words such as "so", punctuation and arrows.
_CLAUSE_END = re.compile(
    r"\b(?:so|thus|therefore|hence|then|giv(?:es|ing)|means|implies|that|if|when|where)\b|[,;:.!?](?=\s++(?!=|\Z))|[=-]+>"
    r"|[∴→⇒]|\\(?:implies|Rightarrow|to)\b",
    re.IGNORECASE,
)
_KNOWN = re.compile(r"(?:\A|[^\w\s)*/+^-]|[^\W\d_]{2})\s*([^\W\d_])\s*=\s*[-+$]*[0-9]")
"""Matches a variable that gets a number as its value: ``let x = 4``, but not ``3x = 4``."""

_LETTER = r"[^\W\d_⁰¹²³⁴-⁹]"
_READING = tuple(
    (re.compile(pattern), replacement)
    for pattern, replacement in (
        (r"(?<=[0-9)%])[xX](?=[0-9$€£¥(.])|(?<=[\w%)])\s[xX]\s(?=[0-9$€£¥(.])", "*"),
        (r"\b([xyz])(?=[xyz]{1,2}\b)", r"\1*"),
        (r"\b[fghPp]\([^()=]*\)", " f "),  # the value of a function
        # Words in parentheses explain a name: "Total (in dollars)".
        (r"(?:(?<=\s)|(?<=[^\W\d_]{2}))\((?:[^\W\d_]{2,}+[\s.,'-]++)*[^\W\d_]{2,}+\)", " "),
        # The unit of a rate: "$5/h", "km/h", "18 miles/hour", but not "1/total".
        (r"(?<=[$€£¥][0-9.])/\s?[A-Za-z]+|(?<=[^\W\d_]{2})/\s?(?:[A-Za-z]{2,}|[hsdmglL]\b)", " "),
        (r"(?<![0-9.]1)(?<=[0-9])(?<!\b1)/\s?[A-Za-z]{2,}", " "),
        (r"(?<=\w)-(?=[^\W\d_]{2})", "_"),  # "18-year-old" and "x-coordinate" subtract nothing
    )
)
_TOKEN = re.compile(
    rf"""
    (?P<number>[0-9][0-9.,]*+(?![0-9]))
  | (?P<operator>
        [-+*/^×·÷!|√⁰¹²³⁴-⁹] | (?<=[\w)])\(
      | \\(?:[dtc]?frac|sqrt|sin|cos|tan|log|ln|times|cdot|div|lfloor|lceil|binom)\b
      | \b(?:sqrt|sin|cos|tan|log|ln|half|twice|double|triple|times|squared|cubed|root|plus|minus
          |(?:divided|multiplied)\ by|(?:third|quarter|fourth|fifth)s?\ of)\b
      | \}}\s*\{{
    )
  | (?P<article>[aAI](?=\s{_LETTER}{{2}}) | (?<=[0-9]\s)[gmlLhs]\b)
  | (?P<name>\\?{_LETTER}(?:_(?:\{{\w{{1,8}}\}}|\w{{1,40}}))?(?!{_LETTER}) | \\[A-Za-z]+)
  | (?P<word>{_LETTER}(?:{_LETTER}|[0-9_'])*+)
    """,
    re.VERBOSE,
)


def asks_for_unknown(left: str) -> bool:
    """Whether the text before an equation's last ``=`` computes with a name that has no value.

    Args:
        left: Text without markup, of bounded length. Its last clause is the equation; the text before
            that may give values to variables.
    """
    clause = _CLAUSE_END.split(left)[-1]
    known = set(_KNOWN.findall(left[: len(left) - len(clause)]))
    sides = [_computes_with_name(side, known) for side in clause.split("=")]
    # A name in a chain gets the value: y = 3x = 18.
    return True in sides and None not in sides


def _computes_with_name(side: str, known: set[str]) -> bool | None:
    """Whether a side computes with a name; None if it is only a name."""
    for pattern, replacement in _READING:
        side = pattern.sub(replacement, side)
    operands: list[list[tuple[str | None, str]]] = [[]]
    for token in _TOKEN.finditer(side):
        if token.lastgroup == "operator":
            operands.append([])
        elif token.group() in known:
            operands[-1].append(("number", ""))
        else:
            operands[-1].append((token.lastgroup, token.group()))
    if len(operands) == 1 and operands[0] and "number" not in dict(operands[0]):
        return None
    return any(operand and _is_open(operand) for operand in operands)


def _is_open(operand: list[tuple[str | None, str]]) -> bool:
    """Whether an operand has no number, or one that multiplies a name: ``3x``, ``20% of x``."""
    kinds = [kind for kind, text in operand if text != "of"]
    return "number" not in kinds or ("number", "name") in pairwise(kinds)

"""Rewrites the notation of a worked solution as plain numbers and operators, clause by clause.

From a text to its clauses with an "=": LaTeX, currencies, rates and Markdown become what `regime_w.worked_steps.parsing`
tells apart. Every pattern scans the text once.
"""

import re

from regime_w.numbers.numerals import to_ascii

# No equation crosses these; clauses without "=" need no further processing.
# (One character class in front lets the search skip from one candidate to the next.)
# "5! * 2" and "5! = 120" go on behind the factorial.
_CLAUSE_END = re.compile(
    r"[\n\r,;:!?.](?:(?<=[\n\r])|(?<=[,;:!?])(?<!\\.)(?!(?<=[0-9)]!)\s[-+*/=×÷])\s|(?<=\.)\s(?=[A-Z]))"
)
_SUPERSCRIPTS = "⁰¹²³⁴⁵⁶⁷⁸⁹"
# Each pattern comes with strings, at least one of which it needs to match: searching for these is cheaper.
_NORMALISING: tuple[tuple[tuple[str, ...], re.Pattern[str], str], ...] = tuple(
    (needs, re.compile(pattern), replacement)
    for needs, pattern, replacement in (
        (("<<",), r"<<[^<>\n]*>>", ""),  # GSM8K's calculator annotations
        (("{,}",), r"\{,\}", ","),
        (("&",), r"&", " "),  # where LaTeX aligns lines
        (("\\%",), r"\\%", "%"),
        (("\\sqrt",), r"\\sqrt", "√"),
        (
            ("\\left", "\\right", "\\big", "\\Big"),
            r"\\(?:left|right|(?:big|Big)g?[lr]?)(?![A-Za-z])\.?",
            " ",
        ),
        (
            ("\\",),
            r"\\(?:\\(?![A-Za-z])|(?:begin|end)\{[a-z]{1,20}\*?\}"
            r"|(?:q?quad|implies|iff|to|therefore|(?:[Rr]ight|[Ll]eftright)arrow)(?![A-Za-z]))",
            "\n",
        ),
        (("\\",), r"\\(?:text|mathrm|boxed|textbf|mathbf)\{([^{}\n]{0,40})\}", r" \1 "),
        # A whole number in front makes it a mixed number, as `regime_w.numbers.answers` reads it.
        (
            ("\\",),
            r"(?<![\d.,])([0-9]+) ?\\[dt]?frac\{([0-9]{1,40})\}\{([0-9]{1,40})\}",
            r"(\1+\2/\3)",
        ),
        (("\\",), r"\\[dt]?frac\{([^{}\n]{1,40})\}\{([^{}\n]{1,40})\}", r"((\1)/(\2))"),
        (("{",), r"\{(\s?-?[0-9.,]{1,40}%?\s?)\}", r" \1 "),
        (("\\", "×", "·", "⋅"), r"\\times|\\cdot|[×·⋅]", "*"),
        (("\\", "÷"), r"\\div|÷", "/"),
        (("multiplied by",), r"\bmultiplied by(?= [$€£¥\d(.])", "*"),
        (("divided by",), r"\bdivided by(?= [$€£¥\d(.])", "/"),
        (("times",), r"\btimes(?= [$€£¥\d(.])", "*"),
        (("x", "X"), r"(?<=[\d%)]) ?[xX] ?(?=[\d$€£¥(.])|(?<=[\w%)]) [xX] (?=[\d$€£¥(.])", "*"),
        ((" of ",), r"(?<=%) of (?=[$€£¥\d(.])|(?<=\d/\d) of (?=[$€£¥\d(.])", "*"),
        # Below, ^ stands for everything that is not read: powers, times of day, decimal commas, negated
        # parentheses. A stated result may be read in front of "!".
        (("**",), r"(?<=[\d)])(?:\*\*| \*\* )(?=[\d(])", "^"),
        # Behind a letter, a superscript is a unit's.
        (tuple(_SUPERSCRIPTS), rf"(?<=[\d)])[{_SUPERSCRIPTS}]", "^"),
        # Not "Step 1:5+3=8".
        (
            (":",),
            r"(?i)(?<!step )(?<!week )(?<!day )(?<![\d.,])([0-9]{1,2}):(?=[0-9]{2}(?![0-9]))",
            r"\1^",
        ),
        ((",",), r"(?<=\d),(?=\d)(?!\d{3}(?!\d))", "^"),
        (("..", "…"), r"(?<=\d)(?:\.{2,}|…)", "!"),
        (("-(",), r"-(?<![\w)%]-)(?<![\w)%]\s-)\(", "^("),
        (tuple("\\$€£¥*_`~"), r"\\?[$€£¥]|\\[\[\]() ,;!]|[*]{2,}|[_`~]", " "),
        (("/",), r"/ ?(?=[A-Za-z])[A-Za-z]+", " "),  # the unit of a rate
        (("-",), r"(?<=\d)-(?=[A-Za-z]{2})", " "),  # a "67-minute break"
        # "4s" may be four of a variable, "4 s" are seconds.
        (("=",), r"(?<=\d)[gmlLhscdaAI](?![A-Za-z0-9])", " variable"),
        (("/",), r"\b([0-9]+) ([0-9]+/[0-9]+)(?![/0-9])", r"(\1+\2)"),
        # "25 / 1/3" divides by a third.
        (("/",), r"(?<=/\s)([0-9]+/[0-9]+)(?![/0-9])", r"(\1)"),
        (("[",), r"\[", "("),
        (("]",), r"\]", ")"),
        (("(",), r"(?<=[0-9])\((?=[0-9.(])|(?<=\))\((?=[0-9.(])", "*("),
    )
)


def clauses(text: str) -> list[str]:
    """The clauses that may hold an equation, in plain notation; ``^`` and ``!`` cut off what is not read."""
    text = to_ascii(text)
    text = "\n".join(clause for clause in _CLAUSE_END.split(text) if "=" in clause)
    for needs, pattern, replacement in _NORMALISING:
        if any(piece in text for piece in needs):
            text = pattern.sub(replacement, text)
    return text.split("\n")

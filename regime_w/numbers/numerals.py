"""Numerals as people and models write them, and the canonical form in which answers are compared.

From texts to ASCII text or exact numbers. `regime_w.numbers.answers` finds the answer in a text.
"""

import re
import unicodedata
from fractions import Fraction

MAX_DIGITS = 100
"""Most digits of an answer. This bounds the arithmetic: int() refuses 4300 digits and more."""
_MAX_EXPONENT = 2 * MAX_DIGITS

_SUPERSCRIPTS = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻", "0123456789+-")
_GROUPED = r"[1-9][0-9]{0,2}+(?:(?P<sep>[,' _])[0-9]{3}(?:(?=(?P=sep)[0-9][0-9][0-9])(?P=sep)[0-9]{3})*+)(?![0-9])"
_WHOLE = r"(?:[1-9][0-9]{0,2}+(?:(?=,[0-9][0-9][0-9]),[0-9]{3})++(?![0-9])|[0-9]++)"
_SCALES = {
    "hundred": 10**2,
    "thousand": 10**3,
    "million": 10**6,
    "billion": 10**9,
    "trillion": 10**12,
    "quadrillion": 10**15,
    "lakh": 10**5,
    "crore": 10**7,
}
SCALE = rf"(?:{'|'.join(_SCALES)})"
"""Regular expression of a word that multiplies the number before it."""

# Possessive quantifiers: a run of digits is taken whole or not at all, so no input backtracks.
NUMBER = rf"""
(?:
    (?:(?P<whole>[0-9]++)[ ]++)? (?P<numerator>{_WHOLE}) (?P<slash>[ ]?/[ ]?) (?P<denominator>{_WHOLE})
  |
    (?: (?P<integer>{_GROUPED} | [0-9]++) (?:\.(?P<decimals>[0-9]++))? | (?<![.\w])\.(?P<only_decimals>[0-9]++) )
    (?:
        [eE](?P<e>[+-]?[0-9]++)
      | [ ]?(?:[xX*×·]|\\times|\\cdot)[ ]?10 (?:\^\{{?(?P<power>[+-]?[0-9]++)\}}? | (?P<superscript>[⁺⁻]?[⁰¹²³⁴-⁹]++))
      | [ ](?P<scale>{SCALE})s?\b
    )?
)"""
"""Regular expression (verbose, ignoring case) of an unsigned number; `value_of` reads its match."""


def value_of(match: re.Match[str]) -> Fraction | None:
    """Returns the exact value of a match of `NUMBER`, or None if it has none within bounds."""
    text = match.group()
    if sum(map(str.isdigit, text)) > MAX_DIGITS:
        return None
    if text.isdecimal():  # as most are
        return Fraction(int(text))
    part = match.groupdict()
    if part["numerator"] is not None:
        numerator, denominator = (
            part[name].replace(",", "") for name in ("numerator", "denominator")
        )
        value = _fraction(part["whole"], numerator, denominator)
        if value is None or part["slash"] == "/":
            return value
        # With spaces, "7 / 2" is a fraction, but "36 / 2" and "1 3 / 2" are unfinished work.
        is_reduced = value.denominator == int(denominator) > 1
        return value if is_reduced and part["whole"] is None else None
    if part["only_decimals"] is not None:
        value = Fraction(f"0.{part['only_decimals']}")
    else:
        integer = re.sub("[^0-9]", "", part["integer"])
        value = Fraction(f"{integer}.{part['decimals'] or 0}")
    exponent = int(
        (part["e"] or part["power"] or part["superscript"] or "0").translate(_SUPERSCRIPTS)
    )
    if abs(exponent) > _MAX_EXPONENT:
        return None
    return value * Fraction(10) ** exponent * _SCALES.get((part["scale"] or "").lower(), 1)


def _fraction(whole: str | None, numerator: str, denominator: str) -> Fraction | None:
    if int(denominator) == 0:
        return None
    value = Fraction(int(numerator), int(denominator))
    if whole is None:
        return value
    # "2 1/2" is one number; "2 3/2" is two.
    return int(whole) + value if value < 1 else None


def canonical(value: int | Fraction) -> str | None:
    """Writes a number in canonical form: a decimal if a finite one exists, else a fraction.

    Returns:
        For example ``18``, ``-5``, ``0.5`` or ``1/3``; None beyond `MAX_DIGITS` digits.
    """
    if value.denominator == 1:  # as most are
        text = str(value.numerator)
        return text if len(text.lstrip("-")) <= MAX_DIGITS else None
    rest, num_twos, num_fives = value.denominator, 0, 0
    while rest % 2 == 0:
        rest, num_twos = rest // 2, num_twos + 1
    while rest % 5 == 0:
        rest, num_fives = rest // 5, num_fives + 1
    if rest != 1:
        text = str(value)
    else:
        num_decimals = max(num_twos, num_fives)
        digits = str(abs(value.numerator) * 10**num_decimals // value.denominator)
        digits = digits.zfill(num_decimals + 1)
        sign = "-" if value < 0 else ""
        text = f"{sign}{digits[:-num_decimals]}.{digits[-num_decimals:]}"
    return text if sum(map(str.isdigit, text)) <= MAX_DIGITS else None


class _AsciiTable(dict[int, str]):
    """Maps code points for `str.translate`, each computed on first use."""

    def __missing__(self, code: int) -> str:
        self[code] = _ascii_of(chr(code))
        return self[code]


_PUNCTUATION = {
    **dict.fromkeys("−‐‑‒–﹣", "-"),  # minus, hyphens, en dash; the em dash is not a sign
    **dict.fromkeys("⁄∕", "/"),
    **dict.fromkeys("‘’′", "'"),
    **dict.fromkeys("“”″«»", '"'),
    "٫": ".",
    "٬": ",",
    "٪": "%",
}


def _ascii_of(char: str) -> str:
    if char < "\x80":
        return char
    if char in _PUNCTUATION:
        return _PUNCTUATION[char]
    category = unicodedata.category(char)
    if category == "Nd":
        return str(unicodedata.decimal(char))
    if category == "Zs":
        return " "
    if category == "Cf":  # zero-width and direction marks
        return ""
    kind, _, codes = unicodedata.decomposition(char).partition(" ")
    if kind == "<wide>":
        return chr(int(codes, 16))
    if kind == "<fraction>":
        # The leading space keeps 1½ from reading as 11/2; "⅟" without a denominator is not a number.
        text = unicodedata.normalize("NFKC", char).replace("⁄", "/")
        return char if text.endswith("/") else " " + text
    return char


_ASCII = _AsciiTable()


def to_ascii(text: str) -> str:
    """Writes digits, spaces, minus signs, fractions and full-width forms in ASCII; keeps the rest.

    Superscripts stay: 10³ must not become 103.
    """
    return text if text.isascii() else text.translate(_ASCII)

"""Whether the words around a number deny it, suppose it, or offer another: it is then no answer.

From the text before or behind a number, or before an "answer is", to a yes or no. Texts are of bounded length.
"""

import re

# Before the word "answer": a wrong one, a supposed one, the one that others give.
_UNCLAIMED = r"""
    \b (?: (?:wrong|incorrect|mistaken|false|erroneous) \s+ (?:[a-z]++\s++){0,4}
      | (?:if|suppose|supposing|assume|assuming|unless|whether) \s+ (?:that\s+)? (?:(?:the|my|our|your|an?)\s+(?:[a-z]++\s++){0,2})?
      | (?:might|may|could|would|people|students?|some|many) \s+ (?:[a-z]++\s++){0,2} (?:think|say|guess|assume|believe)
        \s+ (?:that\s+)? (?:the\s+)? (?:[a-z]++\s++){0,2} )
"""
_UNCLAIMED_ANSWER = re.compile(rf"{_UNCLAIMED} \Z", re.VERBOSE | re.IGNORECASE)
_DENIED = re.compile(
    rf"""
    (?: {_UNCLAIMED} answer\b [^.!?\n0-9]{{0,60}}+
      | (?: \b(?:not|never|nor|neither|cannot|instead\ of|rather\ than) | n['’]t ) \b (?!\s+only\b)
        (?: \s+ (?!(?:so|but|then|thus|hence|therefore|and|because|since|as)\b) [a-z]++ ){{0,3}}+
        [^\w.!?,;:\n]{{0,20}}+
    ) \Z
    """,
    re.VERBOSE | re.IGNORECASE,
)
_DENIED_BEHIND = re.compile(
    r"""
    [\s$*_)\]}"']*+ (?:[a-z]++\s++){0,2}?
    (?: (?:is|was|are|were)\s+ (?:wrong|incorrect|impossible | not\s+(?:the\s+|my\s+)?(?:[a-z]++\s+)? (?:answer|solution|right|correct))
      | (?:is|was)n['’]t\s+(?:the\s+|my\s+)?(?:[a-z]++\s+)? (?:answer|solution|right|correct) ) \b
    """,
    re.VERBOSE | re.IGNORECASE,
)
_NO_ANSWER = re.compile(
    r"""
    \b (?: impossible | no\s(?:answer|solution|way) | undefined | insufficient | not\senough\sinformation
      | can(?:not|['’]t)\sbe\s(?:done|determined|solved|answered|known|found|computed|calculated) ) \b
    (?: [^.!?\n,] | ,(?=\s(?:since|because|as|for)\b) )*+ \Z
    """,
    re.VERBOSE | re.IGNORECASE,
)
# "between 18 and 20", "18 or 20", "3 to 5", "18 out of 20": the second number is not the one asked for.
_ANOTHER = re.compile(
    r"""
    (?: \bbetween\b [^.!?\n]{1,60} \sand
      | (?P<choice> [0-9][\w.,%]*+ (?:\s[a-z]++){0,2}? ,? \s or (?:\s[a-z]++){0,2} )
      | [0-9] \s to | [0-9][\w.,%]*+ (?:\s[a-z]++){0,3}? \s out\ of
    ) \s [\s$€£¥]{0,4} \Z
    """,
    re.VERBOSE | re.IGNORECASE,
)
_RESULT_BEFORE = re.compile(r"[0-9][^!?;\n]*[-+*/=×÷]\s?[$€£¥]?\Z")
"""Before a result that an "or" restates: "210 / 350 = 0.60 or 60%"."""


def is_unclaimed(before: str) -> bool:
    """Whether an "answer is" behind a text is not claimed: "the wrong answer is", "if the answer was"."""
    return _UNCLAIMED_ANSWER.search(before) is not None


def is_denied(before: str, behind: str) -> bool:
    """Whether the text before a number or behind it says that it is not the answer: "not 18", "18 is wrong"."""
    return _DENIED.search(before) is not None or _DENIED_BEHIND.match(behind) is not None


def is_one_of_several(before: str) -> bool:
    """Whether the text before a number offers another: "18 or", "between 18 and"."""
    another = _ANOTHER.search(before)
    if another is None:
        return False
    return another["choice"] is None or not _RESULT_BEFORE.search(before, 0, another.start())


def has_no_answer(before: str) -> bool:
    """Whether the sentence that leads to a number says that there is no answer."""
    return _NO_ANSWER.search(before) is not None

"""Words with which a text denies an answer, supposes it, takes it back, or offers another, so that it gives none.

From the text before or behind a number, a box or an "answer is" to a yes or no, for answers of every type.
Texts are of bounded length.
"""

import re

from regime_w.texts.completions import STRUCK

_WRONG = "wrong|incorrect|mistaken|false|untrue|erroneous"
_SUPPOSING = r"if|unless|whether|suppos\w+|assum\w+|imagine"
_CONCLUDING = "so|therefore|thus|hence"
_CORRECTING = "no|wait|sorry|oops|correction|actually|rather"
_NEGATION = r"(?:\b(?:not|never|nor|neither)\b|n['’]t\b)"

MAX_BEHIND = 160
"""The most characters behind a statement that may take it back."""

_GAP = r"[^\S\n]"
# Before the word "answer": says that it is wrong, supposed, or given by others.
_UNCLAIMED = rf"""
    \b (?: (?:{_WRONG}) {_GAP}+ (?:[a-z]++{_GAP}++){{0,4}}
      | (?:{_SUPPOSING}) {_GAP}+ (?:that{_GAP}+)? (?:(?:the|my|our|your|an?){_GAP}+(?:[a-z]++{_GAP}++){{0,2}})?
      | (?:might|may|could|would|people|students?|some|many) {_GAP}+ (?:[a-z]++{_GAP}++){{0,2}} (?:think|say|guess|assume|believe)
        {_GAP}+ (?:that{_GAP}+)? (?:the{_GAP}+)? (?:[a-z]++{_GAP}++){{0,2}} )
"""
_UNCLAIMED_ANSWER = re.compile(rf"{_UNCLAIMED} \Z", re.VERBOSE | re.IGNORECASE)
_DENIED = re.compile(
    rf"""
    (?: {_UNCLAIMED} answer\b [^.!?\n0-9]{{0,60}}+
      | (?: {_NEGATION} | \b(?:cannot|instead\ of|rather\ than)\b ) (?!\s+only\b)
        (?: \s+ (?!(?:so|but|then|thus|hence|therefore|and|because|since|as)\b) [a-z]++ ){{0,3}}
        [^\w.!?,;:\n]{{0,20}}+
    ) \Z
    """,
    re.VERBOSE | re.IGNORECASE,
)
_DENIED_BEHIND = re.compile(
    rf"""
    [\s$*_)\]}}"']*+ (?:[a-z]++\s*+){{0,2}}? (?:[,;(-]\s*)? (?:(?:but|and|which|that|this|it)\s+){{0,2}}
    (?: (?:is|was|are|were|would\ be|turned\ out\ to\ be)\s+
        (?:{_WRONG}|impossible | an?\s+(?:common\s+)?(?:mistake|error)
          | not\s+(?:the\s+|my\s+)?(?:[a-z]++\s+)? (?:answer|solution|right|correct))
      | (?:is|was)n['’]t\s+(?:the\s+|my\s+)?(?:[a-z]++\s+)? (?:answer|solution|right|correct) ) \b
    """,
    re.VERBOSE | re.IGNORECASE,
)
_FIRST_TRY = re.compile(
    rf"""
    \b (?: (?:i|we)\s+(?:first|initially|originally) | at\s+first,?\s+(?:i|we) | (?:mistaken|wrong|incorrect|erroneous)ly
      | (?:{_WRONG}|mistake)\b [^.!?;\n0-9]{{0,40}} \b(?:say|think|answer|write|claim|get) )
    \s [^.!?;\n0-9]{{0,30}} \Z
    """,
    re.VERBOSE | re.IGNORECASE,
)
_NO_ANSWER = re.compile(
    r"""
    \b (?: impossible | no\s(?:answer|solution|way) | undefined | insufficient | not\senough\sinformation
      | can(?:not|['’]t)\sbe\s(?:done|determined|solved|answered|known|found|computed|calculated) ) \b
    (?: [^.!?\n,] | ,(?=\s(?:since|because|as|for)\b) )* \Z
    """,
    re.VERBOSE | re.IGNORECASE,
)
# "between 18 and 20", "18 or 20", "3 to 5", "18 out of 20": the second number is not the one asked for.
_ANOTHER = re.compile(
    r"""
    (?: \bbetween\b [^.!?\n]{1,60} \sand
      | (?P<choice> [0-9][\w.,%]*+ [$)}]{0,2} (?:\s[a-z]++){0,2}? ,? \s or\b [\s$(]{0,3} (?:\s?[a-z]++){0,2} (?:\s?=)? )
      | [0-9] \s to | [0-9][\w.,%]*+ (?: \s of | (?:\s[a-z]++){0,3}? \s out\ of )
      | \b(?:answers|solutions|roots)\b [^.!?\n]{1,60} (?:,|\sand) | \A[\s$(*]* [0-9][0-9.,]*+ \s? (?:and|[&;])
      | [0-9][.,;]? \s (?:\(?[b-e]|[2-5])\) | \A\W* (?:(?:it|that|this|x)\ (?:is|was)\ )? (?:at\ (?:least|most) | (?:(?:no\ )?(?:more|less|fewer)|greater)\ than)
    ) \s [\s$€£¥]{0,4} \Z
    """,
    re.VERBOSE | re.IGNORECASE,
)
_RESULT_BEFORE = re.compile(r"[0-9][^!?;\n]*[-+*/=×÷]\s?[$€£¥]?\Z")
"""Matches text before a result that an "or" restates: "210 / 350 = 0.60 or 60%"."""

_SUPPOSED = re.compile(
    rf"\b(?:{_WRONG}|{_SUPPOSING}|why|how|or|cannot|unlikely|doubtful|impossible|might|could|may|maybe|perhaps"
    rf"|possibly|thought|believed|guessed|claim\w*|argu\w+)\b|{_NEGATION}",
    re.IGNORECASE,
)
_HEDGE = re.compile(
    r"\b(?:or|not|cannot|\w+n['’]t|never|neither|nor|maybe|perhaps|probably|possibly|unsure|unknown"
    r"|at least|at most|approx|approximately|roughly|if|unless|but|wrong|incorrect)\b"
    rf"|[?~<>≈≃≅±∓≠≤≥{STRUCK}]|!=|\\(?:approx|sim|pm|mp|neq?|leq?|geq?|lt|gt)\b|\.\.|…",
    re.IGNORECASE,
)
_DENIAL = re.compile(r"[\W_]*+(?:not|never|neither|n['’]t|no longer)\b(?! only)", re.IGNORECASE)
_INSTEAD = re.compile(r"\b(?:but|rather|instead)\b", re.IGNORECASE)
_REPLACEMENT = re.compile(
    rf"\W*(?:and )?(?:{_CONCLUDING}|{_CORRECTING}|rounded|rounding|meaning|which (?:rounds?|means|makes|gives)"
    r"|i mean|(?:make|scratch) that|should be|that is|i\.?e|namely|alternatively|as well as|and)\b",
    re.IGNORECASE,
)
# "No, it is 20", but not "No more steps are needed".
_GOES_ON = r"(?=\s*[,.!:;…-]|\s+(?:wait|sorry|actually|it|that|this|i|the\s(?:[a-z]+\s)?answer)\b|[\s$*]*[0-9]|\s(?-i:[A-Z])|\s*\Z)"
_WITHDRAWAL = re.compile(
    rf"""
    [\W_]*+ (?:(?:oh|hm+|but|or)\b[\W_]*+)?
    (?: (?:no|sorry|apologies|rather|hm+)\b {_GOES_ON}
      | (?: wait | oops | correction | actually | (?:make|scratch)\ that | on\ second\ thoughts? | my\ (?:mistake|bad)
          | (?: that(?:['’]s|\ is) | this\ is | i\ (?:was|am) | i['’]m )\ (?:{_WRONG}) | i\ (?:mean|meant|misread|made\ (?:a\ mistake|an\ error)) | let\ me\ correct
          | (?:(?:it|that|this|the\ answer)\ )? should\ (?:be|have\ been|read) | the\ (?:correct|right|actual)\ answer
          | (?:edit|update)(?=:) )\b )
    """,
    re.VERBOSE | re.IGNORECASE,
)
_REJECTION = re.compile(
    rf"[\W_]*+(?:(?:no|wait|hm+|oops|but)\b[\W_]*+)?(?:note: )?(?:that|this|the above|(?:this|that|my|the) answer)(?:['’]s| is| was) (?:{_WRONG}|not (?:right|correct)|a mistake|an error)\b",
    re.IGNORECASE,
)
_CORRECTION = re.compile(
    r"\A[\s$]*+[=≈]|[→⇒∴]|\\(?:implies|to|[Rr]ightarrow|therefore)\b"
    rf"|\b(?:{_CORRECTING}|{_CONCLUDING}|not|correct\w*|instead|means?|then|gives?|giving|final\w*|answer|total)\b",
    re.IGNORECASE,
)


def is_unclaimed(before: str) -> bool:
    """Whether the text before an "answer is" shows that it is not claimed: "the wrong answer is", "if the answer was"."""
    return _UNCLAIMED_ANSWER.search(before) is not None


def is_denied(before: str, behind: str) -> bool:
    """Whether the text before a number or behind it says that it is not the answer: "not 18", "18 is wrong"."""
    return (
        _DENIED.search(before) is not None
        or _DENIED_BEHIND.match(behind) is not None
        or is_first_try(before)
    )


def is_one_of_several(before: str) -> bool:
    """Whether the text before a number offers another: "18 or", "between 18 and"."""
    another = _ANOTHER.search(before)
    if another is None:
        return False
    return another["choice"] is None or not _RESULT_BEFORE.search(before, 0, another.start())


def has_no_answer(before: str) -> bool:
    """Whether the sentence up to a number says that there is no answer."""
    return _NO_ANSWER.search(before) is not None


def is_supposed(clause: str) -> bool:
    """Whether the clause before an "answer is" denies it, doubts it or supposes it."""
    return _SUPPOSED.search(clause) is not None


def denial(text: str, start: int = 0) -> re.Match[str] | None:
    """The negation at ``start`` of a text, if there is one: "not 18", "n't 18"."""
    return _DENIAL.match(text, start)


def says_instead(text: str) -> bool:
    """Whether a denial also says what is right: "not A but B"."""
    return _INSTEAD.search(text) is not None


def is_replacement(rest: str) -> bool:
    """Whether the rest of a sentence concludes or corrects: "17.8, so 18", "18, I mean 20"."""
    return _REPLACEMENT.match(rest) is not None


def is_first_try(before: str) -> bool:
    """Whether the text before a number tells of a first, wrong answer: "I first got 20"."""
    return _FIRST_TRY.search(before) is not None


def is_rejection(behind: str) -> bool:
    """Whether the text behind a statement calls it wrong: "No, that is wrong."."""
    return _REJECTION.match(behind) is not None


def is_withdrawal(behind: str) -> bool:
    """Whether the text behind a statement may give another instead: "No, it's 20.", "I mean 20"."""
    return _WITHDRAWAL.match(behind) is not None


def has_correction(between: str) -> bool:
    """Whether the text between two answers corrects the first or concludes the second from it."""
    return _CORRECTION.search(between) is not None


def has_hedge(text: str) -> bool:
    """Whether a text doubts, negates or bounds its number, or offers another."""
    return _HEDGE.search(text) is not None

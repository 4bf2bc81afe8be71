"""Finds evaluation questions that are also trained on, exactly or nearly.

Questions are compared by their words, numbers and operators (`question_key`). A question is a near copy of a
training question that has at least half of its word sequences, not counting those that many training questions have,
such as an instruction around every question. An index of sequences finds copies in linear time.
"""

import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from trainer.config.data import is_built_in
from trainer.data.sources import Record

SEQUENCE_WORDS = 5
"""Words in a sequence: enough to be rarely shared by chance, and few enough to fit between two changed numbers."""
NEAR_SHARE = 0.5
"""A near copy shares at least this fraction of its sequences that are not common with one training question."""
_COMMON_SHARE = 0.03
"""A sequence is common, and left out, if more than this fraction of the training questions have it."""
_FEWEST_COMMON, _MOST_RARE = 16, 1000
"""It is common only if more questions than the first have it, whatever their share, and always if more than the second
have it, so that the time stays linear."""
_NUM_SHOWN = 3
_MANY_NEAR = 0.1
"""Near copies are named if they are at least this share of the evaluation questions: texts made from templates always
have a few. Those of a built-in source are all from its templates, and are neither named nor counted."""

_SIGNS = str.maketrans(
    {
        **dict.fromkeys("−‐‑‒–", "-"),
        **dict.fromkeys("×·⋅∙", "*"),
        **dict.fromkeys("÷∕⁄", "/"),
        **dict.fromkeys("′‘’ʹʼ", "'"),
        "∣": "|",
        "‖": "||",
    }
)
_SUPERSCRIPTS = re.compile(r"[⁺⁻]?[⁰¹²³⁴-⁹]+")
_FRACTION = re.compile(r"(?=[¼-¾⅐-⅞])")
# A minus before one letter is a sign if nothing stands before it that it could be subtracted from, or joined to by
# a hyphen. It is marked before spaces are removed, since "is -x" and "e-x" would then look alike.
_MINUS = "−"
_UNARY_MINUS = re.compile(r"(?<![\w.?!;])-(?=[a-z](?![^\W\d_]))")
_AROUND_OPERATORS = re.compile(r" ?([-+/^=<>≤≥≠()]) ?")
_MATHEMATICAL = "⌈⌉⌊⌋" + "".join(
    sign for sign in map(chr, range(0x80, 0x10000)) if unicodedata.category(sign) == "Sm"
)
"""Floor and ceiling, and Unicode's mathematical symbols, for which the members of ASCII have rules of their own."""
# Hyphens, slashes, emphasis, apostrophes and parentheses in prose are not operators; a number is one piece. A prime
# follows one letter or a parenthesis, and something other than a word or the end of a sentence follows it. A "~" in
# LaTeX is a space, unless a space stands before it.
_PIECE = re.compile(
    r"""
    \d+(?:[.,:]\d+)+ | \w+ | [+^=<>|SIGNS] | (?<![^\s(])~(?!~)
    | (?<=[\w)])\*+(?=[\w(]) | (?<=\))\*+(?=[ ][\w(]) | (?<=[\w)][ ])\*+(?=[ ][\w(]) | (?<=[\d)][ ])\*(?=[\d(])
    | /(?=[\d(]|[a-z]\b) | (?<=[\d)])% | (?<=[\d)])!(?=[-+/^=?)])
    | -(?=[\d(.$\\|SIGNS]) | (?<=[\d)}\]|⌋⌉'])-(?=[a-z]\b) | (?<=\b[a-z])-(?=[a-z]\b)
    | (?:(?<=[a-z])(?<!['\w][a-z])|(?<=\)))'+(?=[-+*/^=<>(|$}_])
    | (?<=[-+*/^=√])\( | \((?=[^()]{0,40}\)[ ]?[-+*/^]) | \)(?=[ ]?[-+*/^])
    """.replace("SIGNS", _MATHEMATICAL),
    re.VERBOSE,
)


@dataclass(frozen=True, kw_only=True)
class Repeats:
    """The questions that a source has more than once."""

    num_questions: int
    repeated: tuple[tuple[str, str], ...]
    """(id, id of the first one) of every repetition."""
    contradictory: tuple[tuple[str, str], ...]
    """Repetitions with a different gold answer."""

    def line(self, source: str) -> str:
        """The result as one line for a log."""
        text = f"data: {self.num_questions} questions of {source}, "
        if not self.repeated:
            return text + "none twice"
        text += f"{len(self.repeated)} repeat an earlier one ({_shown(self.repeated, '=')})"
        if self.contradictory:
            text += (
                f", {len(self.contradictory)} of them with another answer "
                f"({_shown(self.contradictory, '=')})"
            )
        return text


@dataclass(frozen=True, kw_only=True)
class Overlap:
    """The evaluation questions that were trained on."""

    num_questions: int
    exact: tuple[tuple[str, str], ...]
    """(id, id in training) of the same questions."""
    near: tuple[tuple[str, str], ...]
    """(id, id in training) of near copies."""

    def line(self, training: str, evaluation: str) -> str:
        """The result as one line for a log, which is short unless something is wrong.

        Args:
            training: The source that is trained on.
            evaluation: The source of the questions that are asked.
        """
        built_in = is_built_in(evaluation)
        few = built_in or len(self.near) < _MANY_NEAR * self.num_questions
        if few and not self.exact:
            near = f", {len(self.near)} nearly" if self.near and not built_in else ""
            return f"contamination: none of {self.num_questions} held-out questions is trained on{near}"
        text = f"contamination: of {self.num_questions} questions of {evaluation} (held out), "
        text += f"{len(self.exact) or 'none'} also in {training} (training)"
        if self.exact:
            text += f" ({_shown(self.exact, '=')}), which makes their accuracy worthless"
        text += f"; {len(self.near) or 'none'} nearly so"
        if self.near:
            text += (
                f" (a question there has {NEAR_SHARE:.0%} of their rarer {SEQUENCE_WORDS}-word sequences: "
                f"{_shown(self.near, '~')})"
            )
        return text


def question_key(question: str) -> str:
    """A question reduced to its words, numbers and operators; questions with equal keys count as the same.

    "12 + 7" and "12 - 7" differ, as do "2²" and "22"; case, punctuation and white space do not count.
    """
    raised = _SUPERSCRIPTS.sub(
        lambda power: f"^{power[0]}", _FRACTION.sub(" ", _without_tables(question))
    )
    text = " ".join(unicodedata.normalize("NFKC", raised).translate(_SIGNS).casefold().split())
    text = _AROUND_OPERATORS.sub(r"\1", _UNARY_MINUS.sub(_MINUS, text))
    return " ".join(_PIECE.findall(text)).replace(_MINUS, "-")


def _without_tables(text: str) -> str:
    """The text without the bars of its Markdown tables; their rows lie around a line such as ``|---|:-:|``."""
    if "|" not in text:
        return text
    lines = text.splitlines()
    end = 0
    for i, line in enumerate(lines):
        if i < end or not (set(line) <= set("|-: \t") and "|" in line and "-" in line):
            continue
        lines[i] = ""
        end = i + 1
        while end < len(lines) and "|" in lines[end]:
            end += 1
        rows = [*range(max(0, i - 1), end)]
        for row in rows:
            lines[row] = lines[row].replace("|", " ")
    return "\n".join(lines)


def data_lines(
    training_source: str,
    training: Sequence[Record],
    evaluation_source: str | None,
    evaluation: Sequence[Record] | None,
) -> list[str]:
    """The lines that a command prints about its data before it begins: one, unless something is wrong."""
    repeats = find_repeats(training)
    line = repeats.line(training_source)
    if evaluation_source is None or evaluation is None:
        return [line]
    overlap = find_overlap(training, evaluation)
    if not (repeats.repeated or overlap.exact or overlap.near):
        return [f"{line}, none among the {overlap.num_questions} held out"]
    return [line, overlap.line(training_source, evaluation_source)]


def find_repeats(records: Sequence[Record]) -> Repeats:
    """Find the questions that a source repeats."""
    first: dict[str, Record] = {}
    repeated, contradictory = [], []
    for record in records:
        original = first.setdefault(question_key(record.question), record)
        if original is not record:
            repeated.append((record.id, original.id))
            read = record.answer_type.read_gold
            if not record.answer_type.equal(read(record.gold), read(original.gold)):
                contradictory.append(repeated[-1])
    return Repeats(
        num_questions=len(records), repeated=tuple(repeated), contradictory=tuple(contradictory)
    )


def find_overlap(training: Iterable[Record], evaluation: Sequence[Record]) -> Overlap:
    """Find the evaluation questions that are among the training questions, which are read once.

    Time is linear in the words of both, and memory in those of the evaluation; a training question takes one number.
    """
    asked = [(record, question_key(record.question)) for record in evaluation]
    texts = {text for _, text in asked}
    wanted = {sequence for _, text in asked for sequence in _sequences(text)}
    same: dict[str, str] = {}
    holders: defaultdict[str, list[str]] = defaultdict(list)
    seen: set[int] = set()
    num_training = 0
    for record in training:
        num_training += 1
        text = question_key(record.question)
        if text in texts:
            same.setdefault(text, record.id)
        if hash(text) in seen:
            continue
        seen.add(hash(text))
        for sequence in _sequences(text) & wanted:
            if len(holders[sequence]) <= _MOST_RARE:
                holders[sequence].append(record.id)
    most = min(max(_FEWEST_COMMON, int(_COMMON_SHARE * num_training)), _MOST_RARE)
    common = {sequence for sequence, found in holders.items() if len(found) > most}
    exact, near = [], []
    for record, text in asked:
        if text in same:
            exact.append((record.id, same[text]))
            continue
        sequences = _sequences(text) - common
        counts = Counter(holder for each in sequences for holder in holders.get(each, ()))
        for holder, count in counts.most_common(1):
            if count >= NEAR_SHARE * len(sequences):
                near.append((record.id, holder))
    return Overlap(num_questions=len(asked), exact=tuple(exact), near=tuple(near))


def _sequences(text: str) -> set[str]:
    """All sequences of `SEQUENCE_WORDS` words; a shorter text is one sequence."""
    words = text.split()
    starts = range(max(1, len(words) - SEQUENCE_WORDS + 1))
    return {" ".join(words[i : i + SEQUENCE_WORDS]) for i in starts}


def _shown(pairs: Sequence[tuple[str, str]], sign: str) -> str:
    shown = ", ".join(f"{one} {sign} {other}" for one, other in pairs[:_NUM_SHOWN])
    return shown + (", …" if len(pairs) > _NUM_SHOWN else "")

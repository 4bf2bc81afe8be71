"""Lines that a command prints at its start about what it takes of its questions, and what it leaves out."""

import re
import unicodedata
from collections.abc import Callable, Sequence

from trainer.config.data import RecordShape
from trainer.data.sources import Record, load_records
from trainer.data.word_problems import Split

_SHOWN_CHARS = 60
_FIRST_CHOICE, _SECOND_CHOICE = (
    re.compile(
        rf"(?<![^\W_]){letter}[*_ ]*[).:\]>、]|^[^\w\n]*{letter}\b", re.IGNORECASE | re.MULTILINE
    )
    for letter in "AB"
)
"""The letters of choices: ``A)``, ``(A)``, ``A.``, ``A:``, ``<A>``, ``**A**:``, or at the beginning of a line."""


def load_with_notices(
    source: str,
    split: Split,
    *,
    num_records: int,
    key: str,
    seed: int,
    shape: RecordShape,
    say: Callable[[str], None],
) -> list[Record]:
    """As `load_records`; ``say`` gets the lines about the source, and ``key`` is the setting of ``num_records``."""
    records = load_records(
        source,
        split,
        num_records=num_records,
        seed=seed,
        shape=shape,
        on_more=lambda: say(line_of_more(source, num_records, key)),
    )
    for line in record_lines(source, records, shape):
        say(line)
    return records


def record_lines(source: str, records: Sequence[Record], shape: RecordShape) -> list[str]:
    """The lines about what the records of a source have, and about choices that they do not show."""
    return [*_of_system_messages(source, records), *_of_hidden_choices(source, records, shape)]


def _of_system_messages(source: str, records: Sequence[Record]) -> list[str]:
    found = [record.system_message for record in records if record.system_message is not None]
    if not found:
        return []
    text = " ".join(found[0].split())
    shown = text if len(text) <= _SHOWN_CHARS else f"{text[:_SHOWN_CHARS]}…"
    same = f" (all the same: {shown!r})" if len(set(found)) == 1 else ""
    return [
        f"data: {len(found)} of {len(records)} questions of {source} have a system message{same}, which is left out, "
        "since each arm has its own (rollout.arms)"
    ]


def _of_hidden_choices(source: str, records: Sequence[Record], shape: RecordShape) -> list[str]:
    if shape.answer_type != "choice" or shape.choices is not None:
        return []
    num_hidden = sum(not _shows_choices(record.question) for record in records)
    if 2 * num_hidden <= len(records):
        return []
    key = f"{shape.key_prefix}choices"
    return [
        f"warning: {num_hidden} of {len(records)} questions of {source} show no choices such as A) and B), so the model "
        f"has to guess the letters: name the column of the choices in {key}, or write the choices into the questions"
    ]


def _shows_choices(question: str) -> bool:
    # Letters and marks may be of full width, as in Chinese texts.
    text = unicodedata.normalize("NFKC", question)
    first = _FIRST_CHOICE.search(text)
    return first is not None and _SECOND_CHOICE.search(text, first.end()) is not None


def line_of_more(source: str, num_taken: int, key: str) -> str:
    """The line for a source with more questions than are taken, which ``key`` limits."""
    return f"data: {source} has more than {num_taken} questions; only the first {num_taken} of them are taken, as {key} says"

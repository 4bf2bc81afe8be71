"""Kinds of answers, which tell without a comparison that two different answers are not equal."""

from enum import Enum, auto
from functools import cache


class Kind(Enum):
    """What an answer is, as far as can be told at once."""

    FIXED = auto()
    """It has one form, as words have: it equals no answer that is written differently, except an equation."""
    NUMBER = auto()
    NAME = auto()
    SET = auto()
    TUPLE_OR_INTERVAL = auto()
    EQUATION = auto()
    """It may equal an answer of any kind."""
    OTHER = auto()


_NEVER_EQUAL = [{Kind.NUMBER}, {Kind.NAME}, {Kind.SET, Kind.TUPLE_OR_INTERVAL}]
"""The kinds of two different answers that are not equal, though each may equal answers of other kinds."""


@cache
def comparable_kinds(kind: Kind) -> tuple[Kind, ...]:
    """The kinds of the answers that a different answer of the kind ``kind`` may equal."""
    return tuple(other for other in Kind if _may_be_equal({kind, other}))


def _may_be_equal(kinds: set[Kind]) -> bool:
    return Kind.EQUATION in kinds or not (Kind.FIXED in kinds or kinds in _NEVER_EQUAL)

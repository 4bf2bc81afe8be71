"""One message for all records of a source that cannot be read."""

from collections.abc import Sequence

from trainer.errors import DataError

_NUM_SHOWN = 3
"""Reasons to show, and places of each."""


def of_flaws(flaws: Sequence[DataError], num_read: int) -> DataError:
    """The error of the only flawed record, or one that says how many are flawed, and shows the first reasons.

    Args:
        flaws: Each begins with its place and a colon.
        num_read: How many records were read, with the flawed ones.
    """
    if len(flaws) == 1:
        return flaws[0]
    places: dict[str, list[str]] = {}
    for flaw in flaws:
        place, _, reason = str(flaw).partition(": ")
        places.setdefault(reason, []).append(place)
    shown = [*places.items()][:_NUM_SHOWN]
    num_others = len(flaws) - sum(len(where) for _, where in shown)
    more = f"; and {num_others} more" if num_others else ""
    texts = "; ".join(f"{_first_of(where)}: {reason}" for reason, where in shown)
    return DataError(f"{len(flaws)} of {num_read} records cannot be read: {texts}{more}")


def _first_of(places: Sequence[str]) -> str:
    more = len(places) - _NUM_SHOWN
    return ", ".join(places[:_NUM_SHOWN]) + (f" and {more} more" if more > 0 else "")

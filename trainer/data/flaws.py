"""One message for all records of a source that cannot be read."""

from collections.abc import Sequence

from trainer.errors import DataError

_NUM_SHOWN = 3


def of_flaws(flaws: Sequence[DataError], num_read: int) -> DataError:
    """The error of the only flawed record, or one that says how many of the records are flawed, and shows the first."""
    if len(flaws) == 1:
        return flaws[0]
    shown = [str(flaw) for flaw in flaws[:_NUM_SHOWN]]
    more = f"; and {len(flaws) - len(shown)} more" if len(flaws) > len(shown) else ""
    return DataError(f"{len(flaws)} of {num_read} records cannot be read: {'; '.join(shown)}{more}")

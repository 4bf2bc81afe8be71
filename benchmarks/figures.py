"""How the benchmarks write repeated measurements."""

from collections.abc import Sequence


def spread(values: Sequence[float], form: str = "{:.3g}") -> str:
    """The lowest and the highest, in brackets."""
    return f"({form.format(min(values))} to {form.format(max(values))})"

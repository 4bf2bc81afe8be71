"""One thing that a run's metrics show, with its evidence and the setting to change."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One thing that the metrics show."""

    name: str
    """Identifier."""
    title: str
    evidence: str
    """The numbers behind it, in sentences."""
    change: str
    """Which setting to change, and how."""


def number(value: float | None) -> str:
    """A number with three significant digits."""
    return "unknown" if value is None else f"{value:.3g}"


def percent(value: float | None) -> str:
    """A share in whole percent."""
    return "unknown" if value is None else f"{value:.0%}"

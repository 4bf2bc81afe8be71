"""One thing that a run's metrics show, with its evidence and the setting to change."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One thing that the metrics show."""

    name: str
    """For programs."""
    title: str
    evidence: str
    """The numbers, in sentences."""
    change: str
    """Which setting to change, and how."""


def number(value: float | None) -> str:
    """Three digits."""
    return "unknown" if value is None else f"{value:.3g}"


def percent(value: float | None) -> str:
    """Whole percents."""
    return "unknown" if value is None else f"{value:.0%}"

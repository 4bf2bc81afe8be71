"""The result of one check, and how sizes are shown."""

from dataclasses import dataclass
from enum import StrEnum

GIB = 2**30
"""Bytes in one GiB."""


class CheckStatus(StrEnum):
    """Whether what a check has found prevents a run."""

    OK = "ok"
    NOTE = "note"
    """The run can start, but the user should know."""
    BAD = "bad"
    """The run would fail."""


@dataclass(frozen=True, kw_only=True)
class CheckResult:
    """What one check found."""

    check: str
    status: CheckStatus
    text: str
    advice: str = ""
    """The setting to change, or what to do."""


def ok(check: str, text: str) -> CheckResult:
    """A check that passed."""
    return CheckResult(check=check, status=CheckStatus.OK, text=text)


def note(check: str, text: str, advice: str = "") -> CheckResult:
    """A check that passed, but found something that the user should know."""
    return CheckResult(check=check, status=CheckStatus.NOTE, text=text, advice=advice)


def bad(check: str, text: str, advice: str = "") -> CheckResult:
    """A check that failed."""
    return CheckResult(check=check, status=CheckStatus.BAD, text=text, advice=advice)


def size_text(num_bytes: float) -> str:
    """A number of bytes in MiB or GiB."""
    if abs(num_bytes) < GIB / 10:
        return f"{num_bytes / 2**20:.1f} MiB"
    return f"{num_bytes / GIB:.2f} GiB"

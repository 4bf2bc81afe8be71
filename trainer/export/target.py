"""The target of an export: a new folder, or a repository of the Hub. This module does not load torch."""

import os
import re
from pathlib import Path

from trainer.errors import UsageError
from trainer.io.paths import require_folder, shown_path
from trainer.io.run_layout import ADAPTERS_FOLDER

CARD_FILE = "README.md"
"""The model card."""
TAG = "regime-w"
"""A tag in the card, by which the folder of an earlier export is recognised."""

_HUB = "hub:"
_REPOSITORY = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")
_HEAD_CHARS = 4_096


def repository_of(to: str) -> str | None:
    """``owner/name`` of ``hub:owner/name``, whatever the prefix's case; None if ``to`` is a folder.

    Raises:
        UsageError: It is not the name of a repository.
    """
    prefix, name = to[: len(_HUB)], to[len(_HUB) :]
    if prefix.lower() != _HUB:
        return None
    if not _REPOSITORY.fullmatch(name):
        raise UsageError(f"to: {shown_path(to)}: a repository of the Hub is hub:owner/name")
    return name


def require_target(to: str, *, force: bool) -> None:
    """Refuse a target that cannot be exported to; nothing is created, and the network is not used.

    Args:
        to: A folder, or ``hub:owner/name``.
        force: Whether the folder of an earlier export may be replaced.

    Raises:
        UsageError: It is not the name of a repository, cannot be written to, or holds something else.
    """
    if repository_of(to) is not None:
        return
    folder = Path(to)
    require_folder(folder, field="to")
    if not os.path.lexists(folder):
        return
    if not force:
        raise UsageError(
            f"to: {shown_path(to)} exists already; choose another folder, or let --force replace an earlier export"
        )
    if folder.is_symlink() or not (_is_export(folder) or not any(folder.iterdir())):
        raise UsageError(
            f"to: {shown_path(to)} is not an earlier export, and --force replaces nothing else; choose another folder"
        )


def require_outside_versions(to: str, run: Path) -> None:
    """Refuse a folder among a run's versions, where it would be taken for a version, or removed like one.

    Args:
        to: A folder that `require_target` has accepted, or ``hub:owner/name``.
        run: The folder of the run that is exported.

    Raises:
        UsageError: It is in the run's ``adapters/``.
    """
    versions = run / ADAPTERS_FOLDER
    if repository_of(to) is None and Path(to).resolve().is_relative_to(versions.resolve()):
        raise UsageError(
            f"to: {shown_path(to)} is in {shown_path(versions)}, which is for the run's versions alone; choose another "
            "folder"
        )


def _is_export(folder: Path) -> bool:
    """Whether an export has written a folder, which its card shows."""
    try:
        with (folder / CARD_FILE).open(encoding="utf-8") as card:
            return f"\n- {TAG}\n" in card.read(_HEAD_CHARS)
    except (OSError, ValueError):
        return False

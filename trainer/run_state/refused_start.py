"""Leaves nothing of a run that was refused before it began."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from trainer.errors import UsageError
from trainer.io.run_layout import has_begun


@contextmanager
def removed_if_refused(folder: Path) -> Iterator[None]:
    """Removes a new run's folder after a `UsageError` in the block, unless a run has begun in it."""
    try:
        yield
    except UsageError:
        if not has_begun(folder):
            shutil.rmtree(folder)
        raise

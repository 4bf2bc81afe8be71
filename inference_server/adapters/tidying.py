"""Unloads versions and removes their files in the background, so that the next upload need not wait."""

import asyncio
from contextlib import suppress

from inference_server.adapters.versions import LoadedVersions
from inference_server.engine import EngineDied

# Unloading blocks the engine: give the client that pushed a version time to get its first tokens.
_TIDY_AFTER_S = 0.2
TIDYING_TASK = "tidying of adapters"


class Tidying:
    """Makes room for the next upload, soon after the last one.

    Args:
        loaded: The versions that the engine holds.
        changes: Held while versions are added or removed.
    """

    def __init__(self, loaded: LoadedVersions, changes: asyncio.Lock) -> None:
        """See the class."""
        self._loaded = loaded
        self._changes = changes
        self._task: asyncio.Task[None] | None = None
        self._is_wanted = False

    def soon(self) -> None:
        """Tidy in a moment, unless a task is about to."""
        # A task that waits for files has made its room already, and does so once more.
        self._is_wanted = True
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._tidy(), name=TIDYING_TASK)

    async def _tidy(self) -> None:
        while self._is_wanted:
            await asyncio.sleep(_TIDY_AFTER_S)
            # The next request reports a dead engine.
            with suppress(EngineDied):
                async with self._changes:
                    self._is_wanted = False
                    await self._loaded.retire_unused()
            # Wait mostly without the lock, so that no upload is delayed.
            await self._loaded.wait_for_aborts()
            async with self._changes:
                await self._loaded.remove_retired_files()

"""Log lines about a server that did not hold a run's versions any more, and what to do if it happens again."""

import logging
from collections.abc import Sequence

from inference_server.wire.schemas import ServerStatus

_log = logging.getLogger(__name__)


class LostVersions:
    """Counts and reports the versions that a server has lost."""

    def __init__(self, *, max_staleness: int):
        """A run needs ``max_staleness`` + 2 versions on its server."""
        self._num_needed = max_staleness + 2
        self._num_losses = 0
        """Under the server's present boot id."""

    def restored(self, status: ServerStatus, pushed: Sequence[int], *, was: str) -> None:
        """Report what had to be pushed again.

        Args:
            status: The server's, from before the pushes.
            pushed: The versions that were pushed again.
            was: The boot id before.
        """
        numbers = ",".join(map(str, pushed)) or "none"
        if status.boot_id != was:
            self._num_losses = 0
            _log.warning(
                "event=server_restarted boot_id=%s was=%s kept=%d pushed_again=%s",
                status.boot_id,
                was,
                len(status.versions),
                numbers,
            )
        elif pushed:
            self._num_losses += 1
            _log.warning("event=versions_lost boot_id=%s pushed_again=%s", was, numbers)
            if self._num_losses == 2:
                _log.warning(
                    "event=versions_pushed_out max_loaded_versions=%d advice='others, such as another run, push out the "
                    "versions of this run: start the server with a --max-loaded-versions of %d for each run'",
                    status.limits.max_loaded_versions,
                    self._num_needed,
                )

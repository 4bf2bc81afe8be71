"""Experiment trackers in addition to metrics.jsonl: TensorBoard, and Trackio, W&B and MLflow if they are installed.

They work offline, in the folder of the run or SFT, unless their own environment variables say otherwise. Each has a thread of its
own, so that a slow tracker delays no step. If a tracker fails, one warning is printed, and the training goes on.
"""

import threading
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from queue import SimpleQueue

from trainer.config.run import TrackerName
from trainer.config.safe_text import safe_line, shortened
from trainer.console.tracker_kinds import MLflow, TensorBoard, TrackedRun, Trackio, WandB
from trainer.errors import UsageError
from trainer.io.installed import is_installed

_CLOSE_S = 60.0
"""How long a training that ends waits for a tracker."""
_MAX_WAITING = 1000
"""Most steps that may wait for a tracker; each takes some 14 kB."""


def require_trackers(names: Collection[TrackerName], *, field: str) -> None:
    """Refuse trackers whose library is not installed.

    Args:
        names: The trackers.
        field: The setting that names them.

    Raises:
        UsageError: Names the extra that installs it.
    """
    for name in names:
        if name != "tensorboard" and not is_installed(name):
            raise UsageError(
                f"{field}: {name} is not installed: pip install 'regime-w[{name}]', or leave it out"
            )


TRACKERS: dict[TrackerName, Callable[[Path, int], TrackedRun]] = {
    "tensorboard": TensorBoard,
    "trackio": lambda folder, _: Trackio(folder),
    "wandb": lambda folder, _: WandB(folder),
    "mlflow": lambda folder, _: MLflow(folder),
}
"""Constructors of the trackers; they take the run's folder, and the newest step that is not repeated."""


class Trackers:
    """All trackers of one run or SFT."""

    def __init__(
        self,
        names: Sequence[TrackerName],
        folder: Path,
        *,
        first_step: int,
        say: Callable[[str], None],
    ):
        """Begin the run in each tracker.

        Args:
            names: The trackers.
            folder: The folder of the run or SFT.
            first_step: The newest step that is not repeated; -1 if a step 0 is repeated too.
            say: Gets warnings.
        """
        self._threads = {
            name: TrackerThread(name, folder, first_step, say) for name in dict.fromkeys(names)
        }

    def log(self, step: int, metrics: Mapping[str, float], *, is_repeated: bool) -> None:
        """Queue a step's metrics.

        Args:
            step: The step.
            metrics: Its metrics, all finite.
            is_repeated: Whether they were logged before, by a training that was killed. TensorBoard has removed them
                then; the other trackers cannot, so they keep the first.
        """
        for name, thread in self._threads.items():
            if name == "tensorboard" or not is_repeated:
                thread.log(step, metrics)

    def close(self) -> None:
        """Wait, for a limited time, until each tracker has written everything."""
        for thread in self._threads.values():
            thread.close()


class TrackerThread:
    """Feeds one tracker; whatever it raises becomes one warning."""

    def __init__(
        self, name: TrackerName, folder: Path, first_step: int, say: Callable[[str], None]
    ):
        """Begin the run in the tracker; ``say`` gets the warning."""
        self._name, self._say = name, say
        self._has_failed = False
        self._rows: SimpleQueue[tuple[int, Mapping[str, float]] | None] = SimpleQueue()
        tracked: TrackedRun | None = None
        try:
            # Here and not in the thread: libraries take seconds to load, and threads would load them all at once.
            tracked = TRACKERS[name](folder, first_step)
        except (Exception, SystemExit) as error:
            self._warn(error)
        self._thread = threading.Thread(
            target=self._follow, args=(tracked,), name=f"tracker {name}", daemon=True
        )
        self._thread.start()

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Queue a step's metrics; they are dropped if the tracker has failed to begin, or is too far behind."""
        if not self._thread.is_alive():
            return
        if self._rows.qsize() < _MAX_WAITING:
            self._rows.put((step, metrics))
        else:
            self._warn(f"{_MAX_WAITING} steps behind")

    def close(self) -> None:
        """Wait, for a limited time, until the tracker has written everything."""
        self._rows.put(None)
        self._thread.join(_CLOSE_S)
        if self._thread.is_alive():
            self._warn(f"did not finish within {_CLOSE_S:.0f} s")

    def _follow(self, tracked: TrackedRun | None) -> None:
        if tracked is None:
            return
        try:
            tracked.begin()
        except (Exception, SystemExit) as error:
            self._warn(error)
            return
        while (row := self._rows.get()) is not None:
            try:
                tracked.log(*row)
            except (Exception, SystemExit) as error:
                self._warn(error)
        try:
            tracked.close()
        except (Exception, SystemExit) as error:
            self._warn(error)

    def _warn(self, what: object) -> None:
        if not self._has_failed:
            self._has_failed = True
            reason = shortened(safe_line(str(what))) or type(what).__name__
            self._say(
                f"warning: trackers: {self._name} fails and may lack steps ({reason}); the training goes on, and "
                "metrics.jsonl has them all"
            )

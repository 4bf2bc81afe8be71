"""Processes of the engine end with the process that started them."""

import multiprocessing
import os
import signal
import threading

_END_WITH_PARENT = "end with parent"
"""Name of the thread that waits for the parent to end."""


def end_with_parent() -> None:
    """Makes this process end with its parent, even if the parent is killed; does nothing in a main process.

    Otherwise vLLM's engine would live on and hold the device's memory, though nothing could use it again.
    """
    parent = multiprocessing.parent_process()
    names = {thread.name for thread in threading.enumerate()}
    if parent is None or _END_WITH_PARENT in names:
        return

    def wait() -> None:
        parent.join()
        os.kill(os.getpid(), signal.SIGKILL)

    threading.Thread(target=wait, daemon=True, name=_END_WITH_PARENT).start()

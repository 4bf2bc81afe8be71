"""Processor time of a server's threads: whether Python code, not the model, limits how fast tokens come."""

from collections import Counter
from contextlib import suppress

import psutil

FRONT_END, ENGINE, OTHERS = "front end", "engine", "other threads"


def thread_seconds(pid: int) -> Counter[str]:
    """Processor seconds so far of the server's main thread, of the engine's main threads, and of all other threads.

    The front end handles HTTP, and every message from the engine. The engine's main thread schedules and launches the
    model; on a CPU it computes it too, and on a GPU it may also count the time in which it waits for the card. The fork
    server and other helper processes count as the engine; they do nothing while tokens are sampled.
    """
    root = psutil.Process(pid)
    seconds: Counter[str] = Counter()
    for process in (root, *root.children(recursive=True)):
        main = FRONT_END if process == root else ENGINE
        with suppress(psutil.NoSuchProcess):  # a helper process that has ended meanwhile
            for thread in process.threads():
                name = main if thread.id == process.pid else OTHERS
                seconds[name] += thread.user_time + thread.system_time
    return seconds

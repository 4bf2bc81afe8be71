"""Memory of a process and its descendants, with shared pages counted once."""

from contextlib import suppress

import psutil


def memory_mib(pid: int) -> float:
    """The proportional set size (PSS) of a process and its descendants in MiB; 0 if there is no such process.

    PSS divides a shared page between the processes that map it. RSS counts it for each of them, and the server's engine
    shares what it imported with the process that it was forked from.
    """
    pss_bytes = 0
    with suppress(psutil.NoSuchProcess):
        root = psutil.Process(pid)
        for process in (root, *root.children(recursive=True)):
            with suppress(psutil.NoSuchProcess):  # a helper process that has ended meanwhile
                pss_bytes += process.memory_full_info().pss
    return pss_bytes / 2**20

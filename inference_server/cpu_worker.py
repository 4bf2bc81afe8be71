"""What vLLM's worker process does for us on the CPU, beside its own work (``--worker-extension-cls``)."""

from typing import Any


class CPUWorkerExtension:
    """Mixed into vLLM's worker, whose methods can then be called through the engine."""

    model_runner: Any
    """The worker's own."""

    def touch_kv_cache(self) -> None:
        """Writes to every page of the key-value cache, before it holds anything.

        The system gives memory when it is first written to: a server would grow for its first hours, and die
        late of a cache that the machine has no room for.
        """
        for cache in self.model_runner.kv_caches:
            cache.zero_()

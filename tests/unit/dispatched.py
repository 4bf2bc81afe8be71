"""Counts the operations that PyTorch dispatches: an accelerator waits for those that launch a kernel."""

from collections import Counter
from collections.abc import Callable, Mapping

from benchmarks.trainer.gpu_step.counters import OperationCounter

_PRODUCTS = ("mm", "addmm", "addmm_", "bmm", "baddbmm")
_COPIES = ("_to_copy", "copy_", "clone", "cat", "stack", "_foreach_copy_")


def dispatched(work: Callable[[], object]) -> Counter[str]:
    """How often each operation is dispatched; those that launch no kernel are named ``view …``."""
    counter = OperationCounter()
    with counter:
        work()
    return counter.names


def by_kind(counts: Mapping[str, int]) -> dict[str, int]:
    """Counts all operations, those that launch a kernel, and of these matrix products, copies or casts, and ``mul``."""
    kernels = {name: n for name, n in counts.items() if not name.startswith("view ")}
    return {
        "all": sum(counts.values()),
        "kernels": sum(kernels.values()),
        "products": sum(kernels.get(name, 0) for name in _PRODUCTS),
        "copies": sum(kernels.get(name, 0) for name in _COPIES),
        "mul": kernels.get("mul", 0) + kernels.get("mul_", 0),
    }


def a_layer(shallow: Mapping[str, int], deep: Mapping[str, int]) -> Counter[str]:
    """One layer's operations, from the counts of two models of which one is deeper by a layer."""
    more = Counter(dict(deep))
    more.subtract(shallow)
    return Counter({name: n for name, n in more.items() if n})

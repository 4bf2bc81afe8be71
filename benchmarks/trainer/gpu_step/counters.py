"""Time, memory, floating-point operations and launches of a piece of work on a device."""

import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

GIB = 2**30
_NO_KERNEL = ("_unsafe_view", "_reshape_alias", "detach", "empty", "empty_like", "new_empty")
"""Operations that launch none."""
_NOT_A_KERNEL = ("Memcpy", "Memset")
FORMULAS: dict[Any, Any] = {
    **flop_registry,
    torch.ops.aten.addmm_: flop_registry[torch.ops.aten.addmm],
}


class Memory:
    """Peaks of PyTorch's allocator in GiB; 0 on a CPU."""

    def __init__(self, device: torch.device) -> None:
        self._counts = device.type == "cuda"
        self.reserved = 0.0

    def phase(self) -> float:
        """The peak since the last call."""
        if not self._counts:
            return 0.0
        peak = torch.cuda.max_memory_allocated() / GIB
        self.reserved = max(self.reserved, torch.cuda.max_memory_reserved() / GIB)
        torch.cuda.reset_peak_memory_stats()
        return peak


def timed(work: Callable[[], object], device: torch.device) -> float:
    synchronize(device)
    started = time.perf_counter()
    work()
    synchronize(device)
    return time.perf_counter() - started


def synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


class OperationCounter(TorchDispatchMode):
    """Counts dispatched operations by name, and the floating-point operations of products and attention."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.names: Counter[str] = Counter()
        """How often each was dispatched; names of those that launch no kernel begin with ``view``."""
        self.flop = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        name = func.__name__.partition(".")[0]
        self.names[f"view {name}" if func.is_view or name in _NO_KERNEL else name] += 1
        if formula := FORMULAS.get(func._overloadpacket):
            self.flop += formula(*args, **(kwargs or {}), out_val=out)
        return out


def counted(work: Callable[[], object]) -> tuple[int, int]:
    """Floating-point operations, recomputation included, and dispatched operations."""
    with OperationCounter() as counter:
        work()
    return counter.flop, counter.names.total()


def on_gpu(work: Callable[[], object], device: torch.device) -> tuple[float | None, int | None]:
    """Seconds that the GPU worked, and the number of kernels launched; None on a CPU."""
    if device.type != "cuda":
        return None, None
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
        work()
        synchronize(device)
    ran = [
        (event.name, event.time_range.elapsed_us())
        for event in profile.events()
        if str(event.device_type) == "DeviceType.CUDA"
        and not getattr(event, "is_user_annotation", False)
    ]
    launches = sum(not name.startswith(_NOT_A_KERNEL) for name, _ in ran)
    return sum(elapsed_us for _, elapsed_us in ran) / 1e6, launches


def device_name(device: str) -> str:
    return torch.cuda.get_device_name() if device == "cuda" else "cpu"

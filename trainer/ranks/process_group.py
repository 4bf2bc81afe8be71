"""The processes of a job, as ``torchrun`` or ``accelerate launch`` starts them, and their communication.

Objects are sent by gloo, over the CPU; gradients by the device's own backend.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from inference_server.wire.settings.errors import first_line
from trainer.config.sections import Device
from trainer.errors import NonFiniteError, RankLostError, RankOutOfMemoryError, UsageError
from trainer.model.device import compute_device, is_out_of_memory

_T = TypeVar("_T")
_PATIENCE = timedelta(days=30)
"""The timeout for objects. It is long because the other ranks wait while the first waits for rollouts. A rank that
ends is noticed without a timeout, since it closes its connections."""
_PASS_WITHIN = timedelta(minutes=30)
"""The timeout of the device's own backend, which waits only while other ranks compute. NCCL needs one, since it does
not notice that a process has ended."""

COMMON_ERRORS = (NonFiniteError, torch.OutOfMemoryError)
"""Errors in one rank's part that all ranks then raise together; they can go on afterwards."""


class Ranks:
    """The processes of a job, or a single process; all ranks call the methods, in the same order."""

    def __init__(self, rank: int = 0, size: int = 1, objects: dist.ProcessGroup | None = None):
        """Without arguments, this process is the only one.

        Args:
            rank: This process's number, from 0 on; the first has the server, the run's folder and the console.
            size: The number of processes.
            objects: The group that sends objects; None means the default group.
        """
        self.rank, self.size = rank, size
        self._objects = objects
        self.is_lost = False
        """Whether the ranks are out of step, so that they can no longer communicate."""
        self.are_together = False
        """Whether all ranks are running the same code at this moment, so that a pass need not be announced."""
        self.share_passes = False
        """Whether all ranks have to take part in every pass through the base, so that none may skip its part."""
        self._common: Exception | None = None

    def broadcast(self, message: object = None) -> object:
        """The first rank's message, on every rank.

        Raises:
            RankLostError: A rank has ended.
        """
        box = [message]
        if self.size > 1:
            with self._noticing_lost_ranks():
                dist.broadcast_object_list(
                    box, src=0, group=self._objects, device=torch.device("cpu")
                )
        return box[0]

    def broadcast_bytes(self, message: bytes) -> bytes:
        """`broadcast` for bytes."""
        received = self.broadcast(message)
        assert isinstance(received, bytes)
        return received

    def gathered(self, part: Callable[[], _T]) -> list[_T]:
        """What ``part`` returns on each rank, in order, on every rank.

        Raises:
            RankLostError: A rank has ended.
            NonFiniteError, torch.OutOfMemoryError: ``part`` raised it on some rank; every rank then raises it.
        """
        if self.size == 1:
            return [part()]
        mine: tuple[_T | None, Exception | None]
        try:
            mine = part(), None
        except COMMON_ERRORS as error:
            if self.share_passes and isinstance(error, torch.OutOfMemoryError):
                raise
            mine = None, error.with_traceback(None)
        parts: list[tuple[_T, Exception | None]] = [None] * self.size  # type: ignore[list-item]
        with self._noticing_lost_ranks():
            dist.all_gather_object(parts, mine, group=self._objects)
        failed = next((error for _, error in parts if error is not None), None)
        if failed is None:
            return [found for found, _ in parts]
        self._common = failed
        try:
            raise failed
        finally:
            # The error's traceback refers to this frame, whose variables would keep alive the error and all that the
            # failed work had allocated.
            del failed, parts, mine

    def gather_tensor(self, tensor: Tensor) -> list[Tensor]:
        """Every rank's tensor, in the order of ranks, on every rank; all have the same shape.

        Raises:
            RankLostError: A rank has ended.
        """
        if self.size == 1:
            return [tensor]
        tensors = [torch.empty_like(tensor) for _ in range(self.size)]
        with self._noticing_lost_ranks():
            dist.all_gather(tensors, tensor)
        return tensors

    @contextmanager
    def together(self) -> Iterator[None]:
        """A block that all ranks run alike; an error on this rank alone leaves it out of step with the others.

        Raises:
            RankOutOfMemoryError: This rank alone has run out of memory.
        """
        self.are_together = True
        try:
            yield
        except NonFiniteError:
            # Every rank has the same numbers, so every rank raises this error.
            raise
        except BaseException as error:
            common, self._common = self._common, None
            if self.size == 1 or error is common:
                raise
            if (found := self._out_of_step(error)) is error:
                raise
            raise found from error
        finally:
            self.are_together = False

    @contextmanager
    def in_pass(self) -> Iterator[None]:
        """A block around a pass that only the first rank needs but all take part in; a rank that fails is out of step.

        Raises:
            RankOutOfMemoryError: This rank has run out of memory.
            RankLostError: Another rank has ended.
        """
        try:
            yield
        except BaseException as error:
            if self.size == 1 or self.are_together:
                raise
            if (found := self._out_of_step(error)) is error:
                raise
            raise found from error

    @contextmanager
    def must_succeed(self) -> Iterator[None]:
        """A block that all ranks run once; if it fails on this rank, the ranks cannot go on together."""
        try:
            yield
        except BaseException:
            self.is_lost = self.size > 1
            raise

    def _out_of_step(self, error: BaseException) -> BaseException:
        """The error that this rank raises for an error that only this rank has."""
        self.is_lost = True
        if is_out_of_memory(error):
            return RankOutOfMemoryError(self.rank)
        if self.share_passes and isinstance(error, RuntimeError) and _is_connection_error(error):
            return _another_has_ended(error)
        return error

    @contextmanager
    def _noticing_lost_ranks(self) -> Iterator[None]:
        try:
            yield
        except RuntimeError as error:
            self.is_lost = True
            raise _another_has_ended(error) from error
        except BaseException:
            self.is_lost = True
            raise


def _another_has_ended(error: RuntimeError) -> RankLostError:
    return RankLostError(
        f"another rank of this job has ended ({first_line(error)}); see its own output for why. The same command resumes"
    )


def _is_connection_error(error: RuntimeError) -> bool:
    """Whether a collective within a pass has failed; gloo's errors have no type, but their text names gloo."""
    return isinstance(error, dist.DistError) or "gloo" in str(error)


@contextmanager
def joined_ranks(device: Device) -> Iterator[Ranks]:
    """Join the processes that a launcher has started beside this one; without a launcher, be the only one.

    Args:
        device: ``run.device``; each process on a machine takes the GPU of its local rank.

    Raises:
        UsageError: The launcher's environment is incomplete, or this machine has fewer GPUs than processes.
    """
    size = _environment_number("WORLD_SIZE", "1", at_least=1)
    if size == 1:
        yield Ranks()
        return
    rank, local_rank = _environment_number("RANK"), _environment_number("LOCAL_RANK", "0")
    if rank >= size:
        raise UsageError(f"RANK is {rank}, but WORLD_SIZE is {size}: {_ADVICE}")
    if "MASTER_ADDR" not in os.environ:
        raise UsageError(f"WORLD_SIZE is set, but MASTER_ADDR is not: {_ADVICE}")
    backend = "gloo"
    if compute_device(device).type == "cuda":
        if local_rank >= torch.cuda.device_count():
            raise UsageError(
                f"process {local_rank} of this machine has no GPU of its own, since there are "
                f"{torch.cuda.device_count()}: start at most as many processes (--nproc-per-node)"
            )
        torch.cuda.set_device(local_rank)
        backend = "cpu:gloo,cuda:nccl"
    dist.init_process_group(backend, rank=rank, world_size=size, timeout=_PASS_WITHIN)
    try:
        yield Ranks(rank, size, dist.new_group(backend="gloo", timeout=_PATIENCE))
    finally:
        dist.destroy_process_group()


_ADVICE = "start with torchrun or accelerate launch, or unset WORLD_SIZE for a single process"


def _environment_number(name: str, default: str | None = None, *, at_least: int = 0) -> int:
    text = os.environ.get(name, default)
    if text is None:
        raise UsageError(f"WORLD_SIZE is set, but {name} is not: {_ADVICE}")
    if not (text.isascii() and text.isdigit() and int(text) >= at_least):
        raise UsageError(f"{name} is {text!r}, and must be a number from {at_least} on: {_ADVICE}")
    return int(text)

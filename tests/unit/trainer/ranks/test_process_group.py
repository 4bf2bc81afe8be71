"""What a launcher's environment means, and one process as the only rank."""

import gc
import pickle
import weakref
from collections.abc import Callable
from contextlib import AbstractContextManager, suppress

import pytest
import torch
import torch.distributed as dist

from trainer.errors import NonFiniteError, RankLostError, RankOutOfMemoryError, UsageError
from trainer.ppo.leader_and_followers import leading
from trainer.ranks.process_group import Ranks, joined_ranks

NAMES = ("WORLD_SIZE", "RANK", "LOCAL_RANK", "MASTER_ADDR")


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    for name in NAMES:
        monkeypatch.delenv(name, raising=False)
    return monkeypatch


@pytest.mark.parametrize("size", [None, "1"])
def test_without_a_launcher_a_process_is_alone(
    environment: pytest.MonkeyPatch, size: str | None
) -> None:
    if size is not None:
        environment.setenv("WORLD_SIZE", size)
    with joined_ranks("cpu") as ranks:
        assert (ranks.rank, ranks.size) == (0, 1)
        assert ranks.broadcast("told") == "told"
        assert ranks.gathered(lambda: 3) == [3]
        assert ranks.gather_tensor(torch.ones(2))[0].sum() == 2


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({"WORLD_SIZE": "two"}, "WORLD_SIZE is 'two', and must be a number"),
        ({"WORLD_SIZE": "-2"}, "WORLD_SIZE is '-2', and must be a number"),
        ({"WORLD_SIZE": "0"}, "WORLD_SIZE is '0', and must be a number from 1 on"),
        ({"WORLD_SIZE": "2"}, "WORLD_SIZE is set, but RANK is not"),
        ({"WORLD_SIZE": "2", "RANK": "²"}, "RANK is '²', and must be a number"),
        ({"WORLD_SIZE": "2", "RANK": "2"}, "RANK is 2, but WORLD_SIZE is 2"),
        ({"WORLD_SIZE": "2", "RANK": "1"}, "MASTER_ADDR is not"),
    ],
)
def test_half_an_environment_is_refused(
    environment: pytest.MonkeyPatch, variables: dict[str, str], message: str
) -> None:
    for name, value in variables.items():
        environment.setenv(name, value)
    with pytest.raises(UsageError, match=message) as found, joined_ranks("cpu"):
        pass
    assert "start with torchrun or accelerate launch" in str(found.value)


def test_a_process_needs_a_gpu_of_its_own(environment: pytest.MonkeyPatch) -> None:
    environment.setattr(torch.cuda, "is_available", lambda: True)
    environment.setattr(torch.cuda, "device_count", lambda: 2)
    for name, value in zip(NAMES, ("4", "2", "2", "127.0.0.1"), strict=True):
        environment.setenv(name, value)
    with (
        pytest.raises(UsageError, match="process 2 of this machine has no GPU of its own, since"),
        joined_ranks("auto"),
    ):
        pass


def test_an_error_of_one_rank_alone_leaves_it_out_of_step() -> None:
    ranks = Ranks(0, 2)
    with pytest.raises(NonFiniteError), ranks.together():
        raise NonFiniteError("every rank has the same numbers")
    assert not ranks.is_lost
    with pytest.raises(ValueError, match="a bug"), ranks.together():
        raise ValueError("a bug")
    assert ranks.is_lost


@pytest.mark.parametrize("block", [Ranks.together, Ranks.in_pass])
@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    ],
)
def test_a_rank_that_alone_is_out_of_memory_says_so_of_itself(
    block: Callable[[Ranks], AbstractContextManager[None]], error: RuntimeError
) -> None:
    ranks = Ranks(1, 2)
    with pytest.raises(RankOutOfMemoryError) as found, block(ranks):
        raise error
    assert ranks.is_lost
    assert str(found.value).startswith("rank 1 of this job is out of GPU memory")
    assert "another rank" not in str(found.value)
    assert "lower ppo.token_budget" in str(found.value)
    assert found.value.exit_code == 2  # No supervisor need try again before it is lowered.


def test_alone_an_error_is_what_it_was() -> None:
    ranks = Ranks()
    with pytest.raises(torch.OutOfMemoryError), ranks.together():
        raise torch.OutOfMemoryError("CUDA out of memory")
    assert not ranks.is_lost


def test_who_leaves_a_pass_of_all_ranks_is_out_of_step() -> None:
    ranks = Ranks(0, 2)
    ranks.share_passes = True
    with (
        pytest.raises(RankLostError, match=r"another rank .* closed by peer") as found,
        ranks.in_pass(),
    ):
        raise RuntimeError("[gloo/transport/tcp/pair.cc:534] Connection closed by peer\nand more")
    assert ranks.is_lost
    assert found.value.exit_code == 3
    ranks = Ranks(0, 2)
    ranks.share_passes = True
    with pytest.raises(RuntimeError, match="shapes"), ranks.in_pass():
        raise RuntimeError("shapes cannot be multiplied")
    assert ranks.is_lost
    ranks = Ranks(0, 2)
    with pytest.raises(KeyboardInterrupt), ranks.in_pass():
        raise KeyboardInterrupt
    assert ranks.is_lost


def test_within_a_step_a_pass_is_the_steps() -> None:
    ranks = Ranks(0, 2)
    with pytest.raises(NonFiniteError), ranks.together(), ranks.in_pass():
        raise NonFiniteError("every rank has the same numbers")
    assert not ranks.is_lost


@pytest.mark.parametrize("size", [1, 2])
def test_what_fails_before_the_first_step_is_told_as_what_it_is(size: int) -> None:
    ranks = Ranks(0, size)
    with (
        pytest.raises(UsageError, match="no tensor called"),
        leading(ranks),
        ranks.must_succeed(),
    ):
        raise UsageError("no tensor called x")
    assert ranks.is_lost == (size > 1)


class Allocated:
    """Stands for memory that failed work had allocated."""


def test_an_error_of_all_ranks_keeps_nothing_of_what_failed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def all_gather_object(parts: list[object], mine: object, group: object) -> None:
        parts[:] = [pickle.loads(pickle.dumps(mine))] * 2

    monkeypatch.setattr(dist, "all_gather_object", all_gather_object)
    ranks, left = Ranks(0, 2), list[weakref.ref[Allocated]]()

    def work() -> None:
        allocated = Allocated()
        left.append(weakref.ref(allocated))

        def part() -> None:
            raise torch.OutOfMemoryError("CUDA out of memory")

        with ranks.together():
            ranks.gathered(part)

    gc.disable()
    try:
        with suppress(torch.OutOfMemoryError):
            work()
        assert left[0]() is None
    finally:
        gc.enable()
    assert not ranks.is_lost

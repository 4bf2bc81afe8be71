"""How ranks train together: the first leads every step, and the others follow with their part of it.

Only the first rank has a server, a run's folder and a console. It sends the others a step's inputs. From these,
every rank derives by itself which rank computes which part (`trainer.ranks.shards`).
"""

import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial

import torch

from trainer.config.sections import PolicyConfig, TrainConfig
from trainer.errors import RankLostError
from trainer.model.device import compute_device, limit_gpu_memory
from trainer.model.roles import PolicyRoles
from trainer.ppo.experience import MiniBatch
from trainer.ppo.learner import Learner, LearningCall, ScoringCall
from trainer.ranks.process_group import COMMON_ERRORS, Ranks


@dataclass(frozen=True, kw_only=True)
class FollowerStart:
    """What a rank builds its learner from; the learner's state arrives with the first step."""

    config: TrainConfig
    policy: PolicyConfig
    """The policy's settings, with the adapter that the run starts from."""
    serve_dtype: torch.dtype


def make_learner(start: FollowerStart, ranks: Ranks) -> Learner:
    """Make this rank's learner; the first rank also tells the others what to make."""
    if ranks.rank == 0:
        ranks.broadcast(start)
    device = compute_device(start.config.run.device)
    limit_gpu_memory(device)
    with ranks.must_succeed():
        roles = PolicyRoles(start.policy, device=device, serve_dtype=start.serve_dtype)
        if roles.shared_passes is not None:
            roles.shared_passes.require_adapter()
    ranks.share_passes = roles.shared_passes is not None
    if roles.shared_passes is not None:
        roles.shared_passes.guard = ranks.in_pass
        if ranks.rank == 0:
            roles.shared_passes.announce = partial(_announce_pass, ranks)
    return Learner(start.config.ppo, start.config.run, roles, ranks)


@dataclass(frozen=True, kw_only=True)
class PassCall:
    """A pass that only the first rank needs, but in which all have to take part."""

    with_gradient: bool


def _announce_pass(ranks: Ranks, with_gradient: bool) -> None:
    if not ranks.are_together:
        ranks.broadcast(PassCall(with_gradient=with_gradient))


@contextmanager
def leading(ranks: Ranks) -> Iterator[None]:
    """A block around everything that the first rank does; the other ranks end with it.

    Raises:
        RankLostError: Another rank ended before the block did, and nothing else has failed.
    """
    try:
        yield
    except BaseException:
        with suppress(RankLostError):
            _let_end(ranks)
        raise
    _let_end(ranks)


def _let_end(ranks: Ranks) -> None:
    if not ranks.is_lost:
        ranks.broadcast(None)
        ranks.gathered(lambda: None)


def follow(ranks: Ranks) -> None:
    """Do this rank's part of every step until the first rank ends.

    A launcher sends signals to all ranks, but only the first rank handles them.

    Raises:
        RankLostError: Another rank has ended, or the first one ended without telling the others.
    """
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    start = ranks.broadcast()
    if isinstance(start, FollowerStart):
        learner = make_learner(start, ranks)
        mini_batches: list[MiniBatch] = []
        while (call := ranks.broadcast()) is not None:
            if isinstance(call, PassCall):
                assert learner.roles.shared_passes is not None
                with ranks.in_pass():
                    learner.roles.shared_passes.of_one_token(with_gradient=call.with_gradient)
                continue
            # These errors are raised on every rank alike, and the first rank decides how to go on.
            with suppress(*COMMON_ERRORS):
                if isinstance(call, ScoringCall):
                    torch.set_num_threads(call.num_threads)
                    learner.token_budget = call.token_budget
                    learner.update.num_shards = call.num_shards
                    # Otherwise the last step's experience would be in memory together with this step's.
                    mini_batches = []
                    mini_batches = learner.experience(call.step, call.groups, call.proximal)
                elif isinstance(call, LearningCall):
                    learner.learn(
                        call.step, mini_batches, learning_rate_scale=call.learning_rate_scale
                    )
    ranks.gathered(lambda: None)

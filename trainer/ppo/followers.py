"""What the ranks after the first do: their part of every step that the first one leads.

Only the first rank has a server, a run's folder and a console. It sends what a step is made of; which
rank computes what follows from that on every rank (`trainer.ranks.shards`).
"""

import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial

import torch

from trainer.config.sections import PolicyConfig, TrainConfig
from trainer.errors import RankLostError
from trainer.model.device import compute_device, leave_memory_to_others
from trainer.model.roles import PolicyRoles
from trainer.ppo.experience import MiniBatch
from trainer.ppo.learner import Learner, LearningCall, ScoringCall
from trainer.ranks.process_group import COMMON_ERRORS, Ranks


@dataclass(frozen=True, kw_only=True)
class FollowerStart:
    """What a rank builds its learner from; its state follows with the first step."""

    config: TrainConfig
    policy: PolicyConfig
    """With the adapter that the run starts from."""
    serve_dtype: torch.dtype


def make_learner(start: FollowerStart, ranks: Ranks) -> Learner:
    """The learner of the first rank, and of the others, which are told what to make."""
    if ranks.rank == 0:
        ranks.broadcast(start)
    device = compute_device(start.config.run.device)
    leave_memory_to_others(device)
    with ranks.to_its_end():
        roles = PolicyRoles(start.policy, device=device, serve_dtype=start.serve_dtype)
        if roles.shared_passes is not None:
            roles.shared_passes.require_adapter()
    ranks.share_passes = roles.shared_passes is not None
    if roles.shared_passes is not None:
        roles.shared_passes.guard = ranks.in_pass
        if ranks.rank == 0:
            roles.shared_passes.announce = partial(_announce_pass, ranks)
    return Learner(start.config, roles, ranks)


@dataclass(frozen=True, kw_only=True)
class PassCall:
    """A pass that only the first rank needs, but in which all have to take part."""

    with_gradient: bool


def _announce_pass(ranks: Ranks, with_gradient: bool) -> None:
    if not ranks.are_together:
        ranks.broadcast(PassCall(with_gradient=with_gradient))


@contextmanager
def leading(ranks: Ranks) -> Iterator[None]:
    """A block around all that the first rank does; the other ranks end with it.

    Raises:
        RankLostError: A rank has ended before, and nothing else has failed.
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

    Signals are the first rank's to handle: a launcher sends them to all.

    Raises:
        RankLostError: A rank has ended, the first without a word.
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
            # Every rank has the same of these errors, and the first decides how to go on.
            with suppress(*COMMON_ERRORS):
                if isinstance(call, ScoringCall):
                    torch.set_num_threads(call.num_threads)
                    learner.token_budget = call.token_budget
                    learner.update.num_shards = call.num_shards
                    # The last step's would lie beside this one's.
                    mini_batches = []
                    mini_batches = learner.experience(call.step, call.groups, call.proximal)
                elif isinstance(call, LearningCall):
                    learner.learn(
                        call.step, mini_batches, learning_rate_scale=call.learning_rate_scale
                    )
    ranks.gathered(lambda: None)

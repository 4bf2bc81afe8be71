"""Tells which of several servers, or which replica of a server, made which groups."""

from collections.abc import Sequence
from typing import NamedTuple

from trainer.rollouts.groups import ScoredGroup, ServedGroup


class Origin(NamedTuple):
    """One copy of the model, a server or a replica of one; each is proven by its own completions."""

    server: str | None = None
    """The server's URL; None if there is only one server."""
    boot_id: str | None = None
    """The boot id of one of several servers, since a restarted server has to be proven anew."""
    replica: int | None = None
    """The number of the replica, if the server has several (data parallelism)."""

    @property
    def label(self) -> str:
        """Its name in messages; empty for a single server without replicas."""
        replica = "" if self.replica is None else f"replica {self.replica}"
        return ", ".join(filter(None, (self.server, replica)))


THE_SERVER = Origin()
"""One server without replicas."""


def by_origin(groups: Sequence[ScoredGroup]) -> dict[Origin, list[ScoredGroup]]:
    """The groups of each origin, in order."""
    found: dict[Origin, list[ScoredGroup]] = {}
    for scored in groups:
        group = scored.group
        origin = Origin(replica=group.replica)
        if isinstance(group, ServedGroup):
            origin = Origin(group.server, group.server_boot_id, group.replica)
        found.setdefault(origin, []).append(scored)
    return found


def replicas_of(origin: Origin, num_replicas: int) -> list[Origin]:
    """A server's replicas; the server itself if it has only one."""
    if num_replicas == 1:
        return [origin]
    return [origin._replace(replica=replica) for replica in range(num_replicas)]

"""Which of several servers made which groups."""

from collections.abc import Sequence
from typing import NamedTuple

from trainer.rollouts.groups import ScoredGroup, ServedGroup


class Origin(NamedTuple):
    """A server between two of its starts: what it has proven holds no longer."""

    server: str
    """Its URL."""
    boot_id: str


def by_origin(groups: Sequence[ScoredGroup]) -> dict[Origin | None, list[ScoredGroup]]:
    """The groups of each server, in order; under None where there is one server."""
    found: dict[Origin | None, list[ScoredGroup]] = {}
    for scored in groups:
        group = scored.group
        origin = None
        if isinstance(group, ServedGroup):
            origin = Origin(group.server, group.server_boot_id)
        found.setdefault(origin, []).append(scored)
    return found

"""Checks that the servers of a pool serve the same, and combines their statuses into one."""

from collections.abc import Sequence

from inference_server.wire.schemas import Limits, ServerStatus
from trainer.client.compatibility import base_field
from trainer.errors import UsageError

_AGREED = ("base_dtype", "has_chat_template")


def require_agreement(name: str, status: ServerStatus, other: str, theirs: ServerStatus) -> None:
    """Refuse a server whose answers would differ from those of another in the pool.

    Args:
        name: The server's name.
        status: The server's status.
        other: The name of another server of the pool.
        theirs: The other server's status.

    Raises:
        UsageError: They differ; the message names both servers and the field.
    """
    pairs = [
        (field, getattr(status, field), getattr(theirs, field))
        for field in (*_AGREED, base_field(status, theirs))
    ]
    limit = "max_model_len_tokens"
    pairs.append((f"limits.{limit}", getattr(status.limits, limit), getattr(theirs.limits, limit)))
    for field, ours, others in pairs:
        if ours != others and None not in (ours, others):
            raise UsageError(
                f"the servers of server.urls differ: {field} is {ours} at {name} and {others} at {other}; "
                f"serve the same on all of them"
            )


def combined_status(
    statuses: Sequence[ServerStatus], boot_id: str, next_version: int
) -> ServerStatus:
    """One status for several servers: the limits that each of them allows, and the versions that all of them hold.

    Args:
        statuses: The statuses of all servers that are asked, at least one.
        boot_id: The pool's own boot id.
        next_version: A version number that is free also on servers that are away.
    """
    first = statuses[0]
    held = [{(info.version, info.sha256) for info in status.versions} for status in statuses]
    by_all = set.intersection(*held)
    actives = {status.active_version for status in statuses}
    limits = {
        name: min(getattr(status.limits, name) for status in statuses)
        for name in Limits.model_fields
    }
    return first.model_copy(
        update={
            "boot_id": boot_id,
            "active_version": actives.pop() if len(actives) == 1 else None,
            "next_version": max(next_version, *(status.next_version for status in statuses)),
            "versions": [i for i in first.versions if (i.version, i.sha256) in by_all],
            "num_replicas": sum(status.num_replicas for status in statuses),
            "groups_in_flight": sum(status.groups_in_flight for status in statuses),
            "requests_in_flight": sum(status.requests_in_flight for status in statuses),
            "limits": Limits.model_validate(limits),
        }
    )

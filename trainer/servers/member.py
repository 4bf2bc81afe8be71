"""One server of a pool: whether it is asked, what it holds, and how busy it is."""

import asyncio
import time
from dataclasses import dataclass, field

from inference_server.wire.schemas import ServerStatus
from trainer.client.protocol import InferenceServer

_KEPT = 0.97
"""Each new answer multiplies the weight of earlier ones by this, so that about the newest 30 decide how quick a server
is."""


@dataclass(kw_only=True, eq=False)
class Member:
    """A server and what is known about it; used only on the thread of the requests."""

    name: str
    """Its URL."""
    client: InferenceServer
    is_up: bool = False
    """Whether it is asked: it answers, agrees with the others, and holds the versions in use."""
    found: ServerStatus | None = None
    """Its newest status."""
    boot_id: str = ""
    digests: dict[int, str] = field(default_factory=dict)
    """SHA-256 of each version that this boot of the server has acknowledged."""
    active: int | None = None
    num_groups: int = 0
    """Groups in flight that this process has sent."""
    num_others: int = 0
    """Other clients' groups in flight, according to its newest status."""
    busy_s: float = 0.0
    """Seconds with work, in which it answered `num_answered` groups; in both, newer answers weigh more."""
    num_answered: float = 0.0
    event_s: float = 0.0
    """When it last answered, or got work after it had none, on the monotonic clock."""
    why: str = "not asked yet"
    """Why it is not up."""
    since_s: float = 0.0
    """When it left, on the monotonic clock."""
    changes: asyncio.Lock = field(default_factory=asyncio.Lock)
    """Allows one push or activation at a time."""

    def has_room(self, size: int) -> bool:
        """Whether ``size`` more of our groups stay within its limit; without groups of ours it always has room."""
        if self.found is None:
            return False
        most = self.found.limits.max_groups_in_flight
        return not self.num_groups or self.num_groups + size <= most

    @property
    def num_replicas(self) -> int:
        """How many copies of the model it runs."""
        return 1 if self.found is None else self.found.num_replicas

    def note_status(self, status: ServerStatus) -> None:
        """Keep a status; groups in flight that are not ours count as other clients'."""
        self.found = status
        self.num_others = max(0, status.groups_in_flight - self.num_groups)

    def note_boot(self, status: ServerStatus) -> None:
        """Keep a status; after a restart, forget what the earlier boot was given.

        Versions that the new boot lists are compared when they are given to it.
        """
        if status.boot_id != self.boot_id:
            self.boot_id, self.digests = status.boot_id, {}
            self.busy_s = self.num_answered = 0.0
        self.active = status.active_version
        self.note_status(status)

    def note_sent(self, size: int) -> None:
        """Count groups as in flight."""
        if not self.num_groups:
            self.event_s = time.monotonic()
        self.num_groups += size

    def note_answer(self, size: int) -> None:
        """Learn from an answer how quick the server is; called while its groups still count as in flight."""
        now_s = time.monotonic()
        self.busy_s = _KEPT * self.busy_s + now_s - self.event_s
        self.num_answered = _KEPT * self.num_answered + size
        self.event_s = now_s

    def note_ended(self, size: int) -> None:
        """Count groups as no longer in flight; time spent on groups that another server answered counts, too."""
        now_s = time.monotonic()
        self.busy_s += now_s - self.event_s
        self.event_s = now_s
        self.num_groups -= size

    def seconds_a_group(self, now_s: float) -> float | None:
        """Seconds between answered groups while it has work; None before its first answer.

        It is at least what it would be if all groups in flight were answered now, so that a hanging server counts as
        slow.
        """
        silent = (now_s - self.event_s) / self.num_groups if self.num_groups else 0.0
        known = self.busy_s / self.num_answered if self.num_answered else None
        return known if known is None or known > silent else silent

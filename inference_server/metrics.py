"""Prometheus metrics of our part of the server, on ``/metrics`` next to vLLM's own."""

from collections.abc import Sequence

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from inference_server.wire.schemas import ArmCompletion, Priority
from regime_w import build_all_arms

_SECONDS = (0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100, 200, 500)
# Clients choose the names of their own arms; one label value for each would grow without bound.
_KNOWN_ARMS = frozenset(arm.name for arm in build_all_arms())
_CUSTOM_ARM = "custom"


class ServerMetrics:
    """The counters and gauges of one server.

    Args:
        registry: Where they are registered.
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        """See the class."""
        self.groups_in_flight = Gauge(
            "regime_w_groups_in_flight",
            "Groups that were admitted and have not ended",
            ["priority"],
            registry=registry,
        )
        self.group_seconds = Histogram(
            "regime_w_group_seconds",
            "Time from a group's start, when it has a place in the engine, to its last completion; its wait for the place "
            "is not in it",
            buckets=_SECONDS,
            registry=registry,
        )
        self.completion_tokens = Counter(
            "regime_w_completion_tokens",
            "Tokens sampled, by arm",
            ["arm"],
            registry=registry,
        )
        self.completions = Counter(
            "regime_w_completions",
            "Completions, by finish reason",
            ["finish_reason"],
            registry=registry,
        )
        self.active_version = Gauge(
            "regime_w_active_version",
            "Version that policy stands for; -1 is the base",
            registry=registry,
        )
        self.versions = Gauge(
            "regime_w_versions", "Versions that the engine holds", registry=registry
        )
        self.leases = Gauge(
            "regime_w_leases", "Requests in flight on any version", registry=registry
        )
        self.push_seconds = Histogram(
            "regime_w_push_seconds",
            "Time from an upload's first byte until its version is served",
            buckets=_SECONDS,
            registry=registry,
        )
        self.rejects = Counter(
            "regime_w_rejects",
            "Requests that this server refused or could not finish, by error type",
            ["type"],
            registry=registry,
        )

        for priority in Priority:
            self.groups_in_flight.labels(priority)

    def count_group(self, completions: Sequence[ArmCompletion], seconds: float) -> None:
        """Counts a finished group that took ``seconds`` from start to last completion."""
        self.group_seconds.observe(seconds)
        for completion in completions:
            arm = completion.arm if completion.arm in _KNOWN_ARMS else _CUSTOM_ARM
            self.completion_tokens.labels(arm).inc(len(completion.token_ids))
            self.completions.labels(completion.finish_reason).inc()

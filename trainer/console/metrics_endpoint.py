"""Serves the newest step's metrics to Prometheus: those of metrics.jsonl, as gauges on ``/metrics``."""

import re
import time
from collections.abc import Mapping

from prometheus_client import CollectorRegistry, Gauge, start_http_server

from trainer.config.sections import RunConfig
from trainer.console.metric_catalog import help_text
from trainer.errors import UsageError
from trainer.io.metrics_file import measured

_PREFIX = "regime_w_trainer_"


def gauge_name(metric: str) -> str:
    """The name of a metric's gauge, e.g. ``regime_w_trainer_ppo_approx_kl``."""
    return _PREFIX + re.sub(r"[^a-zA-Z0-9_]", "_", metric)


class MetricsEndpoint:
    """Serves the newest step's metrics on a thread of its own."""

    def __init__(self, run: RunConfig):
        """Listen on ``run.metrics_port``, unless it is null.

        Raises:
            UsageError: The port cannot be listened on.
        """
        self._registry = CollectorRegistry()
        self._gauges: dict[str, Gauge] = {}
        self._gauge("num_steps", "Steps of the whole run").set(run.num_steps)
        self._last_step = self._gauge(
            "last_step_timestamp_seconds", "When the newest step ended; 0 before the first"
        )
        self._server = None
        self._host = run.metrics_host
        if run.metrics_port is not None:
            try:
                self._server, self._thread = start_http_server(
                    run.metrics_port, run.metrics_host, registry=self._registry
                )
            except OSError as error:
                raise UsageError(
                    f"run.metrics_port {run.metrics_port} on {run.metrics_host}: {error.strerror}; 0 takes a "
                    "free port"
                ) from error

    def close(self) -> None:
        """Stop listening."""
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
            self._thread.join()

    @property
    def address(self) -> str | None:
        """The address of the endpoint, with the real port if ``run.metrics_port`` is 0; None without an endpoint."""
        if self._server is None:
            return None
        host = f"[{self._host}]" if ":" in self._host else self._host
        return f"http://{host}:{self._server.server_port}/metrics"

    def show(self, row: Mapping[str, float], *, is_new: bool = True) -> None:
        """Show a step's metrics; a metric that the step lacks keeps its last value.

        Args:
            row: Metrics by their names in metrics.jsonl, including ``step``.
            is_new: Whether the step was done just now, rather than before a resume.
        """
        for name, value in {"step": row["step"], **measured(row)}.items():
            self._gauge(name, help_text(name)).set(value)
        if is_new:
            self._last_step.set(time.time())

    def _gauge(self, metric: str, what: str) -> Gauge:
        # The names of two arms may become the same name in Prometheus.
        name = gauge_name(metric)
        if name not in self._gauges:
            self._gauges[name] = Gauge(name, what, registry=self._registry)
        return self._gauges[name]

"""Prometheus series of vLLM's that would stay forever."""

from typing import Any


def remove_adapter_series(client: Any, name: str) -> None:
    """Removes an adapter's series.

    Args:
        client: vLLM's ``AsyncLLM``.
        name: The adapter's name in vLLM.
    """
    manager = client.logger_manager  # None if statistics are off
    for logger in () if manager is None else manager.stat_loggers:
        gauge = getattr(logger, "gauge_lora_info", None)
        if gauge is None:
            continue
        for metric in gauge.collect():
            for sample in metric.samples:
                if any(name in names.split(",") for names in sample.labels.values()):
                    gauge.remove_by_labels(sample.labels)

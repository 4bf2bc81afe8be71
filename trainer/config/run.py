"""Where a run lives and how long it is."""

from pathlib import Path
from typing import Annotated

from pydantic import Field

from trainer.config.base import MAX_THREADS, Device, Section, Seed


class RunConfig(Section):
    """Where a run lives and how long it is."""

    folder: Path = Path("runs/default")
    """The run's folder."""
    num_steps: Annotated[int, Field(ge=1)] = 100
    """Updates of the policy."""
    checkpoint_every: Annotated[int, Field(ge=1)] = 10
    """Steps between checkpoints; the last step always has one."""
    num_checkpoints: Annotated[int, Field(ge=1)] = 3
    """Newest checkpoints to keep, beside the first and the best one."""
    num_adapters: Annotated[int, Field(ge=1)] = 20
    """Newest adapters to keep, beside the best one; at least rollout.max_staleness + 2."""
    evaluate_every: Annotated[int, Field(ge=1)] | None = None
    """Steps between evaluations: greedy accuracy of the newest version on held-out questions, measured
    while training goes on. The best version's checkpoint is kept. Null never evaluates."""
    num_evaluation_questions: Annotated[int, Field(ge=1)] = 100
    """Held-out questions of an evaluation."""
    seed: Seed = 0
    """Seed of the trainer's own randomness."""
    num_threads: Annotated[int, Field(ge=1, le=MAX_THREADS)] | None = None
    """CPU threads of the trainer; one is best beside a server on the same machine."""
    device: Device = "auto"
    """Where the trainer computes."""
    metrics_port: Annotated[int, Field(ge=0, le=65535)] | None = None
    """Port of the Prometheus endpoint with the newest step's metrics, /metrics; null opens none, 0 takes a
    free one."""
    metrics_host: str = "127.0.0.1"
    """Address that the endpoint listens on; it asks for no key."""

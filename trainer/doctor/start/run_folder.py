"""Checks the run's folder, and what the run opens beside it: trackers and the port of its metrics."""

import errno
from collections.abc import Iterator

from trainer.config.sections import DoctorConfig, TrainConfig
from trainer.console.metrics_endpoint import MetricsEndpoint
from trainer.console.trackers import require_trackers
from trainer.doctor.results import CheckResult, bad, note, ok
from trainer.errors import TrainerError, UsageError
from trainer.io.paths import require_folder
from trainer.run_state.journal import is_at_work
from trainer.run_state.run_folder import require_own_run


def check_run_folder(config: DoctorConfig) -> Iterator[CheckResult]:
    """Whether the folder can be written to and is free, or holds a run of this configuration."""
    folder = config.run.folder
    try:
        require_folder(folder, field="run.folder")
    except UsageError as error:
        yield bad("run's folder", str(error), "run.folder, or the owner of the volume")
        return
    try:
        resumes = require_own_run(config.part(TrainConfig))
    except (TrainerError, OSError) as error:
        yield bad("run's folder", str(error), "run.folder")
        return
    if resumes:
        yield ok("run's folder", f"{folder}: its run was begun with these settings, and resumes")


def check_trackers(config: DoctorConfig) -> Iterator[CheckResult]:
    """A result if a tracker is not installed, or the port of the metrics cannot be listened on."""
    try:
        require_trackers(config.run.trackers, field="run.trackers")
    except UsageError as error:
        yield bad("trackers", str(error), "run.trackers")
    try:
        # It listens for a moment, as the run will.
        MetricsEndpoint(config.run).close()
    except UsageError as error:
        cause = error.__cause__
        is_taken = isinstance(cause, OSError) and cause.errno == errno.EADDRINUSE
        if is_taken and is_at_work(config.run.folder):
            text = f"{error}; its owner may be the trainer that is at work in {config.run.folder}"
            yield note("metrics", text, "run.metrics_port")
        else:
            yield bad("metrics", str(error), "run.metrics_port")

"""What a run is and where it stands, in short phrases: command, step, whether it is at work, times, model, questions.

Input: a `RunRecord`. Output: phrases for the head of the page. A phrase whose facts are not recorded is left out.
"""

import math
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

from trainer.console.progress import duration
from trainer.io.kept_settings import command_in
from trainer.io.locks import is_locked_folder
from trainer.io.metrics_file import time_trained
from trainer.io.paths import read_plain
from trainer.io.run_layout import (
    FAILED_FOLDER,
    JOURNAL_FILE,
    checkpoint_folders,
    step_name,
    step_of,
)
from trainer.report.run_record import RunRecord
from trainer.run_state.journal import is_at_work
from trainer.run_state.recorded_digests import recorded
from trainer.run_state.recorded_rollouts import ROLLOUTS_FILE

_TIME_LEFT_OVER = 20
"""How many of the newest steps the time left is worked out from."""


def progress_of(run: RunRecord, *, live: bool) -> list[str]:
    """Where a run stands.

    Args:
        run: The run.
        live: Whether the page is of now, so that it can say how long the run will take.
    """
    return [*_progress(run, live=live)]


def _progress(run: RunRecord, *, live: bool) -> Iterator[str]:
    step, num_steps, state = newest_step(run), num_steps_of(run), state_of(run)
    if not step:
        yield "no step finished yet"
    else:
        # A finished run may have more steps than its settings ask for since.
        yield (
            f"step {step}"
            if num_steps is None or step > num_steps
            else f"step {step} of {num_steps}"
        )
    if step and not run.rows:
        yield "its metrics are lost"
    if state is not None:
        yield state
    if not run.rows:
        return
    newest = run.rows[-1]
    if "version" in newest:
        yield f"last served version {newest['version']:.0f}"
    seconds = run.series("time/step_s")
    if seconds:
        mean = math.fsum(seconds) / len(seconds)
        trained = time_trained(run.rows)
        in_all = "" if trained is None else f"{duration(trained)} in all, "
        yield f"{in_all}{mean:.2g} s a step"
        if live and num_steps is not None and step < num_steps and state == "running":
            latest = seconds[-_TIME_LEFT_OVER:]
            left = (num_steps - step) * math.fsum(latest) / len(latest)
            yield f"about {duration(left)} left"
    if "time" in newest:
        ended = datetime.fromtimestamp(newest["time"], UTC)
        yield f"newest step ended {ended:%Y-%m-%d %H:%M} UTC"


def newest_step(run: RunRecord) -> int:
    """The newest finished step; 0 if there is none. Without metrics it is that of the newest checkpoint."""
    if run.rows:
        return int(run.rows[-1]["step"])
    checkpoints = checkpoint_folders(run.folder)
    return step_of(checkpoints[-1]) if checkpoints else 0


def is_running(folder: Path) -> bool | None:
    """Whether a run or an SFT is at work in its folder; None for one without a journal, such as a copy of its metrics.

    Raises:
        UsageError: The settings are damaged.
    """
    if (folder / JOURNAL_FILE).exists():
        return is_at_work(folder)
    return is_locked_folder(folder) if command_in(folder) == "sft" else None


def state_of(run: RunRecord) -> str | None:
    """Whether the run is running, finished or stopped, and why; None where that is not known."""
    running = is_running(run.folder)
    if running:
        return "running"
    num_steps, step = num_steps_of(run), newest_step(run)
    if num_steps is not None and step >= num_steps:
        return "finished"
    if (error := _failure(run.folder, step + 1)) is not None:
        return f"not running: step {step + 1} failed, {error}"
    if running is None:
        return None
    return "not running" if num_steps is None else "not running, stopped before its last step"


def _failure(folder: Path, step: int) -> str | None:
    try:
        said = read_plain(folder / FAILED_FOLDER / step_name(step) / "error.txt")
    except OSError:
        return None
    return said.decode(errors="replace").strip()


def num_steps_of(run: RunRecord) -> int | None:
    """How many steps the run will have; None if that is not known."""
    kept = run.offline_config
    if kept is None:
        return None if run.config is None else run.config.run.num_steps
    # Such a run is as long as its file.
    rows = recorded(run.folder / ROLLOUTS_FILE)
    if not isinstance(rows, list):
        return None
    return math.ceil(len(rows) * kept.offline.num_epochs / kept.rollout.questions_per_step)


def kind_of(run: RunRecord) -> str:
    """What the run is, as its heading says."""
    kinds = {
        "train": "Online PPO with Regime W",
        "train-offline": "PPO with Regime W from collected rollouts",
    }
    return kinds.get(run.command or "", "PPO with Regime W")


def setup_of(run: RunRecord) -> list[str]:
    """Which model the run trains, on what, and how fast."""
    if run.config is None:
        return []
    of_file = None if run.offline_config is None else run.offline_config.rollouts
    questions = run.config.data.source if of_file is None else of_file
    return [
        f"base {run.config.policy.base_model}",
        *([] if run.config.policy.adapter is None else [f"from {run.config.policy.adapter}"]),
        f"{'questions' if of_file is None else 'rollouts'} {questions}",
        f"learning rate {run.config.ppo.learning_rate:g}",
    ]

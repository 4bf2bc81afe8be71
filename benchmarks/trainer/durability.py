"""The cost of journal and checkpoints: their shares of a run's wall time, on that run's own disk.

The journal's share is read from the run's metrics. For the checkpoints' share, one of the run's state is written
repeatedly.
"""

import shutil
import statistics
import sys
import time
from pathlib import Path

from benchmarks.arguments import benchmark_parser
from benchmarks.figures import spread
from trainer.console.environment import prepare_environment


def main() -> None:
    parser = benchmark_parser(__doc__)
    parser.add_argument("run", type=Path, help="folder of a finished run")
    parser.add_argument(
        "--repetitions", type=int, default=15, help="checkpoints to write [%(default)s]"
    )
    arguments = parser.parse_args()
    prepare_environment()

    from trainer.config.sections import RunConfig
    from trainer.io.kept_settings import read_run_config
    from trainer.io.metrics_file import read_metrics
    from trainer.io.run_layout import checkpoint_folders, step_of
    from trainer.replay.restored_run import open_replay
    from trainer.run_state.checkpoint import save_checkpoint

    rows = read_metrics(arguments.run)[1:]  # The first step warms up.
    step_s = statistics.median(row["time/step_s"] for row in rows)
    journal_s = [row["time/journal_s"] for row in rows]
    share = sum(journal_s) / sum(row["time/step_s"] for row in rows)
    print(f"steps of {step_s:.3f} s (median of {len(rows)})")
    print(f"journal     {milliseconds(journal_s)}: {share:.2%} of the steps' time")

    before_last = step_of(checkpoint_folders(arguments.run)[-2])
    replay = open_replay(
        arguments.run,
        read_run_config(arguments.run),
        from_step=before_last,
        say=lambda line: print(line, file=sys.stderr),
    )
    folder = arguments.run / "durability"
    checkpoint_s = []
    try:
        for _ in range(arguments.repetitions):
            started = time.monotonic()
            saved = save_checkpoint(
                folder,
                replay.checkpoint.progress,
                replay.learner.roles,
                replay.learner.update,
                served=replay.checkpoint.served,
                num_kept=1,
            )
            checkpoint_s.append(time.monotonic() - started)
        size_bytes = sum(path.stat().st_size for path in saved.iterdir())
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    every = RunConfig().checkpoint_every
    share = statistics.median(checkpoint_s) / (every * step_s)
    print(
        f"checkpoint  {milliseconds(checkpoint_s)}, {size_bytes / 2**20:.1f} MiB: {share:.2%} of the "
        f"time of {every} steps (run.checkpoint_every)"
    )


def milliseconds(seconds: list[float]) -> str:
    """Median, lowest and highest."""
    times_ms = [1e3 * each for each in seconds]
    return f"{statistics.median(times_ms):.1f} ms {spread(times_ms, '{:.1f}')}"


if __name__ == "__main__":
    main()

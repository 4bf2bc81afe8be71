"""Held-out accuracy against wall time for credit rules, advantage estimators and other settings; see benchmarks/README.md.

Each row of the table stands for runs of deploy/configs/demo.toml with a few settings changed, one run for each seed (of
questions, shuffles, sampling and torch). All runs start from one SFT adapter and share one server; for each seed the
rows run one after another. The versions are evaluated once all runs are over; only the training loop's own time counts.
Runs that exist already are not repeated, so the benchmark can be run in parts:

    python -m benchmarks.learning --seeds 0
    python -m benchmarks.learning --seeds 1 2
    python -m benchmarks.learning --seeds 0 1 2    # the table and the plot of all runs
"""

import argparse
from pathlib import Path

from benchmarks.learning.curves import Curve, plot, table
from benchmarks.learning.demo_runs import (
    NUM_STEPS,
    benchmark_server,
    sft_adapter,
    train_row,
    warm_up,
)
from benchmarks.learning.evaluation import curve_path, evaluate_row
from benchmarks.learning.kept_runs import folder_of_runs
from benchmarks.learning.rows import ROWS
from benchmarks.learning.tasks import BUILT_IN, TASKS
from trainer.console.environment import prepare_environment


def main() -> None:
    parser = argparse.ArgumentParser(
        # By default the usage line would say __main__.py.
        prog="python -m benchmarks.learning",
        description=(__doc__ or "").splitlines()[0],
        allow_abbrev=False,
    )
    parser.add_argument("--model", type=Path, default=Path("models/tiny-base"))
    parser.add_argument("--folder", type=Path, default=Path("runs/learning"), help="[%(default)s]")
    parser.add_argument("--task", choices=TASKS, default=BUILT_IN, help="[%(default)s]")
    parser.add_argument("--rows", nargs="+", choices=ROWS, default=list(ROWS), metavar="ROW")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--steps", type=int, default=NUM_STEPS, help="per run [%(default)s]")
    parser.add_argument(
        "--questions", type=int, default=400, help="held-out questions [%(default)s]"
    )
    parser.add_argument("--plot", type=Path, help="file of the plot [FOLDER/learning.svg]")
    arguments = parser.parse_args()
    prepare_environment()
    folder = folder_of_runs(parser, arguments, "model", "task", "steps", "questions")
    task = TASKS[arguments.task]
    sft = sft_adapter(arguments.model, folder / "sft", task)
    wanted = [(seed, row) for seed in arguments.seeds for row in arguments.rows]
    if missing := [key for key in wanted if not curve_path(folder, *key).is_file()]:
        with benchmark_server(arguments.model, folder) as url:
            warm_up(arguments.model, sft, url)
            for seed, row in missing:
                run_folder = curve_path(folder, seed, row).parent / "run"
                train_row(row, seed, arguments.model, sft, url, arguments.steps, run_folder, task)
            records = task.held_out(arguments.questions)
            for seed, row in missing:
                evaluate_row(row, seed, url, records, task, curve_path(folder, seed, row))
    curves = [Curve.read(curve_path(folder, *key)) for key in wanted]
    print(table(curves, arguments.rows))
    picture: Path = arguments.plot or folder / "learning.svg"
    picture.write_text(plot(curves, arguments.rows))


if __name__ == "__main__":
    main()

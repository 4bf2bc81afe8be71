"""Held-out accuracy against wall time for credit rules, advantage estimators and other settings; see benchmarks/README.md.

Each row of the table stands for runs of deploy/configs/demo.toml with a few settings changed, one run for each seed (of
questions, shuffles, sampling and torch). All runs start from one SFT adapter and share one server; for each seed the
rows run one after another. The versions are evaluated once all runs are over; only the training loop's own time counts.
Runs that exist already are not repeated, so the benchmark can be run in parts:

    python -m benchmarks.learning --seeds 0
    python -m benchmarks.learning --seeds 1 2
    python -m benchmarks.learning --seeds 0 1 2    # the table and the plot of all runs
"""

from pathlib import Path

from benchmarks.arguments import add_model, benchmark_parser
from benchmarks.learning.curves import Curve, plot, table
from benchmarks.learning.demo_runs import NUM_STEPS, Bench, benchmark_server
from benchmarks.learning.evaluation import curve_path
from benchmarks.learning.kept_runs import folder_of_runs
from benchmarks.learning.rows import ROWS
from benchmarks.learning.tasks import BUILT_IN, TASKS
from benchmarks.sft import task_adapter
from trainer.console.environment import prepare_environment


def main() -> None:
    parser = benchmark_parser(__doc__, prog="python -m benchmarks.learning")
    add_model(parser)
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
    sft = task_adapter(arguments.model, folder / "sft", task)
    wanted = [(seed, row) for seed in arguments.seeds for row in arguments.rows]
    if missing := [key for key in wanted if not curve_path(folder, *key).is_file()]:
        with benchmark_server(arguments.model, folder) as url:
            bench = Bench(
                model=arguments.model, sft=sft, url=url, task=task, num_steps=arguments.steps
            )
            bench.warm_up()
            for seed, row in missing:
                bench.train(seed, curve_path(folder, seed, row).parent / "run", *ROWS[row])
            records = task.held_out(arguments.questions)
            for seed, row in missing:
                bench.write_curve(row, seed, records, curve_path(folder, seed, row))
    curves = [Curve.read(curve_path(folder, *key)) for key in wanted]
    print(table(curves, arguments.rows))
    picture: Path = arguments.plot or folder / "learning.svg"
    picture.write_text(plot(curves, arguments.rows))


if __name__ == "__main__":
    main()

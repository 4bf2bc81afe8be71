"""Our default compared with TRL's GRPOTrainer and AsyncGRPOTrainer: seconds per step, and accuracy against wall time.

The trainers have the same base, SFT adapter, training questions, reward, and optimizer steps and completions per step;
benchmarks/peers/trl_peers.py says what TRL cannot do in the same way. For each seed the trainers run one after another,
each with the machine to itself: our server idles while TRL trains. The versions of all trainers are evaluated afterwards
on our server. Runs that exist already are not measured again. Several learning rates, temperatures and rows of ours are
compared in one table, so that what can be won is the same for all.

    python -m benchmarks.peers.trl_grpo --seeds 0 1 2
    python -m benchmarks.peers.trl_grpo --peers grpo --learning-rates 2.5e-4 5e-4 1e-3 --temperatures 0.8 1 1.2
"""

import json
import math
import os
import shutil
import statistics
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice, product
from pathlib import Path

from benchmarks.arguments import add_model, benchmark_parser
from benchmarks.figures import spread
from benchmarks.learning.curves import SHARES, Curve, available_gain, late_median, plot, table
from benchmarks.learning.demo_runs import NUM_STEPS, WARM_UP_STEPS, Bench, benchmark_server
from benchmarks.learning.evaluation import curve_path, write_curve
from benchmarks.learning.kept_runs import folder_of_runs
from benchmarks.learning.rows import DEFAULT, ROWS
from benchmarks.learning.tasks import BUILT_IN, QUESTIONS_PER_STEP, TASKS, Task
from benchmarks.peers.trl_peers import TIMES_FILE
from benchmarks.peers.vllm_for_trl import vllm_for_trl, without_thread_limit
from benchmarks.sft import task_adapter
from regime_w import build_all_arms
from trainer.console.environment import prepare_environment
from trainer.data.sources import Record
from trainer.data.word_problems import Split
from trainer.io.jsonl import write_jsonl

GRPO = "TRL GRPOTrainer"
ASYNC = "TRL AsyncGRPOTrainer"
PEERS = {"grpo": GRPO, "async": ASYNC}


@dataclass(frozen=True, kw_only=True)
class Peer:
    """One of TRL's trainers with its settings."""

    trainer: str
    """A key of `PEERS`."""
    learning_rate: float
    temperature: float

    @property
    def row(self) -> str:
        return f"{PEERS[self.trainer]}, rate {self.learning_rate:g}, T {self.temperature:g}"


def main() -> None:
    parser = benchmark_parser(__doc__)
    add_model(parser)
    parser.add_argument("--folder", type=Path, default=Path("runs/trl"), help="[%(default)s]")
    parser.add_argument("--task", choices=TASKS, default=BUILT_IN, help="[%(default)s]")
    parser.add_argument("--sft", type=Path, help="the adapter to start from [made in FOLDER/sft]")
    parser.add_argument("--ours", nargs="+", choices=ROWS, default=[DEFAULT], metavar="ROW")
    parser.add_argument("--peers", nargs="+", choices=PEERS, default=list(PEERS))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--steps", type=int, default=NUM_STEPS, help="per run [%(default)s]")
    parser.add_argument(
        "--questions", type=int, default=400, help="held-out questions [%(default)s]"
    )
    parser.add_argument(
        "--learning-rates", type=float, nargs="+", default=[5e-4], help="for TRL %(default)s"
    )
    parser.add_argument(
        "--temperatures", type=float, nargs="+", default=[1.0], help="for TRL %(default)s"
    )
    arguments = parser.parse_args()
    prepare_environment()
    folder = folder_of_runs(parser, arguments, "model", "task", "sft", "steps", "questions")
    task = TASKS[arguments.task]
    sft = task_adapter(arguments.model, arguments.sft or folder / "sft", task)
    settings = product(arguments.peers, arguments.learning_rates, arguments.temperatures)
    peers = [Peer(trainer=name, learning_rate=rate, temperature=t) for name, rate, t in settings]
    peer_of_row = {peer.row: peer for peer in peers}
    rows = [*arguments.ours, *peer_of_row]
    wanted = [(seed, row) for seed in arguments.seeds for row in rows]
    if missing := [key for key in wanted if not curve_path(folder, *key).is_file()]:
        with benchmark_server(arguments.model, folder) as url:
            bench = Bench(
                model=arguments.model, sft=sft, url=url, task=task, num_steps=arguments.steps
            )
            for seed, row in missing:
                into = curve_path(folder, seed, row).parent
                if row in peer_of_row:
                    train_peer(peer_of_row[row], seed, bench, task, into)
                else:
                    # Before every run: while the others train, the system evicts this process's pages.
                    bench.warm_up()
                    bench.train(seed, into / "run", *ROWS[row])
            records = task.held_out(arguments.questions)
            for seed, row in missing:
                path = curve_path(folder, seed, row)
                if row in peer_of_row:
                    write_peers_curve(row, seed, bench, records, path)
                else:
                    bench.write_curve(row, seed, records, path)
    curves = [Curve.read(curve_path(folder, *key)) for key in wanted]
    print(table(curves, rows))
    (folder / "learning.svg").write_text(plot(curves, rows))
    for row in peer_of_row:
        print(compared(curves, arguments.ours[0], row))


def compared(curves: Sequence[Curve], ours: str, theirs: str) -> str:
    """Our time divided by a peer's: per step for each seed, and for the median times to shares of what can be won.

    Args:
        curves: The curves of both rows, with the seeds in the same order.
        ours: Our row.
        theirs: The peer's row.
    """
    sides = [[curve for curve in curves if curve.row == row] for row in (ours, theirs)]
    ratios = [a.step_s / b.step_s for a, b in zip(*sides, strict=True)]
    parts = [f"a step {statistics.median(ratios):.2f} {spread(ratios, '{:.2f}')}"]
    gain = available_gain(curves)
    for share in SHARES:
        ours_s, theirs_s = (
            late_median([curve.time_to_share(share, gain) for curve in side]) for side in sides
        )
        never = [name for name, s in (("ours", ours_s), ("theirs", theirs_s)) if math.isinf(s)]
        ratio = f"never by {' and '.join(never)}" if never else f"{ours_s / theirs_s:.2f}"
        parts.append(f"median time to {100 * share:.0f} % {ratio}")
    return f"{ours} / {theirs}: {', '.join(parts)}"


def train_peer(peer: Peer, seed: int, bench: Bench, task: Task, folder: Path) -> None:
    """Train one of TRL's trainers in a process of its own, unless that is done."""
    if (folder / TIMES_FILE).is_file():
        return
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    # A process that both generates and trains gets all cores; one beside a server gets one core, as ours does.
    num_threads = len(os.sched_getaffinity(0)) if peer.trainer == "grpo" else 1
    problems = task.problems(Split.TRAIN, seed)
    asked = [p.record() for p in islice(problems, QUESTIONS_PER_STEP * bench.num_steps)]
    write_jsonl(folder / "questions.jsonl", asked)
    options = {
        "--model": bench.model,
        "--sft": bench.sft,
        "--folder": folder,
        "--seed": seed,
        "--steps": bench.num_steps,
        "--learning-rate": peer.learning_rate,
        "--temperature": peer.temperature,
        "--questions": folder / "questions.jsonl",
        "--system-prompt": build_all_arms()[0].system_prompt,
        "--prompt-format": "plain",
        "--max-tokens": task.max_tokens,
        "--threads": num_threads,
        "--warm-up-steps": WARM_UP_STEPS,
    }
    if peer.trainer == "async":
        # One server per run: adapters have the same names in every run, and vLLM's prefix cache knows them by name.
        with vllm_for_trl(bench.model, folder) as vllm_url:
            run_process("async", {**options, "--url": vllm_url}, folder)
    else:
        run_process("grpo", options, folder)


def write_peers_curve(
    row: str, seed: int, bench: Bench, records: Sequence[Record], path: Path
) -> None:
    """Evaluate the adapters that a peer saved after each step, and write the curve."""
    folder = path.parent
    seconds = [0.0, *json.loads((folder / TIMES_FILE).read_text())["seconds"]]
    adapters = [bench.sft, *sorted(folder.glob("step-??????"))]
    write_curve(row, seed, path, range(len(seconds)), seconds, bench.correct(adapters, records))


def run_process(peer: str, options: dict[str, object], folder: Path) -> None:
    command = [sys.executable, "-m", "benchmarks.peers.trl_peers", peer]
    command += [str(word) for pair in options.items() for word in pair]
    with (folder / "train.log").open("w") as log:
        done = subprocess.run(
            command, stdout=log, stderr=subprocess.STDOUT, env=without_thread_limit(), check=False
        )
    if done.returncode:
        raise SystemExit(f"{peer} failed: see {folder / 'train.log'}")


if __name__ == "__main__":
    main()

"""Our trainer compared with TRL's GRPOTrainer on SmolLM2-135M-Instruct: accuracy against wall time.

Both start from one SFT adapter and have the same reward, completions per step, temperature and, unless other rates are
given, learning rate. The learning rate falls to zero over a run, so that the number of steps must be known beforehand: a
short run of each trainer shows how many fit into --minutes. Steps become faster than the first ones, so that --steps
meets a time more closely. For each seed the trainers run one after another, each with the machine to itself. Our trainer
runs `examples/smollm2.toml`; TRL uses the prompt of its first arm. Runs that exist already are not measured again.

    python scripts/real_model.py
    python -m benchmarks.peers.trl_real_model --trainers trl --seeds 3 --steps 1 8 --learning-rates 2e-4 4e-4 1e-3
    python -m benchmarks.peers.trl_real_model --seeds 1 2 --minutes 30
"""

import json
import math
import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path

from benchmarks.arguments import benchmark_parser
from benchmarks.learning.curves import Curve, Point, plot, table
from benchmarks.learning.evaluation import correct_answers, curve_path
from benchmarks.learning.kept_runs import folder_of_runs
from benchmarks.learning.real_model_runs import CONFIG, call, served
from benchmarks.peers.trl_grpo import Peer, run_process
from benchmarks.peers.trl_peers import TIMES_FILE
from trainer.client.protocol import GreedyPrompt
from trainer.config.loading import load_config
from trainer.config.sections import TrainConfig
from trainer.console.environment import prepare_environment
from trainer.data.sources import Record, load_records
from trainer.data.word_problems import Split
from trainer.io.jsonl import write_jsonl
from trainer.io.metrics_file import read_metrics

OURS = "examples/smollm2.toml"
PILOT_SEED = 99
PILOT_OF_OURS, PILOT_OF_PEER = (4, 3), (2, 2)
"""Number of steps of a short run, and the step that is timed: the first ones load everything, and in the last one our
trainer generates nothing ahead."""


@dataclass(frozen=True, kw_only=True)
class Runs:
    """What all runs have in common."""

    folder: Path
    config: TrainConfig
    sft: Path
    url: str

    def seconds(self, row: Peer | None, seed: int, num_steps: int) -> list[float]:
        """Train, unless that is done; ``row`` is None for our trainer.

        Returns:
            When each step was over, in seconds from the start.
        """
        folder = curve_path(self.folder, seed, name_of(row)).parent
        if row is None:
            if len(read_metrics(folder / "run")) != num_steps:
                shutil.rmtree(folder, ignore_errors=True)
                self._train_ours(folder, seed, num_steps)
            return list(accumulate(step["time/step_s"] for step in read_metrics(folder / "run")))
        if len(_times(folder)) != num_steps:
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True)
            self._train_peer(row, folder, seed, num_steps)
        return _times(folder)

    def adapters(self, row: Peer | None, seed: int) -> list[Path]:
        """The version after each step."""
        folder = curve_path(self.folder, seed, name_of(row)).parent
        if row is None:
            return sorted((folder / "run/adapters").glob("policy-??????"))[1:]
        return sorted(folder.glob("step-??????"))

    def _train_ours(self, folder: Path, seed: int, num_steps: int) -> None:
        settings = {
            "--config": CONFIG,
            "--policy.adapter": self.sft,
            "--server.url": self.url,
            "--data.seed": seed,
            "--rollout.seed": seed,
            "--run.seed": seed,
            "--run.folder": folder / "run",
            "--run.num_steps": num_steps,
            "--run.num_adapters": num_steps + 1,
            # Checkpoints are not what is measured here, so only the last step writes one.
            "--run.checkpoint_every": num_steps,
        }
        call(folder / "train.log", "train", *(word for pair in settings.items() for word in pair))

    def _train_peer(self, peer: Peer, folder: Path, seed: int, num_steps: int) -> None:
        config = self.config
        records = load_records(
            config.data.source,
            Split.TRAIN,
            num_records=num_steps * config.rollout.questions_per_step,
            seed=seed,
        )
        questions = folder / "questions.jsonl"
        write_jsonl(questions, [{"question": r.question, "answer": r.gold} for r in records])
        arm = config.rollout.arms[0]
        options = {
            "--model": config.policy.base_model,
            "--sft": self.sft,
            "--folder": folder,
            "--seed": seed,
            "--steps": num_steps,
            "--learning-rate": peer.learning_rate,
            "--temperature": peer.temperature,
            "--questions": questions,
            "--system-prompt": arm.system_prompt,
            "--prompt-format": config.rollout.prompt_format,
            "--max-tokens": config.rollout.max_tokens,
            "--threads": len(os.sched_getaffinity(0)),
        }
        run_process(peer.trainer, options, folder)

    def evaluated(
        self,
        row: Peer | None,
        seed: int,
        seconds: Sequence[float],
        records: Sequence[Record],
        count: int,
    ) -> Curve:
        """Evaluate the SFT adapter and ``count`` evenly spaced versions, the last one included, at temperature 0."""
        num_steps = len(seconds)
        steps = sorted({math.ceil(num_steps * i / count) for i in range(1, count + 1)})
        adapters = self.adapters(row, seed)
        rollout = self.config.rollout
        prompt = GreedyPrompt(
            system_prompt=rollout.arms[0].system_prompt,
            prompt_format=rollout.prompt_format,
            max_tokens=rollout.max_tokens,
        )
        asked = [self.sft, *(adapters[step - 1] for step in steps)]
        points = (
            Point(step=step, seconds=at_s, correct=correct)
            for step, at_s, correct in zip(
                [0, *steps],
                [0.0, *(seconds[step - 1] for step in steps)],
                correct_answers(asked, self.url, records, prompt),
                strict=True,
            )
        )
        return Curve(row=name_of(row), seed=seed, points=tuple(points))


def name_of(row: Peer | None) -> str:
    return OURS if row is None else row.row


def _times(folder: Path) -> list[float]:
    """When each step of a peer was over; empty if the peer's run is not finished."""
    path = folder / TIMES_FILE
    return list(json.loads(path.read_text())["seconds"]) if path.is_file() else []


def main() -> None:
    parser = benchmark_parser(__doc__)
    parser.add_argument("--folder", type=Path, default=Path("runs/trl_real_model"))
    parser.add_argument("--sft", type=Path, help="the adapter to start from [made in FOLDER/sft]")
    parser.add_argument("--trainers", nargs="+", choices=("ours", "trl"), default=["ours", "trl"])
    parser.add_argument("--minutes", type=float, default=30.0, help="per run [%(default)s]")
    parser.add_argument(
        "--steps", type=int, nargs=2, metavar=("OURS", "TRL"), help="per run, instead of --minutes"
    )
    parser.add_argument("--learning-rates", type=float, nargs="+", help="for TRL [ours]")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2])
    parser.add_argument(
        "--questions", type=int, default=200, help="held-out questions [%(default)s]"
    )
    parser.add_argument("--versions", type=int, default=3, help="evaluated per run [%(default)s]")
    arguments = parser.parse_args()
    prepare_environment()
    folder = folder_of_runs(parser, arguments, "sft", "questions", "versions")
    sft = arguments.sft or folder / "sft"
    if not (sft / "adapter_config.json").is_file():
        fresh = ("--policy.adapter", "null")
        call(folder / "sft.log", "sft", "--config", CONFIG, *fresh, "--output", sft)
    config = load_config(
        TrainConfig, ["--config", str(CONFIG), "--policy.adapter", str(sft)], prog="trl_real_model"
    )
    peers = [
        Peer(trainer="grpo", learning_rate=rate, temperature=config.rollout.arms[0].temperature)
        for rate in arguments.learning_rates or [config.ppo.learning_rate]
    ]
    rows = [
        *([None] if "ours" in arguments.trainers else []),
        *(peers if "trl" in arguments.trainers else []),
    ]
    wanted = [(seed, row) for seed in arguments.seeds for row in rows]
    with served(None, CONFIG, folder) as url:
        runs = Runs(folder=folder, config=config, sft=sft, url=url)
        steps = {
            row: arguments.steps[row is not None]
            if arguments.steps
            else num_steps(runs, row, arguments.minutes)
            for row in rows
        }
        seconds = {(s, row): runs.seconds(row, s, steps[row]) for s, row in wanted}
        records = load_records(
            config.data.source, Split.HELD_OUT, num_records=arguments.questions, seed=0
        )
        for seed, row in wanted:
            at_s, path = seconds[seed, row], curve_path(folder, seed, name_of(row))
            if not path.is_file() or Curve.read(path).points[-1].step != len(at_s):
                runs.evaluated(row, seed, at_s, records, arguments.versions).write(path)
    curves = [Curve.read(curve_path(folder, seed, name_of(row))) for seed, row in wanted]
    for curve in curves:
        shown = " ".join(f"{p.seconds / 60:.1f}:{100 * p.accuracy:.1f}" for p in curve.points)
        print(f"{curve.row}, seed {curve.seed}, {curve.points[-1].step} steps, minutes:%: {shown}")
    names = [name_of(row) for row in rows]
    print(table(curves, names))
    (folder / "learning.svg").write_text(plot(curves, names))


def num_steps(runs: Runs, row: Peer | None, minutes: float) -> int:
    """How many steps of a trainer fit into the minutes, judged by one step of a short run."""
    pilot_steps, step = PILOT_OF_OURS if row is None else PILOT_OF_PEER
    seconds = runs.seconds(row, PILOT_SEED, pilot_steps)
    step_s = seconds[step - 1] - seconds[step - 2]
    found = max(1, round(60 * minutes / step_s))
    print(f"{name_of(row)}: {step_s:.1f} s a step, {found} steps", flush=True)
    return found


if __name__ == "__main__":
    main()

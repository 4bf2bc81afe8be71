"""What PPO adds to SFT on a real model, for prompt formats and seeds; see benchmarks/README.md.

Each prompt format has one SFT adapter. For each format and seed (of questions, sampling and torch) this program runs PPO
against a server that it starts, and then `trainer eval` of SFT and PPO on the same held-out questions. The commands are
those that a user would type, with a few settings changed. Finished runs are not repeated, and runs that were cut short
resume, so the benchmark can be run in parts:

    python -m benchmarks.learning.real_model_runs --formats plain --seeds 1
    python -m benchmarks.learning.real_model_runs --formats chat plain --seeds 1 2 3    # the table of all
"""

import contextlib
import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.arguments import benchmark_parser
from benchmarks.markdown import markdown_table
from inference_server.launch.server_process import running_server
from trainer.config.loading import load_config
from trainer.config.sections import DoctorConfig
from trainer.console.environment import prepare_environment
from trainer.io.metrics_file import read_metrics

CONFIG = Path(__file__).resolve().parents[2] / "examples/smollm2.toml"
PHASES = ("generate", "wait", "prove", "experience", "update", "publish")


@dataclass(frozen=True, kw_only=True)
class Run:
    """One run of PPO: its files, and the adapter that it starts from."""

    prompt_format: str
    seed: int
    folder: Path

    @property
    def sft(self) -> Path:
        """The adapter that it starts from, which all seeds of a format share."""
        return self.folder / self.prompt_format / "sft"

    @property
    def ppo(self) -> Path:
        """The folder of the PPO run."""
        return self.folder / self.prompt_format / f"seed-{self.seed}"

    @property
    def evaluation(self) -> Path:
        """The result of `eval`."""
        return self.ppo / "evaluation.json"


def main() -> None:
    parser = benchmark_parser(__doc__)
    parser.add_argument("--config", type=Path, default=CONFIG, help="[examples/smollm2.toml]")
    parser.add_argument(
        "--folder", type=Path, default=Path("runs/real_model"), help="[%(default)s]"
    )
    parser.add_argument("--formats", nargs="+", default=["chat", "plain"], help="[chat plain]")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3], help="[1 2 3]")
    parser.add_argument(
        "--questions", type=int, default=200, help="held-out questions [%(default)s]"
    )
    parser.add_argument("--url", help="URL of a running server [one is started]")
    arguments, more = parser.parse_known_args()
    prepare_environment()
    runs = [
        Run(prompt_format=prompt_format, seed=seed, folder=arguments.folder)
        for prompt_format in arguments.formats
        for seed in arguments.seeds
    ]
    for run in runs:
        fine_tune(run, arguments.config)
    if missing := [run for run in runs if not run.evaluation.is_file()]:
        with served(arguments.url, arguments.config, arguments.folder) as url:
            for run in missing:
                train(run, arguments.config, url, more)
                evaluate(run, arguments.config, url, arguments.questions)
                print(table([run]), flush=True)
    print(table(runs))


def call(log: Path, *words: object) -> None:
    """Run a command of the trainer, and append its output to a log."""
    log.parent.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "trainer", *map(str, words)]
    print(" ".join(command[1:]), flush=True)
    with log.open("a") as file:
        done = subprocess.run(command, stdout=file, stderr=subprocess.STDOUT)
    if done.returncode:
        tail = "\n".join(log.read_text().splitlines()[-5:])
        raise SystemExit(f"exit code {done.returncode}; the end of {log}:\n{tail}")


def fine_tune(run: Run, config: Path) -> None:
    if not (run.sft / "adapter_config.json").is_file():
        words = ("--config", config, "--policy.adapter", "null", "--output", run.sft)
        call(run.sft.with_suffix(".log"), "sft", *words, "--prompt_format", run.prompt_format)


@contextlib.contextmanager
def served(url: str | None, config: Path, folder: Path) -> Iterator[str]:
    """The server's address."""
    if url is not None:
        yield url
        return
    read = load_config(DoctorConfig, ["--config", str(config)], prog="real_model_runs")
    flags = ["--config", str(config), "--state-dir", str(folder / "server")]
    with running_server(
        model=read.policy.base_model, log_path=folder / "server.log", flags=flags
    ) as server:
        yield server.url


def train(run: Run, config: Path, url: str, more: Sequence[str]) -> None:
    """Train; an unfinished run resumes, and a finished one does nothing."""
    settings = {
        "--config": config,
        "--policy.adapter": run.sft,
        "--server.url": url,
        "--rollout.prompt_format": run.prompt_format,
        "--data.seed": run.seed,
        "--rollout.seed": run.seed,
        "--run.seed": run.seed,
        "--run.folder": run.ppo,
    }
    words = [word for pair in settings.items() for word in pair]
    call(run.ppo.with_suffix(".log"), "train", *words, *more)


def evaluate(run: Run, config: Path, url: str, num_questions: int) -> None:
    """Ask SFT and PPO the same questions, whatever the seed of the run."""
    settings = {
        "--config": config,
        "--server.url": url,
        "--models": json.dumps([f"SFT={run.sft}", f"PPO={run.ppo}"]),
        "--prompt_format": run.prompt_format,
        "--data_seed": 0,
        "--num_questions": num_questions,
        "--output": run.evaluation,
    }
    call(run.ppo.with_suffix(".log"), "eval", *(word for pair in settings.items() for word in pair))


def table(runs: Sequence[Run]) -> str:
    """A Markdown table with a line for each run."""
    heads = ("prompts", "seed", "SFT", "PPO", "difference", "won, lost", "steps", "minutes")
    lines = []
    for run in runs:
        result = json.loads(run.evaluation.read_text())
        accuracy = {m["label"]: f"{100 * m['accuracy']['value']:.1f} %" for m in result["models"]}
        (gain,) = result["differences"]
        metrics = read_metrics(run.ppo)
        minutes = sum(step["time/step_s"] for step in metrics) / 60
        phases = (
            f"{sum(s.get(f'time/{phase}_s', 0.0) for s in metrics) / len(metrics):.1f} s"
            for phase in PHASES
        )
        lines.append(
            (
                *(run.prompt_format, str(run.seed), accuracy["SFT"], accuracy["PPO"]),
                f"{gain['points']:+.1f} [{gain['low']:+.1f}, {gain['high']:+.1f}]",
                f"{gain['num_won']}, {gain['num_lost']}",
                *(str(len(metrics)), f"{minutes:.1f}", *phases),
            )
        )
    return markdown_table((*heads, *PHASES), lines)


if __name__ == "__main__":
    main()

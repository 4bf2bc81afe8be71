"""Measure steps of the demo with 1 and 2 trainer ranks and 1 and 2 servers, for `benchmarks.scaling check`.

Each row is a kind of run of deploy/configs/demo.toml, all from one SFT adapter and on the same servers. In each round the
rows run one after another. A JSON file gets the seconds of each phase: the median over the middle steps of a run, and
over the rounds. A rank and a server take a core each; `crowded` is true for a row that has more of them at work at once
than the machine has cores.

    python -m benchmarks.scaling.runs --output runs/scaling/measured.json
"""

import contextlib
import json
import os
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors.torch import load_file

from benchmarks.arguments import add_model, benchmark_parser
from benchmarks.learning.demo_runs import CONFIG
from benchmarks.scaling.cases import ONE_RANK, SMALL_PASSES
from benchmarks.sft import sft_adapter
from inference_server.launch.server_process import running_server
from trainer.config.loading import load_config
from trainer.config.sections import SFTRunConfig, TrainConfig
from trainer.console.environment import prepare_environment
from trainer.io.jsonl import read_lines
from trainer.io.metrics_file import read_metrics


class Row(NamedTuple):
    """A kind of run."""

    servers: int
    ranks: int
    staleness: int
    """`rollout.max_staleness`."""
    token_budget: int | None = None
    """`ppo.token_budget`; None leaves the demo's."""

    @property
    def name(self) -> str:
        if self.token_budget is not None:
            return SMALL_PASSES
        return f"servers={self.servers},ranks={self.ranks},staleness={self.staleness}"


# A token budget of 350 is half of a mini-batch of the demo, as two ranks divide it.
ROWS = (
    *(Row(1, 1, 0), Row(1, 1, 0, token_budget=350)),
    *(Row(1, 2, 0), Row(2, 1, 0), Row(1, 1, 1), Row(1, 2, 1)),
)
CPU_ROWS = ROWS[:3]
WARM_UP_STEPS = 3
PHASES = ("wait", "experience", "prove", "journal", "update", "publish", "step")


def main() -> None:
    parser = benchmark_parser(__doc__)
    add_model(parser)
    parser.add_argument("--folder", type=Path, default=Path("runs/scaling"), help="[%(default)s]")
    parser.add_argument("--rounds", type=int, default=3, help="[%(default)s]")
    parser.add_argument("--steps", type=int, default=12, help="per run [%(default)s]")
    parser.add_argument(
        "--cpu-time",
        action="store_true",
        help="time phases in CPU seconds of the first rank, if the machine has other work; only for 1 and 2 ranks",
    )
    parser.add_argument("--output", type=Path, default=Path("runs/scaling/measured.json"))
    arguments = parser.parse_args()
    prepare_environment()
    folder: Path = arguments.folder
    sft = demo_start(arguments.model, folder / "sft")
    flags = ["--max-model-len", "512", "--state-dir"]
    rows = CPU_ROWS if arguments.cpu_time else ROWS
    program = "benchmarks.scaling.cpu_clock" if arguments.cpu_time else "trainer"
    with contextlib.ExitStack() as stack:
        urls = [
            stack.enter_context(
                running_server(
                    model=arguments.model,
                    log_path=folder / f"server-{number}.log",
                    flags=[*flags, str(folder / f"state-{number}")],
                )
            ).url
            for number in range(max(row.servers for row in rows))
        ]
        rounds: list[dict[str, dict[str, float]]] = []
        train(ROWS[0], urls, sft, folder / "warm-up", WARM_UP_STEPS + 1, program)
        for number in range(arguments.rounds):
            rounds.append({})
            for row in rows:
                run = folder / f"round-{number}" / row.name
                train(row, urls, sft, run, arguments.steps, program)
                rounds[-1][row.name] = medians(run)
                print(number, row.name, rounds[-1][row.name], flush=True)
            arguments.output.write_text(
                json.dumps(measured(rounds, folder, rows, sft), indent=1) + "\n"
            )


def demo_start(model: Path, folder: Path) -> Path:
    """The demo's SFT adapter; it and the base are made if they do not exist yet."""
    if not (model / "config.json").is_file():
        from trainer.tiny_model.build import build_tiny_model

        build_tiny_model(model, on_step=lambda *_: None)
    words = ["--config", str(CONFIG), "--policy.base_model", str(model), "--output", str(folder)]
    return sft_adapter(load_config(SFTRunConfig, words, prog="benchmarks/scaling/runs.py"))


def train(row: Row, urls: list[str], sft: Path, run: Path, steps: int, program: str) -> None:
    """Train as a user does: one process, or several that torchrun starts."""
    shutil.rmtree(run, ignore_errors=True)
    run.parent.mkdir(parents=True, exist_ok=True)
    launcher = ["-m", program]
    if row.ranks > 1:
        distributed = ["-m", "torch.distributed.run", "--standalone"]
        launcher = [*distributed, "--nproc-per-node", str(row.ranks), *launcher]
    settings = {
        "--policy.adapter": sft,
        "--server.urls": json.dumps(urls[: row.servers]),
        "--rollout.max_staleness": row.staleness,
        "--ppo.token_budget": row.token_budget or demo_budget(),
        # One, since servers and other ranks need cores too.
        "--run.num_threads": 1,
        "--run.folder": run,
        "--run.num_steps": steps,
        "--run.checkpoint_every": steps,
    }
    words = [str(word) for pair in settings.items() for word in pair]
    with run.with_suffix(".log").open("w") as log:
        subprocess.run(
            [sys.executable, *launcher, "train", "--config", str(CONFIG), *words],
            check=True,
            stdout=log,
            stderr=subprocess.STDOUT,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )


def medians(run: Path) -> dict[str, float]:
    """Median seconds per phase without the first steps, which load everything, and the last, which asks for no rollouts."""
    rows = read_metrics(run)[WARM_UP_STEPS:-1]
    names = [f"time/{phase}_s" for phase in PHASES]
    return {name: round(statistics.median(row[name] for row in rows), 4) for name in names}


def measured(
    rounds: list[dict[str, dict[str, float]]],
    folder: Path,
    kinds: Sequence[Row],
    sft: Path,
) -> Mapping[str, object]:
    """The content of the file that `benchmarks.scaling check` reads."""
    cores = len(os.sched_getaffinity(0))
    rows = {}
    for kind in kinds:
        servers, ranks, staleness, token_budget = kind
        working = max(servers, ranks) if staleness == 0 else servers + ranks
        steps_s = [each[kind.name]["time/step_s"] for each in rounds]
        rows[kind.name] = {
            "servers": servers,
            "ranks": ranks,
            "staleness": staleness,
            "token_budget": token_budget or demo_budget(),
            "crowded": working > cores,
            **{
                key: round(statistics.median(each[kind.name][key] for each in rounds), 4)
                for key in rounds[0][kind.name]
            },
            "lowest_step_s": min(steps_s),
            "highest_step_s": max(steps_s),
        }
    groups, prompt_tokens = completions(folder / "round-0" / ONE_RANK)
    return {
        "cores": cores,
        "optimizer_s": optimizer_s(sft),
        "prompt_tokens": prompt_tokens,
        "rows": rows,
        "lengths": groups,
    }


def demo_budget() -> int:
    return load_config(TrainConfig, ["--config", str(CONFIG)], prog="").ppo.token_budget


def optimizer_s(sft: Path) -> float:
    """CPU seconds of AdamW's step on an adapter, which every rank repeats."""
    torch.set_num_threads(1)
    parameters = [
        torch.nn.Parameter(tensor.float())
        for tensor in load_file(sft / "adapter_model.safetensors").values()
    ]
    optimizer = torch.optim.AdamW(parameters)
    times = []
    for _ in range(30):
        for parameter in parameters:
            parameter.grad = torch.ones_like(parameter)
        started_s = time.process_time()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        times.append(time.process_time() - started_s)
    return round(statistics.median(times), 5)


def completions(run: Path) -> tuple[list[list[int]], int]:
    """Token counts of each group's completions in the middle steps, and the mean number of prompt tokens."""
    found, prompts = [], []
    for path in sorted((run / "rollouts").glob("*.jsonl"))[WARM_UP_STEPS:-1]:
        for _, line in read_lines(path):
            arms = json.loads(line)["arm_outputs"]
            found.append([len(arm["token_ids"]) for arm in arms])
            prompts += [len(arm["prompt_token_ids"]) for arm in arms]
    return found, round(statistics.fmean(prompts))


if __name__ == "__main__":
    main()

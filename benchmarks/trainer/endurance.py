"""Thousands of tiny steps: does the memory of trainer or server grow, does the disk fill up?

python -m benchmarks.trainer.endurance --model models/tiny-base --steps 2000
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from benchmarks.arguments import add_model, benchmark_parser
from benchmarks.memory import memory_mib
from inference_server.launch.server_process import ServerProcess, running_server

SVG = Path(__file__).with_suffix(".svg")
SETTLED_AT_STEP = 100
WINDOW_STEPS = 50
POLL_S = 0.5
ARMS = [
    {"name": name, "system_prompt": "Solve.", "temperature": temperature, "top_p": 1.0}
    for name, temperature in (("cool", 0.7), ("warm", 1.0))
]
SETTINGS = {
    "rollout.questions_per_step": 1,
    "rollout.max_tokens": 6,
    "rollout.arms": json.dumps(ARMS),
    "ppo.critic_warmup_steps": 0,
    "run.num_threads": 1,
}


@dataclass(frozen=True)
class Reading:
    step: int
    trainer_mib: float
    server_mib: float
    run_mib: float
    """The run's folder without what grows by design: rollouts, journal, metrics and TensorBoard."""
    records_mib: float
    """What grows by design."""
    state_mib: float
    """The server's state folder."""


LINES = {
    "trainer_mib": ("trainer, MiB of memory", "#1f77b4"),
    "server_mib": ("server and engine, MiB of memory", "#d62728"),
    "run_mib": ("checkpoints and adapters, MiB on disk", "#2ca02c"),
    "records_mib": ("journal, rollouts, metrics, TensorBoard, MiB on disk", "#9467bd"),
}


def main() -> None:
    parser = benchmark_parser(__doc__)
    add_model(parser)
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--svg", type=Path, default=SVG)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        flags = ["--max-model-len", "256", "--state-dir", str(folder / "state")]
        with running_server(
            model=arguments.model, log_path=folder / "server.log", flags=flags
        ) as server:
            started = time.monotonic()
            readings = measure(server, arguments.model, folder, arguments.steps)
            seconds = time.monotonic() - started
    arguments.svg.write_text(as_svg(readings))
    print(f"{readings[-1].step} steps in {seconds:.0f} s; plot in {arguments.svg}")
    for field, (label, _) in LINES.items():
        after_100 = mean_at(readings, field, SETTLED_AT_STEP)
        at_end = mean_at(readings, field, readings[-1].step - WINDOW_STEPS)
        print(
            f"{label}: {after_100:.1f} after step {SETTLED_AT_STEP}, {at_end:.1f} at the end, {at_end / after_100 - 1:+.1%}"
        )
    print(f"the server's folder: at most {max(r.state_mib for r in readings):.1f} MiB")


def measure(server: ServerProcess, model: Path, folder: Path, num_steps: int) -> list[Reading]:
    run = folder / "run"
    settings = {
        **SETTINGS,
        "policy.base_model": model,
        "server.url": server.url,
        "run.folder": run,
        "run.num_steps": num_steps,
    }
    words = [word for key, value in settings.items() for word in (f"--{key}", str(value))]
    readings: list[Reading] = []
    log = folder / "trainer.log"
    with log.open("wb") as out:
        trainer = subprocess.Popen(
            [sys.executable, "-m", "trainer", "train", *words], stdout=out, stderr=out
        )
    try:
        while trainer.poll() is None:
            step = num_lines(run / "metrics.jsonl")
            if step:
                readings.append(read(step, trainer.pid, server.process.pid, run, folder / "state"))
            if len(readings) % 60 == 1:
                print(readings[-1], flush=True)
            time.sleep(POLL_S)
    finally:
        trainer.kill()
        trainer.wait()
    if trainer.returncode:
        sys.exit(log.read_text()[-2000:])
    return readings


def read(step: int, trainer: int, server: int, run: Path, state: Path) -> Reading:
    kept = sum(disk_mib(run / name) for name in ("checkpoints", "adapters"))
    return Reading(
        step=step,
        trainer_mib=memory_mib(trainer),
        server_mib=memory_mib(server),
        run_mib=kept,
        records_mib=disk_mib(run) - kept,
        state_mib=disk_mib(state),
    )


def num_lines(path: Path) -> int:
    return path.read_bytes().count(b"\n") if path.exists() else 0


def disk_mib(folder: Path) -> float:
    total = 0
    # Files that are removed meanwhile are not counted.
    for root, _, names in os.walk(folder):
        for name in names:
            with suppress(FileNotFoundError):
                total += os.stat(os.path.join(root, name)).st_size
    return total / 2**20


def mean_at(readings: Sequence[Reading], field: str, step: int) -> float:
    """Mean of a field over a window of steps."""
    found: list[float] = [
        getattr(r, field) for r in readings if step <= r.step <= step + WINDOW_STEPS
    ]
    return sum(found) / len(found)


def as_svg(readings: Sequence[Reading]) -> str:
    """One panel per quantity, each starting from zero, so that a leak shows as a slope."""
    width, height, margin = 640, 110, 60
    last_step = readings[-1].step
    shown = readings[:: max(1, len(readings) // 300)]
    parts = []
    for panel, (field, (label, color)) in enumerate(LINES.items()):
        top = panel * (height + 40) + 30
        values = [getattr(reading, field) for reading in shown]
        most = max(values) * 1.1
        points = " ".join(
            f"{margin + width * r.step / last_step:.1f},{top + height * (1 - v / most):.1f}"
            for r, v in zip(shown, values, strict=True)
        )
        parts.append(
            f'<text x="{margin}" y="{top - 6}">{label}</text>'
            f'<rect x="{margin}" y="{top}" width="{width}" height="{height}" fill="none" stroke="#999"/>'
            f'<text x="{margin - 6}" y="{top + 12}" text-anchor="end">{most:.0f}</text>'
            f'<text x="{margin - 6}" y="{top + height}" text-anchor="end">0</text>'
            f'<text x="{margin + width}" y="{top + height + 14}" text-anchor="end">step {last_step}</text>'
            f'<polyline points="{points}" fill="none" stroke="{color}" stroke-width="1.5"/>'
        )
    size = f'width="{width + 2 * margin}" height="{len(LINES) * (height + 40) + 20}"'
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" {size} font-family="sans-serif" font-size="12">'
        f'<rect width="100%" height="100%" fill="white"/>{"".join(parts)}</svg>\n'
    )


if __name__ == "__main__":
    main()

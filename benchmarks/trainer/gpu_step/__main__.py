"""An optimizer step at the presets' shapes, with random weights made on the device: speed, launches, memory.

    python -m benchmarks.trainer.gpu_step                         # all parts, as many as fit in ten minutes
    python -m benchmarks.trainer.gpu_step                         # again: the parts that are left
    python -m benchmarks.trainer.gpu_step --device cpu --shapes tiny --budgets 512

A part is one combination of shape, token budget, checkpointing and attention kernel, measured in a process of its own.
Its record is added to ``--results``, a JSONL file; a part that has one on the same device is not done again, unless it
failed. The table is printed at the end; with ``--table`` nothing else is done.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from itertools import product
from pathlib import Path
from typing import Any

import torch

from benchmarks.arguments import benchmark_parser
from benchmarks.trainer.gpu_step.counters import device_name
from benchmarks.trainer.gpu_step.measure import attempt
from benchmarks.trainer.gpu_step.part import ATTENTIONS, SHAPES, Part
from benchmarks.trainer.gpu_step.table import show
from trainer.console.environment import prepare_environment


def main() -> None:
    prepare_environment()
    arguments = parse()
    if arguments.part is not None:
        part = Part(**json.loads(arguments.part))
        print(json.dumps(attempt(part, torch.device(arguments.device), arguments.rounds)))
        return
    has_failed = False
    if not arguments.table:
        parts = selected(arguments)
        if arguments.list:
            print("\n".join(part.name for part in parts))
            return
        has_failed = run_parts(parts, arguments)
    show(records(arguments.results))
    if has_failed:
        sys.exit(1)


def parse() -> argparse.Namespace:
    parser = benchmark_parser(__doc__, prog="python -m benchmarks.trainer.gpu_step")
    add = parser.add_argument
    add("--device", choices=["cuda", "cpu"], default="cuda", help="[%(default)s]")
    add("--shapes", nargs="+", choices=SHAPES, default=["1.5b", "8b"], help="[%(default)s]")
    add(
        "--budgets", nargs="+", type=int, default=[4096, 8192, 12_288, 16_384], help="[%(default)s]"
    )
    both = ["on", "off"]
    add("--checkpointing", nargs="+", choices=both, default=both, help="[%(default)s]")
    add("--attentions", nargs="+", choices=ATTENTIONS, default=list(ATTENTIONS), help="[all]")
    add("--rounds", type=int, default=3, help="repetitions of each measure [%(default)s]")
    add("--results", type=Path, default=Path("runs/gpu_step/results.jsonl"), help="[%(default)s]")
    add("--limit_s", type=float, default=540, help="seconds for all parts together [%(default)s]")
    add("--list", action="store_true", help="name the parts and exit")
    add("--table", action="store_true", help="only print the table of what is in --results")
    add("--part", help=argparse.SUPPRESS)
    return parser.parse_args()


def selected(arguments: argparse.Namespace) -> list[Part]:
    """The parts, the most useful ones first; kernels other than PyTorch's choice only at the middle budget."""
    parts = [
        Part(shape=s, budget=b, checkpointing=c == "on", attention=a)
        for a, s, b, c in product(
            arguments.attentions, arguments.shapes, arguments.budgets, arguments.checkpointing
        )
    ]
    middle = sorted(arguments.budgets)[len(arguments.budgets) // 2]
    return [p for p in parts if ATTENTIONS[p.attention] is None or p.budget == middle]


def run_parts(parts: Sequence[Part], arguments: argparse.Namespace) -> bool:
    """Do the parts that have no record on this device, as long as there is time for the next one.

    Returns whether one failed, for another reason than too little memory or a kernel that refuses the part.
    """
    device = device_name(arguments.device)
    done = {(r["name"], r["device"]) for r in records(arguments.results) if r["status"] != "failed"}
    left = [part for part in parts if (part.name, device) not in done]
    started, longest_s, has_failed = time.monotonic(), 0.0, False
    for i, part in enumerate(left):
        rest_s = arguments.limit_s - (time.monotonic() - started)
        if i and rest_s < 1.5 * longest_s:
            print(f"{len(left) - i} parts are left: run it again")
            break
        print(f"{part.name} … ", end="", flush=True)
        began = time.monotonic()
        record = in_process(part, arguments, max(1.0, rest_s))
        if record["status"] == "too long" and i:
            # The part had only the rest of the time; the next call begins with it.
            print(f"cut short; {len(left) - i} parts are left: run it again")
            break
        longest_s = max(longest_s, time.monotonic() - began)
        record |= {"name": part.name, "device": device, **asdict(part)}
        record |= {"seconds": time.monotonic() - began, "torch": torch.__version__}
        arguments.results.parent.mkdir(parents=True, exist_ok=True)
        with arguments.results.open("a") as file:
            file.write(json.dumps(record) + "\n")
            file.flush()
            os.fsync(file.fileno())
        print(f"{record['status']}, {record['seconds']:.0f} s", flush=True)
        has_failed |= record["status"] == "failed"
    return has_failed


def in_process(part: Part, arguments: argparse.Namespace, limit_s: float) -> dict[str, Any]:
    """Measure a part in a process of its own; returns its record, or how the process ended."""
    command = [
        sys.executable,
        "-m",
        "benchmarks.trainer.gpu_step",
        "--part",
        json.dumps(asdict(part)),
    ]
    command += ["--device", arguments.device, "--rounds", str(arguments.rounds)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=limit_s)
    except subprocess.TimeoutExpired:
        return {"status": "too long"}
    lines = done.stdout.splitlines()
    if done.returncode or not lines:
        last = [*done.stderr.strip().splitlines(), ""][-2:]
        return {"status": "failed", "error": f"exit code {done.returncode}: {' '.join(last)}"}
    found: dict[str, Any] = json.loads(lines[-1])
    return found


def records(results: Path) -> list[dict[str, Any]]:
    if not results.exists():
        return []
    return [json.loads(line) for line in results.read_text().splitlines() if line.endswith("}")]


if __name__ == "__main__":
    main()

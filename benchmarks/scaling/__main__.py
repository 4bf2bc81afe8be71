"""Seconds per step by number of servers and trainer ranks, from a simulator fed with measured phases; see docs/scaling.md.

    python -m benchmarks.scaling tables --plot docs/images/scaling.svg
    python -m benchmarks.scaling one --model 8B --servers 2 --ranks 4 --staleness 1
    python -m benchmarks.scaling check runs/scaling/measured.json

`tables` prints the tables of docs/scaling.md, `one` prints a single case, and `check` compares the simulator with runs
that `benchmarks.scaling.runs` has measured.
"""

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.markdown import markdown_table
from benchmarks.scaling.cases import ONE_RANK, SHAPES, SMALL_PASSES, cpu_case, read_measured
from benchmarks.scaling.picture import picture
from benchmarks.scaling.simulation import simulate
from benchmarks.scaling.tables import all_tables, outcome


def main() -> None:
    parser = argparse.ArgumentParser(
        # By default the usage line would say __main__.py.
        prog="python -m benchmarks.scaling",
        description=__doc__,
        allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", required=True)
    tables = commands.add_parser("tables", allow_abbrev=False, help="the tables of docs/scaling.md")
    tables.add_argument("--plot", type=Path, help="file of the plot [none]")
    one = commands.add_parser("one", allow_abbrev=False, help="a single case")
    one.add_argument("--model", choices=list(SHAPES), required=True)
    one.add_argument("--servers", type=_positive, default=1, help="[%(default)s]")
    one.add_argument("--ranks", type=_positive, default=1, help="of the trainer [%(default)s]")
    one.add_argument("--staleness", type=int, choices=range(5), default=1, help="[%(default)s]")
    check = commands.add_parser("check", allow_abbrev=False, help="compare with measured runs")
    check.add_argument("measured", type=Path, help="written by benchmarks.scaling.runs")
    arguments = parser.parse_args()
    if arguments.command == "tables":
        print("\n\n".join(f"{name}\n\n{text}" for name, text in all_tables().items()))
        if arguments.plot:
            arguments.plot.write_text(picture())
    elif arguments.command == "one":
        found = outcome(arguments.model, arguments.servers, arguments.ranks, arguments.staleness)
        print("\n".join(f"{name:12} {value:.3f}" for name, value in vars(found).items()))
    else:
        print(checked(read_measured(arguments.measured)))


def _positive(text: str) -> int:
    value = int(text)
    if not 1 <= value <= 64:
        raise argparse.ArgumentTypeError(f"{text} is not from 1 to 64")
    return value


def checked(measured: Mapping[str, Any]) -> str:
    """A table of predicted and measured steps of the demo on a CPU."""
    case = cpu_case(measured)
    heads = [
        "servers",
        "ranks",
        "staleness",
        "predicted",
        "measured (lowest to highest)",
        "predicted / measured",
        "",
    ]
    rows = []
    for name, row in measured["rows"].items():
        if name == SMALL_PASSES:
            continue
        s, r, k = row["servers"], row["ranks"], row["staleness"]
        predicted_s = simulate(case, servers=s, ranks=r, staleness=k).step_s
        step_s = row["time/step_s"]
        spread = f"{step_s:.2f} s ({row['lowest_step_s']:.2f} to {row['highest_step_s']:.2f})"
        remark = (
            "fed with this row, and with its small passes"
            if name == ONE_RANK
            else "more processes at work than cores"
            if row["crowded"]
            else ""
        )
        rows.append(
            [
                str(s),
                str(r),
                str(k),
                f"{predicted_s:.2f} s",
                spread,
                f"{predicted_s / step_s:.2f}",
                remark,
            ]
        )
    return markdown_table(heads, rows)


if __name__ == "__main__":
    main()

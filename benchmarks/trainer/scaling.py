"""Seconds a step against servers and trainer ranks, by a small simulator fed with measured phases; see docs/scaling.md.

    python -m benchmarks.trainer.scaling tables --plot docs/images/scaling.svg
    python -m benchmarks.trainer.scaling one --model 8B --servers 2 --ranks 4 --staleness 1
    python -m benchmarks.trainer.scaling check runs/scaling/measured.json

`tables` prints the tables of docs/scaling.md, `one` a single case, and `check` holds the simulator against measured runs
of `benchmarks.trainer.scaling_runs`.
"""

import argparse
import math
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from benchmarks.markdown import markdown_table
from benchmarks.trainer.learning_curves import COLOURS
from benchmarks.trainer.scaling_cases import (
    CARDS_A_SERVER,
    ONE_RANK,
    SHAPES,
    SMALL_PASSES,
    cpu_case,
    gpu_case,
    read_measured,
)
from benchmarks.trainer.scaling_model import Outcome, simulate

COUNTS = (1, 2, 4, 8)
STALENESSES = (0, 1, 2)
PAYS = 0.5
"""More cards pay while they save at least this share of what perfect division among them would."""
STEPS = 12
FIXED_TIMES_S = (0.004, 0.008, 0.016)
PUSHED_TO = (1, 4, 16)
LINKS_BYTES_A_S = {"1 Gb/s": 0.125e9, "10 Gb/s": 1.25e9, "100 Gb/s": 12.5e9}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__,
        allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", required=True)
    tables = commands.add_parser("tables", allow_abbrev=False, help="the tables of docs/scaling.md")
    tables.add_argument("--plot", type=Path, help="where the picture goes [none]")
    one = commands.add_parser("one", allow_abbrev=False, help="a single case")
    one.add_argument("--model", choices=list(SHAPES), required=True)
    one.add_argument("--servers", type=_positive, default=1, help="[%(default)s]")
    one.add_argument("--ranks", type=_positive, default=1, help="of the trainer [%(default)s]")
    one.add_argument("--staleness", type=int, choices=range(5), default=1, help="[%(default)s]")
    check = commands.add_parser("check", allow_abbrev=False, help="against measured runs")
    check.add_argument("measured", type=Path, help="written by benchmarks.trainer.scaling_runs")
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


@lru_cache(maxsize=1024)
def outcome(
    name: str, servers: int, ranks: int, staleness: int, fixed_s: float | None = None
) -> Outcome:
    """A simulated run of a model on GPUs."""
    case = gpu_case(name) if fixed_s is None else gpu_case(name, fixed_s=fixed_s)
    return simulate(case, servers=servers, ranks=ranks, staleness=staleness, steps=STEPS)


def all_tables() -> dict[str, str]:
    """Every table by its heading, as docs/scaling.md has them."""
    return {
        **{f"{name}: seconds a step": grid(name) for name in SHAPES},
        **{f"{name}: the best division of so many cards": splits(name) for name in SHAPES},
        "What an assumption does": assumption(),
        "A push": pushes(),
    }


def grid(name: str) -> str:
    """Servers against ranks at staleness 1, with the side that waits."""
    heads = ["ranks \\ servers", *map(str, COUNTS)]
    rows = []
    for ranks in COUNTS:
        cells = []
        for servers in COUNTS:
            found = outcome(name, servers, ranks, 1)
            cells.append(f"{seconds(found.step_s)}, {found.server_idle:.0%} idle")
        rows.append([str(ranks), *cells])
    return markdown_table(heads, rows)


def divisions(name: str) -> dict[int, tuple[int, int]]:
    """For each number of cards, the servers and ranks with the quickest step at staleness 1."""
    best: dict[int, tuple[int, int]] = {}
    for servers in COUNTS:
        for ranks in COUNTS:
            cards = servers * CARDS_A_SERVER[name] + ranks
            quickest = best.setdefault(cards, (servers, ranks))
            if outcome(name, servers, ranks, 1).step_s < outcome(name, *quickest, 1).step_s:
                best[cards] = servers, ranks
    # More cards that are no quicker are not worth a line.
    kept: dict[int, tuple[int, int]] = {}
    for cards in sorted(best):
        last_s = min((outcome(name, *split, 1).step_s for split in kept.values()), default=math.inf)
        if outcome(name, *best[cards], 1).step_s < 0.98 * last_s:
            kept[cards] = best[cards]
    return kept


def splits(name: str) -> str:
    """The quickest division of each number of cards, and what the next cards bring."""
    heads = [
        *("cards", "servers + ranks"),
        *(f"staleness {staleness}" for staleness in STALENESSES),
        *("of perfect division", "more cards pay"),
    ]
    rows, last = [], None
    for cards, (servers, ranks) in divisions(name).items():
        times = [outcome(name, servers, ranks, staleness).step_s for staleness in STALENESSES]
        if last is None:
            last = first = (cards, times[1])
            pays = ""
        else:
            saved, ideal = 1 - times[1] / last[1], 1 - last[0] / cards
            pays = f"{'yes' if saved >= PAYS * ideal else 'no'}: −{saved:.0%} for +{cards / last[0] - 1:.0%}"
            last = (cards, times[1])
        whole = first[0] * first[1] / (cards * times[1])
        rows.append(
            [str(cards), f"{servers} + {ranks}", *map(seconds, times), f"{whole:.0%}", pays]
        )
    return markdown_table(heads, rows)


def assumption() -> str:
    """How the unmeasured part of a token's time changes the figures of 1.5B at staleness 1."""
    divided = [(1, 1), (2, 2), (4, 4), (8, 8)]
    heads = ["fixed part of a token's step at 1.5B", *(f"{s} + {r}" for s, r in divided)]
    rows = [
        [
            f"{1000 * fixed_s:.0f} of 38 ms",
            *(seconds(outcome("1.5B", s, r, 1, fixed_s).step_s) for s, r in divided),
        ]
        for fixed_s in FIXED_TIMES_S
    ]
    return markdown_table(heads, rows)


def pushes() -> str:
    """Bytes of a push and the time that a link takes for them."""
    heads = ["model", "a push", "servers", *LINKS_BYTES_A_S, "link for 5 % of the quickest step"]
    rows = []
    for name in SHAPES:
        size = gpu_case(name).trainer.adapter_bytes
        quickest_s = min(outcome(name, *split, 1).step_s for split in divisions(name).values())
        for servers in PUSHED_TO:
            needed = 8 * size * servers / (0.05 * quickest_s) / 1e9
            times = [f"{size * servers / rate:.2f} s" for rate in LINKS_BYTES_A_S.values()]
            rows.append([name, f"{size / 1e6:.0f} MB", str(servers), *times, f"{needed:.2g} Gb/s"])
    return markdown_table(heads, rows)


def checked(measured: Mapping[str, Any]) -> str:
    """Predicted against measured steps of the demo on a CPU."""
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
            "fed with it, and with its small passes"
            if name == ONE_RANK
            else "more at work than cores"
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


def seconds(value: float) -> str:
    return f"{value:.1f}" if value < 100 else f"{value:.0f}"


def picture() -> str:
    """An SVG: how many times quicker than the smallest division of cards, both axes logarithmic."""
    width, height, left, top, right, bottom = 640, 420, 56, 20, 120, 46
    curves = {}
    for name in SHAPES:
        points = [
            (cards, outcome(name, *split, 1).step_s) for cards, split in divisions(name).items()
        ]
        curves[name] = [(cards / points[0][0], points[0][1] / step_s) for cards, step_s in points]
    most = 2.0 ** math.ceil(math.log2(max(x for curve in curves.values() for x, _ in curve)))

    def place(x: float, y: float) -> tuple[float, float]:
        across = (width - left - right) * math.log(x) / math.log(most)
        up = (height - top - bottom) * math.log(y) / math.log(most)
        return round(left + across, 1), round(height - bottom - up, 1)

    def line(points: Sequence[tuple[float, float]], style: str) -> str:
        words = " ".join(f"{x},{y}" for x, y in (place(*point) for point in points))
        return f'<polyline fill="none" {style} points="{words}"/>'

    def text(x: float, y: float, words: str, anchor: str = "middle") -> str:
        return f'<text x="{x}" y="{y}" text-anchor="{anchor}">{words}</text>'

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" font-family="sans-serif" font-size="12">',
        f'<rect width="{width}" height="{height}" fill="white"/>',
        line([(1, 1), (most, most)], 'stroke="#999" stroke-dasharray="4 4"'),
    ]
    for power in range(round(math.log2(most)) + 1):
        times = 2.0**power
        parts.append(line([(1, times), (most, times)], 'stroke="#ddd"'))
        x, y = place(1, times)
        parts.append(text(x - 6, y + 4, f"{times:g} ×", "end"))
        x, y = place(times, 1)
        parts.append(text(x, y + 16, f"{times:g} ×"))
    x, y = place(math.sqrt(most), 1)
    parts.append(text(x, y + 34, "cards, over one server and one rank"))
    for colour, (name, curve) in zip(COLOURS, curves.items(), strict=False):
        parts.append(line(curve, f'stroke="{colour}" stroke-width="2.5"'))
        x, y = place(*curve[-1])
        parts.append(text(x + 6, y + 4, name, "start"))
    return "\n".join([*parts, "</svg>\n"])


if __name__ == "__main__":
    main()

"""The tables of docs/scaling.md: simulated runs of the models on GPUs."""

import math
from functools import lru_cache

from benchmarks.markdown import markdown_table
from benchmarks.scaling.cases import CARDS_A_SERVER, SHAPES, gpu_case
from benchmarks.scaling.simulation import Outcome, simulate

COUNTS = (1, 2, 4, 8)
STALENESSES = (0, 1, 2)
PAYS = 0.5
"""More cards pay as long as they save at least this share of the time that perfect division among them would save."""
STEPS = 12
FIXED_TIMES_S = (0.004, 0.008, 0.016)
PUSHED_TO = (1, 4, 16)
LINKS_BYTES_A_S = {"1 Gb/s": 0.125e9, "10 Gb/s": 1.25e9, "100 Gb/s": 12.5e9}


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
        **{
            f"{name}: the fastest division of each number of cards": splits(name) for name in SHAPES
        },
        "What an assumption does": assumption(),
        "A push": pushes(),
    }


def grid(name: str) -> str:
    """Seconds per step and the servers' idle time for each number of ranks and servers, at staleness 1."""
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
    """For each number of cards, the servers and ranks with the fastest step at staleness 1."""
    best: dict[int, tuple[int, int]] = {}
    for servers in COUNTS:
        for ranks in COUNTS:
            cards = servers * CARDS_A_SERVER[name] + ranks
            quickest = best.setdefault(cards, (servers, ranks))
            if outcome(name, servers, ranks, 1).step_s < outcome(name, *quickest, 1).step_s:
                best[cards] = servers, ranks
    # A number of cards that is hardly faster than a smaller number gets no line.
    kept: dict[int, tuple[int, int]] = {}
    for cards in sorted(best):
        last_s = min((outcome(name, *split, 1).step_s for split in kept.values()), default=math.inf)
        if outcome(name, *best[cards], 1).step_s < 0.98 * last_s:
            kept[cards] = best[cards]
    return kept


def splits(name: str) -> str:
    """The fastest division of each number of cards, and whether the additional cards pay."""
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
    """Bytes of a push, and how long a link takes to send them."""
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


def seconds(value: float) -> str:
    return f"{value:.1f}" if value < 100 else f"{value:.0f}"

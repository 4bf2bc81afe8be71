"""Prints the table of the parts that were measured."""

from collections.abc import Iterator, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table


def show(found: Sequence[dict[str, Any]]) -> None:
    if not found:
        print("no results yet")
        return
    table = Table(
        title="one optimizer step (a mini-batch), and its experience", title_justify="left"
    )
    for heading in ("device", "part"):
        table.add_column(heading, overflow="fold")
    for heading in (
        "tokens/s",
        "experience, s",
        "update, s",
        "update, TFLOP",
        "MFU",
        "launches",
        "GPU busy",
        "GiB loaded (plan)",
        "experience",
        "update (plan)",
        "reserved",
    ):
        table.add_column(heading, justify="right", overflow="fold")
    for record in found:
        table.add_row(record["device"].removeprefix("NVIDIA "), record["name"], *cells(record))
    Console(width=180).print(table)
    print(
        "tokens/s: generated tokens, by experience and update together; MFU: of the card's dense bfloat16 "
        "rate, recomputation counted;\nlaunches without a GPU: dispatched operations; GiB: the most that was "
        "allocated, without the CUDA context"
    )


def cells(record: dict[str, Any]) -> Iterator[str]:
    """A record's numbers, or why it has none."""
    if record["status"] != "done":
        yield record["status"]
        return
    step_s = record["experience_s"] + record["update_s"]
    launches = record["launches"]
    yield f"{record['completion_tokens'] / step_s:,.0f}"
    yield f"{record['experience_s']:.2f}"
    yield f"{record['update_s']:.2f}"
    yield f"{record['update_flop'] / 1e12:,.1f}"
    yield percent(record["mfu"])
    yield f"{record['operations'] if launches is None else launches:,}"
    yield percent(record["busy"])
    yield f"{record['loaded_gib']:.1f} ({record['planned_loaded_gib']:.1f})"
    yield f"{record['experience_gib']:.1f}"
    yield f"{record['update_gib']:.1f} ({record['planned_update_gib']:.1f})"
    yield f"{record['reserved_gib']:.1f}"


def percent(share: float | None) -> str:
    return "" if share is None else f"{100 * share:.0f} %"

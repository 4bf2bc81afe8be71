"""Progress of long work: a bar on a terminal, otherwise a line every few seconds."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskProgressColumn,
    TextColumn,
    TimeRemainingColumn,
)

_SECONDS_BETWEEN_LINES = 10.0

OnStep = Callable[[int, int, float], None]
"""Called with the step, the number of steps and the loss."""

OnGroup = Callable[[int], None]
"""Called for each group with its number of tokens."""


def bar(console: Console) -> Progress:
    """A progress bar, drawn only on terminals."""
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TaskProgressColumn(),
        TimeRemainingColumn(),
        console=console,
        disable=not console.is_terminal,
    )


def duration(seconds: float) -> str:
    """A length of time, such as ``57 s``, ``12 min`` or ``9 h 12 min``."""
    if seconds < 99.5:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 100 else f"{minutes // 60} h {minutes % 60} min"


@contextmanager
def step_lines(name: str, console: Console | None = None) -> Iterator[OnStep]:
    """Show training steps.

    Args:
        name: The work's name.
        console: The console that other lines are printed on meanwhile, if any: two consoles would draw over each other.
    """
    console = console or Console()
    last_line = -_SECONDS_BETWEEN_LINES
    began: tuple[int, float] | None = None
    """The first step, which is not 1 after a resume, and its time."""
    with bar(console) as progress:
        task = progress.add_task(name, total=None)

        def on_step(step: int, num_steps: int, loss: float) -> None:
            nonlocal last_line, began
            progress.update(
                task, description=f"{name} loss {loss:.3f}", total=num_steps, completed=step
            )
            now = time.monotonic()
            first, started = began = began or (step, now)
            due = now - last_line >= _SECONDS_BETWEEN_LINES
            if not console.is_terminal and (due or step == num_steps):
                last_line = now
                left = ""
                if step > first:
                    left_s = (now - started) / (step - first) * (num_steps - step)
                    left = f", {duration(left_s)} left"
                console.print(
                    f"{name} step {step}/{num_steps} loss {loss:.4f}{left}", highlight=False
                )

        yield on_step


@contextmanager
def group_lines(name: str, *, num_done: int, num_total: int) -> Iterator[OnGroup]:
    """Show how many groups have arrived, how fast, and the time left.

    Args:
        name: The work's name.
        num_done: Number of groups that were done before.
        num_total: Number of all groups, including these.
    """
    console, started, first = Console(), time.monotonic(), num_done
    last_line, num_tokens = started, 0
    with bar(console) as progress:
        task = progress.add_task(name, total=num_total, completed=num_done)

        def on_group(group_tokens: int) -> None:
            nonlocal num_done, num_tokens, last_line
            num_done += 1
            num_tokens += group_tokens
            now = time.monotonic()
            rate = (num_done - first) / max(now - started, 1e-9)
            speed = f"{rate:.1f}/s, {num_tokens / max(now - started, 1e-9):,.0f} tokens/s"
            progress.update(task, description=f"{name} {speed}", completed=num_done)
            due = now - last_line >= _SECONDS_BETWEEN_LINES
            if not console.is_terminal and (due or num_done == num_total):
                last_line = now
                console.print(
                    f"{name} {num_done}/{num_total}, {speed}, "
                    f"{duration((num_total - num_done) / rate)} left",
                    highlight=False,
                )

        yield on_group

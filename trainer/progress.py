"""Progress of long work: a bar on a terminal, one greppable line now and then otherwise."""

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


def bar(console: Console) -> Progress:
    """A progress bar that draws on terminals alone."""
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TaskProgressColumn(),
        TimeRemainingColumn(),
        console=console,
        disable=not console.is_terminal,
    )


@contextmanager
def step_lines(name: str) -> Iterator[OnStep]:
    """Show the steps of one piece of training."""
    console = Console()
    last_line = -_SECONDS_BETWEEN_LINES
    with bar(console) as progress:
        task = progress.add_task(name, total=None)

        def on_step(step: int, num_steps: int, loss: float) -> None:
            nonlocal last_line
            progress.update(
                task, description=f"{name} loss {loss:.3f}", total=num_steps, completed=step
            )
            due = time.monotonic() - last_line >= _SECONDS_BETWEEN_LINES
            if not console.is_terminal and (due or step == num_steps):
                last_line = time.monotonic()
                console.print(f"{name} step {step}/{num_steps} loss {loss:.4f}", highlight=False)

        yield on_step

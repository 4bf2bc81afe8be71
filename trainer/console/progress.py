"""Progress of long work: a bar on a terminal, otherwise a line every few seconds."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Protocol

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    TaskProgressColumn,
    TextColumn,
    TimeRemainingColumn,
)

_SECONDS_BETWEEN_LINES = 10.0


class OnStep(Protocol):
    """Called after steps of a training."""

    def __call__(
        self,
        step: int,
        num_steps: int,
        loss: float,
        /,
        *,
        paused_s: float = 0.0,
        pauses_left_s: float | None = 0.0,
    ) -> None:
        """Show the step.

        Args:
            step: The step.
            num_steps: Number of all steps.
            loss: The training loss.
            paused_s: Seconds that were not spent on steps but on evaluations, since this process began.
            pauses_left_s: Seconds that evaluations will still take; None if that is not known.
        """


OnGroup = Callable[[int], None]
"""Called for each group with its number of tokens."""


def bar(console: Console, left: ProgressColumn | None = None) -> Progress:
    """A progress bar, drawn only on terminals; ``left`` shows the time left, if it is not the one of the speed lately."""
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TaskProgressColumn(),
        left or TimeRemainingColumn(),
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
    """The first step, which is not 1 after a resume, and its time, without pauses."""
    with bar(console, TextColumn("{task.fields[left]}")) as progress:
        task = progress.add_task(name, total=None, left="")

        def on_step(
            step: int,
            num_steps: int,
            loss: float,
            /,
            *,
            paused_s: float = 0.0,
            pauses_left_s: float | None = 0.0,
        ) -> None:
            nonlocal last_line, began
            now = time.monotonic()
            first, started = began = began or (step, now - paused_s)
            left = ""
            if step > first and pauses_left_s is not None:
                step_s = (now - paused_s - started) / (step - first)
                left = f", {duration(step_s * (num_steps - step) + pauses_left_s)} left"
            progress.update(
                task,
                description=f"{name} loss {loss:.3f}",
                total=num_steps,
                completed=step,
                left=left.removeprefix(", "),
            )
            due = now - last_line >= _SECONDS_BETWEEN_LINES
            if not console.is_terminal and (due or step == num_steps):
                last_line = now
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

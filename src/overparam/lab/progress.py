"""The progress of a long command, for a terminal or for a log."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

from overparam.lab.terminal import say


@contextmanager
def progress(console: Console, total: float) -> Iterator[Callable[[float], None]]:
    """A progress bar in a terminal that can redraw a line; elsewhere, one line for every 10 %.

    Args:
        console: where to show it.
        total: the cost of all the work.

    Yields:
        A function to call with the cost of the work done so far.
    """
    if console.is_terminal and not console.is_dumb_terminal:
        columns = (TextColumn("Training"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
        with Progress(*columns, console=console, transient=True) as bar:
            task = bar.add_task("", total=total)
            yield lambda done: bar.update(task, completed=done)
        return
    shown = 0

    def show(done: float) -> None:
        nonlocal shown
        tenths = int(done * 10 / total) if total else 0
        if tenths > shown:
            shown = tenths
            say(console, f"Training: {shown * 10} %")

    yield show

"""A bar in the terminal, for calls that take long."""

from __future__ import annotations

import contextlib
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator

# Shorter calls show nothing.
PATIENCE_SECONDS = 5.0
_WIDTH = 40
# Two bars in one terminal would overwrite each other: the first thread shows its own.
_TURN = threading.Lock()


@contextlib.contextmanager
def progress_bar(title: str, total: float, *, shown: bool) -> Iterator[Callable[[float], None]]:
    """A bar on standard error, where that is a terminal; erased at the end and at errors.

    Args:
        title: what takes so long.
        total: the cost of all the work.
        shown: False for no bar at all.

    Yields:
        A function to call with the cost of each piece of work once it is done.
    """
    stream, begin = sys.stderr, time.monotonic()
    done, drawn = 0.0, ""

    def advance(cost: float) -> None:
        nonlocal done, drawn
        done += cost
        if time.monotonic() - begin < PATIENCE_SECONDS:
            return
        if drawn or _TURN.acquire(blocking=False):
            part = done / total if total else 1.0
            drawn = f"{title} [{'#' * int(_WIDTH * part):{_WIDTH}}] {part:4.0%}"
            _write(f"\r{drawn}")

    def _write(text: str) -> None:
        # A terminal that is gone is no reason to stop the work.
        with contextlib.suppress(OSError, ValueError):
            stream.write(text)
            stream.flush()

    try:
        yield advance if shown and _is_terminal(stream) else _nothing
    finally:
        if drawn:
            _write(f"\r{' ' * len(drawn)}\r")
            _TURN.release()


def _nothing(cost: float) -> None:
    """Shows nothing."""


def _is_terminal(stream: object) -> bool:
    """Whether a stream, which may be closed or missing, is a terminal that can redraw a line."""
    if os.environ.get("TERM") == "dumb":
        return False
    try:
        return bool(stream.isatty())  # pyright: ignore[reportAttributeAccessIssue]
    except (AttributeError, OSError, ValueError):
        return False

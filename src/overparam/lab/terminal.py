"""What the lab prints arrives in any terminal, log or pipe, and never ends the work.

All output goes through a console of this module: a path or a name is shown as it is, not read as
markup or emoji, and a line is not cut or broken, so that a printed command or path can be copied.
"""

from __future__ import annotations

import codecs
import contextlib
import os
import sys
import textwrap
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, TextIO, cast

from rich.console import Console
from rich.measure import Measurement
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from overparam.lab.verdicts import Verdict

_LOG_WIDTH = 120
_COLUMNS, _VERDICT = 80, 14
_VERDICT_COLOURS: Mapping[str, str] = {
    Verdict.YES: "green",
    Verdict.MOSTLY: "green",
    Verdict.MOSTLY_NO: "red",
    Verdict.NO: "red",
}
_PLAIN = "overparam-plain"
_SUBSTITUTES = {
    **dict.fromkeys("─━═╴╶╸╺", "-"),
    **dict.fromkeys("│┃║", "|"),
    **dict.fromkeys("╭╮╰╯┌┐└┘├┤┬┴┼", "+"),
    **{"•": "*", "≤": "<=", "≥": ">=", "…": "...", "²": "^2", "×": "x", "–": "-", "−": "-"},  # noqa: RUF001
}


def open_console(stderr: bool = False) -> Console:
    """A console that takes every text literally; outside a terminal it is as wide as a page."""
    console = Console(stderr=stderr, markup=False, emoji=False, highlight=False)
    if not console.is_terminal and "COLUMNS" not in os.environ:
        console.width = _LOG_WIDTH
    return console


def say(console: Console, text: str) -> None:
    """Print a text whose lines the terminal may wrap but that holds no line breaks of ours."""
    console.print(text, soft_wrap=True, markup=False, emoji=False, highlight=False)


def say_sentence(console: Console, text: str) -> None:
    """Print a text in lines of at most 80 columns."""
    for line in textwrap.wrap(text, _COLUMNS):
        say(console, line)


def say_verdict(console: Console, verdict: str, sentence: str, details: Iterable[str] = ()) -> None:
    """Print a verdict with its sentence beside it, and more sentences below, in 80 columns.

    Args:
        console: where to print.
        verdict: one or two words.
        sentence: what it is about.
        details: sentences behind it; each begins a line.
    """
    margin = " " * _VERDICT
    lines = textwrap.wrap(sentence, _COLUMNS - _VERDICT)
    for detail in details:
        lines += textwrap.wrap(detail, _COLUMNS - _VERDICT, subsequent_indent="  ")
    head = Text(f"{verdict:<{_VERDICT}}", _VERDICT_COLOURS.get(verdict, "yellow"))
    console.print(head.append(lines[0] if lines else "", "default"), soft_wrap=True)
    for line in lines[1:]:
        say(console, margin + line)


def show_table(console: Console, table: Table) -> None:
    """Print a table with whole words and numbers, even where it is wider than the terminal."""
    options = console.options.update(max_width=10_000)
    whole = Measurement.get(console, options, table)
    if whole.maximum > console.width:
        # Rich would shorten words; so each column gets the width of its longest word, and a part of
        # what is left in proportion to what it lacks.
        spare = max(0, console.width - whole.minimum)
        lacking = max(1, whole.maximum - whole.minimum)
        table.width = whole.minimum
        for column in table.columns:
            cells = [Measurement.get(console, options, c) for c in (column.header, *column.cells)]
            least, most = (max(sizes) for sizes in zip(*cells, strict=True))
            added = spare * (most - least) // lacking
            column.width = least + added
            table.width += added
    console.print(table, crop=False, markup=False, emoji=False, highlight=False)


@contextlib.contextmanager
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


@contextlib.contextmanager
def lasting_output() -> Iterator[LastingStream]:
    """Let what is printed inside fail without ending the work.

    Characters that the encoding lacks are replaced by plain ones. If the reader of a pipe is gone,
    the terminal has closed, or a disk is full, the work goes on without output. Missing standard
    streams are opened on the null device, so that no file of ours takes their numbers.

    Yields:
        Standard output; its ``error`` is why it was given up, or None.
    """
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            # The lowest free number is the missing one.
            os.open(os.devnull, os.O_RDWR)
    before = sys.stdout, sys.stderr
    streams = [LastingStream(stream) for stream in before]
    sys.stdout, sys.stderr = (cast(TextIO, stream) for stream in streams)
    try:
        yield streams[0]
    finally:
        for stream in streams:
            stream.restore()
        sys.stdout, sys.stderr = before


class LastingStream:
    """A text stream that stays silent once it cannot be written, and can write any character.

    Args:
        stream: where to write; None (as Python has it for a closed descriptor) drops everything.
    """

    def __init__(self, stream: TextIO | None) -> None:
        self.error: OSError | None = None
        # The null device as a file, because others ask a stream for its number and encoding.
        self._stream = stream or open(os.devnull, "w", encoding="utf-8")  # noqa: PTH123, SIM115
        self._opened = stream is None
        self._errors = self._stream.errors
        self._reconfigure(_PLAIN)

    def write(self, text: str) -> int:
        """Write a text, or drop it if the stream has failed before or fails now."""
        self._attempt(lambda: self._stream.write(text))
        return len(text)

    def flush(self) -> None:
        """Flush what is written."""
        self._attempt(self._stream.flush)

    def restore(self) -> None:
        """Flush, and leave the stream as it was found."""
        self.flush()
        if self._opened:
            self._stream.close()
        elif self._errors is not None:
            self._reconfigure(self._errors)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def _attempt(self, action: Any) -> None:
        if self.error is not None:
            return
        try:
            action()
        except (OSError, ValueError) as error:  # ValueError: the file object is closed
            self.error = error if isinstance(error, OSError) else OSError(str(error))
            # What is still buffered must not fail again when Python ends.
            with contextlib.suppress(OSError, ValueError):
                null = os.open(os.devnull, os.O_WRONLY)
                os.dup2(null, self._stream.fileno())
                os.close(null)

    def _reconfigure(self, errors: str) -> None:
        reconfigure = getattr(self._stream, "reconfigure", None)
        if reconfigure is not None:
            self._attempt(lambda: reconfigure(errors=errors))


def _plain(error: UnicodeError) -> tuple[str, int]:
    """The codec error handler: a plain character where there is one, else the code point."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    shown = (
        _SUBSTITUTES.get(character) or character.encode("ascii", "backslashreplace").decode()
        for character in error.object[error.start : error.end]
    )
    return "".join(shown), error.end


codecs.register_error(_PLAIN, _plain)

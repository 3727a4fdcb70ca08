"""What is printed arrives in any terminal, log or pipe, and never ends the work."""

import io
import os
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console
from rich.table import Table

from overparam.lab.cli import main
from overparam.lab.terminal import (
    LastingStream,
    lasting_output,
    open_console,
    progress,
    say,
    show_table,
)

MARKUP = "runs/[red]a[/]/[link=x]/:smile:/a[1]"


@pytest.mark.parametrize(
    ("encoding", "expected"),
    [
        ("ascii", r"* <= +--+ | ... ^2 caf\xe9 \u6f22 \udce9"),
        ("cp1252", "• <= +--+ | … ² café \\u6f22 \\udce9"),
        ("utf-8", "• ≤ ╭──╮ │ … ² café 漢 \\udce9"),
    ],
)
def test_an_encoding_without_a_character_gets_a_plain_one(monkeypatch, encoding, expected):
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding=encoding)
    monkeypatch.setattr(sys, "stdout", stream)
    with lasting_output() as output:
        print("• ≤ ╭──╮ │ … ² café 漢 \udce9", end="")
        assert sys.stdout is output
    assert (sys.stdout, stream.errors) == (stream, "strict")
    assert raw.getvalue().decode(encoding) == expected


def test_a_reader_who_leaves_ends_nothing(monkeypatch):
    reader, writer = os.pipe()
    with os.fdopen(writer, "w") as stream:
        monkeypatch.setattr(sys, "stdout", stream)
        os.close(reader)
        with lasting_output() as output:
            say(open_console(), "x" * 100_000)
            say(open_console(), "still here")
            assert isinstance(output.error, BrokenPipeError)
    # Leaving the block above closed the stream: what was left in its buffer did not fail again.


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
def test_output_that_is_lost_to_a_full_disk_is_an_error(monkeypatch, capsys):
    with Path("/dev/full").open("w") as stream:
        monkeypatch.setattr(sys, "stdout", stream)
        assert main(["--version"]) == 2
    assert "the output cannot be written: [Errno 28]" in capsys.readouterr().err


def test_without_standard_streams_the_command_still_works(monkeypatch):
    monkeypatch.setattr(sys, "stdout", None)
    monkeypatch.setattr(sys, "stderr", None)
    assert main(["--version"]) == 0
    assert main(["report", "absent"]) == 2
    assert sys.stdout is None


def test_a_stream_that_was_closed_is_silent():
    closed = io.StringIO()
    closed.close()
    stream = LastingStream(closed)
    assert stream.write("text") == 4
    assert isinstance(stream.error, OSError)


def shown(monkeypatch, columns, show):
    file = io.StringIO()
    monkeypatch.setattr(sys, "stdout", file)
    monkeypatch.setenv("COLUMNS", str(columns))
    show(open_console())
    return file.getvalue()


def test_names_are_shown_as_they_are_and_lines_are_not_broken(monkeypatch):
    line = f"{MARKUP} {'word ' * 50}end"
    assert shown(monkeypatch, 20, lambda console: say(console, line)) == f"{line}\n"
    # Also on a console that was not opened here.
    file = io.StringIO()
    say(Console(file=file, width=20), line)
    assert file.getvalue() == f"{line}\n"


@pytest.mark.parametrize("columns", [1, 20, 40, 60, 80, 200])
def test_tables_keep_whole_words_and_numbers(monkeypatch, columns):
    table = Table("method", "≤ 0.5", "≤ 0.25", "final loss", title=MARKUP)
    table.add_row("Gradient descent", "1,234", "123,456", "1,234,567.25")
    table.add_row(MARKUP, "5", "a sentence of several words", "0.5")
    text = shown(monkeypatch, columns, lambda console: show_table(console, table))
    words = text.split()
    for word in ("Gradient", "descent", "1,234,567.25", "1,234", "sentence", "several", MARKUP):
        assert word in words
    assert "…" not in text
    # As wide as the terminal at most, unless the words need more.
    assert max(map(len, text.splitlines())) <= max(columns, 75)


def test_progress_in_a_terminal_that_cannot_redraw_is_lines(monkeypatch):
    monkeypatch.setenv("TERM", "dumb")
    file = io.StringIO()
    console = Console(file=file, force_terminal=True)
    with progress(console, 10) as show:
        for done in range(11):
            show(done)
    assert file.getvalue().split("\n")[0] == "Training: 10 %"
    assert file.getvalue().count("Training") == 10


HARD = {
    "PYTHONIOENCODING": "ascii",
    "PYTHONUTF8": "0",
    "LANG": "C",
    "LC_ALL": "C",
    "TERM": "dumb",
    "COLUMNS": "20",
}


@pytest.mark.parametrize(
    ("arguments", "redirection"),
    [
        ("data list diabetes", ""),
        ("run --help", ""),
        ("data list diabetes", "| head -c 1"),
        ("data list diabetes", "<&- >&- 2>&-"),
    ],
)
def test_real_terminals(arguments, redirection):
    command = f"{sys.executable} -m overparam {arguments} {redirection}"
    status = "; exit ${PIPESTATUS[0]}"
    ended = subprocess.run(
        ["bash", "-c", command + status],
        capture_output=True,
        env={**os.environ, **HARD},
        check=False,
    )
    assert (ended.returncode, ended.stderr) == (0, b"")
    if not redirection:
        assert ended.stdout.isascii()
        assert (b"442" in ended.stdout) == (arguments != "run --help")

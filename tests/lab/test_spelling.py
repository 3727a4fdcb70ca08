import os
import shlex
import subprocess
from pathlib import Path

import pytest

from overparam.lab.cli import parse
from overparam.lab.commands.run import RunCommand
from overparam.lab.spelling import command_line

NAMES = (
    "a[1]", "a*", "x?", "~", "file:x", "{a,b}", "{{ x }}", "[red]x[/]", "two words", "it's", '"q"',
    "-dash", "--only", "$HOME", "`ls`", "a;b", "a&b", "<b>", "naïve 漢字", "!x", "#x", "a\\b",
)  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_a_shell_and_the_parser_read_what_was_meant(name):
    output = Path("out") / name
    line = command_line("run", name=name, output=output)
    words = shlex.split(line)
    assert words[0] == "overparam"
    command = parse(words[1:])
    assert isinstance(command, RunCommand)
    assert (command.name, command.output) == (name, output)


@pytest.mark.parametrize("name", [*NAMES, "line\nbreak", "\x1b[31m", os.fsdecode(b"caf\xe9")])
def test_bash_reads_it_and_it_can_be_shown(name):
    line = command_line("run", name=name)
    assert line.isprintable()
    script = f"overparam() {{ printf '%s\\0' \"$@\"; }}; {line}"
    ended = subprocess.run(["bash", "-c", script], capture_output=True, check=True)
    words = ended.stdout.split(b"\0")[:-1]
    dashed = name.startswith("-")
    named = [b"--name=" + os.fsencode(name)] if dashed else [b"--name", os.fsencode(name)]
    assert words == [b"run", *named]


def test_what_is_the_default_is_left_out():
    line = command_line("reproduce", "--quick", only="map", output=Path("runs"), fallback=None)
    assert line == "overparam reproduce --quick --only map"

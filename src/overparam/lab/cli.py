"""The command `overparam`."""

from __future__ import annotations

import argparse
import functools
import inspect
import operator
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Protocol

import tyro
from rich.console import Console

from overparam import __version__
from overparam.lab.commands.atlas import AtlasCommand
from overparam.lab.commands.compare import CompareCommand
from overparam.lab.commands.data import DataCommand
from overparam.lab.commands.options import REGISTRY
from overparam.lab.commands.reproduce import ReproduceCommand
from overparam.lab.commands.run import ReportCommand, RunCommand
from overparam.lab.commands.theory import TheoryCommand
from overparam.lab.study import read_study
from overparam.lab.terminal import lasting_output, open_console, say

_DESCRIPTION = """\
Does depth accelerate training? Rerun the experiments of Arora, Cohen, Hazan (2018), 'On the
optimization of deep networks: implicit acceleration by overparameterization', on real data and with
tuned baselines.

Help on one command, the version, and a script that completes by TAB (bash, zsh or fish):
    overparam run --help
    overparam --version
    overparam --tyro-print-completion bash
"""

_SHELLS = ("bash", "zsh", "fish")


class Command(Protocol):
    """The options of a command, and what carries it out."""

    def run(self, console: Console) -> int:
        """Carry out the command; returns the exit status."""
        ...


COMMANDS: dict[str, type[Command]] = {
    "compare": CompareCommand,
    "atlas": AtlasCommand,
    "run": RunCommand,
    "report": ReportCommand,
    "reproduce": ReproduceCommand,
    "theory": TheoryCommand,
    "data": DataCommand,
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status (0, 2 for bad input, 130 after ctrl-C)."""
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    with lasting_output() as output:
        status = _run(arguments)
        output.flush()
        if output.error is not None and not isinstance(output.error, BrokenPipeError):
            # A reader who has left misses nothing; anyone else would take part for the whole.
            say(
                open_console(stderr=True),
                f"overparam: the output cannot be written: {output.error}",
            )
            return status or 2
    return status


def _run(arguments: list[str]) -> int:
    console = open_console()
    if arguments == ["--version"]:
        say(console, f"overparam {__version__}")
        return 0
    try:
        return parse(arguments).run(console)
    except (ValueError, OSError, RuntimeError) as error:
        say(open_console(stderr=True), f"overparam: {error}")
        return 2
    except KeyboardInterrupt:
        return 130


def parse(arguments: list[str]) -> Command:
    """Read the command line; exits with status 2 if it cannot be understood."""
    name, *rest = arguments or [""]
    if name.startswith("--tyro-") and (not rest or rest[0] not in _SHELLS):
        raise ValueError(f"name a shell after {name}: {', '.join(_SHELLS)}.")
    if name in COMMANDS:
        # By itself, so that its errors point to its own help and name only its own options.
        command: Any = COMMANDS[name]
        prog, description, given = f"overparam {name}", inspect.getdoc(command), rest
    else:
        command = functools.reduce(operator.or_, map(_subcommand, COMMANDS))
        prog, description, given = "overparam", _DESCRIPTION, arguments
    return tyro.cli(
        command,
        prog=prog,
        description=description,
        default=_from_file(rest) if name == "run" else tyro.MISSING_NONPROP,
        args=given,
        config=(
            tyro.conf.OmitArgPrefixes,
            tyro.conf.OmitSubcommandPrefixes,
            tyro.conf.FlagCreatePairsOff,
            tyro.conf.DisallowNone,
        ),
        registry=REGISTRY,
    )


def _from_file(arguments: list[str]) -> RunCommand:
    """The options of `overparam run`, with the settings of its study file, which flags override."""
    early = argparse.ArgumentParser(prog="overparam run", add_help=False, allow_abbrev=False)
    early.add_argument("--file", type=Path)
    file = early.parse_known_args(arguments)[0].file
    return RunCommand() if file is None else RunCommand(study=read_study(file), file=file)


def _subcommand(name: str) -> Any:
    """A subcommand in the list of all, described by the first line of its docstring."""
    first = (inspect.getdoc(COMMANDS[name]) or "").split("\n")[0]
    return Annotated[COMMANDS[name], tyro.conf.subcommand(name, description=first)]

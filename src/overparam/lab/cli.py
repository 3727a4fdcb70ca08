"""The command `overparam`."""

from __future__ import annotations

import argparse
import dataclasses
import inspect
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import tyro
from rich.console import Console

from overparam.lab.commands import data as data_command
from overparam.lab.commands import run as run_command
from overparam.lab.commands.data import DataCommand
from overparam.lab.commands.reproduce import ReproduceCommand, reproduce
from overparam.lab.commands.run import ReportCommand, RunCommand
from overparam.lab.commands.theory import TheoryCommand, run_theory
from overparam.lab.study import read_study

_DESCRIPTION = (
    "Does depth accelerate training? Rerun the experiments of Arora, Cohen, Hazan (2018), 'On the "
    "optimization of deep networks: implicit acceleration by overparameterization', on real data "
    "and with tuned baselines."
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status (0, 2 for bad input, 130 after ctrl-C)."""
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    console = Console()
    try:
        command = parse(arguments)
        if isinstance(command, RunCommand):
            return run_command.run(command, console)
        if isinstance(command, ReportCommand):
            return run_command.report(command, console)
        if isinstance(command, ReproduceCommand):
            return reproduce(command, console)
        if isinstance(command, TheoryCommand):
            return run_theory(command.output, console)
        return data_command.manage(command, console)
    except (ValueError, OSError, RuntimeError) as error:
        Console(stderr=True).print(f"overparam: {error}", markup=False, highlight=False)
        return 2
    except KeyboardInterrupt:
        return 130


Command = RunCommand | ReportCommand | ReproduceCommand | TheoryCommand | DataCommand


def parse(arguments: list[str]) -> Command:
    """Read the command line; exits with status 2 if it cannot be understood."""
    # A study file is read first, because its settings are the defaults that flags override.
    early = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    early.add_argument("--file", type=Path)
    file = early.parse_known_args(arguments)[0].file
    run = RunCommand()
    if file is not None:
        run = dataclasses.replace(run, study=read_study(file), file=file)
    return tyro.cli(
        Annotated[RunCommand, _subcommand("run", RunCommand, default=run)]
        | Annotated[ReportCommand, _subcommand("report", ReportCommand)]
        | Annotated[ReproduceCommand, _subcommand("reproduce", ReproduceCommand)]
        | Annotated[TheoryCommand, _subcommand("theory", TheoryCommand)]
        | Annotated[DataCommand, _subcommand("data", DataCommand)],
        prog="overparam",
        description=_DESCRIPTION,
        args=arguments,
        config=(tyro.conf.OmitSubcommandPrefixes,),
    )


def _subcommand(name: str, command: type, **options: Any) -> Any:
    """A subcommand whose help is its whole docstring, including the examples."""
    return tyro.conf.subcommand(name, description=inspect.getdoc(command), **options)

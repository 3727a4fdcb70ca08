"""`overparam run` and `overparam report`: train a study, print its conclusions, write its page."""

from __future__ import annotations

import dataclasses
import os
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import tyro
from rich import box
from rich.console import Console
from rich.table import Table

from overparam.lab.conclusions import conclusions
from overparam.lab.executor import run_jobs
from overparam.lab.jobs import shard_jobs
from overparam.lab.methods import label_of
from overparam.lab.prepare import check_device, load_or_fallback, prepare_study
from overparam.lab.progress import progress
from overparam.lab.report.study import write_report
from overparam.lab.store import StudyDirectory
from overparam.lab.study import Study
from overparam.lab.summary import iterations_by_target, targets, tuned

_RECORD_SECONDS = 5.0


@dataclass(frozen=True)
class RunCommand:
    """Train every method of a study at the same learning rates and write a report.

    The default is the paper's L4 problem on the Ethanol data, which takes about two minutes on two
    cores. After ctrl-C, the same command continues from where it stopped.

    Examples:
        overparam run
        overparam run --methods gd rule:1.5 rule:2 adam+factors:2 --power 6 --name deeper
        overparam run --file study.toml --seeds 0 1 2 3 4
    """

    study: Annotated[Study, tyro.conf.arg(name="")] = field(default_factory=Study)
    """The settings below."""
    name: str = "study"
    """Name of the study; its folder is OUTPUT/NAME."""
    output: Path = Path("runs")
    """Folder in which studies are kept."""
    file: Path | None = None
    """TOML file with settings of the study, one `name = value` per line; flags override it."""
    workers: int = field(default_factory=lambda: os.cpu_count() or 1)
    """Number of processes, one thread each. The results do not depend on it."""
    fallback: str | None = None
    """Embedded data set to use if the data can be neither found nor downloaded."""
    overwrite: bool = False
    """Replace another study that is stored under the same name."""


@dataclass(frozen=True)
class ReportCommand:
    """Write the report of a study again, even if the study is not finished.

    Examples:
        overparam report study
    """

    name: Annotated[str, tyro.conf.Positional] = "study"
    """Name of the study."""
    output: Path = Path("runs")
    """Folder in which studies are kept."""


def run(command: RunCommand, console: Console) -> int:
    """Carry out `overparam run`; returns the exit status."""
    if command.workers < 1:
        raise ValueError(f"workers is {command.workers}; use at least 1.")
    check_device(command.study.device)
    raw = load_or_fallback(command.study.data, command.fallback, console)
    study = dataclasses.replace(command.study, data=raw.name)
    directory = StudyDirectory(command.output / command.name)
    prepared = prepare_study(study, raw, directory, command.overwrite)
    started = time.monotonic()

    def record(finished: bool) -> None:
        prepared.write_manifest(finished, prepared.seconds + time.monotonic() - started)

    record(finished=False)
    jobs = shard_jobs(study, prepared.identity, prepared.data, directory)
    recorded = started

    with progress(console, sum(job.cost for job in jobs)) as show:

        def on_progress(steps: float) -> None:
            nonlocal recorded
            show(steps)
            # So that a killed process loses little of its recorded time.
            if time.monotonic() - recorded > _RECORD_SECONDS:
                recorded = time.monotonic()
                record(finished=False)

        finished = run_jobs(jobs, command.workers, on_progress)
    record(finished)
    if not finished:
        console.print("Interrupted. Finished work is kept; the same command continues it.")
    _finish(directory, console)
    return 0 if finished else 130


def report(command: ReportCommand, console: Console) -> int:
    """Carry out `overparam report`; returns the exit status."""
    _finish(StudyDirectory(command.output / command.name), console)
    return 0


def _finish(directory: StudyDirectory, console: Console) -> None:
    results = write_report(directory)
    if results.finished:
        console.print(_target_table(results.curves, results.optimum))
    for sentence in conclusions(results.curves, results.optimum, results.finished):
        console.print(f"• {sentence}", markup=False, highlight=False)
    console.print(f"\nReport: {directory.path / 'report.html'}", markup=False, soft_wrap=True)


def _target_table(curves: Any, optimum: float) -> Table:
    levels = targets(curves, optimum, most=5)
    found = iterations_by_target(curves, levels)
    table = Table(title="Iterations to reach a loss, each at its best lr", box=box.SIMPLE_HEAD)
    table.add_column("method", no_wrap=True)
    for level in levels:
        table.add_column(f"≤ {level:g}", justify="right", no_wrap=True)
    table.add_column("final loss", justify="right", no_wrap=True)
    for row in tuned(curves).to_dicts():
        reached = [found[row["method"], level] for level in levels]
        cells = ["-" if count is None else f"{count:,.0f}" for count in reached]
        table.add_row(label_of(row["method"]), *cells, f"{row['median']:.4g}")
    return table

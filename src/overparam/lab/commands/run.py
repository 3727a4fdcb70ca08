"""`overparam run` and `overparam report`: train a study, print its conclusions, write its page."""

from __future__ import annotations

import dataclasses
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import tyro
from rich import box
from rich.console import Console
from rich.table import Table

from overparam.data import RegressionData, load_table
from overparam.lab.cluster import Work, claimed, prepared_alone
from overparam.lab.commands.options import CORES, NO_DEFAULT
from overparam.lab.conclusions import conclusions
from overparam.lab.jobs import study_jobs
from overparam.lab.methods import label_of
from overparam.lab.prepare import (
    check_device,
    check_output,
    folder_inside,
    load_or_fallback,
    prepare_study,
)
from overparam.lab.report.study import write_report
from overparam.lab.store import StudyDirectory
from overparam.lab.study import Study
from overparam.lab.summary import iterations_by_target, targets, tuned
from overparam.lab.terminal import say, show_table

_RECORD_SECONDS = 5.0


@dataclass(frozen=True)
class TableOptions:
    """One table of your own in place of a known data set, standardized as in the paper."""

    csv: Annotated[Path | None, NO_DEFAULT, tyro.conf.arg(aliases=["--parquet"])] = None
    """CSV file (UTF-8, commas, names in the first line) or Parquet file. A value that is missing or
    is not a number is an error."""
    target: Annotated[str | None, NO_DEFAULT] = None
    """Column to predict."""
    features: Annotated[tuple[str, ...], NO_DEFAULT] = ()
    """Columns to predict it from; all others if none is named."""

    def load(self, command: RunCommand) -> RegressionData | None:
        """The table, or None if none is asked for.

        Raises:
            ValueError: the options contradict each other, or the table cannot be used.
        """
        if self.csv is None:
            for name, value in (("target", self.target), ("features", self.features)):
                if value:
                    raise ValueError(
                        f"--{name} names a column of a table; name the file with --csv."
                    )
            return None
        if command.study.data != Study().data:
            raise ValueError(
                f"data is {command.study.data!r} and --csv is {self.csv}; use only one of them."
            )
        if command.fallback is not None:
            raise ValueError("--fallback is for data that are downloaded; leave it out with --csv.")
        return load_table(self.csv, self.target, self.features)


@dataclass(frozen=True)
class RunCommand:
    """Train every method of a study at the same learning rates and write a report.

    The default is the paper's L4 problem on the Ethanol data, which takes about a minute on two
    quiet cores. After ctrl-C, the same command continues from where it stopped.

    Examples:
        overparam run
        overparam run --methods gd rule:1.5 rule:2 adam+factors:2 --power 6 --name deeper
        overparam run --file study.toml --seeds 0 1 2 3 4
        overparam run --csv prices.csv --target price --features size rooms --name prices
    """

    study: Annotated[Study, tyro.conf.arg(name="")] = field(default_factory=Study)
    """The settings below."""
    name: str = "study"
    """Name of the study; its folder is OUTPUT/NAME."""
    output: Path = Path("runs")
    """Folder in which studies are kept."""
    file: Annotated[Path | None, NO_DEFAULT] = None
    """TOML file with settings of the study, one `name = value` per line; flags override it."""
    table: Annotated[TableOptions, tyro.conf.arg(name="your data")] = TableOptions()
    workers: int = CORES
    """Number of processes, one thread each. The results do not depend on it."""
    scheduler: Annotated[str | None, NO_DEFAULT] = None
    """Address of a dask scheduler, such as tcp://host:8786, whose workers train instead."""
    part: Annotated[str | None, NO_DEFAULT] = None
    """I/N runs every N-th job from the I-th on, for job arrays; the last part writes the report."""
    fallback: Annotated[str | None, NO_DEFAULT] = None
    """Embedded data set to use if the data can be neither found nor downloaded."""
    overwrite: Annotated[bool, NO_DEFAULT] = False
    """Replace another study that is stored under the same name."""

    def run(self, console: Console) -> int:
        """Train what is missing and write the report; returns the exit status."""
        if self.workers < 1:
            raise ValueError(f"workers is {self.workers}; use at least 1.")
        check_device(self.study.device)
        directory = StudyDirectory(folder_inside(self.output, self.name))
        folder = directory.path
        work = Work.of(folder, self.workers, self.scheduler, self.part, self.overwrite)
        check_output(folder, "jobs", "figures")
        raw = self.table.load(self)
        if raw is None:
            raw = load_or_fallback(self.study.data, self.fallback, console)
            study = dataclasses.replace(self.study, data=raw.name)
        else:
            # The contents identify a table, so that it may be renamed or moved.
            study = dataclasses.replace(self.study, data=f"sha256:{raw.fingerprint}")
        with claimed(folder, work.part):
            started = recorded = time.monotonic()

            def record(finished: bool) -> None:
                nonlocal recorded
                recorded = time.monotonic()
                prepared.write_manifest(finished, prepared.seconds + recorded - started)

            def record_now_and_then() -> None:
                # So that a killed process loses little of its recorded time.
                if time.monotonic() - recorded > _RECORD_SECONDS:
                    record(finished=False)

            with prepared_alone(folder):
                prepared = prepare_study(study, raw, directory, self.overwrite)
                record(finished=False)
            jobs = study_jobs(study, prepared.identity, prepared.data, directory)
            finished = work.train(work.own(jobs), jobs, console, record_now_and_then)
            if finished is None:
                return 0
            record(finished)
            _finish(directory, console)
            return 0 if finished else 130


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

    def run(self, console: Console) -> int:
        """Write the report; returns the exit status."""
        directory = StudyDirectory(folder_inside(self.output, self.name))
        directory.read_manifest()  # that there is a study, before anything else about its folder
        check_output(directory.path, "figures")
        _finish(directory, console)
        return 0


def _finish(directory: StudyDirectory, console: Console) -> None:
    results = write_report(directory)
    if results.finished:
        show_table(console, _target_table(results.curves, results.optimum))
    for sentence in conclusions(results.curves, results.optimum, results.finished):
        say(console, f"• {sentence}")
    say(console, f"\nReport: {directory.path / 'report.html'}")


def _target_table(curves: Any, optimum: float) -> Table:
    levels = targets(curves, optimum, most=5)
    found = iterations_by_target(curves, levels)
    table = Table(title="Iterations to reach a loss, each at its best lr", box=box.SIMPLE_HEAD)
    table.add_column("method")
    for level in levels:
        table.add_column(f"≤ {level:g}", justify="right")
    table.add_column("final loss", justify="right")
    for row in tuned(curves).to_dicts():
        reached = [found[row["method"], level] for level in levels]
        cells = ["-" if count is None else f"{count:,.0f}" for count in reached]
        table.add_row(label_of(row["method"]), *cells, f"{row['median']:.4g}")
    return table

"""`overparam compare`: does depth help on a problem of yours?"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro
from rich.console import Console

from overparam.lab.cluster import workers_of
from overparam.lab.commands.options import CORES, NO_DEFAULT
from overparam.lab.comparison.engine import METHODS, compare
from overparam.lab.comparison.names import folder_name
from overparam.lab.prepare import check_output, folder_inside
from overparam.lab.terminal import say


@dataclass(frozen=True)
class CompareCommand:
    """Compare methods on a problem, each tuned alike, and write a page with the answer.

    The problem is one of the lab's, or one of yours: script.py:name, where name is a Problem or a
    function that returns one. After ctrl-C, the same command continues from where it stopped.

    Examples:
        overparam compare digits-mlp --budget 2min
        overparam compare train.py:problem --methods adamw adamw+factors:2 --budget 10min
        overparam compare 'digits-mlp(norm="batch")' --methods sgd sgd+rule:2 adamw+radial:4
    """

    problem: Annotated[str, tyro.conf.Positional]
    """Name of a problem, or script.py:name; a script alone is script.py:problem."""
    methods: tuple[str, ...] = METHODS
    """Any optimizer of torch, alone or with +factors:N, +rule:N, +radial:r, +model:N, +sides:N,
    +kernels:N or +rwf:mean; momentum is sgd(momentum=0.9)."""
    budget: Annotated[str | None, NO_DEFAULT] = None
    """Time for everything, such as 60s, 10min or 2h; it sets the length of the runs. 10min if no
    steps are given."""
    steps: Annotated[int | None, NO_DEFAULT] = None
    """Length of the runs of tuning; an upper limit if a budget is given too and is too small."""
    seeds: int = 8
    """Fresh seeds that confirm; with fewer than 5 nothing is decided."""
    trials: int = 8
    """Learning rates for each method; all get more, up to twice as many, where one needs them."""
    controls: Annotated[bool, NO_DEFAULT] = True
    """Leave out the radial step of the same depth, which goes with each method with depth."""
    name: Annotated[str | None, NO_DEFAULT] = None
    """Name of the folder below OUTPUT; by default that of the problem."""
    output: Path = Path("runs")
    """Folder in which comparisons are kept."""
    workers: int = CORES
    """Number of processes, one thread each; 0 for none. The curves do not depend on it."""
    scheduler: Annotated[str | None, NO_DEFAULT] = None
    """Address of a dask scheduler, such as tcp://host:8786, whose workers train instead."""
    overwrite: Annotated[bool, NO_DEFAULT] = False
    """Replace another comparison that is stored under the same name."""

    def run(self, console: Console) -> int:
        """Carry out `overparam compare`; returns the exit status."""
        if self.workers < 0:
            raise ValueError(f"workers is {self.workers}; use at least 0.")
        name = self.name or f"compare-{folder_name(self.problem)}"
        folder = folder_inside(self.output, name)
        check_output(folder)
        with workers_of(self.scheduler, self.workers) as (workers, executor):
            result = compare(
                self.problem,
                methods=self.methods,
                budget=self.budget,
                steps=self.steps,
                seeds=self.seeds,
                trials=self.trials,
                controls=self.controls,
                directory=folder,
                overwrite=self.overwrite,
                workers=workers,
                executor=executor,
                console=console,
            )
        page = result.save(folder / "report.html")
        say(console, f"{result}\n\nReport: {page}")
        return 0

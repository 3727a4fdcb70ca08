"""`overparam atlas`: where does depth help?"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from rich.console import Console

from overparam.lab.cluster import workers_of
from overparam.lab.commands.options import CORES, NO_DEFAULT
from overparam.lab.comparison.atlas import FULL, QUICK, make_atlas, write_atlas
from overparam.lab.comparison.budget import seconds_of
from overparam.lab.prepare import check_output
from overparam.lab.terminal import say


@dataclass(frozen=True)
class AtlasCommand:
    """Compare methods with and without depth on many problems, and write one page.

    After ctrl-C, the same command continues from where it stopped.

    Examples:
        overparam atlas --quick
        overparam atlas --budget 2h
        overparam atlas --only mnist1d cnn
    """

    quick: Annotated[bool, NO_DEFAULT] = False
    """Eight small problems and short runs; more cells stay undecided than in the full atlas."""
    budget: Annotated[str | None, NO_DEFAULT] = None
    """Time for this command. With --quick, 9min by default, and runs get shorter on a slow machine.
    The full atlas takes the most important problems first and stops at the end of this time; the
    same command continues."""
    only: tuple[str, ...] = ()
    """Problems whose names contain one of these words; by default all."""
    seeds: int = 8
    """Fresh seeds for each problem."""
    output: Path = Path("runs")
    """Folder in which the atlas is kept."""
    workers: int = CORES
    """Number of processes, one thread each; 0 for none."""
    scheduler: Annotated[str | None, NO_DEFAULT] = None
    """Address of a dask scheduler, such as tcp://host:8786, whose workers train instead."""

    def run(self, console: Console) -> int:
        """Carry out `overparam atlas`; returns the exit status."""
        if self.workers < 0:
            raise ValueError(f"workers is {self.workers}; use at least 0.")
        cells = [
            cell
            for cell in (QUICK if self.quick else FULL)
            if not self.only or any(word in cell.problem for word in self.only)
        ]
        if not cells:
            raise ValueError(f"no problem contains {' or '.join(self.only)}; leave out --only.")
        budget = self.budget or ("9min" if self.quick else None)
        seconds = math.inf if budget is None else seconds_of(budget)
        end = math.inf if self.quick else time.monotonic() + seconds
        folder = self.output / ("atlas-quick" if self.quick else "atlas")
        check_output(folder)
        with workers_of(self.scheduler, self.workers) as (workers, executor):
            atlas = make_atlas(
                cells,
                folder,
                seconds=seconds if self.quick else None,
                seeds=self.seeds,
                workers=workers,
                executor=executor,
                together=1 if self.quick else max(1, workers // 4),
                suspend=lambda: time.monotonic() > end,
                console=console,
            )
        page = folder / "atlas.html"
        write_atlas(atlas, page)
        left = [f"{name}: {why}" for name, why in atlas.missing.items()]
        done = f"{len(atlas.results)} of {len(cells)} problems are finished."
        say(console, "\n".join([*atlas.sentences, "", done, *left, "", f"Atlas: {page}"]))
        return 0

"""Where the jobs of a command run: on this machine, on a cluster, or in parts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from rich.console import Console

from overparam.lab.cluster import Part, workers_of
from overparam.lab.executor import Job, run_jobs
from overparam.lab.terminal import progress, say

_Job = TypeVar("_Job", bound=Job)


@dataclass(frozen=True)
class Work:
    """Where the jobs of a command run.

    Attributes:
        folder: of the results; everybody who works on them sees it.
        workers: processes of this machine.
        scheduler: address of a dask scheduler, whose workers are used instead.
        part: the part of the jobs that this command runs; all of them if None.
    """

    folder: Path
    workers: int
    scheduler: str | None
    part: Part | None

    @staticmethod
    def of(
        folder: Path, workers: int, scheduler: str | None, part: str | None, overwrite: bool
    ) -> Work:
        """Read the options of a command.

        Raises:
            ValueError: they cannot be used, or contradict each other.
        """
        mine = None if part is None else Part.of(part)
        if mine is not None and scheduler is not None:
            raise ValueError("--part needs no scheduler; leave out one of the two.")
        if mine is not None and overwrite:
            raise ValueError(
                "--overwrite with --part would delete what other parts have stored; delete "
                f"{folder} first."
            )
        return Work(folder, workers, scheduler, mine)

    def own(self, jobs: Sequence[_Job]) -> list[_Job]:
        """The jobs that this command runs."""
        return list(jobs) if self.part is None else self.part.jobs(jobs)

    def train(
        self,
        own: Sequence[Job],
        jobs: Sequence[Job],
        console: Console,
        after: Callable[[], None],
    ) -> bool | None:
        """Run the own ones of some jobs; say how far they are, and what became of them.

        Args:
            own: the jobs that this command runs, in their order.
            jobs: all jobs, also those of other parts.
            console: for progress.
            after: called whenever some work is done.

        Returns:
            Whether the own jobs are finished; False after an interrupt. None if other parts have
            jobs left, so that the report is theirs to write.
        """
        part = self.part
        messages = self.folder / ("running" if part is None else f"running-{part.number}")
        with (
            progress(console, sum(job.cost for job in own)) as show,
            workers_of(self.scheduler, self.workers) as (workers, executor),
        ):

            def on_progress(cost: float) -> None:
                show(cost)
                after()

            finished = run_jobs(own, executor or workers, on_progress, folder=messages)
        if not finished:
            say(console, "Interrupted. Finished work is kept; the same command continues it.")
        left = sum(not job.finished() for job in jobs)
        if finished and part is not None and left:
            say(
                console,
                f"Part {part.number} of {part.count} is done; other parts have {left} of "
                f"{len(jobs)} jobs left. The one that ends last writes the report.",
            )
            return None
        return finished

"""Where the jobs of a command run: on this machine, on a cluster, or in parts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import Executor
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeVar

from rich.console import Console

from overparam.lab.cluster import Part, claimed, prepared_alone, threads_of, workers_of
from overparam.lab.executor import Job
from overparam.lab.terminal import say

_Job = TypeVar("_Job", bound=Job)


class Options(Protocol):
    """The options of a command that say where its jobs run."""

    @property
    def workers(self) -> int: ...  # noqa: D102
    @property
    def scheduler(self) -> str | None: ...  # noqa: D102
    @property
    def part(self) -> str | None: ...  # noqa: D102
    @property
    def overwrite(self) -> bool: ...  # noqa: D102


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
    def of(command: Options, folder: Path) -> Work:
        """Read the options of a command.

        Raises:
            ValueError: they cannot be used, or contradict each other.
        """
        part = None if command.part is None else Part.of(command.part)
        if part is not None and command.scheduler is not None:
            raise ValueError("--part needs no scheduler; leave out one of the two.")
        if part is not None and command.overwrite:
            raise ValueError(
                "--overwrite with --part would delete what other parts have stored; delete "
                f"{folder} first."
            )
        return Work(folder, command.workers, command.scheduler, part)

    def claimed(self) -> AbstractContextManager[None]:
        """Keep other commands off the folder, but for other parts of the same jobs."""
        return claimed(self.folder, self.part)

    def preparing(self) -> AbstractContextManager[None]:
        """Let one part prepare the folder at a time."""
        return prepared_alone(self.folder)

    def own(self, jobs: Sequence[_Job]) -> list[_Job]:
        """The jobs that this command runs."""
        return list(jobs) if self.part is None else self.part.jobs(jobs)

    @contextmanager
    def executor(self) -> Iterator[int | Executor]:
        """What runs them."""
        with workers_of(self.scheduler, self.workers) as workers:
            yield workers

    @property
    def messages(self) -> Path:
        """The folder for messages to and from the workers."""
        part = self.part
        return self.folder / (f"running-{part.number}" if part is not None else "running")

    def leaves_to_others(self, jobs: Sequence[Job], console: Console) -> bool:
        """Whether other parts have jobs left, so that the report is theirs to write; says so."""
        left = sum(not job.finished() for job in jobs)
        if self.part is None or left == 0:
            return False
        say(
            console,
            f"Part {self.part.number} of {self.part.count} is done; other parts have {left} of "
            f"{len(jobs)} jobs left. The one that ends last writes the report.",
        )
        return True


@contextmanager
def pool_of(scheduler: str | None, workers: int) -> Iterator[tuple[int, Executor | None]]:
    """The number of workers, and the executor of a cluster if there is a scheduler.

    For what is not cut into parts, because each round of jobs depends on the last one.
    """
    with workers_of(scheduler, workers) as found:
        if isinstance(found, int):
            yield found, None
        else:
            yield threads_of(found), found

"""Where the jobs of a command run: on this machine, on a dask cluster, or in parts of an array."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

import torch
from rich.console import Console

import overparam
from overparam.lab.executor import Job, run_jobs
from overparam.lab.terminal import progress, say

if os.name == "posix":  # Windows has no such locks: there, nothing is claimed
    import fcntl

_Job = TypeVar("_Job", bound=Job)
_ANSWER_SECONDS = 10  # until a scheduler counts as gone


@dataclass(frozen=True)
class Part:
    """One of several equal parts of all jobs.

    Attributes:
        number: from 1 to ``count``.
        count: of parts.
    """

    number: int
    count: int

    @staticmethod
    def of(text: str) -> Part:
        """Read ``"I/N"``.

        Raises:
            ValueError: it is not that, or I is not between 1 and N.
        """
        number, slash, count = text.partition("/")
        if not (slash and number.isdecimal() and count.isdecimal()):
            raise ValueError(f"part is {text!r}; write I/N, for example --part 1/8.")
        part = Part(int(number), int(count))
        if not 1 <= part.number <= part.count:
            raise ValueError(f"part is {text!r}; I runs from 1 to N, for example --part 1/8.")
        return part

    def jobs(self, jobs: Sequence[_Job]) -> list[_Job]:
        """Every N-th job, from the I-th on: neighbours in a sorted list go to different parts."""
        return list(jobs[self.number - 1 :: self.count])


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


@contextmanager
def workers_of(scheduler: str | None, workers: int) -> Iterator[tuple[int, Executor | None]]:
    """How many jobs train at a time, and the executor of a dask cluster if there is a scheduler.

    Args:
        scheduler: address of a dask scheduler, for example ``"tcp://host:8786"``.
        workers: processes on this machine where there is no scheduler.

    Raises:
        ValueError: no scheduler answers, it has no workers, or they run other versions.
        ModuleNotFoundError: dask.distributed is not installed.
        RuntimeError: the scheduler went away while it was in use.
    """
    if scheduler is None:
        yield workers, None
        return
    try:
        from distributed import Client
    except ModuleNotFoundError:
        raise ModuleNotFoundError(
            "--scheduler needs dask.distributed; install overparam[cluster]."
        ) from None
    try:
        client: Any = Client(scheduler, timeout=_ANSWER_SECONDS, set_as_default=False)
    except (OSError, ValueError) as error:
        raise ValueError(
            f"no dask scheduler answers at {scheduler!r} ({error}); start one with: dask scheduler"
        ) from None
    with client:
        _check_workers(client, scheduler)
        try:
            # pure=False: jobs write files, so equal calls must not be merged into one.
            yield sum(client.nthreads().values()), client.get_executor(pure=False)
        except Exception as error:
            if client.status == "running":
                raise
            # What dask raises then depends on what each job was doing: cancelled, lost or neither.
            raise RuntimeError(
                "the scheduler is gone. Finished jobs and checkpoints are kept: start it again, "
                "with its workers, and run the same command."
            ) from error


def _check_workers(client: Any, scheduler: str) -> None:
    """Raise unless there are workers, and all run the versions of this process."""
    here, found = _versions(), client.run(_versions)
    if not found:
        raise ValueError(
            f"the scheduler at {scheduler!r} has no workers; start some: dask worker {scheduler}"
        )
    for worker, versions in found.items():
        if versions != here:
            raise ValueError(
                f"the worker {worker} has {versions} and this process {here}; results would "
                "depend on which worker ran what: install the same versions."
            )


def _versions() -> str:
    return f"overparam {overparam.__version__} with torch {torch.__version__}"


@contextmanager
def claimed(folder: Path, part: Part | None = None) -> Iterator[None]:
    """Keep other commands off a folder of results; parts of the same jobs may work beside another.

    The claim is a file lock: it ends with the process, however that ends.

    Args:
        folder: of the study or of the reproduction.
        part: of the jobs.

    Raises:
        ValueError: another command is at work there.
    """
    with _locked(folder, "lock", "exclusive" if part is None else "shared"):
        if part is None:
            yield
        else:
            with _locked(folder, f"lock-{part.number}-of-{part.count}", "exclusive"):
                yield


@contextmanager
def prepared_alone(folder: Path) -> Iterator[None]:
    """Wait until no other command prepares a folder; then be the one that does."""
    with _locked(folder, "lock-prepare", "wait"):
        yield


@contextmanager
def _locked(folder: Path, name: str, how: Literal["exclusive", "shared", "wait"]) -> Iterator[None]:
    if os.name != "posix":
        yield
        return
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / f".{name}").open("a+") as file:
        kind = fcntl.LOCK_SH if how == "shared" else fcntl.LOCK_EX
        try:
            fcntl.flock(file, kind if how == "wait" else kind | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            who = file.read().strip() or "another command"
            raise ValueError(
                f"{who} is at work in {folder}; wait for it, stop it, or choose another --output."
            ) from None
        file.truncate(0)
        if how == "exclusive":
            file.write(f"process {os.getpid()} on {socket.gethostname()}")
            file.flush()
        try:
            yield
        finally:
            file.truncate(0)

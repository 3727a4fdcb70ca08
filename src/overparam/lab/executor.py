"""Runs resumable jobs on any executor of ``concurrent.futures``, which can be stopped at any time.

Nothing but ``submit`` and futures is asked of the executor: a pool of processes, dask, or a job in
this process. Jobs keep their results in files already. The wish to stop and the progress are files
too, so that they work wherever the workers are, as long as they share the folder.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import (
    BrokenExecutor,
    CancelledError,
    Executor,
    Future,
    ProcessPoolExecutor,
    wait,
)
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Protocol

import torch

from overparam._files import write_whole

_LOOK_SECONDS = 0.25


class Job(Protocol):
    """A unit of work that keeps its state on the disk and can be sent to another process."""

    @property
    def cost(self) -> float:
        """The cost of the whole job, in the unit that ``train`` reports."""
        ...

    def finished(self) -> bool:
        """Whether the result is on the disk."""
        ...

    def train(self, stop: Callable[[], bool], on_cost: Callable[[float], None]) -> bool:
        """Continue from what is on the disk, to the end or until asked to stop.

        Args:
            stop: called now and then; if it returns True, the job saves its state and returns.
            on_cost: called with the cost of the work done since the last call; the first call
                includes the work of earlier processes.

        Returns:
            Whether the job is finished.
        """
        ...


def run_jobs(
    jobs: Sequence[Job],
    workers: int | Executor,
    on_progress: Callable[[float], None] = lambda cost: None,
    *,
    folder: Path | None = None,
    stop: Callable[[], bool] = lambda: False,
) -> bool:
    """Run the jobs that are not finished yet.

    Args:
        jobs: the jobs, started in this order.
        workers: number of processes on this machine, one thread each; 0 runs the jobs in this
            process. Or an executor, whose workers share ``folder``.
        on_progress: called now and then with the cost of the work done so far, summed over jobs.
        folder: for the messages to and from workers, while they work; a temporary folder of this
            machine if there is none.
        stop: called now and then; if it returns True, every job saves its state and returns.

    Returns:
        Whether every job is finished; False after an interrupt (ctrl-C) or a stop.

    Raises:
        RuntimeError: a worker was killed from outside, the scheduler of a cluster is gone, or
            results have disappeared.
        Exception: whatever a job raised; the other jobs save their state and stop.
    """
    todo = [job for job in jobs if not job.finished()]
    done = sum(job.cost for job in jobs) - sum(job.cost for job in todo)
    with ExitStack() as stack:
        if folder is None:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory())) / "messages"
        messages = _Messages(folder, todo)
        messages.clear()  # those of a command that was killed
        stack.callback(messages.clear)
        on_progress(done)
        if workers == 0:

            def add(cost: float) -> None:
                nonlocal done
                done += cost
                on_progress(done)

            stack.enter_context(single_thread())
            finished = all(job.train(stop, add) for job in todo)
        elif todo:
            if isinstance(workers, int):
                workers = stack.enter_context(local_pool(min(workers, len(todo))))
            finished = _run(workers, todo, messages, lambda cost: on_progress(done + cost), stop)
        else:
            finished = True
    lost = sum(not job.finished() for job in jobs) if finished else 0
    if lost:
        raise RuntimeError(
            f"the results of {lost} of {len(jobs)} jobs have disappeared: was their folder moved "
            "or deleted while the command ran? Put it back, or run the same command again."
        )
    return finished


def _run(
    executor: Executor,
    todo: Sequence[Job],
    messages: _Messages,
    on_progress: Callable[[float], None],
    stop: Callable[[], bool],
) -> bool:
    futures: list[Future[bool]] = []
    try:
        try:
            # Processes that start now must not die of a ctrl-C that is meant for this one.
            with ignoring_interrupts():
                for number, job in enumerate(todo):
                    futures.append(executor.submit(_train, job, str(messages.folder), number))
            pending, failed = set(futures), False
            while pending and not failed and not stop():
                ended, pending = wait(pending, timeout=_LOOK_SECONDS)
                failed = any(each.cancelled() or each.exception() for each in ended)
                on_progress(messages.cost())
        except KeyboardInterrupt:
            pass
        finally:
            # A second ctrl-C must not interrupt the saving that the first one asked for.
            with ignoring_interrupts():
                if not all(future.done() for future in futures):
                    # Workers finish their chunk, save and return. No future is cancelled: some
                    # executors call a future cancelled while its work goes on unseen.
                    write_whole(messages.folder / "stop", b"")
                    wait(futures)
        on_progress(messages.cost())
        # All results, so that no failure hides behind a job that was stopped.
        results = [future.result() for future in futures]
        return all(results)
    except CancelledError:
        raise RuntimeError(
            "the executor cancelled jobs. Finished jobs and checkpoints are kept: run the same "
            "command again."
        ) from None
    except BrokenExecutor:
        raise RuntimeError(
            "a worker process was killed from outside (out of memory?). Finished jobs and "
            "checkpoints are kept: run the same command again, with fewer --workers."
        ) from None


class _Messages:
    """Files by which jobs in other processes hear that they should stop, and tell their progress.

    Args:
        folder: shared with the workers; made and deleted as needed.
        jobs: in the order of their numbers.
    """

    def __init__(self, folder: Path, jobs: Sequence[Job]) -> None:
        self.folder = folder.absolute()
        self._jobs = jobs
        self._costs = [0.0] * len(jobs)

    def clear(self) -> None:
        """Delete all messages, also those of a command that was killed."""
        if self.folder.is_dir():
            for file in (self.folder / "stop", *self.folder.glob("*.cost")):
                file.unlink(missing_ok=True)
            try:
                self.folder.rmdir()
            except OSError:  # other files, or messages that a late worker still writes
                return

    def cost(self) -> float:
        """The cost of the work that all jobs have told of."""
        for number, job in enumerate(self._jobs):
            try:
                told = float((self.folder / f"{number}.cost").read_text())
            except (OSError, ValueError):  # not yet, or half written
                continue
            self._costs[number] = max(self._costs[number], min(told, job.cost))
        return sum(self._costs)


_started = threading.Event()
"""Whether this worker process has trained anything."""


def _train(job: Job, folder: str, number: int) -> bool:
    """Train a job in a worker; whether it is finished."""
    stop_file, cost_file = Path(folder) / "stop", Path(folder) / f"{number}.cost"
    cost, looked, stopping = 0.0, -1.0, False

    def look() -> None:
        nonlocal looked, stopping
        looked = time.monotonic()
        stopping = stop_file.exists()
        cost_file.parent.mkdir(parents=True, exist_ok=True)
        cost_file.write_text(repr(cost))

    def stop() -> bool:
        if time.monotonic() - looked > _LOOK_SECONDS:
            look()
        return stopping

    def add(more: float) -> None:
        nonlocal cost
        cost += more

    # Executors of a cluster may give a job out twice: whoever comes second has nothing to do. If
    # the stop comes early, each worker still trains one chunk, so that there are curves to report.
    if not job.finished() and not (_started.is_set() and stop_file.exists()):
        _started.set()
        torch.set_num_threads(1)
        finished = job.train(stop, add)
    else:
        finished = job.finished()
        cost = job.cost if finished else 0.0
    look()
    return finished


@contextmanager
def single_thread() -> Iterator[None]:
    """One thread for PyTorch: faster for small matrices, and the results are the same bytes."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def local_pool(workers: int) -> ProcessPoolExecutor:
    """A pool of processes, started afresh so that no state of this one reaches them."""
    context = multiprocessing.get_context("spawn")
    return ProcessPoolExecutor(workers, context, initializer=_set_up)


def _set_up() -> None:
    # The parent handles ctrl-C; a worker that dies of it would save nothing.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_exit_with_parent, daemon=True).start()


def _exit_with_parent() -> None:
    """End this worker when its parent has died; otherwise it would wait for work forever."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


@contextmanager
def ignoring_interrupts() -> Iterator[None]:
    """Ignore ctrl-C in this process, and in the processes that it starts, while they import."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)

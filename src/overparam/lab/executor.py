"""Runs resumable jobs in a pool of processes, which can be stopped at any time."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from typing import Any, Protocol

import torch


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
    jobs: Sequence[Job], workers: int, on_progress: Callable[[float], None] = lambda cost: None
) -> bool:
    """Run the jobs that are not finished yet.

    Args:
        jobs: the jobs, started in this order.
        workers: number of processes, one thread each; 0 runs the jobs in this process and does not
            report progress.
        on_progress: called now and then with the cost of the work done so far, summed over jobs.

    Returns:
        Whether every job is finished; False after an interrupt (ctrl-C).

    Raises:
        RuntimeError: a worker process was killed from outside.
        Exception: whatever a job raised; the other jobs save their state and stop.
    """
    todo = [job for job in jobs if not job.finished()]
    done = sum(job.cost for job in jobs) - sum(job.cost for job in todo)
    on_progress(done)
    if workers == 0:
        with single_thread():
            for job in todo:
                job.train(lambda: False, lambda cost: None)
        return True
    return _run_pool(todo, workers, lambda cost: on_progress(done + cost)) if todo else True


def _run_pool(todo: Sequence[Job], workers: int, on_progress: Callable[[float], None]) -> bool:
    context = multiprocessing.get_context("spawn")
    stop, done = context.Event(), context.Value("d", 0.0)
    pool = ProcessPoolExecutor(
        min(workers, len(todo)), context, initializer=_set_up_worker, initargs=(stop, done)
    )
    with pool:
        with _ignoring_interrupts():
            futures = [pool.submit(_train_in_worker, job) for job in todo]
        pending, failed = set(futures), None
        try:
            while pending and failed is None:
                ended, pending = wait(pending, timeout=0.25)
                failed = next((future for future in ended if future.exception()), None)
                on_progress(done.value)
        except KeyboardInterrupt:
            pass
        broken = failed is not None and isinstance(failed.exception(), BrokenProcessPool)
        if pending and not broken:
            # Workers finish their chunk, save a checkpoint and return; queued jobs return at once.
            stop.set()
        try:
            # A second ctrl-C must not interrupt the saving that the first one asked for.
            with _ignoring_interrupts():
                wait(futures)
            # All results, so that no failure hides behind a job that was stopped.
            results = [future.result() for future in futures]
        except BrokenProcessPool:
            raise RuntimeError(
                "a worker process was killed from outside (out of memory?). Finished jobs and "
                "checkpoints are kept: run the same command again, with fewer --workers."
            ) from None
    return all(results)


_worker: dict[str, Any] = {}


def _set_up_worker(stop: Any, done: Any) -> None:
    # The parent handles ctrl-C; a worker that dies of it would save nothing.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_exit_with_parent, daemon=True).start()
    torch.set_num_threads(1)
    _worker.update(stop=stop, done=done, started=False)


def _exit_with_parent() -> None:
    """End this worker when its parent has died; otherwise it would wait for work forever."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _train_in_worker(job: Job) -> bool:
    # If the stop comes early, each worker still does one chunk, so that there are curves to report.
    if _worker["stop"].is_set() and _worker["started"]:
        return False
    _worker["started"] = True

    def add(cost: float) -> None:
        with _worker["done"].get_lock():
            _worker["done"].value += cost

    return job.train(_worker["stop"].is_set, add)


@contextmanager
def _ignoring_interrupts() -> Iterator[None]:
    """Ignore ctrl-C in this process, and in the processes that it starts, while they import."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


@contextmanager
def single_thread() -> Iterator[None]:
    """One thread for PyTorch: faster for small matrices, and the results are the same bytes."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)

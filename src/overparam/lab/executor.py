"""A pool of processes for resumable jobs: stops and resumes anywhere."""

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
    """A piece of work that keeps its own state on the disk; can be sent to another process."""

    @property
    def cost(self) -> float:
        """How much work the whole job is, in the unit that ``train`` reports."""
        ...

    def finished(self) -> bool:
        """Whether its result is on the disk."""
        ...

    def train(self, stop: Callable[[], bool], on_cost: Callable[[float], None]) -> bool:
        """Go on from what is on the disk, to the end or until told to stop.

        Args:
            stop: asked now and then; where it answers True, save and return.
            on_cost: told of work done since the last call, that of earlier processes included.

        Returns:
            Whether the job is finished.
        """
        ...


def run_jobs(
    jobs: Sequence[Job],
    workers: int,
    on_progress: Callable[[float], None] = lambda cost: None,
) -> bool:
    """Do what is not finished yet.

    Args:
        jobs: what to do, in this order.
        workers: processes, one thread each; 0 works in this process, without progress.
        on_progress: called now and then with the cost done so far, summed over jobs.

    Returns:
        Whether every job is finished; False after an interrupt (ctrl-C).

    Raises:
        RuntimeError: a worker process was killed from outside.
        Exception: whatever a job raised; the others save what they have and stop.
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
        with _deaf_to_interrupts():
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
            # Workers finish their chunk, save a checkpoint and return; what is in the queue too.
            stop.set()
        try:
            # A second ctrl-C must not cut off the saving that the first one asked for.
            with _deaf_to_interrupts():
                wait(futures)
            # All of them, so that no failure hides behind a job that was stopped.
            results = [future.result() for future in futures]
        except BrokenProcessPool:
            raise RuntimeError(
                "a worker process was killed from outside (out of memory?). Finished shards and "
                "checkpoints are kept: run the same command again, with fewer --workers."
            ) from None
    return all(results)


_worker: dict[str, Any] = {}


def _set_up_worker(stop: Any, done: Any) -> None:
    # The parent decides what an interrupt means; a worker that died of it would save nothing.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_leave_with_parent, daemon=True).start()
    torch.set_num_threads(1)
    _worker.update(stop=stop, done=done, started=False)


def _leave_with_parent() -> None:
    """End this worker when its parent is gone: it would wait for work forever."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _train_in_worker(job: Job) -> bool:
    # A worker that was stopped before its first job does a chunk of it: something to report.
    if _worker["stop"].is_set() and _worker["started"]:
        return False
    _worker["started"] = True

    def add(cost: float) -> None:
        with _worker["done"].get_lock():
            _worker["done"].value += cost

    return job.train(_worker["stop"].is_set, add)


@contextmanager
def _deaf_to_interrupts() -> Iterator[None]:
    """Ignore ctrl-C for a moment: processes started now inherit it while they still import."""
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
    """One thread for PyTorch: for matrices so small that more only cost, and for equal bytes."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)

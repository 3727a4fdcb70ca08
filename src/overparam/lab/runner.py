"""Trains the shards of a study over a pool of processes; stops and resumes anywhere."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl
import torch

from overparam.data import RegressionData
from overparam.lab.objective import PowerLoss
from overparam.lab.store import RunDirectory
from overparam.lab.study import DTYPES, Shard, Study, shards
from overparam.lab.sweep import Sweep

# Between two looks at the clock: a fraction of a second of training.
_CHUNK_STEPS = 50
_CHECKPOINT_SECONDS = 15.0


@dataclass(frozen=True)
class Job:
    """What a worker needs to train one shard."""

    study: Study
    identity: str
    data: RegressionData
    shard: Shard
    path: Path


def run_study(
    study: Study,
    identity: str,
    data: RegressionData,
    directory: RunDirectory,
    workers: int,
    on_progress: Callable[[int], None] = lambda steps: None,
) -> bool:
    """Train what is not finished yet.

    Finished shards are found on the disk and skipped; unfinished ones go on from their last
    checkpoint, bit for bit. The stored curves depend on the study and the data alone, not on the
    number of workers or on interruptions.

    Args:
        study: the settings.
        identity: of the study on this data; a checkpoint of another one is not used.
        data: standardized data.
        directory: where curves and checkpoints go.
        workers: processes, one thread each; 0 trains in this process.
        on_progress: called now and then with the number of gradient steps done so far, summed
            over shards.

    Returns:
        Whether every shard is finished; False after an interrupt (ctrl-C).

    Raises:
        RuntimeError: a worker process was killed from outside.
    """
    jobs = [Job(study, identity, data, shard, directory.path) for shard in shards(study)]
    todo = [job for job in jobs if not directory.shard_file(job.shard).exists()]
    done = (len(jobs) - len(todo)) * study.iterations
    on_progress(done)
    if workers == 0:
        with _single_thread():
            for job in todo:
                _train(job, lambda: False, lambda steps: None)
        return True
    return _run_pool(todo, workers, lambda steps: on_progress(done + steps)) if todo else True


def load_curves(study: Study, directory: RunDirectory) -> pl.DataFrame:
    """The curves of every finished shard, and of unfinished ones as far as their checkpoints go.

    Columns: ``method``, ``rate``, ``seed``, ``step``, ``loss``, ``diverged_at`` (null unless the
    run diverged). One row per run and recorded step that was reached.
    """
    tables = []
    for shard in shards(study):
        if directory.shard_file(shard).exists():
            tables.append(directory.read_shard(shard))
        elif (state := directory.read_checkpoint(shard)) is not None:
            losses, diverged = state["sweep"]["losses"], state["sweep"]["diverged_at"]
            tables.append(curve_table(study, shard, losses, diverged))
    return pl.concat(tables) if tables else pl.DataFrame(schema=_SCHEMA)


_SCHEMA = {
    "method": pl.String,
    "rate": pl.Float64,
    "seed": pl.Int64,
    "step": pl.Int64,
    "loss": pl.Float64,
    "diverged_at": pl.Int64,
}


def curve_table(
    study: Study, shard: Shard, losses: torch.Tensor, diverged_at: torch.Tensor
) -> pl.DataFrame:
    """Losses ``(runs, points)`` as a table of one row per run and recorded step."""
    rows: list[tuple[Any, ...]] = []
    for run, curve, diverged in zip(shard.runs, losses.tolist(), diverged_at.tolist(), strict=True):
        for step, loss in zip(study.record_steps, curve, strict=True):
            if loss == loss:  # NaN marks a step that was not reached
                at = diverged if diverged >= 0 else None
                rows.append((run.method.name, run.rate, run.seed, step, loss, at))
    return pl.DataFrame(rows, schema=_SCHEMA, orient="row")


def _train(job: Job, stop: Callable[[], bool], on_steps: Callable[[int], None]) -> bool:
    """Train one shard to its end, or to a checkpoint when told to stop."""
    study, directory = job.study, RunDirectory(job.path)
    objective = PowerLoss(
        job.data.features, job.data.targets, study.power, DTYPES[study.dtype], study.device
    )
    sweep = Sweep(objective, study, job.shard.runs)
    saved = directory.read_checkpoint(job.shard)
    if saved is not None and saved["identity"] == job.identity:
        sweep.load_state_dict(saved["sweep"])
        on_steps(sweep.step)
    last_saved = time.monotonic()
    while not sweep.finished:
        before = sweep.step
        sweep.advance(_CHUNK_STEPS)
        on_steps((study.iterations if sweep.finished else sweep.step) - before)
        stopping = stop() and not sweep.finished
        if stopping or time.monotonic() - last_saved > _CHECKPOINT_SECONDS:
            state = {"identity": job.identity, "sweep": sweep.state_dict()}
            directory.write_checkpoint(job.shard, state)
            last_saved = time.monotonic()
        if stopping:
            return False
    table = curve_table(study, job.shard, sweep.losses, sweep.diverged_at)
    directory.write_table(directory.shard_file(job.shard), table)
    directory.checkpoint_file(job.shard).unlink(missing_ok=True)
    return True


def _run_pool(todo: list[Job], workers: int, on_progress: Callable[[int], None]) -> bool:
    context = multiprocessing.get_context("spawn")
    stop, steps = context.Event(), context.Value("q", 0)
    pool = ProcessPoolExecutor(
        min(workers, len(todo)), context, initializer=_set_up_worker, initargs=(stop, steps)
    )
    with pool:
        with _deaf_to_interrupts():
            futures = [pool.submit(_train_in_worker, job) for job in todo]
        try:
            pending = set(futures)
            while pending:
                _, pending = wait(pending, timeout=0.25)
                on_progress(steps.value)
        except KeyboardInterrupt:
            # Workers finish their chunk, save a checkpoint and return.
            stop.set()
            for future in futures:
                future.cancel()
        try:
            # A second ctrl-C must not cut off the saving that the first one asked for.
            with _deaf_to_interrupts():
                wait(futures)
            return all(not future.cancelled() and future.result() for future in futures)
        except BrokenProcessPool:
            raise RuntimeError(
                "a worker process was killed from outside (out of memory?). Finished shards and "
                "checkpoints are kept: run the same command again, with fewer --workers."
            ) from None


_worker: dict[str, Any] = {}


def _set_up_worker(stop: Any, steps: Any) -> None:
    # The parent decides what an interrupt means; a worker that died of it would save nothing.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_leave_with_parent, daemon=True).start()
    torch.set_num_threads(1)
    _worker.update(stop=stop, steps=steps)


def _leave_with_parent() -> None:
    """End this worker when its parent is gone: it would wait for work forever."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _train_in_worker(job: Job) -> bool:
    def add(count: int) -> None:
        with _worker["steps"].get_lock():
            _worker["steps"].value += count

    return _train(job, _worker["stop"].is_set, add)


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
def _single_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)

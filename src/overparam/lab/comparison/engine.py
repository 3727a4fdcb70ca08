"""Runs a comparison: plan, rounds of jobs, result."""

from __future__ import annotations

import math
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor, wait
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from rich.console import Console
from torch import Tensor, nn

from overparam.lab.cluster import claimed
from overparam.lab.comparison.budget import seconds_of
from overparam.lab.comparison.methods import DEPTH, Method, parse_method
from overparam.lab.comparison.plans import fingerprint, measured, stored_plan
from overparam.lab.comparison.problem import TRAINING_LOSS, Problem, Train, load_problem
from overparam.lab.comparison.protocol import OutOfTimeError
from overparam.lab.comparison.result import Result
from overparam.lab.comparison.rounds import Time, carry_out
from overparam.lab.comparison.trial import check_sendable, ready
from overparam.lab.executor import local_pool
from overparam.lab.terminal import open_console

METHODS = ("adamw", "adamw+factors:2", "adamw+radial:2", "momentum", "momentum+rule:2")
# Raised whenever the same settings would give other numbers, so that stored runs are not mixed.
_FORMAT = 3
# Loading and measuring use torch's global generator; comparisons in other threads must wait.
_PREPARING = threading.Lock()
_ROUND_SHARE = 0.8  # of the budget is for the rounds; the rest for the page
_STOP_SHARE = 0.9


def compare(
    problem: Problem | str | None = None,
    *,
    build: Callable[[], nn.Module] | None = None,
    loss: Callable[[nn.Module, Any], Tensor] | None = None,
    data: Any = None,
    train: Train | None = None,
    evaluate: Mapping[str, Callable[[nn.Module], float]] | None = None,
    judged_by: str = TRAINING_LOSS,
    title: str = "Your model",
    methods: Sequence[str] = METHODS,
    budget: str | float | None = None,
    steps: int | None = None,
    seeds: int = 8,
    trials: int = 8,
    tuning_seeds: int = 2,
    controls: bool = True,
    directory: Path | str | None = None,
    overwrite: bool = False,
    workers: int = 0,
    executor: Executor | None = None,
    console: Console | None = None,
    suspend: Callable[[], bool] = lambda: False,
) -> Result:
    """Does depth help here? Compare methods on a problem, tuned alike, at equal loss.

    Give a problem, or ``build``, ``loss`` and ``data``, or ``build`` and ``train``; see
    :class:`Problem`. The protocol is printed on the page of the result.

    Args:
        problem: a problem, or a name as on the command line.
        build: makes the model.
        loss: the loss of the model on a batch.
        data: a ``DataLoader``, a list of batches, or a function of a seed that returns batches.
        train: a loop of your own, a generator ``train(optimizer, model, seed)``.
        evaluate: functions of the model by name; lower is better.
        judged_by: the training loss, or a name in ``evaluate``.
        title: title of the problem.
        methods: names of methods, at least one of them without depth.
        budget: time for everything, which sets the length of the runs; 10 minutes if neither a
            budget nor a number of steps is given. It is kept: the pace is measured throughout, and
            on a busy machine runs get shorter, or the protocol is cut, which the page says.
        steps: length of the runs of tuning; the longest runs are twice as long. With it, the
            numbers do not depend on the machine's speed. With a budget as well, an upper limit.
        seeds: number of seeds of the confirmation, at least 2. With fewer than 5 nothing is
            decided; how often 8 decide wrongly was measured, see benchmarks/comparison.md.
        trials: learning rates for each method; all get more while a best one is at the edge.
        tuning_seeds: seeds for each learning rate.
        controls: add the radial step of the same depth to each method with factors or rule.
        directory: where every run is stored; the same call with the same directory continues
            where it stopped.
        overwrite: replace another comparison in that directory.
        workers: number of processes. They need a problem that can be sent to them: one with a
            name, or functions at the top level of a module. 0 trains in this process.
        executor: any executor of PEP 3148 instead, whose workers share the directory; ``workers``
            then says how many there are, for the budget.
        console: where progress is shown; by default standard error.
        suspend: called now and then; if it returns True, OutOfTimeError is raised, and the same
            call continues later.

    Returns:
        The result: print it, or save it as a page.

    Raises:
        ValueError: a setting cannot be used, the budget is too small, or another command is at
            work in the directory. Its subclass OutOfTimeError if the budget ended before anything
            can be said; the same call continues from there, with a new budget.
    """
    given = problem
    if given is None:
        if build is None:
            raise ValueError("give build, loss and data, or a problem.")
        given = Problem(title, build, data, loss, train, dict(evaluate or {}), judged_by)
    elif any(part is not None for part in (build, loss, data, train, evaluate)):
        raise ValueError("give a problem, or its parts, not both: dataclasses.replace changes one.")
    chosen = _methods(methods, controls)
    for name, value, least in (
        ("seeds", seeds, 2),
        ("trials", trials, 3),
        ("tuning_seeds", tuning_seeds, 1),
    ):
        if value < least:
            raise ValueError(f"{name} is {value}; use at least {least}.")
    if steps is not None and steps < 2:
        raise ValueError(f"steps is {steps}; use at least 2.")
    begin = time.monotonic()
    if budget is None and steps is None:
        budget = "10min"
    seconds = math.inf if budget is None else seconds_of(budget)
    limit = Time(begin + _ROUND_SHARE * seconds, begin + _STOP_SHARE * seconds, suspend)
    with _PREPARING:  # before anything is made, since this is what fails most
        loaded = load_problem(given) if isinstance(given, str) else given
        settings = {
            "format": _FORMAT,
            "problem": loaded.title,
            "fingerprint": fingerprint(loaded),
            "measured": measured(loaded),
            "judged_by": loaded.judged_by,
            "methods": [method.name for method in chosen],
            "seeds": seeds,
            "trials": trials,
            "tuning_seeds": tuning_seeds,
            "steps": steps,
            "budget": seconds if math.isfinite(seconds) else None,
        }
    with ExitStack() as stack:
        if directory is None:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        else:
            folder = Path(directory)
            stack.enter_context(claimed(folder))
        if workers and executor is None:
            check_sendable(given)
        pool = executor or (stack.enter_context(local_pool(workers)) if workers else 0)
        if (
            isinstance(pool, ProcessPoolExecutor)
            and executor is None
            and not (folder / "plan.json").exists()
        ):
            # Before the measurement, so that it sees the time that is left.
            wait([pool.submit(ready, given) for _ in range(workers)])
        with _PREPARING:
            stored = stored_plan(folder, settings, loaded, workers, overwrite, begin)
        console = console or open_console(stderr=True)
        try:
            # In this process the problem is not loaded again: its script may have changed since.
            findings = carry_out(stored, given if pool else loaded, pool, console, limit)
        except OutOfTimeError as error:
            if suspend():
                raise
            raise OutOfTimeError(
                f"{error}; the machine is too busy for {seconds:.0f} s. Use a larger budget"
                + ("." if directory is None else ", or run the same command again to go on.")
            ) from None
    asked = tuple(parse_method(name).name for name in methods)
    return Result(loaded.title, loaded.judged_by, stored, findings, asked)


def _methods(names: Sequence[str], controls: bool) -> list[Method]:
    if isinstance(names, str):
        raise ValueError(f"methods is {names!r}; give a list of names: [{names!r}].")
    chosen = [parse_method(name) for name in names]
    if controls:
        chosen += [
            parse_method(f"{method.plain_name}+radial:{method.amount:g}")
            for method in chosen
            if method.kind in DEPTH and method.amount > 1
        ]
    chosen = list({method.name: method for method in chosen}.values())
    if not any(method.is_baseline for method in chosen):
        raise ValueError(
            f"methods are {', '.join(names)}; add one without depth to compare with, such as "
            f"{chosen[0].plain_name if chosen else 'adamw'!r}."
        )
    return chosen

"""What a step of each method costs: seconds, measured interleaved; flops; numbers that are kept."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch.utils.flop_counter import FlopCounterMode

from overparam.lab.comparison.generators import generators_kept
from overparam.lab.comparison.methods import parse_method
from overparam.lab.comparison.problem import Problem
from overparam.lab.comparison.protocol import Trial
from overparam.lab.comparison.trial import (
    TrialRun,
    evaluated,
    evaluating,
    judged_loss,
)
from overparam.lab.executor import single_thread

_ROUNDS = (5, 200)
_HORIZON = 10**9  # the learning rate stays at the start of its warm-up: nothing diverges


@dataclass(frozen=True)
class Cost:
    """The cost of a method.

    Attributes:
        seconds: of one step, median over interleaved rounds; of its forward and backward pass and
            the optimizer.
        flops: of one step, of matrix products and convolutions, the optimizer's too.
        parameters: numbers that are trained.
        state: numbers that the optimizer keeps beside them.
        failure: why it cannot be trained at all; empty if it can.
    """

    seconds: float
    flops: float
    parameters: int
    state: int
    failure: str = ""


@dataclass(frozen=True)
class Costs:
    """The costs of a comparison.

    Attributes:
        methods: by name.
        start_loss: judged loss before training.
        judging: seconds at the end of a trial.
        busy: mean seconds of a step over their median: above 1 where others use the machine too.
    """

    methods: dict[str, Cost]
    start_loss: float
    judging: float
    busy: float = 1.0


def measure(problem: Problem, methods: Sequence[str], seconds: float = 2.0) -> Costs:
    """Measure all methods on a problem, in turns, so that a busy machine slows them all alike.

    Args:
        problem: what is trained.
        methods: names.
        seconds: to spend, about.
    """
    with generators_kept(), single_thread():  # as the jobs run
        runs = {
            name: TrialRun(problem, Trial(name, parse_method(name).start, _HORIZON, 0))
            for name in methods
        }
        flops = {}
        for name, run in runs.items():
            run.advance(1)  # makes the state of the optimizer
            with FlopCounterMode(display=False) as counter:
                run.advance(1)
            flops[name] = float(counter.get_total_flops())
        times, busy = _interleaved({n: run for n, run in runs.items() if not run.failure}, seconds)
        alive = [run for run in runs.values() if not run.failure]
        start_loss, judging = _judge(problem, alive[0]) if alive else (math.inf, 0.0)
    costs = {
        name: Cost(0.0, 0.0, 0, 0, run.failure)
        if run.failure
        else Cost(times[name], flops[name], *_numbers(run.optimizer))
        for name, run in runs.items()
    }
    return Costs(costs, start_loss, judging, busy)


def _interleaved(runs: dict[str, TrialRun], seconds: float) -> tuple[dict[str, float], float]:
    """Median seconds of a step by method, and the mean over the median, of all together."""
    times: dict[str, list[float]] = {name: [] for name in runs}
    least, most = _ROUNDS
    begin = time.perf_counter()
    for done in range(most):
        if done >= least and time.perf_counter() - begin > seconds:
            break
        for name, run in runs.items():
            _wait()
            before = time.perf_counter()
            run.advance(1)
            _wait()
            times[name].append(time.perf_counter() - before)
    medians = {name: statistics.median(values) for name, values in times.items()}
    means = math.fsum(statistics.fmean(values) for values in times.values())
    return medians, max(1.0, means / math.fsum(medians.values())) if runs else 1.0


def _wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def _judge(problem: Problem, run: TrialRun) -> tuple[float, float]:
    """The judged loss before training, and the seconds that judging takes."""
    loss = run.since[0]
    with evaluating(run.model):
        if problem.train is None:
            loss = judged_loss(problem, run.model)  # loads the batches, too
        before = time.perf_counter()
        if problem.train is None:
            judged_loss(problem, run.model)
        metrics = evaluated(problem, run.model)
    return metrics.get(problem.judged_by, loss), time.perf_counter() - before


def _numbers(optimizer: torch.optim.Optimizer) -> tuple[int, int]:
    """Numbers that are trained, and that the optimizer keeps."""
    parameters = {p for group in optimizer.param_groups for p in group["params"]}
    state = sum(
        value.numel()
        for kept in optimizer.state.values()
        for value in kept.values()
        if isinstance(value, torch.Tensor)
    )
    return sum(p.numel() for p in parameters), state

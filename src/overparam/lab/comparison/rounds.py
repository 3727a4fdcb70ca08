"""The rounds of a comparison, as jobs."""

from __future__ import annotations

import time
from concurrent.futures import Executor
from pathlib import Path

from rich.console import Console

from overparam.lab.comparison.budget import LEAST_STEPS
from overparam.lab.comparison.costs import Costs
from overparam.lab.comparison.problem import Problem
from overparam.lab.comparison.protocol import Findings, Plan, Trial, protocol
from overparam.lab.comparison.trial import TrialJob, read_outcome
from overparam.lab.executor import run_jobs
from overparam.lab.progress import progress

_CAUTION = 0.85  # a busy machine may get busier


def carry_out(
    plan: Plan,
    costs: Costs,
    problem: Problem | str,
    identity: str,
    folder: Path,
    workers: int | Executor,
    console: Console,
    deadline: float,
) -> Findings | int:
    """Play the protocol, each round as jobs; finished ones are read from the folder.

    Args:
        plan: what is fixed.
        costs: of the methods, for progress.
        problem: what is trained.
        identity: of the comparison.
        folder: of its files.
        workers: 0 for this process, or an executor whose workers share the folder.
        console: for progress.
        deadline: on the clock of ``time.monotonic``.

    Returns:
        The findings; or, where the first round shows that the deadline will not be met, the
        horizon for which there is time.
    """
    step_seconds = {name: cost.seconds for name, cost in costs.methods.items()}
    total = sum(plan.steps_of(name) * step_seconds[name] for name in plan.starts)
    game, done, pace = protocol(plan), 0.0, _Pace()

    def job(trial: Trial) -> TrialJob:
        step = step_seconds[trial.method]
        return TrialJob(problem, trial, identity, folder / "trials", step)

    with progress(console, total) as show:
        trials = next(game)
        while True:
            jobs = [job(trial) for trial in trials]

            def on_progress(cost: float, done: float = done) -> None:
                pace.see(done + cost)
                show(min(total, done + cost))

            if not run_jobs(jobs, workers, on_progress, folder=folder / "messages"):
                raise KeyboardInterrupt
            first, done = not done, done + sum(each.cost for each in jobs)
            left, needed = deadline - time.monotonic(), pace.seconds_for(total - done)
            if first and needed > left and plan.horizon > LEAST_STEPS:
                shorter = int(_CAUTION * plan.horizon * max(0.0, left) / pace.seconds_for(total))
                return max(LEAST_STEPS, shorter)
            try:
                trials = game.send([read_outcome(each.file) for each in jobs])
            except StopIteration as end:
                return end.value


class _Pace:
    """Seconds for a unit of work, from the first report of progress to the last."""

    def __init__(self) -> None:
        self.reports: list[tuple[float, float]] = []

    def see(self, cost: float) -> None:
        """Note the work done so far."""
        if cost > 0:
            self.reports[1:] = [(time.monotonic(), cost)]

    def seconds_for(self, cost: float) -> float:
        """Seconds for this much work at the same pace; 0 if the pace is not known."""
        if len(self.reports) < 2 or self.reports[1][1] <= self.reports[0][1]:
            return 0.0
        (begin, first), (end, last) = self.reports
        return cost * (end - begin) / (last - first)

"""The rounds of a comparison, as jobs, within its time."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from concurrent.futures import Executor
from dataclasses import dataclass, field

from rich.console import Console

from overparam.lab.comparison.budget import cuts, fitted, work_left
from overparam.lab.comparison.plans import PlanFile
from overparam.lab.comparison.problem import Problem
from overparam.lab.comparison.protocol import Findings, OutOfTimeError, Plan, Trial, protocol
from overparam.lab.comparison.trial import TrialJob, read_outcome
from overparam.lab.executor import run_jobs
from overparam.lab.terminal import progress, say


@dataclass(frozen=True)
class Time:
    """The time of a comparison, on the clock of ``time.monotonic``.

    Attributes:
        deadline: when the rounds should end; the plan is cut to keep it.
        end: when they are stopped, and what is there is judged.
        suspend: asked now and then; if it returns True, everything is left to a later command.
    """

    deadline: float = math.inf
    end: float = math.inf
    suspend: Callable[[], bool] = lambda: False

    def over(self) -> bool:
        """Whether the rounds stop now."""
        return time.monotonic() > self.end or self.suspend()


class _ShorterError(Exception):
    """A way out of the protocol: its runs are too long."""


def carry_out(
    stored: PlanFile, problem: Problem | str, workers: int | Executor, console: Console, limit: Time
) -> Findings:
    """Play the protocol, each round as jobs; finished ones are read from the folder of the plan.

    The pace is measured all along. If the first round shows that there is no time for runs of this
    length, the protocol starts again with shorter ones; later, it is cut.

    Args:
        stored: the plan, which is changed where the time demands it.
        problem: what is trained.
        workers: 0 for this process, or an executor whose workers share the folder.
        console: for progress.
        limit: the time there is.

    Raises:
        OutOfTimeError: the time ended before anything can be said; what was trained is kept.
    """
    while True:
        horizon = stored.horizon
        found = _play(stored, problem, workers, console, limit)
        if found is not None:
            return found
        assert stored.horizon < horizon  # so that this ends


def _play(
    stored: PlanFile, problem: Problem | str, workers: int | Executor, console: Console, limit: Time
) -> Findings | None:
    """The findings; None if the runs have to be shorter."""
    costs, folder, pace = stored.costs, stored.file.parent, _Pace()
    plan, done, found_before = stored.plan, 0.0, 0.0

    def needed(plan: Plan, tried: int) -> float:
        return pace.seconds_for(work_left(plan, tried, costs))

    def revise(plan: Plan, tried: int) -> Plan:
        smaller = fitted(plan, tried, limit.deadline - time.monotonic(), needed) if tried else plan
        if why := cuts(plan, smaller):
            stored.change(smaller, why)
            say(console, "\n".join(why))
        if smaller.horizon != plan.horizon:
            raise _ShorterError
        return smaller

    def job(trial: Trial) -> TrialJob:
        step = costs.methods[trial.method].seconds
        return TrialJob(problem, trial, stored.identity, folder / "trials", step)

    total = work_left(plan, 0, costs)
    game = protocol(plan, revise)
    with progress(console, total) as show:
        trials = next(game)
        while True:
            jobs = [job(trial) for trial in trials]
            found_before += sum(each.cost for each in jobs if each.finished())

            def on_progress(
                cost: float, done: float = done, found_before: float = found_before
            ) -> None:
                pace.see(done + cost - found_before)
                show(min(total, done + cost))

            if not limit.over() and not all(each.finished() for each in jobs):
                stored.work_here()
            ended = run_jobs(
                jobs, workers, on_progress, folder=folder / "messages", stop=limit.over
            )
            if not ended and not limit.over():
                raise KeyboardInterrupt
            done += sum(each.cost for each in jobs)
            outcomes = [read_outcome(each.file) if each.finished() else None for each in jobs]
            if None in outcomes and limit.suspend():
                raise OutOfTimeError("begun; the same command goes on with it")
            try:
                trials = game.send(outcomes)
            except _ShorterError:
                return None
            except StopIteration as end:
                found: Findings = end.value
                if why := cuts(stored.plan, found.plan):
                    stored.change(found.plan, why)
                return found


@dataclass
class _Pace:
    """Seconds for a unit of work, from the first report of progress to the last.

    Work that an earlier command did is left out, and so is the time until the workers have started.
    """

    reports: list[tuple[float, float]] = field(default_factory=list)

    def see(self, cost: float) -> None:
        """Note the work done so far by this command."""
        if cost > 0:
            self.reports[1:] = [(time.monotonic(), cost)]

    def seconds_for(self, cost: float) -> float:
        """Seconds for this much work at the same pace; 0 if the pace is not known."""
        if len(self.reports) < 2 or self.reports[1][1] <= self.reports[0][1]:
            return 0.0
        (begin, first), (end, last) = self.reports
        return cost * (end - begin) / (last - first)

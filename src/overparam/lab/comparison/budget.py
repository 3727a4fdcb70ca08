"""From a budget of time to the length of the runs. Pure functions."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import replace

from overparam.lab.comparison.costs import Costs
from overparam.lab.comparison.ladder import RUNGS
from overparam.lab.comparison.protocol import OutOfTimeError, Plan
from overparam.lab.comparison.search import FIRST
from overparam.lab.comparison.statistics import LEAST_SEEDS

_UNITS = {"s": 1, "sec": 1, "m": 60, "min": 60, "h": 3600}
_SHARE = 0.8  # the rest is for a machine that others use too, and for the page
_CAUTION = 0.85  # a busy machine may get busier
_SLACK = 1.3  # a plan that takes no longer than this is cut later rather than started again
LEAST_STEPS = 20
LEAST_TRIALS = 5
SHORT_LADDER = RUNGS[1:-1]


def seconds_of(budget: str | float) -> float:
    """A budget in seconds.

    Raises:
        ValueError: it is not a time.

    Example:
        >>> seconds_of("10min"), seconds_of("1.5 h"), seconds_of(60)
        (600.0, 5400.0, 60.0)
    """
    match = re.fullmatch(r"\s*([\d.]+)\s*([a-z]*)\s*", str(budget))
    unit = (match[2] or "s") if match else ""
    try:
        seconds = float(match[1]) * _UNITS[unit] if match else 0.0
    except (ValueError, KeyError):
        seconds = 0.0
    if seconds <= 0:
        raise ValueError(f'budget is {budget!r}; write a time such as "60s", "10min" or "2h".')
    return seconds


def affordable(plan: Plan, costs: Costs, seconds: float, workers: int) -> Plan:
    """The plan with the horizon that fits a budget, as far as can be said before the first run.

    Where the whole protocol would leave runs that say nothing, it is cut.

    Args:
        plan: with any horizon.
        costs: of its methods.
        seconds: what is left of the budget.
        workers: processes.

    Raises:
        OutOfTimeError: the budget is too small for runs that say anything.
    """
    for smaller in (plan, replace(least(plan), trials=min(plan.trials, LEAST_TRIALS))):
        per_step = costs.busy * work_left(replace(smaller, horizon=1000), 0, costs) / 1000
        tuning = len(plan.starts) * smaller.trials * plan.tuning_seeds
        runs = tuning + (len(plan.starts) + 1) * smaller.seeds * len(smaller.rungs)
        usable = _SHARE * seconds * max(1, workers) - runs * costs.judging
        horizon = int(usable / per_step)
        if horizon >= LEAST_STEPS:
            return replace(smaller, horizon=horizon)
    if 2 * horizon >= LEAST_STEPS:  # the estimate is careful, and the end of the budget is kept
        return replace(smaller, horizon=LEAST_STEPS)
    needed = (LEAST_STEPS * per_step + runs * costs.judging) / _SHARE / max(1, workers)
    raise OutOfTimeError(
        f"the budget leaves {max(0.0, seconds):.0f} s for training, {max(0, horizon)} steps for "
        f"each run, and fewer than {LEAST_STEPS} say nothing; use at least {math.ceil(needed)} s "
        "more, fewer methods, seeds or trials, or a cheaper evaluate."
    )


def least(plan: Plan) -> Plan:
    """The plan with the smallest confirmation that decides anything."""
    return replace(plan, seeds=min(plan.seeds, LEAST_SEEDS), rungs=SHORT_LADDER, extended=False)


def work_left(plan: Plan, tried: int, costs: Costs) -> float:
    """Seconds of one process, at the measured cost of a step, for what a plan has left.

    Every method has ``trials - tried`` learning rates and the ladders of all seeds left; so has
    the A/A control, which is a baseline again. More rates than ``trials`` are not foreseen.

    Args:
        plan: the plan.
        tried: learning rates that every method has tried.
        costs: of the methods.
    """
    seconds = {name: costs.methods[name].seconds for name in plan.starts}
    ladder = plan.seeds * sum(plan.ladder)
    tuning = max(0, plan.trials - tried) * plan.tuning_seeds * plan.horizon
    control = max(seconds[name] for name in plan.baselines) * ladder
    return sum(seconds.values()) * (tuning + ladder) + control


def fitted(plan: Plan, tried: int, left: float, needed: Callable[[Plan, int], float]) -> Plan:
    """The plan, cut as little as needed to end in time.

    After the first round it may have a shorter horizon: then the protocol starts again. Later in
    tuning, learning rates are given up only where not even a short confirmation fits. After it,
    the search beyond ``trials`` goes first, then seeds, then the ends of the ladder.

    Args:
        plan: the plan so far.
        tried: learning rates that every method has tried.
        left: seconds until the deadline.
        needed: seconds that a plan takes if every method has tried so many learning rates.
    """
    if tried <= len(FIRST) and needed(plan, tried) > _SLACK * left:
        return _again(plan, tried, left, needed)
    if tried < plan.trials:
        if needed(least(plan), tried) <= left:
            return plan
        return replace(plan, trials=max(tried, min(plan.trials, LEAST_TRIALS)))
    if plan.extended and needed(replace(plan, trials=tried + 1), tried) > left:
        plan = replace(plan, extended=False, trials=max(tried, plan.trials))
    if plan.extended:
        return plan
    with_seeds = [replace(plan, seeds=n) for n in range(plan.seeds, least(plan).seeds - 1, -1)]
    fitting = (smaller for smaller in with_seeds if needed(smaller, tried) <= left)
    return next(fitting, least(plan))


def _again(plan: Plan, tried: int, left: float, needed: Callable[[Plan, int], float]) -> Plan:
    """The whole protocol with shorter runs; the cut one where those would say nothing."""
    smallest = replace(least(plan), trials=min(plan.trials, LEAST_TRIALS))
    share = _CAUTION * max(0.0, left) / needed(plan, 0)
    if share * plan.horizon >= LEAST_STEPS:
        return replace(plan, horizon=int(share * plan.horizon))
    if needed(smallest, tried) <= left or plan.horizon < 2 * LEAST_STEPS:
        return smallest
    share = _CAUTION * max(0.0, left) / needed(smallest, 0)
    return replace(smallest, horizon=max(LEAST_STEPS, int(share * plan.horizon)))


def cuts(before: Plan, after: Plan) -> list[str]:
    """What was cut, in words."""
    lines = []
    if before.horizon != after.horizon:
        lines.append(f"runs of {after.horizon:,} steps, not {before.horizon:,}")
    if before.trials > after.trials:
        lines.append(f"{after.trials} learning rates for each method, not {before.trials}")
    if before.extended and not after.extended:
        lines.append("more learning rates, where the best is not settled, were left out")
    if before.seeds != after.seeds:
        lines.append(f"{after.seeds} fresh seeds, not {before.seeds}")
    if before.rungs != after.rungs:
        lines.append(f"{len(after.rungs)} lengths of runs, not {len(before.rungs)}")
    return [f"To keep the budget: {line}." for line in lines]

"""From a budget of time to the length of the runs. Pure functions."""

from __future__ import annotations

import re
from collections.abc import Iterable

from overparam.lab.comparison.costs import Costs
from overparam.lab.comparison.ladder import RUNGS

_UNITS = {"s": 1, "sec": 1, "m": 60, "min": 60, "h": 3600}
_SHARE = 0.8  # the rest is for a machine that others use too, and for the page
LEAST_STEPS = 20


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


def affordable_steps(
    costs: Costs,
    methods: Iterable[str],
    seconds: float,
    *,
    trials: int,
    tuning_seeds: int,
    seeds: int,
    workers: int,
) -> int:
    """The horizon of tuning that fits a budget.

    Every method takes ``trials * tuning_seeds`` runs of one horizon and ``seeds`` ladders; the A/A
    control takes further ladders of the dearest method.

    Raises:
        ValueError: the budget is too small for runs that say anything.
    """
    steps = [costs.methods[name].seconds for name in methods]
    ladder = seeds * sum(RUNGS)
    per_step = sum(steps) * (trials * tuning_seeds + ladder) + max(steps) * ladder
    runs = len(steps) * (trials * tuning_seeds + seeds * len(RUNGS)) + seeds * len(RUNGS)
    usable = _SHARE * seconds * max(1, workers) - runs * costs.judging
    horizon = int(usable / per_step)
    if horizon < LEAST_STEPS:
        needed = (LEAST_STEPS * per_step + runs * costs.judging) / _SHARE / max(1, workers)
        raise ValueError(
            f"a budget of {seconds:g} s leaves {max(0, horizon)} steps for each run, and fewer "
            f"than {LEAST_STEPS} say nothing; use at least {needed:.0f} s, fewer methods, seeds or "
            "trials, or a cheaper evaluate."
        )
    return horizon

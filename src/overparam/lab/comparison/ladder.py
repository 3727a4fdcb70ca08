"""The ladder of horizons: steps to a loss from runs of several lengths. Pure functions.

A run is judged at the end of its schedule, where the learning rate has decayed to zero; a curve
within a run says nothing about a shorter one. So each method is trained with several horizons, and
the steps to a loss are read off between them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

RUNGS = (0.5, 2**-0.5, 1.0, 2**0.5, 2.0)


def horizons(steps: int, rungs: Sequence[float] = RUNGS) -> tuple[int, ...]:
    """The lengths of runs, in steps, around the one at which methods are tuned.

    Example:
        >>> horizons(100)
        (50, 71, 100, 141, 200)
    """
    return tuple(sorted({max(1, round(steps * rung)) for rung in rungs}))


def decreasing(losses: Sequence[float]) -> list[float]:
    """The nearest sequence, in least squares, that does not increase.

    The pool adjacent violators algorithm, for example Barlow et al. (1972), "Statistical
    inference under order restrictions", chapter 1.

    Example:
        >>> decreasing([3.0, 1.0, 2.0, 0.0])
        [3.0, 1.5, 1.5, 0.0]
    """
    pools: list[tuple[float, int]] = []
    for loss in losses:
        mean, count = loss, 1
        while pools and pools[-1][0] < mean:
            other, size = pools.pop()
            mean = (mean * count + other * size) / (count + size)
            count += size
        pools.append((mean, count))
    return [mean for mean, count in pools for _ in range(count)]


def steps_to(target: float, lengths: Sequence[int], losses: Sequence[float]) -> tuple[float, int]:
    """Steps at which a loss is reached, between the horizons of a ladder.

    The losses are made decreasing and joined by straight lines over the logarithm of the steps.

    Args:
        target: the loss.
        lengths: horizons, ascending.
        losses: at the end of the run of each length.

    Returns:
        The steps, and on which side of the ladder the true number lies: 0 inside; -1 below and 1
        above, where the steps are the nearest horizon.

    Example:
        >>> steps_to(1.5, [100, 400], [2.0, 1.0])
        (200.0, 0)
        >>> steps_to(0.5, [100, 400], [2.0, 1.0])
        (400.0, 1)
    """
    smooth = decreasing(losses)
    if target > smooth[0]:
        return float(lengths[0]), -1
    if target < smooth[-1]:
        return float(lengths[-1]), 1
    for i in range(len(lengths)):
        if smooth[i] <= target:
            if i == 0 or smooth[i] == target:
                return float(lengths[i]), 0
            share = (smooth[i - 1] - target) / (smooth[i - 1] - smooth[i])
            start, end = math.log(lengths[i - 1]), math.log(lengths[i])
            return float(f"{math.exp(start + share * (end - start)):.12g}"), 0
    raise AssertionError("the target lies between the losses")

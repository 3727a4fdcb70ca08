"""Whether two curves are one, up to a shift in time.

Layers that start near zero wait before they move, and the moment depends on the start. So "the rule
trains as explicit layers do" means: the same curve after some shift, and about the same end.
"""

from __future__ import annotations

import math

import numpy as np
import polars as pl

from overparam.lab.paper.distances import steps_to

_LEVELS = 24


def shifted_gap(first: pl.DataFrame, second: pl.DataFrame) -> tuple[float, float]:
    """The shift in time that brings the second curve nearest to the first, and what remains.

    Args:
        first: columns ``step`` and ``distance``, sorted by step; distances above 0.
        second: the same.

    Returns:
        How many steps later the second curve is (negative if it is earlier), and the largest ratio
        of the distances, in either direction, at the recorded steps of the first curve that the
        shifted second one reaches.

    Example:
        >>> first = pl.DataFrame({"step": range(9), "distance": [2.0**-t for t in range(9)]})
        >>> late = [1.0, 1.0, *first["distance"][:7]]
        >>> shift, ratio = shifted_gap(first, first.with_columns(distance=pl.Series(late)))
        >>> round(shift), round(ratio, 1)
        (2, 1.0)
    """
    lags = [steps_to(second, level) - steps_to(first, level) for level in _levels(first, second)]
    shifts = {0.0, *(lag for lag in lags if math.isfinite(lag))}
    found = {shift: _largest_ratio(first, second, shift) for shift in sorted(shifts, key=abs)}
    best = min(found, key=lambda shift: found[shift])
    return best, found[best]


def _levels(first: pl.DataFrame, second: pl.DataFrame) -> list[float]:
    """Distances that both curves pass through, spaced by equal ratios."""
    high = min(float(curve["distance"][0]) for curve in (first, second))
    low = max(float(curve["distance"][-1]) for curve in (first, second))
    if not 0 < low < high:
        return []
    return [high * (low / high) ** (i / (_LEVELS + 1)) for i in range(1, _LEVELS + 1)]


def _largest_ratio(first: pl.DataFrame, second: pl.DataFrame, shift: float) -> float:
    """Between recorded steps the second curve is straight in logarithms (of step + 1)."""
    steps, at = second["step"].to_numpy(), first["step"].to_numpy() + shift
    met = (steps[0] <= at) & (at <= steps[-1])
    there = np.interp(np.log1p(at[met]), np.log1p(steps), np.log(second["distance"].to_numpy()))
    apart = np.abs(np.log(first["distance"].to_numpy()[met]) - there)
    return float(np.exp(apart.max(initial=0.0)))

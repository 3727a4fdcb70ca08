"""Numbers that the verdicts rest on, from stored curves. Pure functions on tables.

Curves have the columns of :func:`overparam.lab.jobs.load_curves`. A *distance* is a loss minus
the loss of the optimum. Intervals are the smallest and the largest over seeds.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

import polars as pl

from overparam.lab.summary import rate_curve, tuned

# A distance below this share of the first one is called zero: further down, curves in float32 and
# float64 compare round-off.
_ZERO = 1e-6
# A last distance above this share of the first one, or as little above the first: a run that has
# not left its start.
NEAR_START = 0.9
# Curves that end within this factor of each other end on one plateau.
_NEARLY = 1.1


@dataclass(frozen=True)
class Interval:
    """A number over seeds.

    Attributes:
        median: over seeds.
        low: the smallest.
        high: the largest.
    """

    median: float
    low: float
    high: float

    def below(self, other: Interval) -> bool:
        """Whether all of this interval lies below all of the other."""
        return self.high < other.low

    def __str__(self) -> str:
        """Median and range to three digits."""
        return self.text(3)

    def text(self, digits: int) -> str:
        """Median and range to some digits."""
        if not math.isfinite(self.median):
            return "diverged"
        median, low, high = (f"{x:.{digits}g}" for x in (self.median, self.low, self.high))
        return median if low == high else f"{median} [{low}, {high}]"


def interval(values: Sequence[float]) -> Interval:
    """Median and range of some numbers.

    Raises:
        ValueError: there are none.

    Example:
        >>> interval([3.0, 1.0, 2.0])
        Interval(median=2.0, low=1.0, high=3.0)
    """
    if not values:
        raise ValueError("no values to summarize; pass one per seed.")
    return Interval(statistics.median(values), min(values), max(values))


def at_horizon(curves: pl.DataFrame, iterations: int) -> pl.DataFrame:
    """The curves as they would be had training ended earlier.

    A run that diverges later has not diverged yet. Losses are recorded at log-spaced steps: the
    last one is the largest recorded step up to ``iterations``.
    """
    return curves.filter(pl.col("step") <= iterations).with_columns(
        pl.when(pl.col("diverged_at") <= iterations).then("diverged_at").alias("diverged_at")
    )


def at_rates(curves: pl.DataFrame, rates: Sequence[float]) -> pl.DataFrame:
    """The runs whose learning rate is one of these."""
    return curves.filter(pl.col("rate").is_in(list(rates)))


def tuned_distances(curves: pl.DataFrame, optimum: float) -> dict[str, Interval]:
    """Final distance of every method at its best rate, by :func:`overparam.lab.summary.tuned`.

    A distance below a millionth of the first one (the median over the runs given) is 0: round-off
    has no order.
    """
    zero = _zero(curves, optimum)
    found = {}
    for row in tuned(curves).to_dicts():
        distances = (row[key] - optimum for key in ("median", "low", "high"))
        found[row["method"]] = Interval(*(0.0 if x <= zero else x for x in distances))
    return found


def _zero(curves: pl.DataFrame, optimum: float) -> float:
    """A millionth of the first distance, median over runs."""
    starts = curves.filter(pl.col("step") == 0)["loss"] - optimum
    return _ZERO * float(starts.median())  # pyright: ignore[reportArgumentType]


def seed_distances(curves: pl.DataFrame, optimum: float, method: str) -> dict[int, pl.DataFrame]:
    """The curve of each seed of a method at one rate: columns ``step`` and ``distance``.

    Raises:
        ValueError: the curves hold the method at several rates; filter them first.
    """
    runs = curves.filter(pl.col("method") == method)
    if runs["rate"].n_unique() > 1:
        raise ValueError(
            f"{method} is here at {runs['rate'].n_unique()} rates; choose one of them."
        )
    return {
        seed: runs.filter(pl.col("seed") == seed)
        .sort("step")
        .select("step", (pl.col("loss") - optimum).alias("distance"))
        for seed in sorted(runs["seed"].unique())
    }


def above_round_off(curves: dict[int, pl.DataFrame]) -> dict[int, pl.DataFrame]:
    """Curves of :func:`seed_distances`, no lower than a millionth of their first distance."""
    return {
        seed: curve.with_columns(pl.col("distance").clip(_ZERO * curve["distance"][0]))
        for seed, curve in curves.items()
    }


def has_left_start(curve: pl.DataFrame) -> bool:
    """Whether the last distance of a curve is below nine tenths of its first."""
    return bool(curve["distance"][-1] < NEAR_START * curve["distance"][0])


def is_near_start(curves: pl.DataFrame, optimum: float, method: str) -> bool:
    """Whether some seed of a method at its best rate ends about as high as it starts.

    A seed that diverges does not wait.
    """
    runs = best_runs(curves.filter(pl.col("method") == method))
    runs = runs.filter(pl.col("diverged_at").is_null())
    return any(
        not has_left_start(curve) and curve["distance"][-1] * NEAR_START < curve["distance"][0]
        for curve in seed_distances(runs, optimum, method).values()
    )


def curve_gap(
    first: dict[int, pl.DataFrame], second: dict[int, pl.DataFrame]
) -> tuple[Interval, Interval]:
    """How far apart two methods are, seed by seed, as factors of the distance from the optimum.

    Returns:
        The ratio first / second at the last step, and the largest factor (at least 1, in either
        direction) over all steps; each over seeds. A seed that stops earlier for the one than for
        the other, or whose distance is not positive, counts as infinitely far.
    """
    ends, largest = [], []
    for seed, curve in first.items():
        both = curve.join(second[seed], on="step", suffix="_second", maintain_order="left")
        ratio = (both["distance"] / both["distance_second"]).to_list()
        usable = [value for value in ratio if math.isfinite(value) and value > 0]
        complete = len(usable) == len(curve) == len(second[seed]) > 0
        ends.append(usable[-1] if complete else math.inf)
        largest.append(max(max(v, 1 / v) for v in usable) if complete else math.inf)
    return interval(ends), interval(largest)


def largest_lags(
    first: dict[int, pl.DataFrame], second: dict[int, pl.DataFrame], factor: float
) -> list[float]:
    """How many iterations the higher of two curves is late where they are far apart, per seed.

    At a step at which the distances differ by more than ``factor``: how many iterations later the
    higher curve comes to the distance of the lower one; infinite where it never does. The largest
    over steps, 0 where no step is so.

    Args:
        first: curves by seed, as :func:`seed_distances` gives them; distances above 0.
        second: the same of the other method, at the same steps.
        factor: at least 1.

    Example:
        >>> slow = pl.DataFrame({"step": [1, 10, 100], "distance": [1.0, 0.1, 0.01]})
        >>> fast = pl.DataFrame({"step": [1, 10, 100], "distance": [0.5, 0.05, 0.01]})
        >>> [round(lag) for lag in largest_lags({0: slow}, {0: fast}, 1.1)]
        [10]
        >>> largest_lags({0: slow}, {0: fast}, 3)
        [0.0]
    """
    lags = []
    for seed, ours in first.items():
        theirs, worst = second[seed], 0.0
        for step, a, b in zip(ours["step"], ours["distance"], theirs["distance"], strict=True):
            if max(a, b) > factor * min(a, b):
                higher = ours if a > b else theirs
                worst = max(worst, steps_to(higher, min(a, b)) - step)
        lags.append(worst)
    return lags


def steps_to(curve: pl.DataFrame, distance: float) -> float:
    """The step at which a curve first comes to a distance; infinite where it never does.

    Between two recorded steps the logarithm of the distance is interpolated linearly in the
    logarithm of the step.

    Args:
        curve: columns ``step``, ``distance``, sorted by step.
        distance: above 0.

    Example:
        >>> curve = pl.DataFrame({"step": [1, 10, 100], "distance": [1.0, 0.1, 0.01]})
        >>> round(steps_to(curve, 0.0316227766), 4)
        31.6228
    """
    steps, values = curve["step"].to_list(), curve["distance"].to_list()
    for i, value in enumerate(values):
        if value <= distance:
            before = values[i - 1] if i else math.nan
            if i == 0 or steps[i - 1] == 0 or not (before > distance and value > 0):
                return float(steps[i])
            part = math.log(before / distance) / math.log(before / value)
            return steps[i - 1] * (steps[i] / steps[i - 1]) ** part
    return math.inf


def best_runs(curves: pl.DataFrame) -> pl.DataFrame:
    """The runs of every method at its best rate."""
    return curves.join(tuned(curves).select("method", "rate"), on=["method", "rate"], how="semi")


def speed_up(curves: pl.DataFrame, optimum: float, method: str, reference: str) -> Interval:
    """How many times fewer iterations a method needs than a reference, both at their best rates.

    Iterations to the distance at which the worse of the two ends: the whole run for it, over those
    that the other takes. Where the two end within a tenth of each other, iterations to a tenth
    above: which of two curves on one plateau ends lower is luck. Where both come to a millionth of
    the distance at which the reference starts, iterations to that, each at the rate that is there
    first. Above 1 the method is faster; 1 over the length of the run is what a method gets that
    does not leave its start. Seed by seed; a seed that diverges counts as 0 for its method.

    Args:
        curves: with both methods, all rates.
        optimum: loss of the optimum.
        method: its name.
        reference: name of the other.
    """
    zero = _zero(curves.filter(pl.col("method") == reference), optimum)
    ours, theirs = (_best_seeds(curves, optimum, name, zero) for name in (method, reference))
    last = int(curves["step"].max())  # pyright: ignore[reportArgumentType]
    return interval([_speed_up(ours[seed], theirs[seed], last, zero) for seed in ours])


def _best_seeds(
    curves: pl.DataFrame, optimum: float, method: str, zero: float
) -> dict[int, pl.DataFrame]:
    """A method at its best rate: of those at which every seed comes to zero, the fastest."""
    runs = curves.filter(pl.col("method") == method)
    there = rate_curve(runs).filter(failed=0).filter(pl.col("high") - optimum <= zero)["rate"]
    if not len(there):
        return seed_distances(best_runs(runs), optimum, method)
    tried = [seed_distances(at_rates(runs, [rate]), optimum, method) for rate in there]
    return min(tried, key=lambda s: statistics.median(steps_to(c, zero) for c in s.values()))


def _speed_up(ours: pl.DataFrame, theirs: pl.DataFrame, last: int, zero: float) -> float:
    ends = [
        float(curve["distance"][-1]) if curve["step"][-1] == last else math.inf
        for curve in (ours, theirs)
    ]
    if ends[0] == math.inf:
        return 0.0
    if ends[1] == math.inf:
        return math.inf
    target = max(*ends, zero)
    together = target <= _NEARLY * min(ends)
    level = _NEARLY * target if together else target
    first, second = (
        last if end == target and not together else max(1.0, steps_to(curve, level))
        for curve, end in zip((ours, theirs), ends, strict=True)
    )
    return second / first

"""Distances from the optimum, and the speed-ups that follow. Pure functions on tables.

Curves have the columns of :func:`overparam.lab.jobs.load_curves`. A *distance* is a loss minus
the optimal loss. Intervals run from the smallest to the largest value over seeds.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

import polars as pl

from overparam.lab.summary import rate_curve, tuned

# A distance below this share of the first one counts as zero: further down, curves in float32 and
# float64 compare round-off.
_ZERO = 1e-6
# A run has not left its start if its last distance is within this factor of the first one.
NEAR_START = 0.9
# Curves that end within this factor of each other end on the same plateau.
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
        """Median and range to the given number of digits."""
        if not math.isfinite(self.median):
            return "diverged"
        median, low, high = (f"{x:.{digits}g}" for x in (self.median, self.low, self.high))
        return median if low == high else f"{median} [{low}, {high}]"


def interval(values: Sequence[float]) -> Interval:
    """Median and range of some numbers.

    Raises:
        ValueError: there are no numbers.

    Example:
        >>> interval([3.0, 1.0, 2.0])
        Interval(median=2.0, low=1.0, high=3.0)
    """
    if not values:
        raise ValueError("no values to summarize; pass one per seed.")
    return Interval(statistics.median(values), min(values), max(values))


def span(values: Sequence[float]) -> str:
    """The smallest and the largest of some numbers of iterations.

    Example:
        >>> span([1000, 20.4]), span([7, 7])
        ('20 to 1,000', '7')
    """
    return " to ".join(dict.fromkeys(f"{end:,.0f}" for end in (min(values), max(values))))


def at_horizon(curves: pl.DataFrame, iterations: int) -> pl.DataFrame:
    """The curves as they would be if training had ended earlier.

    A run that diverges later has not diverged yet. Losses are recorded at log-spaced steps; the
    last one kept is the largest recorded step up to ``iterations``.
    """
    return curves.filter(pl.col("step") <= iterations).with_columns(
        pl.when(pl.col("diverged_at") <= iterations).then("diverged_at").alias("diverged_at")
    )


def at_rates(curves: pl.DataFrame, rates: Sequence[float]) -> pl.DataFrame:
    """The runs whose learning rate is one of these."""
    return curves.filter(pl.col("rate").is_in(list(rates)))


def tuned_distances(curves: pl.DataFrame, optimum: float) -> dict[str, Interval]:
    """Final distance of every method at its best lr, by :func:`overparam.lab.summary.tuned`.

    A distance below a millionth of the first one (the median over the given runs) counts as 0, so
    that round-off is not ordered.
    """
    zero = _zero(curves, optimum)
    found = {}
    for row in tuned(curves).to_dicts():
        distances = (row[key] - optimum for key in ("median", "low", "high"))
        found[row["method"]] = Interval(*(0.0 if x <= zero else x for x in distances))
    return found


def _zero(curves: pl.DataFrame, optimum: float) -> float:
    """A millionth of the first distance (median over runs)."""
    starts = curves.filter(pl.col("step") == 0)["loss"] - optimum
    return _ZERO * float(starts.median())  # pyright: ignore[reportArgumentType]


def seed_distances(curves: pl.DataFrame, optimum: float, method: str) -> dict[int, pl.DataFrame]:
    """The curve of each seed of a method at one lr: columns ``step`` and ``distance``.

    Raises:
        ValueError: the curves hold the method at several lrs; filter them first.
    """
    runs = curves.filter(pl.col("method") == method)
    if runs["rate"].n_unique() > 1:
        raise ValueError(
            f"the curves hold {method} at {runs['rate'].n_unique()} learning rates; choose one."
        )
    return {
        seed: runs.filter(pl.col("seed") == seed)
        .sort("step")
        .select("step", (pl.col("loss") - optimum).alias("distance"))
        for seed in sorted(runs["seed"].unique())
    }


def above_round_off(curves: dict[int, pl.DataFrame]) -> dict[int, pl.DataFrame]:
    """Curves from :func:`seed_distances`, cut off below at a millionth of their first distance."""
    return {
        seed: curve.with_columns(pl.col("distance").clip(_ZERO * curve["distance"][0]))
        for seed, curve in curves.items()
    }


def has_left_start(curve: pl.DataFrame) -> bool:
    """Whether the last distance of a curve is below nine tenths of its first."""
    return bool(curve["distance"][-1] < NEAR_START * curve["distance"][0])


def is_near_start(curves: pl.DataFrame, optimum: float, method: str) -> bool:
    """Whether some seed of a method at its best lr ends about as high as it starts.

    Seeds that diverge are left out.
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
    """How far apart two methods are, seed by seed, as ratios of their distances from the optimum.

    Returns:
        The ratio first / second at the last step, and the largest ratio (at least 1, in either
        direction) over all steps; each over seeds. If the two curves of a seed have different
        lengths, or a distance is not positive, the ratio of that seed is infinite.
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
    """How many iterations one of two curves lags behind the other, for each seed.

    Only steps at which the distances differ by more than ``factor`` count. The lag at a step is
    the number of iterations until the higher curve reaches the distance of the lower one, infinite
    if it never does. The result is the largest lag over steps, 0 if no step counts.

    Args:
        first: curves by seed, as :func:`seed_distances` returns them; distances above 0.
        second: the same for the other method, at the same steps.
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
    """The step at which a curve first reaches a distance, infinite if it never does.

    Between two recorded steps, the logarithm of the distance is interpolated linearly in the
    logarithm of the step.

    Args:
        curve: columns ``step`` and ``distance``, sorted by step.
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
            fraction = math.log(before / distance) / math.log(before / value)
            return steps[i - 1] * (steps[i] / steps[i - 1]) ** fraction
    return math.inf


def best_runs(curves: pl.DataFrame) -> pl.DataFrame:
    """The runs of every method at its best lr."""
    return curves.join(tuned(curves).select("method", "rate"), on=["method", "rate"], how="semi")


def speed_up(curves: pl.DataFrame, optimum: float, method: str, reference: str) -> Interval:
    """How many times fewer iterations a method needs than a reference, both at their best lr.

    The target is the distance at which the worse of the two ends: the worse one takes the whole
    run, the better one fewer iterations. Two cases have a different target:

    - The two end within 10 % of each other: 10 % above the worse end, because it is luck which of
      two curves on the same plateau ends lower.
    - Both reach a millionth of the distance at which the reference starts: that distance, each
      method at the lr that gets there first.

    Above 1 the method is faster. A method that does not leave its start gets 1 over the length of
    the run. The speed-up is computed seed by seed; it is 0 if the method diverges, and infinite if
    only the reference does.

    Args:
        curves: both methods at all learning rates.
        optimum: the optimal loss.
        method: name of the method.
        reference: name of the reference.
    """
    zero = _zero(curves.filter(pl.col("method") == reference), optimum)
    ours, theirs = (_best_seeds(curves, optimum, name, zero) for name in (method, reference))
    last = int(curves["step"].max())  # pyright: ignore[reportArgumentType]
    return interval([_speed_up(ours[seed], theirs[seed], last, zero) for seed in ours])


def _best_seeds(
    curves: pl.DataFrame, optimum: float, method: str, zero: float
) -> dict[int, pl.DataFrame]:
    """A method at its best lr: the fastest of those at which every seed reaches zero, if any."""
    runs = curves.filter(pl.col("method") == method)
    reached = rate_curve(runs).filter(failed=0).filter(pl.col("high") - optimum <= zero)["rate"]
    if not len(reached):
        return seed_distances(best_runs(runs), optimum, method)
    tried = [seed_distances(at_rates(runs, [rate]), optimum, method) for rate in reached]
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

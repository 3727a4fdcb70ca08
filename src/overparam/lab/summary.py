"""Tables computed from curves: best learning rates, iterations to a loss. Pure functions.

Curves have the columns ``method, rate, seed, step, loss, diverged_at`` of
:func:`overparam.lab.jobs.load_curves`; ``rate`` is the lr. A run has *failed* if it diverged or
ended above its initial loss. Medians and ranges are over seeds.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import polars as pl

_RUN = ["method", "rate", "seed"]


def median_and_range(column: str) -> tuple[pl.Expr, pl.Expr, pl.Expr]:
    """The columns ``median, low, high`` of a group."""
    values = pl.col(column)
    return values.median().alias("median"), values.min().alias("low"), values.max().alias("high")


def final_losses(curves: pl.DataFrame) -> pl.DataFrame:
    """One row per run: its last loss, whether it diverged, whether it failed.

    Columns: ``method, rate, seed, step, first, loss, diverged_at, failed``. The loss of a
    diverged run is infinite.
    """
    return (
        curves.sort("step")
        .group_by(_RUN, maintain_order=True)
        .agg(
            pl.col("step").last(),
            pl.col("loss").first().alias("first"),
            pl.col("loss").last(),
            pl.col("diverged_at").last(),
        )
        .with_columns(
            pl.when(pl.col("diverged_at").is_null()).then("loss").otherwise(math.inf).alias("loss")
        )
        .with_columns((~(pl.col("loss") <= pl.col("first"))).alias("failed"))
    )


def rate_curve(curves: pl.DataFrame) -> pl.DataFrame:
    """The sensitivity to the learning rate: one row per method and lr, over seeds.

    Columns: ``method, rate, median, low, high, failed, seeds``; ``failed`` counts seeds.
    """
    return (
        final_losses(curves)
        .group_by(["method", "rate"], maintain_order=True)
        .agg(
            *median_and_range("loss"),
            pl.col("failed").sum().cast(pl.Int64),
            pl.len().cast(pl.Int64).alias("seeds"),
        )
    )


def tuned(curves: pl.DataFrame) -> pl.DataFrame:
    """Each method at its best lr: the one with the smallest median final loss.

    Only learning rates at which no seed failed are considered, unless there are none.

    Columns: those of :func:`rate_curve`, ``rates`` (how many were tried), ``all_failed`` (at how
    many of them every seed failed) and ``edge`` (whether the best lr is the smallest or the largest
    tried, so that a wider grid might do better). The best method comes first.
    """
    rate, all_failed = pl.col("rate"), pl.col("failed") == pl.col("seeds")
    tried = (
        pl.len().cast(pl.Int64).alias("rates"),
        all_failed.sum().cast(pl.Int64).alias("all_failed"),
        ((rate == rate.min()) | (rate == rate.max())).alias("edge"),
    )
    return (
        rate_curve(curves)
        .with_columns(column.over("method") for column in tried)
        .sort(pl.col("failed") > 0, "median", "rate")
        .group_by("method", maintain_order=True)
        .first()
        .sort("median", maintain_order=True)
    )


def tuned_curves(curves: pl.DataFrame) -> pl.DataFrame:
    """The curves of each method at its best lr, over seeds.

    Columns: ``method, rate, step, median, low, high``.
    """
    best = tuned(curves).select("method", "rate")
    return (
        curves.join(best, on=["method", "rate"], how="semi")
        .group_by(["method", "rate", "step"], maintain_order=True)
        .agg(median_and_range("loss"))
    )


def targets(curves: pl.DataFrame, optimum: float, most: int = 6) -> list[float]:
    """Losses to reach: the optimum plus a half, a quarter, ... of the initial distance from it.

    They are rounded to two digits. Only losses that some run reaches are returned, and at most
    ``most`` of them, the lowest ones.
    """
    start = curves.filter(pl.col("step") == 0)["loss"].median()
    lowest = curves["loss"].min()
    if not isinstance(start, float) or not isinstance(lowest, float):
        return []
    levels = [float(f"{optimum + (start - optimum) / 2**k:.2g}") for k in range(1, 40)]
    above = max(lowest, math.nextafter(optimum, math.inf))
    reached = [level for level in dict.fromkeys(levels) if above <= level < start]
    return reached[-most:]


def iterations_by_target(
    curves: pl.DataFrame, losses: Sequence[float]
) -> dict[tuple[str, float], float | None]:
    """:func:`iterations_to` by method and target; None if no lr gets there."""
    rows = iterations_to(curves, losses).to_dicts()
    return {(row["method"], row["target"]): row["iterations"] for row in rows}


def iterations_to(curves: pl.DataFrame, losses: Sequence[float]) -> pl.DataFrame:
    """Iterations until each loss is first recorded, at the lr that is best for that loss.

    The number at an lr is the median over seeds, where a seed that never gets there counts as
    infinite; the best lr is the one with the smallest number. Losses are recorded at log-spaced
    steps, so a number is too large by at most one recording step.

    Columns: ``method, target, iterations`` (null if no lr gets there), ``rate``, and ``low, high``,
    the range over seeds.
    """
    runs = curves.select(_RUN).unique(maintain_order=True)
    columns = ("method", "target", "iterations", "rate", "low", "high")
    schema = dict.fromkeys(columns, pl.Float64) | {"method": pl.String}
    tables = [pl.DataFrame(schema=schema)]
    for target in losses:
        first = (
            curves.filter(pl.col("loss") <= target)
            .group_by(_RUN, maintain_order=True)
            .agg(pl.col("step").min().cast(pl.Float64))
        )
        tables.append(
            runs.join(first, on=_RUN, how="left", maintain_order="left")
            .with_columns(pl.col("step").fill_null(math.inf))
            .group_by(["method", "rate"], maintain_order=True)
            .agg(*median_and_range("step"))
            .rename({"median": "iterations"})
            .sort("iterations", "rate")
            .group_by("method", maintain_order=True)
            .first()
            .with_columns(
                pl.lit(target).alias("target"),
                pl.when(pl.col("iterations").is_finite()).then("iterations").alias("iterations"),
            )
        )
    return pl.concat([table.select(columns) for table in tables])

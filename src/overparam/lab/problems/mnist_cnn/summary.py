"""What the curves of the network say. Pure functions on tables.

Curves have the columns of ``jobs.load_curves``. The *loss* is cross-entropy
plus penalty, what the authors plot; *batch* quantities are those of one batch, the others are
means over the batches since the record before. A diverged run has infinite last values.
"""

from __future__ import annotations

import math

import polars as pl

_RUN = ["variant", "rate", "seed"]
LOSSES = ("loss", "cross_entropy", "penalty")
_LAST = (
    *LOSSES,
    "batch_loss",
    "batch_cross_entropy",
    "penalty_share",
    "validation_error",
    "test_error",
)


def with_losses(curves: pl.DataFrame) -> pl.DataFrame:
    """The curves with ``loss``, ``batch_loss`` and ``penalty_share``, penalty over loss."""
    loss = pl.col("cross_entropy") + pl.col("penalty")
    return curves.with_columns(
        loss.alias("loss"),
        (pl.col("batch_cross_entropy") + pl.col("penalty")).alias("batch_loss"),
        (pl.col("penalty") / loss).alias("penalty_share"),
    )


def last_values(curves: pl.DataFrame) -> pl.DataFrame:
    """One row per run: the last value of every quantity, infinite where the run diverged.

    Columns: ``variant, rate, seed, step, diverged_at``, the losses of :func:`with_losses`, the
    errors, and ``mean_cross_entropy``: over all steps of the run, the lower the faster it learned.
    """
    weighted = pl.col("cross_entropy") * pl.col("step").diff()
    last = (
        with_losses(curves)
        .sort("step")
        .group_by(_RUN, maintain_order=True)
        .agg(
            pl.col("step").last(),
            pl.col("diverged_at").last(),
            *(pl.col(name).drop_nulls().last() for name in _LAST),
            (weighted.sum() / pl.col("step").last()).alias("mean_cross_entropy"),
        )
    )
    values = (*_LAST, "mean_cross_entropy")
    fine = pl.col("diverged_at").is_null()
    return last.with_columns(
        pl.when(fine).then(name).otherwise(math.inf).alias(name) for name in values
    )


def seed_values(curves: pl.DataFrame, variant: str, quantity: str, rate: float) -> list[float]:
    """The last value of a quantity for each seed, in the order of the seeds.

    Args:
        curves: of training.
        variant: which network.
        quantity: a column of :func:`last_values`.
        rate: learning rate.
    """
    rows = last_values(curves).filter((pl.col("variant") == variant) & (pl.col("rate") == rate))
    return rows.sort("seed")[quantity].to_list()


def over_seeds(curves: pl.DataFrame, quantity: str) -> pl.DataFrame:
    """A quantity by step, over seeds.

    Args:
        curves: of training, with the column, or of the penalty alone.
        quantity: the column; rows where it is null, or no finite number, are left out.

    Returns:
        Columns ``variant, rate, step, median, low, high``.
    """
    return (
        curves.filter(pl.col(quantity).is_finite())
        .group_by(["variant", "rate", "step"], maintain_order=True)
        .agg(
            pl.col(quantity).median().alias("median"),
            pl.col(quantity).min().alias("low"),
            pl.col(quantity).max().alias("high"),
        )
    )


def last_over_seeds(curves: pl.DataFrame) -> pl.DataFrame:
    """The last value of every quantity over seeds, in long form.

    Columns: ``variant, rate, quantity, median, low, high, seeds, diverged`` (of the seeds).
    """
    names = [*_LAST, "mean_cross_entropy"]
    return (
        last_values(curves)
        .unpivot(names, index=[*_RUN, "diverged_at"], variable_name="quantity")
        .group_by(["variant", "rate", "quantity"], maintain_order=True)
        .agg(
            pl.col("value").median().alias("median"),
            pl.col("value").min().alias("low"),
            pl.col("value").max().alias("high"),
            pl.len().cast(pl.Int64).alias("seeds"),
            pl.col("diverged_at").is_not_null().sum().cast(pl.Int64).alias("diverged"),
        )
    )


def against_alone(curves: pl.DataFrame, alone: pl.DataFrame) -> pl.DataFrame:
    """The penalty measured in training against the penalty integrated without data.

    Only variants with a penalty, rates and seeds that both have.

    Returns:
        One row per run: ``variant, rate, seed``; ``last``, the ratio at the last common step;
        ``low`` and ``high``, the smallest and the largest ratio on the way.
    """
    keys = [*_RUN, "step"]
    both = curves.join(alone, on=keys, suffix="_alone", maintain_order="left").filter(
        pl.col("penalty") > 0
    )
    ratio = pl.col("penalty") / pl.col("penalty_alone")
    return (
        both.sort("step")
        .group_by(_RUN, maintain_order=True)
        .agg(ratio.last().alias("last"), ratio.min().alias("low"), ratio.max().alias("high"))
    )


def penalty_majority(curves: pl.DataFrame) -> pl.DataFrame:
    """For how much of its steps a run's penalty is more than half of its loss.

    A record stands for the steps since the record before.

    Returns:
        One row per run: ``variant, rate, seed, share``.
    """
    steps = pl.col("step").diff().fill_null(0)
    return (
        with_losses(curves)
        .sort("step")
        .group_by(_RUN, maintain_order=True)
        .agg((steps.filter(pl.col("penalty_share") > 0.5).sum() / steps.sum()).alias("share"))
    )


def gap(curves: pl.DataFrame, first: str, second: str) -> pl.DataFrame:
    """How much of the difference in loss between two variants is difference in penalty.

    Seed by seed, at the steps and rates that both have.

    Returns:
        Columns ``rate, seed, step, loss, cross_entropy, penalty``: first minus second.
    """
    keys = ["rate", "seed", "step"]
    parts = [with_losses(curves.filter(pl.col("variant") == name)) for name in (first, second)]
    both = parts[0].join(parts[1], on=keys, suffix="_second", maintain_order="left")
    return both.select(*keys, *(pl.col(n) - pl.col(f"{n}_second") for n in LOSSES))


def steps_to(curves: pl.DataFrame, quantity: str, level: float) -> pl.DataFrame:
    """Steps until a quantity is first recorded at or below a level.

    Args:
        curves: of training.
        quantity: a column of :func:`with_losses`.
        level: to reach.

    Returns:
        One row per run: ``variant, rate, seed, steps``, null where it is not reached.
    """
    runs = curves.select(_RUN).unique(maintain_order=True)
    reached = (
        with_losses(curves)
        .filter(pl.col(quantity) <= level)
        .group_by(_RUN, maintain_order=True)
        .agg(pl.col("step").min().alias("steps"))
    )
    return runs.join(reached, on=_RUN, how="left", maintain_order="left")


def tuned(curves: pl.DataFrame) -> pl.DataFrame:
    """Each variant at the rate with the lowest median validation error at the end.

    Columns: ``variant, rate``, and ``edge``: the rate is the smallest or the largest of several
    that were tried.
    """
    errors = last_over_seeds(curves).filter(pl.col("quantity") == "validation_error")
    return (
        errors.sort("median", "rate")
        .group_by("variant", maintain_order=True)
        .agg(
            pl.col("rate").first(),
            (pl.col("rate").first() == pl.col("rate").min()).alias("lowest"),
            (pl.col("rate").first() == pl.col("rate").max()).alias("highest"),
            pl.len().alias("tried"),
        )
        .select(
            "variant",
            "rate",
            ((pl.col("lowest") | pl.col("highest")) & (pl.col("tried") > 1)).alias("edge"),
        )
    )

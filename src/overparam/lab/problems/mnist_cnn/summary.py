"""Tables computed from the curves of the network. Pure functions.

Curves have the columns of ``jobs.load_curves``. The *loss* is cross-entropy plus penalty, as the
authors plot it. *Batch* quantities are those of one batch; the others are means over the batches
since the previous record. The last values of a diverged run are infinite.
"""

from __future__ import annotations

import math

import polars as pl

from overparam.lab.summary import median_and_range

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
    """The curves with ``loss``, ``batch_loss`` and ``penalty_share`` (penalty over loss)."""
    loss = pl.col("cross_entropy") + pl.col("penalty")
    return curves.with_columns(
        loss.alias("loss"),
        (pl.col("batch_cross_entropy") + pl.col("penalty")).alias("batch_loss"),
        (pl.col("penalty") / loss).alias("penalty_share"),
    )


def last_values(curves: pl.DataFrame) -> pl.DataFrame:
    """One row per run: the last value of every quantity, infinite if the run diverged.

    Columns: ``variant, rate, seed, step, diverged_at``, the losses of :func:`with_losses`, the
    errors, and ``mean_cross_entropy``, the mean over all steps of the run: a lower mean means
    faster training.
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
        curves: training curves.
        variant: which network.
        quantity: a column of :func:`last_values`.
        rate: learning rate.
    """
    rows = last_values(curves).filter((pl.col("variant") == variant) & (pl.col("rate") == rate))
    return rows.sort("seed")[quantity].to_list()


def over_seeds(curves: pl.DataFrame, quantity: str) -> pl.DataFrame:
    """A quantity by step, over seeds.

    Args:
        curves: training curves, or curves of the penalty alone.
        quantity: a column of the curves; rows in which it is null or not finite are left out.

    Returns:
        Columns ``variant, rate, step, median, low, high``.
    """
    return (
        curves.filter(pl.col(quantity).is_finite())
        .group_by(["variant", "rate", "step"], maintain_order=True)
        .agg(median_and_range(quantity))
    )


def last_over_seeds(curves: pl.DataFrame) -> pl.DataFrame:
    """The last value of every quantity over seeds, in long form.

    Columns: ``variant, rate, quantity, median, low, high, seeds`` and ``diverged`` (the number of
    seeds that did).
    """
    names = [*_LAST, "mean_cross_entropy"]
    return (
        last_values(curves)
        .unpivot(names, index=[*_RUN, "diverged_at"], variable_name="quantity")
        .group_by(["variant", "rate", "quantity"], maintain_order=True)
        .agg(
            *median_and_range("value"),
            pl.len().cast(pl.Int64).alias("seeds"),
            pl.col("diverged_at").is_not_null().sum().cast(pl.Int64).alias("diverged"),
        )
    )


def against_alone(curves: pl.DataFrame, alone: pl.DataFrame) -> pl.DataFrame:
    """The penalty during training divided by the penalty that is descended alone, without data.

    Only for variants with a penalty, and for learning rates and seeds that both tables have.

    Returns:
        One row per run: ``variant, rate, seed``; ``last``, the ratio at the last common step;
        ``low`` and ``high``, the smallest and the largest ratio along the way.
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
    """The share of the steps of a run at which the penalty is more than half of the loss.

    A record stands for all steps since the previous record.

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


def differences(curves: pl.DataFrame, first: str, second: str) -> pl.DataFrame:
    """The differences in loss, cross-entropy and penalty between two variants.

    Seed by seed, at the steps and learning rates that both have.

    Returns:
        Columns ``rate, seed, step, loss, cross_entropy, penalty``: first minus second.
    """
    keys = ["rate", "seed", "step"]
    ours, theirs = (
        with_losses(curves.filter(pl.col("variant") == name)) for name in (first, second)
    )
    both = ours.join(theirs, on=keys, suffix="_second", maintain_order="left")
    return both.select(*keys, *(pl.col(n) - pl.col(f"{n}_second") for n in LOSSES))


def steps_to(curves: pl.DataFrame, quantity: str, level: float) -> pl.DataFrame:
    """Steps until a quantity is first recorded at or below a level.

    Args:
        curves: training curves.
        quantity: a column of :func:`with_losses`.
        level: the level to reach.

    Returns:
        One row per run: ``variant, rate, seed, steps``; null if the level is not reached.
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
    """Each variant at the lr with the lowest median validation error at the end.

    Columns: ``variant, rate`` and ``edge``, whether the lr is the smallest or the largest of
    several that were tried.
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

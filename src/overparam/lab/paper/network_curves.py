"""Tables computed from the runs on the MNIST network.

The *loss* is cross-entropy plus penalty, as the authors plot it. The cross-entropy is the mean over
the batches since the previous point, each before its own step and with dropout; the *last batch*
is the last of them alone. The last values of a diverged run are infinite.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import polars as pl

from overparam.lab.comparison.trial import TrialJob, read_outcome
from overparam.lab.summary import median_and_range

_RUN = ["method", "rate", "seed"]
LAST = (
    "loss", "cross_entropy", "penalty", "last_batch", "mean_cross_entropy", "penalty_share",
    "penalty_majority", "validation_error", "test_error",
)  # fmt: skip
CURVES_SCHEMA = {
    "method": pl.String, "rate": pl.Float64, "seed": pl.Int64, "step": pl.Int64,
    "cross_entropy": pl.Float64, "penalty": pl.Float64, "last_batch": pl.Float64,
    "test_error": pl.Float64, "validation_error": pl.Float64, "diverged_at": pl.Int64,
}  # fmt: skip


def load_curves(jobs: Sequence[TrialJob]) -> pl.DataFrame:
    """The curves of finished jobs, one row for each point; errors are null where not evaluated.

    ``diverged_at`` is the last point before a run diverged, null if it did not.

    Raises:
        ValueError: a file is damaged.
    """
    rows = []
    for job in jobs:
        outcome, trial = read_outcome(job.file), job.trial
        run: dict[str, Any] = {"method": trial.method, "rate": trial.lr, "seed": trial.seed}
        points = [*zip(outcome.curve, outcome.seen, strict=True)]
        if not points:  # diverged before the first one
            points = [((0, math.inf), {"penalty": math.inf, "last_batch": math.inf})]
        if outcome.failure:
            run["diverged_at"] = points[-1][0][0]
        rows += [{**run, "step": n, "cross_entropy": loss, **seen} for (n, loss), seen in points]
        rows[-1] |= {name.replace(" ", "_"): x for name, x in (outcome.metrics or {}).items()}
    return with_loss(pl.DataFrame(rows, schema=CURVES_SCHEMA))


def with_loss(curves: pl.DataFrame) -> pl.DataFrame:
    """The curves with ``loss``."""
    return curves.with_columns(loss=pl.col("cross_entropy") + pl.col("penalty"))


def last_values(curves: pl.DataFrame) -> pl.DataFrame:
    """One row per run: the last value of every quantity, infinite if the run diverged.

    Columns: ``method, rate, seed, diverged_at``, the last ones of the curves (``last_batch`` with
    the penalty), ``mean_cross_entropy``, the mean over all steps (a lower one means faster
    training), ``penalty_share`` of the last loss, and ``penalty_majority``, the share of the steps
    at which the penalty is more than half of the loss. A point stands for the steps since the
    previous one.
    """
    steps = pl.col("step").diff().fill_null(pl.col("step").first())
    most = pl.col("penalty") > pl.col("cross_entropy")
    ends = ("loss", "cross_entropy", "penalty", "validation_error", "test_error", "diverged_at")
    found = (
        curves.sort("step")
        .group_by(_RUN, maintain_order=True)
        .agg(
            *(pl.col(name).drop_nulls().last() for name in ends),
            (pl.col("last_batch") + pl.col("penalty")).last(),
            ((pl.col("cross_entropy") * steps).sum() / steps.sum()).alias("mean_cross_entropy"),
            (steps.filter(most).sum() / steps.sum()).alias("penalty_majority"),
        )
        .with_columns(penalty_share=pl.col("penalty") / pl.col("loss"))
    )
    fine = pl.col("diverged_at").is_null()
    return found.with_columns(pl.when(fine).then(n).otherwise(math.inf).alias(n) for n in LAST)


def last_over_seeds(curves: pl.DataFrame) -> pl.DataFrame:
    """The last values over seeds: ``method, rate, quantity, median, low, high, diverged``.

    ``diverged`` is the number of seeds that did.
    """
    return (
        last_values(curves)
        .unpivot(LAST, index=[*_RUN, "diverged_at"], variable_name="quantity")
        .group_by(["method", "rate", "quantity"], maintain_order=True)
        .agg(*median_and_range("value"), pl.col("diverged_at").count().alias("diverged"))
    )


def over_seeds(curves: pl.DataFrame, quantity: str) -> pl.DataFrame:
    """A quantity by step, over the seeds at which it is finite.

    Columns: ``method, rate, step, median, low, high``.
    """
    return (
        curves.filter(pl.col(quantity).is_finite())
        .group_by(["method", "rate", "step"], maintain_order=True)
        .agg(median_and_range(quantity))
    )


def steps_to(curves: pl.DataFrame, level: float) -> pl.DataFrame:
    """Steps until the cross-entropy is first at or below a level: ``method, rate, seed, steps``.

    Null if a run does not get there.
    """
    reached = pl.col("step").filter(pl.col("cross_entropy") <= level).min().alias("steps")
    return curves.group_by(_RUN, maintain_order=True).agg(reached)

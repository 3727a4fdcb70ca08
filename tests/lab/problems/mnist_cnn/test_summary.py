import math

import polars as pl
import pytest

from overparam.lab.problems.mnist_cnn import summary
from overparam.lab.problems.mnist_cnn.jobs import CURVES_SCHEMA, PENALTY_SCHEMA


def curves_of(*runs):
    """A table from (variant, rate, seed, rows of step, batch, mean, penalty, error[, diverged])."""
    rows = [
        (variant, rate, seed, step, batch, mean, penalty, error, error, *(diverged or [None]))
        for variant, rate, seed, records, *diverged in runs
        for step, batch, mean, penalty, error in records
    ]
    return pl.DataFrame(rows, schema=CURVES_SCHEMA, orient="row")


PLAIN = (0, 2.0, 2.0, 3.0, 0.9)
DEEP = (0, 3.0, 3.0, 9.0, 0.9)
CURVES = curves_of(
    ("plain", 0.1, 0, [PLAIN, (10, 1.0, 1.5, 2.0, None), (30, 0.2, 0.5, 1.5, 0.2)]),
    ("plain", 0.1, 1, [PLAIN, (10, 1.0, 1.0, 2.0, None), (30, 0.1, 0.4, 1.6, 0.1)]),
    ("product", 0.1, 0, [DEEP, (10, 1.0, 1.0, 1.0, None), (30, 0.1, 0.1, 0.5, 0.2)]),
    ("product", 0.1, 1, [DEEP, (10, 1.0, 1.2, 1.2, None), (30, 0.3, 0.3, 0.3, 0.3)]),
    ("product", 0.2, 0, [DEEP, (10, 1.0, 0.8, 1.0, None), (30, 0.1, 0.1, 0.5, 0.1)]),
    ("product", 0.2, 1, [DEEP], 7),
    ("plain_unpenalized", 0.1, 0, [(0, 2.0, 2.0, 0.0, 0.9), (30, 0.2, 0.5, 0.0, 0.2)]),
)


def test_losses_are_sums_and_the_share_is_penalty_over_loss():
    row = summary.with_losses(CURVES).row(2, named=True)
    assert row["loss"] == 0.5 + 1.5
    assert row["batch_loss"] == 0.2 + 1.5
    assert row["penalty_share"] == 1.5 / 2.0


def test_last_values():
    table = summary.last_values(CURVES)
    rows = {(r["variant"], r["rate"], r["seed"]): r for r in table.to_dicts()}
    assert len(rows) == 7
    first = rows["plain", 0.1, 0]
    assert (first["step"], first["loss"], first["test_error"]) == (30, 2.0, 0.2)
    # 10 steps at a mean of 1.5, then 20 at 0.5.
    assert first["mean_cross_entropy"] == pytest.approx((10 * 1.5 + 20 * 0.5) / 30)
    lost = rows["product", 0.2, 1]
    assert lost["diverged_at"] == 7
    names = ("loss", "penalty", "test_error", "mean_cross_entropy")
    assert [lost[name] for name in names] == [math.inf] * 4


def test_an_error_that_was_not_measured_last_is_the_last_measured():
    part = CURVES.filter(pl.col("step") < 30)
    assert summary.seed_values(part, "plain", "test_error", 0.1) == [0.9, 0.9]
    assert summary.seed_values(part, "plain", "penalty", 0.1) == [2.0, 2.0]


def test_seed_values_come_by_seed():
    shuffled = CURVES.reverse()
    assert summary.seed_values(shuffled, "plain", "penalty", 0.1) == [1.5, 1.6]
    assert summary.seed_values(shuffled, "product", "loss", 0.2) == [0.6, math.inf]
    assert summary.seed_values(CURVES, "product_factors", "loss", 0.1) == []


def test_over_seeds():
    table = summary.over_seeds(CURVES, "penalty")
    row = table.row(by_predicate=(pl.col("variant") == "product") & (pl.col("rate") == 0.1)
                    & (pl.col("step") == 10), named=True)  # fmt: skip
    assert (row["median"], row["low"], row["high"]) == (1.1, 1.0, 1.2)
    errors = summary.over_seeds(CURVES, "test_error")
    assert set(errors["step"]) == {0, 30}


def test_last_over_seeds():
    table = summary.last_over_seeds(CURVES)
    rows = {(r["variant"], r["rate"], r["quantity"]): r for r in table.to_dicts()}
    row = rows["plain", 0.1, "penalty"]
    assert (row["median"], row["low"], row["high"]) == (1.55, 1.5, 1.6)
    assert (row["seeds"], row["diverged"]) == (2, 0)
    lost = rows["product", 0.2, "penalty"]
    assert (lost["low"], lost["high"], lost["diverged"]) == (0.5, math.inf, 1)


ALONE = pl.DataFrame(
    [
        (variant, rate, 0, step, value)
        for variant, rate, values in (
            ("plain", 0.1, [3.0, 2.0, 1.0]),
            ("product", 0.1, [9.0, 0.5, 0.5]),
            ("product_factors", 0.1, [4.0, 4.0, 4.0]),
        )
        for step, value in zip((0, 10, 30), values, strict=True)
    ],
    schema=PENALTY_SCHEMA,
    orient="row",
)


def test_against_alone():
    table = summary.against_alone(CURVES, ALONE).to_dicts()
    assert table == [
        {"variant": "plain", "rate": 0.1, "seed": 0, "last": 1.5, "low": 1.0, "high": 1.5},
        {"variant": "product", "rate": 0.1, "seed": 0, "last": 1.0, "low": 1.0, "high": 2.0},
    ]


def test_penalty_majority_counts_steps():
    found = {
        (r["variant"], r["rate"], r["seed"]): r["share"]
        for r in summary.penalty_majority(CURVES).to_dicts()
    }
    assert found["plain", 0.1, 0] == 1.0
    # A tie is not a majority: only the last 20 of 30 steps count.
    assert found["product", 0.1, 0] == pytest.approx(20 / 30)
    # A half at 10, a half at 30.
    assert found["product", 0.1, 1] == 0.0
    assert found["plain_unpenalized", 0.1, 0] == 0.0


def test_differences_are_seed_by_seed():
    table = summary.differences(CURVES, "product", "plain")
    assert set(table["rate"]) == {0.1}
    row = table.row(by_predicate=(pl.col("seed") == 1) & (pl.col("step") == 30), named=True)
    assert row["penalty"] == pytest.approx(0.3 - 1.6)
    assert row["cross_entropy"] == pytest.approx(0.3 - 0.4)
    assert row["loss"] == pytest.approx(row["penalty"] + row["cross_entropy"])


def test_steps_to_a_level():
    table = summary.steps_to(CURVES, "cross_entropy", 1.0)
    found = {(r["variant"], r["rate"], r["seed"]): r["steps"] for r in table.to_dicts()}
    assert found["plain", 0.1, 0] == 30
    assert found["plain", 0.1, 1] == 10
    assert found["product", 0.2, 1] is None
    assert len(found) == 7


def test_tuned_by_validation_error_and_edges():
    table = {row["variant"]: row for row in summary.tuned(CURVES).to_dicts()}
    # At 0.2 one of two seeds diverges: the median is infinite.
    assert table["product"] == {"variant": "product", "rate": 0.1, "edge": True}
    assert table["plain"] == {"variant": "plain", "rate": 0.1, "edge": False}
    three = pl.concat(
        [CURVES, CURVES.filter(pl.col("rate") == 0.1).with_columns(rate=pl.lit(0.05))]
    ).with_columns(
        validation_error=pl.when(pl.col("rate") == 0.1).then(0.01).otherwise("validation_error")
    )
    assert not summary.tuned(three).filter(variant="product")["edge"].item()

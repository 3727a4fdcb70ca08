import math

import polars as pl
import pytest

from overparam.lab.comparison.protocol import Outcome, Trial
from overparam.lab.comparison.trial import TrialJob, write_outcome
from overparam.lab.paper import network_curves
from overparam.lab.paper.network_curves import CURVES_SCHEMA, last_values, load_curves, with_loss


def curves_of(*runs):
    """A table from (method, rate, seed, rows of step, batch, mean, penalty, error[, diverged])."""
    rows = [
        (method, rate, seed, step, mean, penalty, batch, error, error, *(diverged or [None]))
        for method, rate, seed, records, *diverged in runs
        for step, batch, mean, penalty, error in records
    ]
    return with_loss(pl.DataFrame(rows, schema=CURVES_SCHEMA, orient="row"))


CURVES = curves_of(
    ("plain", 0.1, 0, [(10, 1.0, 1.5, 2.0, None), (30, 0.2, 0.5, 1.5, 0.2)]),
    ("plain", 0.1, 1, [(10, 1.0, 1.0, 2.0, None), (30, 0.1, 0.4, 1.6, 0.1)]),
    ("product", 0.1, 0, [(10, 1.0, 1.0, 1.0, None), (30, 0.1, 0.1, 0.5, 0.2)]),
    ("product", 0.1, 1, [(10, 1.0, 1.2, 1.2, None), (30, 0.3, 0.3, 0.3, 0.3)]),
    ("product", 0.2, 0, [(10, 1.0, 0.8, 1.0, None), (30, 0.1, 0.1, 0.5, 0.1)]),
    ("product", 0.2, 1, [(0, 2.0, 2.0, 9.0, None)], 7),
    ("plain_unpenalized", 0.1, 0, [(10, 2.0, 2.0, 0.0, 0.9), (30, 0.2, 0.5, 0.0, 0.2)]),
)


def last_of(method, rate, seed):
    run = (pl.col("method") == method) & (pl.col("rate") == rate) & (pl.col("seed") == seed)
    return last_values(CURVES.reverse()).row(by_predicate=run, named=True)


def test_last_values():
    assert len(last_values(CURVES)) == 7
    found = last_of("plain", 0.1, 0)
    assert (found["loss"], found["cross_entropy"], found["penalty"]) == (2.0, 0.5, 1.5)
    assert (found["last_batch"], found["test_error"], found["penalty_share"]) == (1.7, 0.2, 0.75)
    # 10 steps at a mean of 1.5, then 20 at 0.5.
    assert found["mean_cross_entropy"] == pytest.approx((10 * 1.5 + 20 * 0.5) / 30)
    lost = last_of("product", 0.2, 1)
    assert lost["diverged_at"] == 7
    assert all(lost[name] == math.inf for name in network_curves.LAST)


def test_the_penalty_has_the_majority_on_steps_at_which_it_is_the_larger_part():
    assert last_of("plain", 0.1, 0)["penalty_majority"] == 1
    # A tie is not a majority: only the last 20 of 30 steps count.
    assert last_of("product", 0.1, 0)["penalty_majority"] == pytest.approx(20 / 30)
    assert last_of("product", 0.1, 1)["penalty_majority"] == 0
    assert last_of("plain_unpenalized", 0.1, 0)["penalty_majority"] == 0


def test_an_error_that_was_not_measured_last_is_the_last_measured():
    part = CURVES.with_columns(test_error=pl.when(pl.col("step") == 10).then(0.9).otherwise(None))
    assert last_values(part).filter(method="plain")["test_error"].to_list() == [0.9, 0.9]


def test_over_seeds():
    table = network_curves.over_seeds(CURVES, "penalty")
    [row] = table.filter(method="product", rate=0.1, step=10).to_dicts()
    assert (row["median"], row["low"], row["high"]) == (1.1, 1.0, 1.2)
    assert set(network_curves.over_seeds(CURVES, "test_error")["step"]) == {10, 30}


def test_last_over_seeds():
    table = network_curves.last_over_seeds(CURVES).filter(quantity="penalty")
    [row] = table.filter(method="plain").to_dicts()
    assert (row["median"], row["low"], row["high"], row["diverged"]) == (1.55, 1.5, 1.6, 0)
    [lost] = table.filter(method="product", rate=0.2).to_dicts()
    assert (lost["low"], lost["high"], lost["diverged"]) == (0.5, math.inf, 1)


def test_steps_to_a_level():
    table = network_curves.steps_to(CURVES, 1.0)
    found = {(r["method"], r["rate"], r["seed"]): r["steps"] for r in table.to_dicts()}
    assert (found["plain", 0.1, 0], found["plain", 0.1, 1]) == (30, 10)
    assert found["product", 0.2, 1] is None
    assert len(found) == 7


def test_curves_are_those_of_the_stored_outcomes(tmp_path):
    point = {"penalty": 2.0, "last_batch": 0.5}
    ends = {"validation error": 0.2, "test error": 0.1}
    outcomes = {
        "plain": Outcome(0.3, ((1, 3.0), (4, 1.0)), ends, "", (point | {"test_error": 0.7}, point)),
        "product": Outcome(math.inf, ((1, 3.0),), None, "diverged at step 3", (point,)),
        "product_factors": Outcome(math.inf, (), None, "diverged at step 0"),
    }
    jobs = []
    for method, outcome in outcomes.items():
        jobs.append(TrialJob("problem", Trial(method, 0.1, 4, 7), "id", tmp_path))
        write_outcome(jobs[-1].file, jobs[-1].trial, outcome)
    rows = load_curves(jobs).to_dicts()
    assert [(row["method"], row["step"]) for row in rows] == [
        ("plain", 1), ("plain", 4), ("product", 1), ("product_factors", 0),
    ]  # fmt: skip
    assert [row["test_error"] for row in rows] == [0.7, 0.1, None, None]
    assert [row["validation_error"] for row in rows] == [None, 0.2, None, None]
    assert [row["loss"] for row in rows] == [5.0, 3.0, 5.0, math.inf]
    assert [row["diverged_at"] for row in rows] == [None, None, 1, 0]

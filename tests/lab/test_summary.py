import math

import polars as pl
from hypothesis import given, settings
from hypothesis import strategies as st

from overparam.lab import summary

SCHEMA = {
    "method": pl.String,
    "rate": pl.Float64,
    "seed": pl.Int64,
    "step": pl.Int64,
    "loss": pl.Float64,
    "diverged_at": pl.Int64,
}


def curves_of(*runs):
    """A table from (method, rate, seed, losses at steps 0, 10, 20, ...[, diverged at])."""
    rows = [
        (method, rate, seed, 10 * i, loss, diverged[0] if diverged else None)
        for method, rate, seed, losses, *diverged in runs
        for i, loss in enumerate(losses)
    ]
    return pl.DataFrame(rows, schema=SCHEMA, orient="row")


TABLE = curves_of(
    ("gd", 0.1, 0, [8.0, 4.0, 3.0]),
    ("gd", 0.1, 1, [8.0, 5.0, 2.0]),
    ("gd", 1.0, 0, [8.0, 2.0, 1.0]),
    ("gd", 1.0, 1, [8.0, 9.0], 15),  # the lower loss, but one seed diverges
    ("gd", 10.0, 0, [8.0], 3),
    ("gd", 10.0, 1, [8.0, math.inf], 11),
    ("rule:2", 0.1, 0, [8.0, 8.5, 9.0]),  # ends above its initial loss
    ("rule:2", 0.1, 1, [8.0, 7.0, 6.5]),
    ("rule:2", 1.0, 0, [8.0, 3.0, 1.5]),
    ("rule:2", 1.0, 1, [8.0, 2.5, 0.5]),
    ("rule:2", 10.0, 0, [8.0, 3.0, 1.4]),
    ("rule:2", 10.0, 1, [8.0, 2.5, 1.4]),
    ("adam", 0.1, 0, [8.0], 2),
    ("adam", 0.1, 1, [8.0, 20.0], 12),
)


def rows(table):
    return {row["method"]: row for row in table.to_dicts()}


def test_final_losses():
    table = {(r["method"], r["rate"], r["seed"]): r for r in summary.final_losses(TABLE).to_dicts()}
    assert len(table) == 14
    assert table["gd", 0.1, 1]["loss"] == 2.0
    assert not table["gd", 0.1, 1]["failed"]
    assert table["gd", 1.0, 1]["loss"] == math.inf
    assert table["gd", 1.0, 1]["failed"]
    assert table["gd", 1.0, 1]["diverged_at"] == 15
    assert table["rule:2", 0.1, 0]["loss"] == 9.0
    assert table["rule:2", 0.1, 0]["failed"]


def test_a_run_that_stands_still_has_not_failed():
    table = summary.final_losses(curves_of(("gd", 0.1, 0, [8.0, 8.0])))
    assert table["failed"].to_list() == [False]


def test_rate_curve():
    table = {(r["method"], r["rate"]): r for r in summary.rate_curve(TABLE).to_dicts()}
    assert table["gd", 0.1] == {
        "method": "gd", "rate": 0.1, "median": 2.5, "low": 2.0, "high": 3.0, "failed": 0, "seeds": 2
    }  # fmt: skip
    assert table["gd", 1.0]["failed"] == 1
    assert table["gd", 1.0]["median"] == math.inf
    assert table["gd", 10.0]["failed"] == 2


def test_tuned_prefers_rates_at_which_no_seed_failed():
    table = rows(summary.tuned(TABLE))
    assert list(table) == ["rule:2", "gd", "adam"]
    assert table["rule:2"]["rate"] == 1.0
    assert table["rule:2"]["median"] == 1.0
    assert (table["rule:2"]["low"], table["rule:2"]["high"]) == (0.5, 1.5)
    assert (table["rule:2"]["rates"], table["rule:2"]["all_failed"]) == (3, 0)
    assert not table["rule:2"]["edge"]
    assert table["gd"]["rate"] == 0.1
    assert (table["gd"]["rates"], table["gd"]["all_failed"]) == (3, 1)
    assert table["gd"]["edge"]
    assert table["adam"]["median"] == math.inf
    assert table["adam"]["all_failed"] == 1


def test_of_rates_that_tie_the_smaller_is_taken():
    table = rows(
        summary.tuned(curves_of(*[("gd", rate, 0, [8.0, 1.0]) for rate in (1.0, 0.1, 0.01)]))
    )
    assert table["gd"]["rate"] == 0.01


def test_tuned_curves_are_those_of_the_best_rate():
    table = summary.tuned_curves(TABLE).filter(pl.col("method") == "rule:2")
    assert table["rate"].unique().to_list() == [1.0]
    assert table["step"].to_list() == [0, 10, 20]
    assert table["median"].to_list() == [8.0, 2.75, 1.0]
    assert table["low"].to_list() == [8.0, 2.5, 0.5]
    assert table["high"].to_list() == [8.0, 3.0, 1.5]


def test_targets_halve_the_distance_from_the_optimum():
    assert summary.targets(TABLE, 0.0) == [4.0, 2.0, 1.0, 0.5]
    assert summary.targets(TABLE, 0.0, most=2) == [1.0, 0.5]
    assert summary.targets(TABLE, 0.4) == [4.2, 2.3, 1.4, 0.88, 0.64, 0.52]


@settings(max_examples=100, deadline=None, derandomize=True)
@given(optimum=st.floats(1e-3, 10), gap=st.floats(1e-6, 10), reached=st.floats(0, 1))
def test_targets_lie_between_the_optimum_and_the_start_and_are_reached(optimum, gap, reached):
    start, end = optimum + gap, optimum + gap * reached
    curves = curves_of(("gd", 0.1, 0, [start, end]))
    levels = summary.targets(curves, optimum)
    assert all(max(optimum, end) <= level < start for level in levels)
    assert optimum not in levels
    assert levels == sorted(set(levels), reverse=True)


def test_no_target_is_reached():
    curves = curves_of(("gd", 0.1, 0, [8.0, 7.9]), ("adam", 0.1, 0, [8.0], 3))
    assert summary.targets(curves, 0.0) == []
    table = summary.iterations_to(curves, [])
    assert table.is_empty()
    assert table.columns == ["method", "target", "iterations", "rate", "low", "high"]


def test_iterations_to_a_target_at_the_rate_that_gets_there_first():
    table = summary.iterations_to(TABLE, [4.0, 1.0, 0.1])
    found = {(r["method"], r["target"]): (r["iterations"], r["rate"]) for r in table.to_dicts()}
    assert found["gd", 4.0] == (15.0, 0.1)  # seeds reach it at 10 and 20
    assert found["gd", 1.0][0] is None  # one of two seeds gets there
    assert found["rule:2", 4.0] == (10.0, 1.0)
    assert found["rule:2", 1.0][0] is None
    assert found["adam", 4.0][0] is None
    assert all(found[method, 0.1][0] is None for method in ("gd", "rule:2", "adam"))


def test_three_seeds_of_which_two_reach_the_target():
    curves = curves_of(
        ("gd", 0.1, 0, [8.0, 1.0]),
        ("gd", 0.1, 1, [8.0, 7.0, 1.0]),
        ("gd", 0.1, 2, [8.0, 7.0, 7.0]),
    )
    (row,) = summary.iterations_to(curves, [1.0]).to_dicts()
    assert (row["iterations"], row["low"], row["high"]) == (20.0, 10.0, math.inf)


@settings(max_examples=30, deadline=None, derandomize=True)
@given(order=st.permutations(range(len(TABLE))))
def test_the_order_of_rows_changes_nothing(order):
    shuffled = TABLE[list(order)]

    def answers(curves):
        keys = ("method", "rate", "seed", "target", "step")
        tables = (
            summary.final_losses(curves),
            summary.rate_curve(curves),
            summary.tuned(curves),
            summary.tuned_curves(curves),
            summary.iterations_to(curves, [4.0, 1.0]),
        )
        return [table.sort([k for k in keys if k in table.columns]).to_dicts() for table in tables]

    assert answers(shuffled) == answers(TABLE)
    assert summary.tuned(shuffled)["method"].to_list() == ["rule:2", "gd", "adam"]
    assert summary.targets(shuffled, 0.0) == summary.targets(TABLE, 0.0)


def test_a_target_is_reached_by_equality_and_by_nothing_less():
    curves = curves_of(("gd", 0.1, 0, [8.0, 1.0]))
    assert summary.iterations_to(curves, [1.0])["iterations"].to_list() == [10.0]
    just_below = math.nextafter(1.0, 0.0)
    assert summary.iterations_to(curves, [just_below])["iterations"].to_list() == [None]

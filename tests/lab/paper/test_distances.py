"""Distances and speed-ups, on curves for which they are known in closed form."""

import math

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from overparam.lab.paper.distances import (
    Interval,
    at_horizon,
    at_rates,
    best_runs,
    curve_gap,
    interval,
    largest_lags,
    seed_distances,
    speed_up,
    steps_to,
    tuned_distances,
)

STEPS = [0, 1, 3, 10, 30, 100, 300, 1000]
OPTIMUM = 0.25


def run(method, rate, seed, loss, steps=STEPS, diverged_at=None):
    """A run with ``loss(step)`` above the optimum at each step."""
    rows = [(method, rate, seed, step, OPTIMUM + loss(step), diverged_at) for step in steps]
    schema = {"method": pl.String, "rate": pl.Float64, "seed": pl.Int64, "step": pl.Int64,
              "loss": pl.Float64, "diverged_at": pl.Int64}  # fmt: skip
    return pl.DataFrame(rows, schema=schema, orient="row")


def power_law(scale, exponent):
    return lambda step: scale * max(step, 0.1) ** -exponent


def test_interval_of_even_and_odd_counts():
    assert interval([4.0, 1.0]) == Interval(2.5, 1.0, 4.0)
    assert interval([4.0, 1.0, 9.0]) == Interval(4.0, 1.0, 9.0)
    with pytest.raises(ValueError, match="no values"):
        interval([])


def test_intervals_are_ordered_only_where_they_do_not_overlap():
    low, high, both = Interval(1, 0.5, 2), Interval(4, 3, 5), Interval(2.5, 2, 3)
    assert low.below(high)
    assert not high.below(low)
    assert not low.below(both)
    assert not both.below(high)


def test_intervals_read_well():
    assert str(Interval(1.23456, 1, 2)) == "1.23 [1, 2]"
    assert str(Interval(1.0, 1.0001, 1.0002)) == "1"
    assert str(Interval(math.inf, 1, math.inf)) == "diverged"


def test_a_run_that_diverges_later_has_not_diverged_at_a_shorter_horizon():
    curves = run("gd", 1.0, 0, power_law(1, 1), STEPS[:6], diverged_at=250)
    early = at_horizon(curves, 100)
    assert early["step"].to_list() == STEPS[:6]
    assert early["diverged_at"].is_null().all()
    assert at_horizon(curves, 299)["diverged_at"].to_list() == [250] * 6
    assert at_horizon(curves, 29)["step"].max() == 10


def test_tuning_at_a_horizon_is_tuning_of_runs_that_end_there():
    # Fast at first and then flat, or slow and steady: the best lr depends on the horizon.
    fast = run("gd", 1.0, 0, lambda step: max(0.5, power_law(1, 2)(step)))
    slow = run("gd", 0.1, 0, power_law(1, 0.5))
    curves = pl.concat([fast, slow])
    whole = tuned_distances(curves, OPTIMUM)["gd"].median
    assert whole == pytest.approx(1000**-0.5)
    assert tuned_distances(at_horizon(curves, 3), OPTIMUM)["gd"].median == pytest.approx(0.5)
    assert best_runs(curves)["rate"].unique().to_list() == [0.1]
    assert tuned_distances(at_rates(curves, [1.0]), OPTIMUM)["gd"].median == pytest.approx(0.5)


def test_distances_of_round_off_are_not_ordered():
    """Below a millionth of the first distance, and below the optimum: both count as zero."""
    curves = pl.concat([
        run("gd", 1.0, 0, lambda step: 1.0 if step < 10 else 9e-7),
        run("adam", 1.0, 0, lambda step: 1.0 if step < 10 else -1e-16),
        run("rule:2", 1.0, 0, lambda step: 1.0 if step < 10 else 2e-6),
    ])  # fmt: skip
    found = tuned_distances(curves, OPTIMUM)
    assert found["gd"] == found["adam"] == Interval(0, 0, 0)
    assert found["rule:2"].median == pytest.approx(2e-6, rel=1e-6)
    assert not found["gd"].below(found["adam"])
    assert found["gd"].below(found["rule:2"])


def test_a_rate_at_which_a_seed_diverges_is_not_the_best():
    curves = pl.concat([
        run("gd", 1.0, 0, power_law(1e-3, 1)),
        run("gd", 1.0, 1, power_law(1e-3, 1), STEPS[:3], diverged_at=5),
        run("gd", 0.1, 0, power_law(1, 1)),
        run("gd", 0.1, 1, power_law(2, 1)),
    ])  # fmt: skip
    found = tuned_distances(curves, OPTIMUM)["gd"]
    assert (found.median, found.low, found.high) == pytest.approx((1.5e-3, 1e-3, 2e-3))


def test_curves_of_several_rates_are_refused():
    curves = pl.concat([run("gd", rate, 0, power_law(1, 1)) for rate in (0.1, 1.0)])
    with pytest.raises(ValueError, match="hold gd at 2 learning rates"):
        seed_distances(curves, OPTIMUM, "gd")


def test_gap_of_two_curves():
    first = {0: power_law(1, 1), 1: power_law(1, 1)}
    # The second is 1.5 times as far at step 10 and equal at the end; then 0.8 times throughout.
    second = {
        0: lambda step: power_law(1, 1)(step) * (1.5 if step == 10 else 1),
        1: power_law(0.8, 1),
    }
    sides = [
        seed_distances(
            pl.concat([run("gd", 1.0, seed, loss) for seed, loss in losses.items()]), OPTIMUM, "gd"
        )
        for losses in (first, second)
    ]
    ends, largest = curve_gap(*sides)
    assert (ends.low, ends.high) == pytest.approx((1.0, 1.25))
    assert (largest.low, largest.high) == pytest.approx((1.25, 1.5))
    back, _ = curve_gap(*sides[::-1])
    assert (back.low, back.high) == pytest.approx((0.8, 1.0))


def test_lag_of_a_curve_that_comes_later():
    """1/s against 1/(s - 5), which is 1 up to step 6; at step 3 the first one is at 1/3."""
    early = seed_distances(run("gd", 1.0, 0, power_law(1, 1)), OPTIMUM, "gd")
    late = seed_distances(run("gd", 1.0, 0, lambda step: power_law(1, 1)(max(step - 5, 1))),
                          OPTIMUM, "gd")  # fmt: skip
    for pair in ((early, late), (late, early)):
        assert largest_lags(*pair, 1.1) == pytest.approx([5], rel=0.3)
    assert largest_lags(early, late, 100) == [0]
    assert largest_lags(early, early, 1) == [0]


def test_a_lower_start_does_not_count_as_being_ahead():
    """They differ only at step 100, 0.5 against 0.9; the start of the higher one does not count."""
    early = dict(zip(STEPS, (0.99, 0.99, 0.99, 0.99, 0.99, 0.5, 0.1, 0.01), strict=True))
    late = dict(zip(STEPS, (1.0, 1.0, 1.0, 1.0, 1.0, 0.9, 0.1, 0.01), strict=True))
    pair = [seed_distances(run("gd", 1.0, 0, c.get), OPTIMUM, "gd") for c in (early, late)]
    # Between 0.9 at step 100 and 0.1 at 300, on logarithmic axes, it is at 0.5 after 34 more.
    expected = 100 * 3 ** (math.log(0.9 / 0.5) / math.log(0.9 / 0.1)) - 100
    assert largest_lags(*pair, 1.1) == pytest.approx([expected])
    assert expected == pytest.approx(34.2, abs=0.1)


def test_what_never_comes_so_far_down_lags_for_ever():
    pair = [
        seed_distances(run("gd", 1.0, 0, power_law(scale, 1)), OPTIMUM, "gd") for scale in (1, 2)
    ]
    assert largest_lags(*pair, 1.1) == [math.inf]


def test_curves_that_end_at_different_steps_are_infinitely_far():
    whole = seed_distances(run("gd", 1.0, 0, power_law(1, 1)), OPTIMUM, "gd")
    part = run("gd", 1.0, 0, power_law(1, 1), STEPS[:4], diverged_at=12)
    short = seed_distances(part, OPTIMUM, "gd")
    for pair in ((whole, short), (short, whole)):
        assert curve_gap(*pair)[0].median == math.inf


def test_a_curve_below_the_optimum_is_infinitely_far():
    good = seed_distances(run("gd", 1.0, 0, power_law(1, 1)), OPTIMUM, "gd")
    bad = seed_distances(run("gd", 1.0, 0, lambda step: -1e-9), OPTIMUM, "gd")
    ends, largest = curve_gap(good, bad)
    assert ends.median == largest.median == math.inf


@settings(max_examples=100, deadline=None, derandomize=True)
@given(
    exponent=st.floats(0.1, 3),
    scale=st.floats(1e-3, 1e3),
    step=st.floats(1.0, 999.0),
)
def test_steps_to_a_distance_is_exact_on_a_power_law(exponent, scale, step):
    curve = seed_distances(run("gd", 1.0, 0, power_law(scale, exponent)), OPTIMUM, "gd")[0]
    curve = curve.with_columns(
        pl.Series("distance", [power_law(scale, exponent)(s) for s in STEPS])
    )
    assert steps_to(curve, scale * step**-exponent) == pytest.approx(step, rel=1e-6)


def test_steps_to_what_is_never_reached_and_to_what_is_there_at_once():
    curve = seed_distances(run("gd", 1.0, 0, power_law(1, 1)), OPTIMUM, "gd")[0]
    assert steps_to(curve, 1e-9) == math.inf
    assert steps_to(curve, 1e9) == 0


@settings(max_examples=50, deadline=None, derandomize=True)
@given(factor=st.floats(1.01, 50))
def test_speed_up_of_a_run_that_goes_a_constant_factor_faster(factor):
    """loss(step * factor) is the same curve but faster; the inverse the other way round."""
    curves = pl.concat([
        run("gd", 1.0, 0, power_law(1, 1)),
        run("rule:2", 0.5, 0, lambda step: power_law(1, 1)(step * factor) if step else 10.0),
    ])  # fmt: skip
    assert speed_up(curves, OPTIMUM, "rule:2", "gd").median == pytest.approx(factor, rel=1e-6)
    assert speed_up(curves, OPTIMUM, "gd", "rule:2").median == pytest.approx(1 / factor, rel=1e-6)


def test_what_both_reach_is_timed_and_not_the_noise_below_it():
    """Both fall to round-off, at step 30 and at step 300, but the slower one ends lower."""

    def until(last, noise):
        return lambda step: 1.0 if step < last else noise

    curves = pl.concat([
        run("gd", 1.0, 0, until(300, 1e-13)),
        run("rule:2", 0.5, 0, until(30, 4e-13)),
        run("rule:2", 0.1, 0, until(1000, -1e-17)),
    ])  # fmt: skip
    assert speed_up(curves, OPTIMUM, "rule:2", "gd").median == pytest.approx(10, rel=0.05)
    assert speed_up(curves, OPTIMUM, "gd", "rule:2").median == pytest.approx(0.1, rel=0.05)


def test_what_ends_far_lower_is_timed_to_where_the_other_ends():
    curves = pl.concat([
        run("gd", 1.0, 0, lambda step: 1.0 if step < 10 else 0.5),  # a plateau, and no progress
        run("rule:2", 1.0, 0, lambda step: 1.0 if step < 100 else 1e-4),
    ])  # fmt: skip
    assert speed_up(curves, OPTIMUM, "rule:2", "gd").median == pytest.approx(1000 / 33, rel=0.2)
    dips = pl.concat([
        run("gd", 1.0, 0, lambda step: 1.0 if step < 300 else 0.3),
        run("rule:2", 1.0, 0, lambda step: {10: 0.1}.get(step, 1.0 if step < 10 else 0.4)),
    ])  # fmt: skip
    assert speed_up(dips, OPTIMUM, "rule:2", "gd").median < 1


def test_two_that_wait_are_equally_fast():
    curves = pl.concat([
        run("gd", 1.0, 0, lambda step: 1 - 1e-12 * (step > 900)),
        run("rule:2", 1.0, 0, lambda step: 1 - 2e-12 * (step > 0)),
    ])  # fmt: skip
    assert speed_up(curves, OPTIMUM, "rule:2", "gd") == Interval(1, 1, 1)


@pytest.mark.parametrize("lower", [0.9999, 1.0001])
def test_a_plateau_is_timed_where_it_begins(lower):
    """The plain weight reaches it at step 30, depth at 300; which of them ends lower is luck."""

    def falls(last, plateau):
        return lambda step: 1.0 if step < last else plateau

    curves = pl.concat([
        run("gd", 1.0, 0, falls(30, 1e-3)),
        run("rule:2", 1.0, 0, falls(300, lower * 1e-3)),
    ])  # fmt: skip
    assert speed_up(curves, OPTIMUM, "rule:2", "gd").median == pytest.approx(0.1, rel=0.05)


def test_what_does_not_leave_its_start_has_not_diverged():
    curves = pl.concat([
        run("gd", 1.0, 0, power_law(1, 1)),
        run("rule:2", 1.0, 0, lambda step: 10.0),
    ])  # fmt: skip
    assert speed_up(curves, OPTIMUM, "rule:2", "gd").median == pytest.approx(1 / 1000)
    assert speed_up(curves, OPTIMUM, "gd", "rule:2").median == pytest.approx(1000)


def test_speed_up_of_what_diverges():
    curves = pl.concat([
        run("gd", 1.0, 0, power_law(1, 1)),
        run("rule:2", 1.0, 0, power_law(1, 1), STEPS[:4], diverged_at=12),
    ])  # fmt: skip
    assert speed_up(curves, OPTIMUM, "rule:2", "gd") == Interval(0, 0, 0)
    assert speed_up(curves, OPTIMUM, "gd", "rule:2").median == math.inf

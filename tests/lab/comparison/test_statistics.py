import math

import numpy as np
import pytest
from scipy import stats

from overparam.lab.comparison.statistics import (
    decide,
    expanded_tail,
    expected_best,
    mean_interval,
    seeds_needed,
    smallest_effect,
    speed_up,
)


@pytest.mark.parametrize("count", [5, 8, 15])
def test_the_interval_covers_the_mean_of_normal_values_as_often_as_it_says(count):
    source = np.random.default_rng(count)
    covered = 0
    for _ in range(300):
        low, high = mean_interval(source.normal(size=count))
        covered += low <= 0 <= high
    assert covered / 300 >= 0.93  # 95 % with a standard error of 1.3 %


def test_the_tail_is_that_of_student_and_that_of_the_normal_for_many_values():
    # The interval of a mean, with normal resamples of the population's variance, is Student's.
    n = 7
    half = -stats.norm.ppf(expanded_tail(n)) * math.sqrt((n - 1) / n)
    assert half == pytest.approx(stats.t.ppf(0.975, n - 1))
    assert expanded_tail(10**6) == pytest.approx(0.025, rel=1e-4)


def test_an_interval_is_the_same_at_each_call_and_needs_two_values():
    assert mean_interval([0.1, 0.2, 0.4]) == mean_interval([0.1, 0.2, 0.4])
    assert mean_interval([0.1]) == (-math.inf, math.inf)


def test_the_smallest_effect_is_found_with_a_chance_of_80_percent():
    source, count, found = np.random.default_rng(0), 8, 0
    unit = source.normal(size=count)
    effect = smallest_effect(unit / unit.std(ddof=1))
    for _ in range(2000):
        sample = source.normal(effect, 1, size=count)
        statistic = sample.mean() / (sample.std(ddof=1) / math.sqrt(count))
        found += statistic > stats.t.ppf(0.975, count - 1)
    assert found / 2000 == pytest.approx(0.8, abs=0.05)  # the formula is an approximation
    assert smallest_effect([1.0]) == math.inf


def test_more_seeds_are_needed_for_a_smaller_effect():
    noise = [0.0, 0.1, -0.1, 0.05, -0.05]
    assert seeds_needed(noise, 1.0) == 5
    assert seeds_needed(noise, 0.05) > seeds_needed(noise, 0.1) > 5


@pytest.mark.parametrize(
    ("median", "low", "high", "decision"),
    [
        (1.2, 1.1, 1.3, "faster"),
        (1.04, 1.02, 1.06, "too early"),  # above 1, but not by 5 %, and perhaps by more
        (1.03, 1.02, 1.04, "not faster"),
        (0.98, 0.94, 1.03, "not faster"),
        (1.2, 0.9, 1.5, "too early"),
        (0.8, 0.7, 0.9, "slower"),
        (0.5, 0.5, 0.5, "slower"),
        (1.0, -math.inf, math.inf, "too early"),
    ],
)
def test_the_rule(median, low, high, decision):
    assert decide(median, low, high) == decision


def test_fewer_than_five_seeds_decide_nothing():
    logs = [math.log(1.3), math.log(1.31), math.log(1.32), math.log(1.33)]
    assert speed_up(logs).decision == "too early"
    assert speed_up([*logs, math.log(1.3)]).decision == "faster"


def test_the_expected_best_is_the_mean_over_all_draws():
    losses = [3.0, 1.0, 2.0]
    draws = [min(a, b) for a in losses for b in losses]
    assert expected_best(losses)[1] == pytest.approx(sum(draws) / len(draws))
    assert expected_best([1.0, math.inf]) == [math.inf, math.inf]

import math

import numpy as np
import pytest
from scipy.optimize import isotonic_regression

from overparam.lab.comparison.ladder import decreasing, horizons, steps_to


def test_the_nearest_decreasing_sequence_is_scipys():
    source = np.random.default_rng(0)
    for _ in range(50):
        losses = source.normal(size=6) - np.arange(6) / 2
        expected = isotonic_regression(losses, increasing=False).x
        assert decreasing(list(losses)) == pytest.approx(list(expected))


def test_steps_follow_a_power_law_between_the_horizons():
    # A loss that is linear in the logarithm of the steps is read off exactly.
    lengths = horizons(1000)
    losses = [5 - math.log(steps) for steps in lengths]
    assert steps_to(5 - math.log(900), lengths, losses)[0] == pytest.approx(900)


@pytest.mark.parametrize(
    ("target", "expected"),
    [(3.0, (10.0, 0)), (4.0, (10.0, -1)), (1.0, (20.0, 0)), (0.9, (40.0, 1))],
)
def test_targets_at_and_beyond_the_ends(target, expected):
    assert steps_to(target, [10, 20, 40], [3.0, 1.0, 1.0]) == expected


def test_horizons_of_very_short_runs_are_distinct():
    assert horizons(1) == (1, 2)

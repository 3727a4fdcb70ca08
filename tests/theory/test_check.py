import math

import pytest

from overparam.theory._fit import power_law_exponent
from overparam.theory.check import FAILS, HOLDS, IN_PART, Measurement, TheoryCheck


@pytest.mark.parametrize(
    ("values", "verdict"),
    [((0.5, 0.5), HOLDS), ((0.5, 2.0), IN_PART), ((2.0, math.nan), FAILS), ((), FAILS)],
)
def test_the_verdict_follows_from_the_numbers(values: tuple[float, ...], verdict: str) -> None:
    measurements = tuple(Measurement("a number", value, 0.0, 1.0) for value in values)
    assert TheoryCheck("name", "statement", "source", measurements).verdict == verdict


def test_a_vanishing_error_has_no_exponent() -> None:
    assert math.isnan(power_law_exponent([1.0, 2.0], [0.0, 1.0]))

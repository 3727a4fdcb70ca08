import math

import pytest

from overparam.lab.theory.check import Evidence, TheoryCheck, power_law_exponent


@pytest.mark.parametrize(
    ("values", "verdict"),
    [
        ((0.5, 0.5), "yes"),
        ((0.5, 2.0), "mixed"),
        ((0.5, 0.5, 2.0), "mostly"),
        ((2.0, math.nan), "no"),
        ((), "too early"),
    ],
)
def test_the_verdict_follows_from_the_numbers(values: tuple[float, ...], verdict: str) -> None:
    evidence = tuple(Evidence("a number", value, 0.0, 1.0) for value in values)
    assert TheoryCheck("name", "claim", "source", evidence).verdict == verdict


def test_a_vanishing_error_has_no_exponent() -> None:
    for error in (0.0, math.inf, math.nan):
        assert math.isnan(power_law_exponent([1.0, 2.0], [error, 1.0]))

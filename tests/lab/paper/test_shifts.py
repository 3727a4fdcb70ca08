import polars as pl
import pytest

from overparam.lab.paper.shifts import shifted_gap

STEPS = sorted({round(1.1**k) for k in range(100)})


def curve(delay, end=1.0):
    """Waits, then falls as one over the steps; a scale at the end only."""
    values = [1 / (1 + max(0, step - delay) / 50) for step in STEPS]
    return pl.DataFrame({"step": STEPS, "distance": [*values[:-1], values[-1] * end]})


@pytest.mark.parametrize("delay", [0, 20, 300])
def test_a_delay_is_found_and_nothing_remains(delay):
    shift, ratio = shifted_gap(curve(0), curve(delay))
    assert shift == pytest.approx(delay, rel=0.05, abs=1)
    assert ratio < 1.06
    back, _ = shifted_gap(curve(delay), curve(0))
    assert back == pytest.approx(-delay, rel=0.05, abs=1)


def test_curves_of_another_shape_stay_apart():
    faster = curve(0).with_columns(pl.col("distance") ** 2)
    assert shifted_gap(curve(0), faster)[1] > 1.5


def test_curves_without_a_common_level_are_compared_as_they_are():
    flat = pl.DataFrame({"step": STEPS, "distance": [1.0] * len(STEPS)})
    assert shifted_gap(flat, flat) == (0.0, 1.0)

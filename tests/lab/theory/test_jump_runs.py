import itertools

import mpmath
import pytest

from overparam.lab.theory.jump_runs import (
    measured_acceleration,
    run_of_depth_two,
    window_of_jump,
)
from overparam.theory.acceleration_bound import acceleration_bound, jump_lr

_CASES = ((100.0, 0.02), (1000.0, 0.01))


def _exact_run(largest: float, start: float, lr: float, steps: int) -> list[list[mpmath.mpf]]:
    """Claim 2 at N = 2, |w| (g + <w, g> w / |w|^2), on the loss of power 4, in 30 digits."""
    with mpmath.workdps(30):
        y = [mpmath.mpf(largest), mpmath.mpf(1)]
        w = [mpmath.mpf(start), mpmath.mpf(start) / largest]
        path = [w]
        for _ in range(steps):
            g = [(a - b) ** 3 for a, b in zip(w, y, strict=True)]
            length = mpmath.sqrt(w[0] ** 2 + w[1] ** 2)
            along = (w[0] * g[0] + w[1] * g[1]) / length**2
            w = [a - lr * length * (b + along * a) for a, b in zip(w, g, strict=True)]
            path.append(w)
        return path


@pytest.mark.parametrize(("largest", "start"), _CASES)
def test_the_run_is_that_of_the_written_formula(largest: float, start: float) -> None:
    lr = 1 / (2 * start * largest**2)
    weights, gradients = run_of_depth_two(largest, start, lr, 20)
    exact = _exact_run(largest, start, lr, 20)
    for step in range(21):
        assert weights[step].tolist() == pytest.approx([float(x) for x in exact[step]], rel=1e-9)
    for slope, w in zip(gradients.tolist(), exact[:20], strict=True):
        expected = [float((w[0] - largest) ** 3), float((w[1] - 1) ** 3)]
        assert slope == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize(("largest", "start"), _CASES)
def test_the_jump_ends_at_the_large_target(largest: float, start: float) -> None:
    # (1 - eps/y)^3 of the gradient and |w| leave a relative miss of about 2 eps / y.
    reached = _exact_run(largest, start, jump_lr(largest, start), 1)[1][0]
    assert float(reached) == pytest.approx(largest - 2 * start, rel=1e-4 * start)


@pytest.mark.parametrize(("largest", "start"), _CASES)
def test_the_measured_quotient_is_the_bound(largest: float, start: float) -> None:
    # From the exact run: the learning rate that the second coordinate meets, over 2 / y^2.
    path = _exact_run(largest, start, 1 / (2 * start * largest**2), 120)
    quotients = [
        float((old[1] - new[1]) / (old[1] - 1) ** 3 * largest**2 / 2)
        for old, new in itertools.pairwise(path[1:])
        if old[1] < 0.75
    ]
    assert measured_acceleration(largest, start) == pytest.approx(min(quotients), rel=1e-6)
    assert acceleration_bound(largest, start) == pytest.approx(min(quotients), rel=2e-3)


@pytest.mark.parametrize(("largest", "start"), _CASES)
def test_the_window_is_where_the_exact_run_stays(largest: float, start: float) -> None:
    share = window_of_jump(largest, start)
    for factor, stays in ((0.995, True), (1.005, False)):
        lr = (1 + factor * share) / (2 * start * largest**2)
        path = _exact_run(largest, start, lr, 40)
        assert (max(abs(w[0] - largest) for w in path[1:]) < largest / 2) == stays

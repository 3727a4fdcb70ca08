import mpmath
import pytest

from overparam.theory.acceleration_bound import acceleration_bound, jump_lr


@pytest.mark.parametrize(("largest", "start"), [(100.0, 0.02), (1000.0, 0.01)])
def test_one_step_of_depth_two_jumps_and_then_has_the_learning_rate_of_the_bound(
    largest: float, start: float
) -> None:
    """Claim 2 at N = 2, |w| (g + <w, g> w / |w|^2), on the loss of power 4."""
    y, w = (largest, 1.0), (start, start / largest)
    g = [(a - b) ** 3 for a, b in zip(w, y, strict=True)]
    length = float(mpmath.hypot(*w))
    along = (w[0] * g[0] + w[1] * g[1]) / length**2
    lr = jump_lr(largest, start)
    w = [a - lr * length * (b + along * a) for a, b in zip(w, g, strict=True)]
    # (1 - eps/y)^3 of the gradient and |w| leave a relative miss of about 2 eps / y.
    assert w[0] == pytest.approx(largest - 2 * start, rel=1e-4 * start)
    gained = lr * float(mpmath.hypot(*w)) * largest**2 / 2
    assert acceleration_bound(largest, start) == pytest.approx(gained, rel=2e-3)


def test_bad_input_is_refused() -> None:
    for function in (jump_lr, acceleration_bound):
        with pytest.raises(ValueError, match="two positive numbers"):
            function(100.0, 0.0)

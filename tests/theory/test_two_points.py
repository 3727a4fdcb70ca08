import pytest
import torch

from overparam.theory.two_points import curvature, divergence_threshold


@pytest.mark.parametrize("power", [2.0, 4.0, 6.0])
def test_gradient_descent_is_stable_up_to_the_threshold(power: float) -> None:
    largest = 1.5
    for factor, stable in ((0.995, True), (1.005, False)):
        lr, error = factor * divergence_threshold(largest, power), -largest
        for _ in range(50):
            error -= lr * abs(error) ** (power - 1) * (1 if error > 0 else -1)
            if abs(error) > 2 * largest:
                break
        assert (abs(error) < largest) == stable


@pytest.mark.parametrize("depth", [1.0, 1.5, 4.0])
def test_curvature_is_the_closed_form(depth: float) -> None:
    targets = torch.tensor([2.0, 1.0, -0.5], dtype=torch.float64)
    expected = depth * targets.norm().item() ** (2 - 2 / depth)
    assert curvature(depth, targets) == pytest.approx(expected, rel=1e-12)


def test_bad_input_is_refused() -> None:
    with pytest.raises(ValueError, match="largest"):
        divergence_threshold(-1.0, 4.0)

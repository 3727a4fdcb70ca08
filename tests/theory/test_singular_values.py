import pytest
import torch
from support.oracles import sum_over_factors

from overparam import balanced_factors, end_to_end_update, factor_product
from overparam.theory.descent import descend_factors
from overparam.theory.losses import fit_to
from overparam.theory.singular_values import singular_value_velocity, velocity_error


@pytest.mark.parametrize("depth", [1.0, 1.7, 2.0, 4.0])
def test_velocity_is_the_derivative_of_singular_values(depth: float) -> None:
    weight, gradient = torch.randn(2, 3, 4, dtype=torch.float64)
    leaf = weight.clone().requires_grad_()
    move = -end_to_end_update(weight, gradient, depth)
    expected = torch.autograd.functional.jvp(torch.linalg.svdvals, leaf, move)[1]
    torch.testing.assert_close(singular_value_velocity(weight, gradient, depth), expected)


def test_velocity_of_explicit_factors() -> None:
    weight, target = torch.randn(2, 3, 4, dtype=torch.float64)
    gradient_of, lr = fit_to(target), 1e-6
    path = descend_factors(balanced_factors(weight, 3), gradient_of, lr, 1)
    before, after = (torch.linalg.svdvals(factor_product(now)) for now in path)
    predicted = singular_value_velocity(weight, gradient_of(weight), 3)
    torch.testing.assert_close((after - before) / lr, predicted, atol=1e-3, rtol=1e-3)


def test_depths_and_weights_broadcast() -> None:
    weight, gradient = torch.randn(2, 5, 3, 4, dtype=torch.float64)
    depth = torch.tensor([1.0, 1.5, 2.0, 3.0, 7.0], dtype=torch.float64)
    batch = singular_value_velocity(weight, gradient, depth)
    for i in range(5):
        one = singular_value_velocity(weight[i], gradient[i], depth[i].item())
        torch.testing.assert_close(batch[i], one)


def test_error_along_a_run_halves_with_the_learning_rate() -> None:
    generator = torch.Generator().manual_seed(0)
    start, target = torch.randn(2, 3, 4, generator=generator, dtype=torch.float64)
    coarse, fine = (
        velocity_error(start, fit_to(target), 2.5, lr, round(0.05 / lr)) for lr in (2e-3, 1e-3)
    )
    assert 1.8 < coarse / fine < 2.2


def test_error_along_a_run_is_the_distance_written_out() -> None:
    """Autograd through the singular values, along a run of the rule term by term."""
    generator = torch.Generator().manual_seed(1)
    weight, target = torch.randn(2, 3, 4, generator=generator, dtype=torch.float64)
    lr, gaps, sizes = 0.02, [], []
    error = velocity_error(weight, fit_to(target), 3.0, lr, 8)
    for _ in range(8):
        move = sum_over_factors(weight, weight - target, 3, rank=3)
        velocity = torch.autograd.functional.jvp(torch.linalg.svdvals, weight, -move)[1]
        after = weight - lr * move
        change = torch.linalg.svdvals(after) - torch.linalg.svdvals(weight)
        gaps.append((change / lr - velocity).abs().max().item())
        sizes.append(velocity.abs().max().item())
        weight = after
    assert error.item() == pytest.approx(max(gaps) / max(sizes), rel=1e-8)

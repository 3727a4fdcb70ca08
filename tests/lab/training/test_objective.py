import pytest
import torch

from overparam.lab.training.objective import BLOCK_ROWS, PowerLoss, signed_power_
from overparam.theory import power_gradient, power_loss

POWERS = (2.0, 3.0, 3.5, 4.0, 6.0, 8.0)


def problem(rows: int, outputs: int, dtype: torch.dtype = torch.float64):
    generator = torch.Generator().manual_seed(rows)
    x = torch.randn(rows, 6, generator=generator, dtype=torch.float64)
    y = torch.randn(rows, outputs, generator=generator, dtype=torch.float64)
    weights = torch.randn(4, outputs, 6, generator=generator, dtype=torch.float64).to(dtype)
    return x, y, weights


def explicit_loss(x, y, weights, power):
    error = torch.einsum("rmn,bn->rbm", weights, x) - y
    return error.abs().pow(power).sum(dim=2).mean(dim=1)


@pytest.mark.parametrize("power", POWERS)
@pytest.mark.parametrize("rows", [1, 500, BLOCK_ROWS, BLOCK_ROWS + 1])
@pytest.mark.parametrize("outputs", [1, 3])
def test_loss_and_gradient_agree_with_autograd(power, rows, outputs):
    x, y, weights = problem(rows, outputs)
    objective = PowerLoss(x, y, power)
    weights.requires_grad_()
    loss = explicit_loss(x, y, weights, power)
    (expected,) = torch.autograd.grad(loss.sum(), weights)
    torch.testing.assert_close(objective.loss(weights.detach()), loss, rtol=1e-12, atol=0)
    found = objective.gradient(weights.detach())
    assert (found - expected).norm() <= 1e-12 * expected.norm()


@pytest.mark.parametrize("power", POWERS)
@pytest.mark.parametrize("rows", [1, 500, BLOCK_ROWS + 1])
def test_the_blocked_loss_is_the_one_power_loss(power, rows):
    x, y, weights = problem(rows, 3)
    objective = PowerLoss(x, y, power)
    prediction = (weights @ x.mT).flatten(1)
    scaled = (y.mT.flatten(), power, power / rows)
    loss = power_loss(prediction, *scaled)
    torch.testing.assert_close(objective.loss(weights), loss, rtol=1e-12, atol=0)
    slopes = power_gradient(prediction, *scaled).view(len(weights), 3, rows)
    found, expected = objective.gradient(weights), slopes @ x
    assert (found - expected).norm() <= 1e-12 * expected.norm()


def test_float32_gradient_is_close_and_loss_is_measured_in_float64():
    x, y, weights = problem(500, 1, torch.float32)
    objective = PowerLoss(x, y, 4.0, torch.float32)
    exact = PowerLoss(x, y, 4.0)
    found = objective.gradient(weights)
    expected = exact.gradient(weights.double())
    assert found.dtype == torch.float32
    assert (found - expected).norm() <= 1e-5 * expected.norm()
    assert torch.equal(objective.loss(weights), exact.loss(weights.double()))


def test_number_of_runs_may_change_between_calls():
    x, y, weights = problem(BLOCK_ROWS + 9, 1)
    objective = PowerLoss(x, y, 4.0)
    few = objective.gradient(weights[:1])
    many = objective.gradient(weights.repeat(5, 1, 1))
    torch.testing.assert_close(many[0], few[0], rtol=1e-13, atol=1e-13)
    torch.testing.assert_close(objective.gradient(weights[:1]), few, rtol=0, atol=0)


def test_a_run_with_nan_leaves_the_others_alone():
    x, y, weights = problem(BLOCK_ROWS + 9, 1)
    objective = PowerLoss(x, y, 4.0)
    clean = objective.gradient(weights)
    weights[1] = torch.nan
    mixed = objective.gradient(weights)
    assert mixed[1].isnan().all()
    keep = [0, 2, 3]
    assert torch.equal(mixed[keep], clean[keep])


@pytest.mark.parametrize("exponent", [0.5, 1, 2, 2.5, 3, 5, 7])
def test_signed_power(exponent):
    error = torch.tensor([-2.0, -0.5, 0.0, 1.0, 3.0], dtype=torch.float64)
    expected = torch.tensor([-(2.0**exponent), -(0.5**exponent), 0.0, 1.0, 3.0**exponent])
    found = signed_power_(error.clone(), exponent)
    torch.testing.assert_close(found, expected.double(), rtol=1e-6, atol=0)

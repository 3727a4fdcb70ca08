import pytest
import torch

from overparam.theory.power_loss import power_gradient, power_loss, power_loss_gradient

_Y = torch.tensor([2.0, 1.0], dtype=torch.float64)


def test_gradient_is_autograd() -> None:
    weight = torch.tensor([0.3, 1.7], dtype=torch.float64, requires_grad=True)
    ((weight - _Y).abs() ** 4).sum().div(4).backward()
    torch.testing.assert_close(power_gradient(weight.detach(), _Y, 4), weight.grad)


@pytest.mark.parametrize("scale", [1.0, 0.25])
def test_power_loss_is_the_written_sum(scale: float) -> None:
    prediction = torch.randn(3, 5, dtype=torch.float64)
    targets = torch.randn(5, dtype=torch.float64)
    for row, found in zip(prediction, power_loss(prediction, targets, 3.5, scale), strict=True):
        pairs = zip(row.tolist(), targets.tolist(), strict=True)
        expected = scale / 3.5 * sum(abs(z - y) ** 3.5 for z, y in pairs)
        assert found.item() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("scale", [1.0, 0.25])
def test_power_gradient_is_that_of_power_loss(scale: float) -> None:
    prediction = torch.randn(3, 2, dtype=torch.float64, requires_grad=True)
    power = torch.tensor([[2.0], [4.0], [6.5]], dtype=torch.float64)
    power_loss(prediction, _Y, power, scale).sum().backward()
    found = power_gradient(prediction.detach(), _Y, power, scale)
    torch.testing.assert_close(found, prediction.grad)


def test_power_loss_gradient_is_autograd() -> None:
    features, targets = torch.randn(7, 3, dtype=torch.float64), torch.ones(7, dtype=torch.float64)
    for scale, divisor in ((None, 4 * 7), (1.0, 4), (4 / 7, 7)):
        weight = torch.randn(3, dtype=torch.float64, requires_grad=True)
        ((features @ weight - targets).abs() ** 4).sum().div(divisor).backward()
        actual = power_loss_gradient(features, targets, 4, scale)(weight.detach())
        torch.testing.assert_close(actual, weight.grad)

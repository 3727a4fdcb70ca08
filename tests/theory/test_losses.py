import pytest
import torch

from overparam.theory.asymmetry import antisymmetric_jacobian
from overparam.theory.field import end_to_end_field
from overparam.theory.losses import fit_to, loss_gradient
from overparam.theory.power_loss import power_loss_gradient


def _regression():
    features, targets = torch.randn(7, 3, dtype=torch.float64), torch.ones(7, dtype=torch.float64)
    return features, targets, lambda w: ((features @ w - targets).abs() ** 4).mean() / 4


def test_fit_to_is_the_gradient_of_its_loss() -> None:
    weight, target, scale = torch.rand(3, 2, 3, dtype=torch.float64)
    leaf = weight.clone().requires_grad_()
    (scale * (leaf - target) ** 2).sum().div(2).backward()
    torch.testing.assert_close(fit_to(target, scale)(weight), leaf.grad)


def test_loss_gradient_takes_any_loss_at_any_number_of_weights() -> None:
    features, targets, loss = _regression()
    weights = torch.randn(2, 5, 3, dtype=torch.float64)
    expected = power_loss_gradient(features, targets, 4)(weights)
    torch.testing.assert_close(loss_gradient(loss)(weights), expected)
    torch.testing.assert_close(loss_gradient(loss)(weights[0, 0]), expected[0, 0])
    matrix = torch.randn(2, 3, dtype=torch.float64)
    # The derivative of log det (W W^T) is 2 (W W^T)^-1 W.
    slope = loss_gradient(lambda w: (w @ w.mT).logdet(), dims=2)(matrix)
    torch.testing.assert_close(slope, 2 * torch.linalg.solve(matrix @ matrix.mT, matrix))
    with pytest.raises(ValueError, match="weights of 2 dimension"):
        loss_gradient(loss, dims=2)(weights[0, 0])


@pytest.mark.parametrize("depth", [1.0, 2.5])
def test_loss_gradient_can_be_differentiated_again(depth: float) -> None:
    features, targets, loss = _regression()
    point = torch.randn(3, dtype=torch.float64)
    by_hand = end_to_end_field(power_loss_gradient(features, targets, 4), depth)
    by_loss = end_to_end_field(loss_gradient(loss), depth)
    for actual, expected in zip(
        antisymmetric_jacobian(by_loss, point), antisymmetric_jacobian(by_hand, point), strict=True
    ):
        torch.testing.assert_close(actual, expected)

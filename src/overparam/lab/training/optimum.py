"""The optimum of linear regression with a p-th power loss, to machine precision."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from overparam.lab.training.objective import PowerLoss
from overparam.theory.power_loss import power_gradient, power_loss

_MAX_ITERATIONS = 200
_SHORTEST_STEP = 1e-9


@dataclass(frozen=True)
class Optimum:
    """A minimizer and its certificate.

    Attributes:
        weight: ``W*``, ``(m, n)``, float64.
        loss: ``L(W*)``.
        gradient_norm: Frobenius norm of ``dL/dW`` at ``W*``, which is the certificate: the loss is
            convex, so ``L(W*) - min L <= gradient_norm * |W* - argmin L|``.
        gradient_scale: the same norm at ``W = 0``, for comparison.
        iterations: Newton steps taken (1 for least squares).
    """

    weight: Tensor
    loss: float
    gradient_norm: float
    gradient_scale: float
    iterations: int


def find_optimum(
    features: Tensor,
    targets: Tensor,
    power: float,
    on_iteration: Callable[[Tensor], None] = lambda weight: None,
) -> Optimum:
    """Minimize ``(1/B) sum |X w - y|^p`` by damped Newton steps, each a least-squares problem.

    With residuals ``e``, the Newton step ``d`` solves
    ``min_d sum_b |e_b|^(p-2) (x_b d + e_b / (p-1))^2``, without the normal equations, which would
    square the condition number. For p = 2 one step from zero is the solution. Each output is solved
    separately. Source: Newton's method on the p-th power loss of Arora, Cohen, Hazan (2018),
    section 3, with backtracking until the loss falls by a tenth of its linear prediction.

    Args:
        features: ``X``, ``(B, n)``.
        targets: ``Y``, ``(B, m)``.
        power: ``p >= 2``.
        on_iteration: called with the weight ``(n,)`` of one output after each of its steps.

    Returns:
        The optimum with its certificate.

    Raises:
        ValueError: ``power`` is below 2, so the loss has no second derivative.

    Example:
        >>> x = torch.tensor([[1.0], [2.0]], dtype=torch.float64)
        >>> find_optimum(x, 3 * x, power=4).weight.round(decimals=9)
        tensor([[3.]], dtype=torch.float64)
    """
    if not power >= 2:
        raise ValueError(f"power is {power}; the optimum is computed for powers of at least 2.")
    x, y = features.double(), targets.double()
    columns, iterations = [], 0
    for label in y.unbind(dim=1):
        column, steps = _minimize(x, label, power, on_iteration)
        columns.append(column)
        iterations = max(iterations, steps)
    weight = torch.stack(columns)
    objective = PowerLoss(x, y, power)

    def norm(at: Tensor) -> float:
        return float(torch.linalg.vector_norm(objective.gradient(at[None])))

    loss = float(objective.loss(weight[None]))
    return Optimum(weight, loss, norm(weight), norm(torch.zeros_like(weight)), iterations)


def _minimize(
    x: Tensor, y: Tensor, power: float, on_iteration: Callable[[Tensor], None]
) -> tuple[Tensor, int]:
    weight = _least_squares(x, y)
    on_iteration(weight)
    if power == 2:
        return weight, 1

    def evaluate(at: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        prediction, scale = x @ at, power / len(y)
        loss = power_loss(prediction, y, power, scale)
        return prediction - y, loss, power_gradient(prediction, y, power, scale) @ x

    error, loss, gradient = evaluate(weight)
    for iteration in range(1, _MAX_ITERATIONS + 1):
        scale = error.abs().pow(power / 2 - 1)
        step = _least_squares(scale[:, None] * x, -scale * error / (power - 1))
        length = _backtrack(lambda at: evaluate(at)[1], weight, step, loss, gradient @ step)
        candidate = weight + length * step
        new_error, new_loss, new_gradient = evaluate(candidate)
        # Near the optimum the loss stops falling in floating point before the gradient does.
        stalled = new_loss >= loss - _round_off(loss)
        if stalled and new_gradient.norm() >= gradient.norm():
            return weight, iteration
        weight, error, loss, gradient = candidate, new_error, new_loss, new_gradient
        on_iteration(weight)
    return weight, _MAX_ITERATIONS


def _backtrack(
    loss_at: Callable[[Tensor], Tensor], weight: Tensor, step: Tensor, loss: Tensor, slope: Tensor
) -> float:
    """Halve the step until the loss falls by a tenth of its linear prediction; else take all."""
    length = 1.0
    while length > _SHORTEST_STEP:
        if loss_at(weight + length * step) <= loss + 0.1 * length * slope + _round_off(loss):
            return length
        length /= 2
    return 1.0


def _round_off(loss: Tensor) -> Tensor:
    return 8 * torch.finfo(loss.dtype).eps * loss


def _least_squares(a: Tensor, b: Tensor) -> Tensor:
    """Minimum-norm least squares by the singular value decomposition, for any rank."""
    return torch.linalg.lstsq(a, b[:, None], driver="gelsd").solution[:, 0]

"""Appendix B: how much larger depth 2 makes the learning rate of the small target, at p = 4.

Two orthonormal points with ``y_1 >> y_2 = 1``, a start ``w = (eps_1, eps_2)`` with
``eps_1 / eps_2 = y_1 / y_2`` and ``eps_1 << 1 << eps_1 y_1``. Gradient descent cannot exceed
``2 / y_1^2`` on any coordinate. Depth 2 reaches ``y_1`` in one step, and from then on the second
coordinate moves with the learning rate ``lr |w|``.
"""

from __future__ import annotations

import torch
from torch import Tensor

from overparam.rule.reference import single_output_update
from overparam.theory.two_points import divergence_threshold, power_gradient


def jump_rate(largest: float, start: float) -> float:
    """Learning rate ``1 / (2 eps_1 y_1^2)``, with which the first step of depth 2 ends at ``y_1``.

    ``|w| ~ eps_1`` and both the gradient and its stretched part are ``y_1^3`` long, so the first
    coordinate moves by ``2 lr eps_1 y_1^3 = y_1``. Source: derived here from Claim 2 of Arora,
    Cohen, Hazan (2018), in the setting of its appendix B.

    Args:
        largest: ``y_1``.
        start: ``eps_1``, the first coordinate at the start.

    Returns:
        The learning rate.

    Raises:
        ValueError: a number is not positive.

    Example:
        >>> jump_rate(100.0, 0.05)
        0.001
    """
    _check_positive(largest, start)
    return 1 / (2 * start * largest**2)


def acceleration_bound(largest: float, start: float) -> float:
    """``y_1 / (4 eps_1)``: the learning rate of the second coordinate over gradient descent's.

    ``lr |w| / (2 / y_1^2)`` with the learning rate of :func:`jump_rate` and ``|w| = y_1``.
    Source: Arora, Cohen, Hazan (2018), appendix B.

    Args:
        largest: ``y_1``.
        start: ``eps_1``, the first coordinate at the start.

    Returns:
        The quotient.

    Raises:
        ValueError: a number is not positive.

    Example:
        >>> round(acceleration_bound(100.0, 0.05), 6)
        500.0
    """
    _check_positive(largest, start)
    return largest / (4 * start)


def run_of_depth_two(largest: float, start: float, lr: float, steps: int) -> tuple[Tensor, Tensor]:
    """Weights and gradients of depth 2 on the problem of appendix B.

    Source: Arora, Cohen, Hazan (2018), Claim 2 and appendix B.

    Args:
        largest: ``y_1``; ``y_2`` is 1.
        start: ``eps_1``; ``eps_2 = eps_1 / y_1``.
        lr: learning rate.
        steps: number of steps.

    Returns:
        Weights before each step and after the last, ``(steps + 1, 2)``, and gradients before each
        step, ``(steps, 2)``, in float64.

    Example:
        >>> weights, gradients = run_of_depth_two(100.0, 0.05, jump_rate(100.0, 0.05), steps=1)
        >>> [round(number, 2) for number in weights[1].tolist()]
        [99.9, 0.5]
    """
    targets = torch.tensor([largest, 1.0], dtype=torch.float64)
    weights = [start * targets / largest]
    gradients = []
    for _ in range(steps):
        gradients.append(power_gradient(weights[-1], targets, 4))
        weights.append(weights[-1] - lr * single_output_update(weights[-1], gradients[-1], 2))
    return torch.stack(weights), torch.stack(gradients)


def measured_acceleration(largest: float, start: float) -> float:
    """The quotient of :func:`acceleration_bound`, measured on a run.

    The smallest ``-change of w_2 / g_2`` from the second step to the step at which ``w_2`` has
    three quarters of its target, over ``2 / y_1^2``. Source: Arora, Cohen, Hazan (2018),
    appendix B.

    Args:
        largest: ``y_1``.
        start: ``eps_1``.

    Returns:
        The quotient; NaN where the run does not come that far.

    Example:
        >>> round(measured_acceleration(1000.0, 0.01) / acceleration_bound(1000.0, 0.01), 3)
        1.0
    """
    weights, gradients = run_of_depth_two(largest, start, jump_rate(largest, start), steps=200)
    arrived = (weights[:, 1] >= 0.75).nonzero()
    if len(arrived) == 0:
        return torch.nan
    on_the_way = slice(1, int(arrived[0]))
    rates = -weights.diff(dim=0)[on_the_way, 1] / gradients[on_the_way, 1]
    return rates.min().item() / divergence_threshold(largest, 4)


def window_of_jump(largest: float, start: float) -> float:
    """By what share the learning rate of :func:`jump_rate` can be raised before the run diverges.

    Found by bisection. Near the target a step is stable only where the first coordinate is within
    ``sqrt(2 eps_1 y_1)`` of it, so the share is about ``sqrt(2 eps_1 / y_1)``: the bound of
    appendix B belongs to a narrow range of learning rates. Source: derived here from Claim 2.

    Args:
        largest: ``y_1``.
        start: ``eps_1``.

    Returns:
        The share, to 1e-6.

    Example:
        >>> abs(window_of_jump(100.0, 0.05) / (2 * 0.05 / 100) ** 0.5 - 1) < 0.02
        True
    """
    low, high = 0.0, 1.0
    for _ in range(20):
        share = (low + high) / 2
        lr = (1 + share) * jump_rate(largest, start)
        weights, _ = run_of_depth_two(largest, start, lr, steps=60)
        stable = bool(weights[1:, 0].sub(largest).abs().max() < largest / 2)
        low, high = (share, high) if stable else (low, share)
    return low


def _check_positive(largest: float, start: float) -> None:
    if not (largest > 0 and start > 0):
        raise ValueError(f"largest is {largest!r} and start {start!r}; pass two positive numbers.")

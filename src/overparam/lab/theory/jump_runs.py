"""Runs of depth 2 on the problem of appendix B, where the first step jumps to the large target."""

from __future__ import annotations

import torch
from torch import Tensor

from overparam.lab.theory.two_point_runs import descent, largest_stable
from overparam.theory.acceleration_bound import jump_lr
from overparam.theory.two_points import divergence_threshold


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
        >>> weights, gradients = run_of_depth_two(100.0, 0.05, jump_lr(100.0, 0.05), steps=1)
        >>> [round(number, 2) for number in weights[1].tolist()]
        [99.9, 0.5]
    """
    targets = torch.tensor([largest, 1.0], dtype=torch.float64)
    return descent(start * targets / largest, targets, 4, 2, lr, steps)


def measured_acceleration(largest: float, start: float) -> float:
    """The quotient of :func:`overparam.theory.acceleration_bound`, measured on a run.

    The smallest ``-change of w_2 / g_2`` from the second step until ``w_2`` has reached three
    quarters of its target, divided by ``2 / y_1^2``. Source: Arora, Cohen, Hazan (2018),
    appendix B.

    Args:
        largest: ``y_1``.
        start: ``eps_1``.

    Returns:
        The quotient; NaN if the run does not get that far.

    Example:
        >>> from overparam.theory import acceleration_bound
        >>> round(measured_acceleration(1000.0, 0.01) / acceleration_bound(1000.0, 0.01), 3)
        1.0
    """
    weights, gradients = run_of_depth_two(largest, start, jump_lr(largest, start), steps=200)
    arrived = (weights[:, 1] >= 0.75).nonzero()
    if len(arrived) == 0:
        return torch.nan
    on_the_way = slice(1, int(arrived[0]))
    lrs = -weights.diff(dim=0)[on_the_way, 1] / gradients[on_the_way, 1]
    return lrs.min().item() / divergence_threshold(largest, 4)


def window_of_jump(largest: float, start: float) -> float:
    """The share by which the learning rate of `jump_lr` can be raised before the run diverges.

    Found by bisection. Near the target, a step is stable only if the first coordinate is within
    ``sqrt(2 eps_1 y_1)`` of it, so the share is about ``sqrt(2 eps_1 / y_1)``: the bound of
    appendix B belongs to a narrow range of learning rates. Source: derived here from Claim 2.

    Args:
        largest: ``y_1``.
        start: ``eps_1``.

    Returns:
        The share, to 1e-12.

    Example:
        >>> abs(window_of_jump(100.0, 0.05) / (2 * 0.05 / 100) ** 0.5 - 1) < 0.02
        True
    """

    def stable(share: float) -> bool:
        lr = (1 + share) * jump_lr(largest, start)
        weights, _ = run_of_depth_two(largest, start, lr, steps=60)
        return bool(weights[1:, 0].sub(largest).abs().max() < largest / 2)

    return largest_stable(stable, 0.0, 1.0)

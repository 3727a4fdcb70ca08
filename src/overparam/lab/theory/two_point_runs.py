"""Runs on section 7's problem, L_p regression on two orthonormal points."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from overparam.rule.reference import single_output_update
from overparam.theory.power_loss import power_gradient, power_loss

MAX_STEPS = 4000
"""The last step at which a run may arrive."""
HOLD = 1000
"""For how many steps a run must stay at the target."""

_DIVERGED = 1e6
_EPSILON = 1e-8  # of Adam and AdaGrad
_CLEAR_EVERY = 20  # steps between two removals of finished runs


class Lanes(NamedTuple):
    """Runs on the two-point problem, one per entry.

    Attributes:
        method: 0 for the end-to-end rule (gradient descent at depth 1), 1 for AdaGrad, 2 for
            Adam, ``(k,)``.
        depth: ``N`` of the rule, real, ``(k,)``.
        lr: learning rate, ``(k,)``.
        power: ``p``, ``(k,)``.
        targets: ``y``, ``(k, 2)``.
        start: ``w`` before the first step, ``(k, 2)``.
    """

    method: Tensor
    depth: Tensor
    lr: Tensor
    power: Tensor
    targets: Tensor
    start: Tensor


def iterations_to_target(
    lanes: Lanes, goal: float = 0.5, max_steps: int = MAX_STEPS, hold: int = HOLD
) -> Tensor:
    """Iterations until each run reaches its target and stays there, all runs as one batch.

    A run is at its target when the loss is at most ``1/p (goal * min_i |y_i|)^p``. It arrives at
    the first step from which it stays there for ``hold`` steps; touching the target and leaving
    again does not count. The window is long because Adam's second moment has a memory of a
    thousand steps.

    Source: Arora, Cohen, Hazan (2018), Claim 2; AdaGrad, and Adam with moments 0.9 and 0.999,
    both with an epsilon of 1e-8.

    Args:
        lanes: the runs.
        goal: the error allowed, as a share of the smallest target.
        max_steps: the last step at which a run may arrive.
        hold: for how many steps a run must stay, counting the first; they may extend beyond
            ``max_steps``. Zero means the same as one.

    Returns:
        ``(k,)`` float64; ``inf`` for a run that diverged or had not arrived by ``max_steps``.

    Example:
        >>> import torch
        >>> one, pair = torch.ones(1, dtype=torch.float64), torch.ones(1, 2, dtype=torch.float64)
        >>> lanes = Lanes(0 * one, one, 0.5 * one, 2 * one, pair, 0 * pair)
        >>> iterations_to_target(lanes)
        tensor([2.], dtype=torch.float64)
    """
    result = torch.full((len(lanes.lr),), math.inf, dtype=torch.float64)
    entry, finished = result.clone(), torch.zeros_like(result, dtype=torch.bool)
    alive = torch.arange(len(result))
    # Coordinates come first, so that every operation is contiguous over the runs.
    weight, targets = lanes.start.mT.contiguous(), lanes.targets.mT.contiguous()
    moments = (torch.zeros_like(weight), torch.zeros_like(weight))
    bound = (goal * targets.abs().amin(0)) ** lanes.power
    for step in range(max_steps + hold + 2):
        error = weight - targets
        held = (step - entry >= hold) & ~finished
        result[alive[held]] = entry[held]
        gone = ~(error.abs().amax(0) < _DIVERGED) | ((step > max_steps) & (entry > max_steps))
        finished = finished | held | gone
        if step % _CLEAR_EVERY == 0 and bool(finished.any()):
            kept = ~finished
            lanes = Lanes(*(part[kept] for part in lanes))
            alive, bound, entry, finished = (x[kept] for x in (alive, bound, entry, finished))
            weight, targets, error = (x[:, kept] for x in (weight, targets, error))
            moments = (moments[0][:, kept], moments[1][:, kept])
            if len(alive) == 0:
                break
        gradient = power_gradient(weight, targets, lanes.power)
        # p times power_loss, as gradient * error: a second power would be the slowest operation.
        inside = (gradient * error).sum(0) <= bound
        entry = torch.where(inside, entry.clamp(max=step), math.inf)
        move, moments = _moves(lanes, weight, gradient, moments, step + 1)
        weight = weight - lanes.lr * move
    return result


def largest_stable(stable: Callable[[float], bool], low: float, high: float) -> float:
    """Bisect for the value up to which runs are stable: they are at ``low``, not at ``high``.

    Example:
        >>> round(largest_stable(lambda lr: lr < 2, 1.0, 5.0), 6)
        2.0
    """
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (middle, high) if stable(middle) else (low, middle)
    return low


def measured_threshold(largest: float, power: float, steps: int = 400) -> float:
    """The divergence threshold, found by bisection on runs of gradient descent from zero.

    A run is stable if its error after ``steps`` is smaller than at the start.

    Source: Arora, Cohen, Hazan (2018), section 7.

    Args:
        largest: ``y``.
        power: ``p``.
        steps: length of each run.

    Returns:
        The threshold, to 12 digits.

    Example:
        >>> abs(measured_threshold(2.0, 4.0) - 0.5) < 1e-6
        True
    """

    def stable(lr: float) -> bool:
        error = -largest
        for _ in range(steps):
            error -= lr * math.copysign(abs(error) ** (power - 1), error)
            if abs(error) > 2 * largest or abs(error) < 0.5 * largest:
                break
        return abs(error) < largest

    return largest_stable(stable, 0.0, 8 / largest ** (power - 2))


def late_rate(depth: float, lr: float, targets: Tensor) -> float:
    """Decrease of the log loss per step near the optimum of the p = 2 loss, measured on a run.

    The run starts 0.001 away from the optimum, both along ``y`` and across it. The decrease is
    that from step 5 to step 15.

    Source: Arora, Cohen, Hazan (2018), Claim 2 (the rule) and section 7 (the loss).

    Args:
        depth: ``N``.
        lr: learning rate.
        targets: ``y``, ``(2,)``.

    Returns:
        Positive where the run converges; ``2 log 2`` for gradient descent at ``lr = 0.5``.

    Example:
        >>> import torch
        >>> round(late_rate(1, 0.5, torch.tensor([2.0, 1.0], dtype=torch.float64)), 3)
        1.386
    """
    along = targets / targets.norm()
    start = targets + 1e-3 * (along + along.flip(0) * along.new_tensor([-1.0, 1.0]))
    weights, _ = descent(start, targets, 2, depth, lr, steps=15)
    losses = power_loss(weights, targets, 2).tolist()
    return math.log(losses[5] / losses[15]) / 10


def descent(
    start: Tensor, targets: Tensor, power: float, depth: float, lr: float, steps: int
) -> tuple[Tensor, Tensor]:
    """Weights of a single run of the rule ``(steps + 1, 2)``, and gradients ``(steps, 2)``."""
    weights, gradients = [start], []
    for _ in range(steps):
        gradients.append(power_gradient(weights[-1], targets, power))
        weights.append(weights[-1] - lr * single_output_update(weights[-1], gradients[-1], depth))
    return torch.stack(weights), torch.stack(gradients)


def _moves(
    lanes: Lanes, weight: Tensor, gradient: Tensor, moments: tuple[Tensor, Tensor], step: int
) -> tuple[Tensor, tuple[Tensor, Tensor]]:
    """The step direction of every run by its method, and the two moments; all ``(2, k)``."""
    plain, adam = lanes.method == 0, lanes.method == 2
    rule = _rule(weight, gradient, lanes.depth) if bool(plain.any()) else gradient
    if bool(plain.all()):
        return rule, moments
    first = torch.where(adam, 0.9 * moments[0] + 0.1 * gradient, gradient)
    added = gradient.square()
    second = torch.where(adam, 0.999 * moments[1] + 0.001 * added, moments[1] + added)
    # Only Adam corrects the bias of its moments.
    upper = torch.where(adam, first / (1 - 0.9**step), first)
    lower = torch.where(adam, second / (1 - 0.999**step), second)
    adaptive = upper / (lower.sqrt() + _EPSILON)
    return torch.where(plain, rule, adaptive), (first, second)


def _rule(weight: Tensor, gradient: Tensor, depth: Tensor) -> Tensor:
    """Claim 2 as the paper writes it, with coordinates first.

    It takes a quarter of the time of :func:`overparam.single_output_update`, which guards against
    overflow; these runs count as diverged long before they overflow.
    """
    squared = weight.square().sum(0)
    along = (weight * gradient).sum(0) / torch.where(squared > 0, squared, 1.0)
    return squared ** (1 - 1 / depth) * (gradient + (depth - 1) * along * weight)

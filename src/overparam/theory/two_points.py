"""Section 7's problem, L_p regression on two orthonormal points, and runs of methods on it."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from overparam.rule.reference import single_output_update

MAX_STEPS = 4000
"""The last step at which a run may arrive."""
HOLD = 1000
"""Steps for which a run must stay at the target to have arrived."""

_DIVERGED = 1e6
_EPSILON = 1e-8  # of Adam and AdaGrad
_CLEAR_EVERY = 20  # steps after which finished runs are dropped


class Lanes(NamedTuple):
    """Runs on the two-point problem, one per entry; all ``(k,)`` but for the last two.

    Attributes:
        method: 0 for the end-to-end rule (gradient descent at depth 1), 1 for AdaGrad, 2 for Adam.
        depth: ``N`` of the rule, real.
        lr: learning rate.
        power: ``p``.
        targets: ``y``, ``(k, 2)``.
        start: ``w`` before the first step, ``(k, 2)``.
    """

    method: Tensor
    depth: Tensor
    lr: Tensor
    power: Tensor
    targets: Tensor
    start: Tensor


def power_gradient(weight: Tensor, targets: Tensor, power: float | Tensor) -> Tensor:
    """Gradient of ``1/p sum_i |w_i - y_i|^p``.

    Source: Arora, Cohen, Hazan (2018), section 7: one example per coordinate.

    Args:
        weight: ``w``, ``(..., d)``.
        targets: ``y``, ``(..., d)``.
        power: ``p >= 1``, a number or a tensor that broadcasts with both.

    Returns:
        ``(..., d)``.

    Example:
        >>> import torch
        >>> power_gradient(torch.zeros(2), torch.tensor([2.0, 1.0]), 4)
        tensor([-8., -1.])
    """
    residual = weight - targets
    return residual.sign() * residual.abs() ** (power - 1)


def divergence_threshold(largest: float, power: float) -> float:
    """Learning rate ``2 / y^(p-2)`` above which gradient descent from zero leaves for infinity.

    Source: Arora, Cohen, Hazan (2018), section 7.

    Args:
        largest: ``y``, the largest target, positive.
        power: ``p >= 2``.

    Returns:
        The threshold.

    Raises:
        ValueError: ``largest`` is not positive or ``power`` below 2.

    Example:
        >>> divergence_threshold(2.0, 4.0)
        0.5
    """
    if not largest > 0 or not power >= 2:
        raise ValueError(f"largest is {largest!r} and power {power!r}; pass > 0 and >= 2.")
    return 2 / largest ** (power - 2)


def measured_threshold(largest: float, power: float, steps: int = 400) -> float:
    """The same learning rate found by bisection on runs of gradient descent from zero.

    A run counts as stable where its error after ``steps`` is below that at the start.

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
    low, high = 0.0, 8 / largest ** (power - 2)
    for _ in range(40):
        lr = (low + high) / 2
        error = -largest
        for _ in range(steps):
            error -= lr * math.copysign(abs(error) ** (power - 1), error)
            if abs(error) > 2 * largest or abs(error) < 0.5 * largest:
                break
        stable = abs(error) < largest
        low, high = (lr, high) if stable else (low, lr)
    return (low + high) / 2


def iterations_to_target(
    lanes: Lanes, goal: float = 0.5, max_steps: int = MAX_STEPS, hold: int = HOLD
) -> Tensor:
    """Iterations until every target is met to the given share for good, all runs as one batch.

    A run is at the target where the loss is at most ``1/p (goal * min_i |y_i|)^p``. What counts
    is the first step from which it stays there for ``hold`` steps: a run that touches the target
    and leaves again has not arrived. The window is long since Adam's second moment forgets over
    a thousand steps.

    Source: Arora, Cohen, Hazan (2018), Claim 2; AdaGrad and Adam (0.9, 0.999) with their usual
    constants.

    Args:
        lanes: the runs.
        goal: share of the smallest target.
        max_steps: the last step at which a run may arrive.
        hold: for how many steps a run must stay, the first included; they may lie beyond
            ``max_steps``. At least one counts.

    Returns:
        ``(k,)`` float64; ``inf`` for a run that diverged or was not there to stay by ``max_steps``.

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
    # Coordinates come first, so that every operation runs along the runs.
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
        # gradient * error is |error|^p: a second power would be the dearest operation here.
        inside = (gradient * error).sum(0) <= bound
        entry = torch.where(inside, entry.clamp(max=step), math.inf)
        move, moments = _moves(lanes, weight, gradient, moments, step + 1)
        weight = weight - lanes.lr * move
    return result


def curvature(depth: float, targets: Tensor) -> float:
    """Largest eigenvalue of the rule's linear map near the optimum of the p = 2 loss.

    The error of the end-to-end rule contracts by ``1 - lr * eigenvalue`` there, so it is stable
    up to ``lr = 2 / curvature``. Gradient descent's is 1: the points are orthonormal.

    Source: Arora, Cohen, Hazan (2018), Claim 2, at ``w = y``.

    Args:
        depth: ``N``.
        targets: ``y``, ``(d,)``.

    Returns:
        ``N |y|^(2-2/N)``.

    Example:
        >>> import torch
        >>> round(curvature(2, torch.tensor([3.0, 4.0])), 4)
        10.0
    """
    basis = torch.eye(len(targets), dtype=targets.dtype)
    linear = single_output_update(targets.expand_as(basis), basis, depth)
    return torch.linalg.eigvalsh(linear)[-1].item()


def late_rate(depth: float, lr: float, targets: Tensor) -> float:
    """Decrease of the log loss per step near the optimum of the p = 2 loss, measured on a run.

    The run starts a thousandth away from the optimum, across and along ``y`` alike, and the loss
    is read after 5 and after 15 steps.

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
    weight = targets + 1e-3 * (along + along.flip(0) * along.new_tensor([-1.0, 1.0]))
    losses = []
    for _ in range(16):
        gradient = power_gradient(weight, targets, 2)
        losses.append(gradient.square().sum().item())
        weight = weight - lr * single_output_update(weight, gradient, depth)
    return math.log(losses[5] / losses[15]) / 10


def _moves(
    lanes: Lanes, weight: Tensor, gradient: Tensor, moments: tuple[Tensor, Tensor], step: int
) -> tuple[Tensor, tuple[Tensor, Tensor]]:
    """Direction of every run by its own method, and the two running moments; all ``(2, k)``."""
    plain, adam = lanes.method == 0, lanes.method == 2
    rule = _rule(weight, gradient, lanes.depth) if bool(plain.any()) else gradient
    if bool(plain.all()):
        return rule, moments
    first = torch.where(adam, 0.9 * moments[0] + 0.1 * gradient, gradient)
    added = gradient.square()
    second = torch.where(adam, 0.999 * moments[1] + 0.001 * added, moments[1] + added)
    # AdaGrad is uncorrected.
    upper = torch.where(adam, first / (1 - 0.9**step), first)
    lower = torch.where(adam, second / (1 - 0.999**step), second)
    adaptive = upper / (lower.sqrt() + _EPSILON)
    return torch.where(plain, rule, adaptive), (first, second)


def _rule(weight: Tensor, gradient: Tensor, depth: Tensor) -> Tensor:
    """Claim 2 as the paper writes it, for coordinates that come first.

    A quarter of the time of :func:`overparam.single_output_update`, which guards against
    overflow: these runs count as diverged long before.
    """
    squared = weight.square().sum(0)
    along = (weight * gradient).sum(0) / torch.where(squared > 0, squared, 1.0)
    return squared ** (1 - 1 / depth) * (gradient + (depth - 1) * along * weight)

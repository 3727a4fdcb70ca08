"""Section 7: why depth speeds up L_p regression for p > 2, on two orthonormal points.

The loss ``1/p sum_i |w_i - y_i|^p`` has two coordinates of one curvature each. Gradient descent
must take the learning rate that the steeper one allows; the other then waits.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from overparam.rule import single_output_update
from overparam.theory._table import Row, columns
from overparam.theory.check import Measurement, TheoryCheck

_DIVERGED = 1e6
_EPSILON = 1e-8  # of Adam and AdaGrad


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


def iterations_to_target(lanes: Lanes, goal: float = 0.5, max_steps: int = 4000) -> Tensor:
    """Iterations until every target is met to the given share, all runs as one batch.

    A run has arrived where the loss is at most ``1/p (goal * min_i |y_i|)^p``. Source:
    Arora, Cohen, Hazan (2018), Claim 2; AdaGrad and Adam (0.9, 0.999) with their usual constants.

    Args:
        lanes: the runs.
        goal: share of the smallest target.
        max_steps: where to stop.

    Returns:
        ``(k,)`` float64; ``inf`` for a run that diverged or did not arrive.

    Example:
        >>> import torch
        >>> one, pair = torch.ones(1, dtype=torch.float64), torch.ones(1, 2, dtype=torch.float64)
        >>> lanes = Lanes(0 * one, one, 0.5 * one, 2 * one, pair, 0 * pair)
        >>> iterations_to_target(lanes)
        tensor([2.], dtype=torch.float64)
    """
    count = len(lanes.lr)
    result = torch.full((count,), math.inf, dtype=torch.float64)
    alive = torch.arange(count)
    weight = lanes.start
    first, second = torch.zeros_like(weight), torch.zeros_like(weight)
    bound = (goal * lanes.targets.abs().amin(-1)) ** lanes.power
    for step in range(max_steps + 1):
        error = (weight - lanes.targets).abs()
        arrived = (error ** lanes.power[:, None]).sum(-1) <= bound
        finished = arrived | ~(error.amax(-1) < _DIVERGED)
        if bool(finished.any()):
            result[alive[arrived]] = step
            kept = ~finished
            lanes = Lanes(*(part[kept] for part in lanes))
            alive, bound = alive[kept], bound[kept]
            weight, first, second = weight[kept], first[kept], second[kept]
            if len(alive) == 0:
                break
        gradient = power_gradient(weight, lanes.targets, lanes.power[:, None])
        move, first, second = _moves(lanes, weight, gradient, first, second, step + 1)
        weight = weight - lanes.lr[:, None] * move
    return result


def _moves(
    lanes: Lanes, weight: Tensor, gradient: Tensor, first: Tensor, second: Tensor, step: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Direction of every lane by its own method, and the two running moments."""
    adam = (lanes.method == 2)[:, None]
    rule = single_output_update(weight, gradient, lanes.depth)
    first = torch.where(adam, 0.9 * first + 0.1 * gradient, gradient)
    second = torch.where(adam, 0.999 * second + 0.001 * gradient**2, second + gradient**2)
    # AdaGrad is uncorrected.
    upper = torch.where(adam, first / (1 - 0.9**step), first)
    lower = torch.where(adam, second / (1 - 0.999**step), second)
    adaptive = upper / (lower.sqrt() + _EPSILON)
    return torch.where((lanes.method == 0)[:, None], rule, adaptive), first, second


_POWERS = (2.0, 4.0, 6.0, 8.0)
_DEPTHS = (1.0, 1.5, 2.0, 3.0, 4.0, 6.0, 8.0)
_RATIOS = (1.25, 1.5, 2.0, 2.5)
_METHODS = (*((0.0, depth) for depth in _DEPTHS), (1.0, 1.0), (2.0, 1.0))
_RATES_PER_DECADE = 8
# Directions of the start, in degrees. Several, since with one of them a single huge step can land
# on the target by luck; a rate must do well from all of them.
_ANGLES = (25.0, 115.0, 205.0, 295.0)
_START = 0.01


def tuned_iterations(
    rates: Tensor, powers: Sequence[float], ratios: Sequence[float], max_steps: int = 4000
) -> Tensor:
    """Iterations to target of every method at every learning rate: the whole curves.

    The methods are the rule at depths 1 (gradient descent), 1.5, 2, 3, 4, 6, 8, then AdaGrad and
    Adam, all on the same learning rates: an equal tuning budget. ``y_2 = 1``. Every run is
    repeated from four starts of length 0.01, and a rate counts by its mean over them.

    Args:
        rates: learning rates, ``(r,)``.
        powers: values of ``p``.
        ratios: values of ``y_1 / y_2``.
        max_steps: where to stop.

    Returns:
        ``(powers, ratios, methods, rates)``: mean iterations, ``inf`` where one start failed.

    Example:
        >>> import torch
        >>> tuned_iterations(torch.tensor([0.5]), [2.0], [1.0], max_steps=50).shape
        torch.Size([1, 1, 9, 1])
    """
    methods = torch.tensor(_METHODS, dtype=torch.float64)
    grids = torch.meshgrid(
        torch.as_tensor(powers, dtype=torch.float64),
        torch.as_tensor(ratios, dtype=torch.float64),
        torch.arange(len(_METHODS), dtype=torch.float64),
        rates.double(),
        torch.deg2rad(torch.tensor(_ANGLES, dtype=torch.float64)),
        indexing="ij",
    )
    power, ratio, method, rate, angle = (grid.flatten() for grid in grids)
    targets = torch.stack((ratio, torch.ones_like(ratio)), dim=-1)
    start = _START * torch.stack((angle.cos(), angle.sin()), dim=-1)
    kind, depth = methods[method.long()].unbind(-1)
    lanes = Lanes(kind, depth, rate, power, targets, start)
    return iterations_to_target(lanes, max_steps=max_steps).reshape(grids[0].shape).mean(-1)


def check() -> TheoryCheck:
    """Find divergence thresholds, then tune every method and map the speed-up."""
    errors = []
    for power in _POWERS:
        for largest in (0.5, 1.0, 2.0, 3.0):
            expected = divergence_threshold(largest, power)
            errors.append(abs(measured_threshold(largest, power) / expected - 1))
    rates = torch.logspace(-3, 2, 5 * _RATES_PER_DECADE + 1, dtype=torch.float64)
    curves = tuned_iterations(rates, _POWERS, _RATIOS)
    best = curves.amin(-1)  # (powers, ratios, methods)
    speed_up = best[:, :, :1] / best
    rows: list[Row] = []
    for i, power in enumerate(_POWERS):
        for j, ratio in enumerate(_RATIOS):
            for k, name in enumerate(_names()):
                value = speed_up[i, j, k].item()
                rows.append(
                    ("map", power, ratio, name, 0.0, value if math.isfinite(value) else 0.0)
                )
                if ratio == _RATIOS[-1]:
                    pairs = zip(rates.tolist(), curves[i, j, k].tolist(), strict=True)
                    rows += [
                        ("curve", power, ratio, name, rate, count)
                        for rate, count in pairs
                        if math.isfinite(count)
                    ]
    deeper = slice(1, len(_DEPTHS))
    measurements = [
        Measurement(
            "largest relative error of 2 / y^(p-2) as divergence threshold, p = 2 to 8",
            max(errors),
            0.0,
            1e-5,
        ),
        Measurement(
            "p = 2: largest speed-up of any depth above 1, at tuned rates, any y1/y2",
            speed_up[0, :, deeper].max().item(),
            0.0,
            1.05,
        ),
    ]
    for i, power in enumerate(_POWERS[1:], start=1):
        measurements.append(
            Measurement(
                f"p = {power:g}, y1/y2 = {_RATIOS[-1]:g}: speed-up of the best depth, at tuned "
                "rates",
                speed_up[i, -1, deeper].max().item(),
                1.1,
                math.inf,
            )
        )
    measurements.append(
        Measurement(
            "p = 4, 6, 8: smallest over y1/y2 of the best depth's speed-up, at tuned rates",
            speed_up[1:, :, deeper].amax(-1).min().item(),
            1.0,
            math.inf,
        )
    )
    return TheoryCheck(
        name="acceleration",
        statement=(
            "On two orthonormal points gradient descent diverges above 2 / y^(p-2), and depth "
            "speeds training up for p > 2 and not for p = 2."
        ),
        source="Arora, Cohen, Hazan (2018), section 7 and appendix B",
        measurements=tuple(measurements),
        table=columns(("panel", "power", "ratio", "method", "rate", "value"), rows),
        notes=_notes(best, speed_up, len(rates)),
    )


def _names() -> list[str]:
    """Names of the methods, in order."""
    return ["GD", *(f"N = {depth:g}" for depth in _DEPTHS[1:]), "AdaGrad", "Adam"]


def _notes(best: Tensor, speed_up: Tensor, rates: int) -> tuple[str, ...]:
    notes = [
        f"Every method is tuned over the same {rates} learning rates, 0.001 to 100, so a speed-up "
        f"is known to about {10 ** (1 / _RATES_PER_DECADE) - 1:.0%}. A rate counts by its mean "
        f"over {len(_ANGLES)} starts of length {_START:g} in different directions. Target: the "
        "loss of missing the smaller y by half."
    ]
    for i, power in enumerate(_POWERS):
        counts = ", ".join(
            f"{name} {count:.4g}"
            for name, count in zip(_names(), best[i, -1].tolist(), strict=True)
        )
        notes.append(
            f"p = {power:g}, y1/y2 = {_RATIOS[-1]:g}, iterations at the best rate: {counts}."
        )
    slower = (speed_up[1:, :, 1 : len(_DEPTHS)] < 1).double().mean().item()
    notes.append(f"For p > 2, {slower:.0%} of the cells of the map show a slow-down by depth.")
    return tuple(notes)

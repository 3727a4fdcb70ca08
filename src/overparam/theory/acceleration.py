"""Section 7: why depth speeds up L_p regression for p > 2, on two orthonormal points.

The loss ``1/p sum_i |w_i - y_i|^p`` has two coordinates of one curvature each. Gradient descent
must take the learning rate that the steeper one allows; the other then waits.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from overparam.theory._table import Row, columns
from overparam.theory.check import Measurement, TheoryCheck
from overparam.theory.two_points import (
    HOLD,
    MAX_STEPS,
    Lanes,
    curvature,
    divergence_threshold,
    iterations_to_target,
    late_rate,
    measured_threshold,
)

_POWERS = (2.0, 4.0, 6.0, 8.0)
_DEPTHS = (1.0, 1.5, 2.0, 3.0, 4.0, 6.0, 8.0)
_RATIOS = (1.25, 1.5, 2.0, 2.5)
_METHODS = (*((0.0, depth) for depth in _DEPTHS), (1.0, 1.0), (2.0, 1.0))
_RATES_PER_DECADE = 8
# Directions of the start, in degrees. Several, since with one of them a single huge step can land
# on the target by luck; a rate must do well from all of them.
_ANGLES = (25.0, 115.0, 205.0, 295.0)
_START = 0.01
# Share of 1 / curvature that the cautious comparison at p = 2 allows.
_CAUTION = 0.5


def steady_counts(curves: Tensor) -> Tensor:
    """A method's iterations at every learning rate, each rate judged with its two neighbours.

    Source: none, a guard against luck. Where the loss is flat at its minimum (p > 2) one huge
    step may land there and stay, at one rate of the grid alone. So a rate counts by the worst of
    itself, the next below and the next above; the two at the ends of the grid count as failed.

    Args:
        curves: iterations, ``(..., rates)``, rates in order.

    Returns:
        ``(..., rates)``; its minimum over rates is the method's tuned count.

    Example:
        >>> import torch
        >>> steady_counts(torch.tensor([9.0, 5.0, 4.0, 2.0, float("inf")]))
        tensor([inf, 9., 5., inf, inf])
    """
    padded = torch.nn.functional.pad(curves, (1, 1), value=math.inf)
    return padded.unfold(-1, 3, 1).amax(-1)


def tuned_iterations(
    rates: Tensor, powers: Sequence[float], ratios: Sequence[float], max_steps: int = MAX_STEPS
) -> Tensor:
    """Iterations to target of every method at every learning rate: the whole curves.

    Source: Arora, Cohen, Hazan (2018), section 7.

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
    counts = torch.empty_like(rate)
    for mine in (kind == 0, kind != 0):  # Apart, so that no run computes another kind's move.
        part = Lanes(*(entries[mine] for entries in lanes))
        counts[mine] = iterations_to_target(part, max_steps=max_steps)
    return counts.reshape(grids[0].shape).mean(-1)


def check() -> TheoryCheck:
    """Find divergence thresholds, then tune every method and map the speed-up."""
    errors = []
    for power in _POWERS:
        for largest in (0.5, 1.0, 2.0, 3.0):
            expected = divergence_threshold(largest, power)
            errors.append(abs(measured_threshold(largest, power) / expected - 1))
    rates = torch.logspace(-3, 2, 5 * _RATES_PER_DECADE + 1, dtype=torch.float64)
    curves = tuned_iterations(rates, _POWERS, _RATIOS)
    steady = steady_counts(curves)
    best = steady.amin(-1)  # (powers, ratios, methods)
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
            f"p = 2, learning rates up to {_CAUTION:g} / curvature of gradient descent: largest "
            "speed-up of any depth above 1 in iterations, any y1/y2",
            _cautious_speed_up(steady[0], rates, _CAUTION),
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
        notes=_notes(best, speed_up, len(rates), _cautious_speed_up(steady[0], rates, 0.1)),
    )


def _cautious_speed_up(steady: Tensor, rates: Tensor, highest: float) -> float:
    """Largest speed-up of a depth above 1 over ``(ratios, methods, rates)`` up to a rate."""
    best = steady[..., rates <= highest * (1 + 1e-9)].amin(-1)
    return (best[:, :1] / best[:, 1 : len(_DEPTHS)]).max().item()


def _late_speed_up(depth: float, ratio: float, lr: float | None = None) -> float:
    """Late rate of a depth over that of gradient descent, at ``lr`` or each at its own caution."""
    targets = torch.tensor([ratio, 1.0], dtype=torch.float64)
    deep, plain = (
        late_rate(n, lr or _CAUTION / curvature(n, targets), targets) for n in (depth, 1.0)
    )
    return deep / plain


def _names() -> list[str]:
    """Names of the methods, in order."""
    return ["GD", *(f"N = {depth:g}" for depth in _DEPTHS[1:]), "AdaGrad", "Adam"]


def _notes(best: Tensor, speed_up: Tensor, rates: int, small: float) -> tuple[str, ...]:
    own = max(_late_speed_up(depth, ratio) for depth in _DEPTHS[1:] for ratio in _RATIOS)
    same = _late_speed_up(2.0, _RATIOS[-1], lr=0.1)
    notes = [
        f"Every method is tuned over the same {rates} learning rates, 0.001 to 100, so a speed-up "
        f"is known to about {10 ** (1 / _RATES_PER_DECADE) - 1:.0%}. A rate counts by its mean "
        f"over {len(_ANGLES)} starts of length {_START:g} in different directions, and by the "
        "worst of itself and its two neighbours on the grid: a single lucky rate does not count. "
        "Target: the loss of missing the smaller y by half.",
        f"A run arrives at the first step from which its loss stays at or below the target for "
        f"{HOLD} steps; touching the target and leaving is no arrival. That step must be within "
        f"{MAX_STEPS}: grey cells and 'inf' say that no steady rate did so, not that none ever "
        "would with more steps.",
        "p = 2 at freely tuned rates decides nothing, and is no measurement here: on orthonormal "
        "points gradient descent at learning rate 1 is exact after one step, so no depth can be "
        f"faster, by construction. The measurement up to {_CAUTION:g} / curvature could fail, and "
        f"depends on that bound: up to 0.1 / curvature the largest speed-up is {small:.3g}.",
        f"p = 2, near the optimum, each method at {_CAUTION:g} / its own curvature: the largest "
        f"speed-up of any depth above 1, in log loss per step, is {own:.3g}. It must be below 1: "
        "there gradient descent has one curvature, and depth N spreads it by a factor of N.",
        f"p = 2, y1/y2 = {_RATIOS[-1]:g}, near the optimum, both at learning rate 0.1: depth 2 "
        f"decreases the log loss {same:.3g} times as fast per step as gradient descent. Its factor "
        "|w|^(2-2/N) acts as another learning rate there, which tuning gives to every method.",
    ]
    for i, power in enumerate(_POWERS):
        counts = ", ".join(
            f"{name} {count:.4g}"
            for name, count in zip(_names(), best[i, -1].tolist(), strict=True)
        )
        notes.append(
            f"p = {power:g}, y1/y2 = {_RATIOS[-1]:g}, iterations at the best steady rate: {counts}."
        )
    compared = speed_up[1:, :, 1 : len(_DEPTHS)]
    late = (compared == 0).double().mean().item()
    slower = ((compared < 1) & (compared > 0)).double().mean().item()
    notes.append(
        f"For p > 2, {slower:.0%} of the depths' cells show a slow-down and {late:.0%} did not "
        f"arrive within {MAX_STEPS} steps."
    )
    return tuple(notes)
